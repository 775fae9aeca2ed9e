"""Seeds that find planted bugs."""

from __future__ import annotations

import pytest

from jobrunner.testing.simulation import run_seed


def find(profile: str | None = None, first: int = 0, limit: int = 500) -> int:
    """The first seed that fails. `first` saves the time of those before, that are known not to find it."""
    for seed in range(first, limit):
        if run_seed(seed, profile=profile) is not None:
            return seed
    pytest.fail(f"{limit} seeds have not found the planted bug")
