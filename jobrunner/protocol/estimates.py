"""How long the calls of a function may be expected to take; pure."""

from __future__ import annotations

ESTIMATE_DECAY = 0.9
"""How fast a long call is forgotten: an estimate is the largest recent duration, shrunk by this per shorter call."""


def updated_estimate(estimate: float, duration: float) -> float:
    """The next estimate of a call's seconds. Deliberately high: one long call stops the batching of short ones."""
    return max(duration, estimate * ESTIMATE_DECAY)
