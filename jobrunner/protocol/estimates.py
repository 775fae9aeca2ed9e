"""Estimates of the duration of a function's calls; pure functions."""

from __future__ import annotations

from jobrunner.protocol.tuning import ESTIMATE_DECAY


def updated_estimate(estimate: float, duration: float) -> float:
    """Return the next estimate of a call's duration in seconds.

    It is deliberately high: one long call stops the batching of short ones.
    """
    return max(duration, estimate * ESTIMATE_DECAY)
