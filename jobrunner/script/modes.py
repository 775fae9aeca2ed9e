"""What a pickle is for."""

from __future__ import annotations

from typing import NamedTuple


class Mode(NamedTuple):
    """What the pickle is for."""

    locks: bool = False
    """Locks in it are replaced by new ones: it is a global, of which each process has its own."""
    result: bool = False
    """It goes back to the program: what only this process has goes by value."""
    inside: str = ""
    """It is an attribute of a class: functions and classes with names that begin so are a part of it."""


PLAIN = Mode()
GLOBAL = Mode(locks=True)
RESULT = Mode(result=True)
