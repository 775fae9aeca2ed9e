"""How long the calls of a function may be expected to take; pure."""

from __future__ import annotations

from jobrunner.protocol.tuning import ESTIMATE_DECAY


def updated_estimate(estimate: float, duration: float) -> float:
    """The next estimate of a call's seconds. Deliberately high: one long call stops the batching of short ones."""
    return max(duration, estimate * ESTIMATE_DECAY)
