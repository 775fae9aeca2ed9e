"""What the program of the edge has called."""

from __future__ import annotations

import os
import signal
import time


class Expected(Exception):
    """What `fail` raises."""


def quick(number: int) -> int:
    return number + 1


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def fail() -> None:
    raise Expected("as it should")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def quiet(_: object) -> None:
    """Takes whatever another call has given."""
