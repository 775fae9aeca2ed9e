"""What the calls run. A module of its own, so that every runner can send these by reference and workers load little."""

from __future__ import annotations

import os
import time
from typing import TypeVar

T = TypeVar("T")


def same(value: T) -> T:
    """The call that does nothing."""
    return value


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def hold(gate: str) -> int:
    """Keep a worker busy until there is a file of that name."""
    while not os.path.exists(gate):
        time.sleep(0.02)
    return os.getpid()


def pi(factors: int) -> float:
    """The Wallis product, as in examples/02_pi_wallis.py."""
    product = 1.0
    numerator, denominator = 2, 1
    for index in range(factors):
        product *= numerator / denominator
        if index % 2:
            numerator += 2
        else:
            denominator += 2
    return 2 * product
