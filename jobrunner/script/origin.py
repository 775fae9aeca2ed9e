"""The script as its calls are made from: in the program itself, or in a call of it that makes calls of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from sys import getrefcount
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any
from weakref import getweakrefcount

from jobrunner.pickling.function_fingerprint import ATOMS, attribute_of, is_of
from jobrunner.script import current as program
from jobrunner.script import standin
from jobrunner.script.current import NAMES, Program

_NEVER_SHARED = ATOMS | {BuiltinFunctionType, ModuleType, type}
"""Kinds whose globals are told by their value or go by their name anyway."""


def _count_of_one() -> int:
    """What `getrefcount` says, in a loop over the items of a dictionary, of a value that nobody else has."""
    variables: dict[str, Any] = {"": object()}
    for _name, value in reversed(list(variables.items())):
        return getrefcount(value)
    raise AssertionError


_ALONE = _count_of_one()


class Origin:
    """The script's module in this process, and what others know of it."""

    __slots__ = ("module", "program", "shared", "standin", "variables")

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.variables = _globals_of(module)
        self.standin = standin.current()
        self.program: Program = program.described(module) if self.standin is None else self.standin.program
        self.shared: dict[int, str] = {}
        """By the id of its value, each global to which more than its name may refer."""

    def begin(self, kept: Mapping[str, Any]) -> None:
        """A definition is made now: find the globals that others may hold inside, such as a default of a function.

        Counts of references tell who cannot be among them. A count that is high for another reason costs time only.
        `kept` are the values that the catalogue has, by name, which is one reference more to each.
        """
        self.shared = dict(self._find_shared(kept))

    def _find_shared(self, kept: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
        count, alone = getrefcount, _ALONE
        # Backwards, so that the first name of a value remains.
        for name, value in reversed(list(self.variables.items())):
            if count(value) <= alone + (kept.get(name) is value) and not getweakrefcount(value):
                continue
            kind = type(value)
            if kind in _NEVER_SHARED or is_of(value, type):
                continue
            if kind is FunctionType and (
                value.__globals__ is not self.variables or self.place(value) is not None
            ):
                continue  # it goes by its name anyway
            if not (name.startswith("__") and name.endswith("__")):
                yield id(value), name

    def shared_name(self, value: Any) -> str | None:
        """The global that is this very object, if it is one of those that others may hold."""
        name = self.shared.get(id(value))
        return name if name is not None and self.variables.get(name) is value else None

    def has(self, value: Any) -> bool:
        """Whether a function or class is one of the script: under a name of it, or made by its code."""
        if type(value) is FunctionType:
            return value.__globals__ is self.variables
        return attribute_of(value, "__module__") in NAMES

    def place(self, value: Any) -> str | None:
        """The name under which a function or class is found in the script, "Class.method"; None if under none."""
        if attribute_of(value, "__module__") not in NAMES:
            return None
        name = attribute_of(value, "__qualname__")
        if type(name) is not str:
            return None
        found: Any = self.variables.get(name.partition(".")[0], self)
        for part in name.split(".")[1:]:
            found = attribute_of(found, part)
        return name if found is value else None

    def arrives(self, place: str) -> bool:
        """Whether a reference to that place, in a result, is understood in the program."""
        return self.standin is None or self.standin.knows(place.partition(".")[0])


def _globals_of(module: ModuleType) -> dict[str, Any]:
    """The dictionary that the functions of the script have as their globals.

    In a child of `multiprocessing` the script has run elsewhere, and its module got a copy of what was there.
    """
    if module.__name__ == NAMES[1]:
        for value in list(vars(module).values()):
            if type(value) is FunctionType and value.__globals__.get("__name__") == NAMES[1]:
                return value.__globals__
    return vars(module)


_last: Origin | None = None


def of_this_process() -> Origin | None:
    """None where there is no script: an interpreter that is being taken down, say."""
    global _last
    module = program.script_module()
    if module is None:
        return None
    known = _last
    if known is None or known.module is not module or known.program.token != _token(known):
        known = _last = Origin(module)
    return known


def _token(known: Origin) -> str:
    return program.own_token() if known.standin is None else known.standin.program.token
