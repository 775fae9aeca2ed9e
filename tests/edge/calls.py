"""What the program of the edge has called."""

from __future__ import annotations

import os
import signal
import time

PIECE = 256 * 1024
MAX_PIECES = 600
"""Pieces that `exhaust` takes at most, where memory has no limit. They are not touched, which would take a while."""


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


def make(size: int) -> bytes:
    return bytes(size)


def exhaust() -> int:
    """All the memory that there is, in pieces; they are released at the end."""
    pieces = []
    try:
        while len(pieces) < MAX_PIECES:
            pieces.append(bytes(PIECE))
    except MemoryError:
        pass
    return len(pieces)


def quiet(_: object) -> None:
    """Takes whatever another call has given."""
