"""The purposes of a pickle."""

from __future__ import annotations

from typing import NamedTuple


class Mode(NamedTuple):
    """The purpose of a pickle, which determines how some values are pickled."""

    locks: bool = False
    """True if locks are replaced by new ones: the value is a global, and each process has locks of its own."""
    result: bool = False
    """True if the pickle goes back to the program, so that everything that only this process has is pickled by value.
    """
    inside: str = ""
    """A prefix of names, if the value is an attribute of a class.

    Functions and classes whose qualified names begin with it are a part of that class.
    """
    shares: bool = False
    """True if a value that is a global of its own is referred to by its name, so that both ways lead to one object."""


PLAIN = Mode()
TARGET = Mode(shares=True)
"""The mode for a function of the script that is not a global."""
GLOBAL = Mode(locks=True, shares=True)
RESULT = Mode(result=True)
