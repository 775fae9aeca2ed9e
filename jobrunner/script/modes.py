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
    shares: bool = False
    """What is a global of its own is referred to by its name, so that both ways lead to one object."""


PLAIN = Mode()
TARGET = Mode(shares=True)
"""A function of the script that is no global."""
GLOBAL = Mode(locks=True, shares=True)
RESULT = Mode(result=True)
