"""The script from which calls are made.

Calls are made in the program itself, or in a process that runs a call of that program.
"""

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
"""Kinds of values that are compared by value, or are referred to by name anyway."""


def _count_of_one() -> int:
    """Return the reference count of a value that only its dictionary has, as seen in a loop over the items."""
    variables: dict[str, Any] = {"": object()}
    for _name, value in reversed(list(variables.items())):
        return getrefcount(value)
    raise AssertionError


_ALONE = _count_of_one()


class Origin:
    """The script's module in this process, with its globals and its program."""

    __slots__ = ("module", "program", "shared", "standin", "variables")

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.variables = _globals_of(module)
        self.standin = standin.current()
        self.program: Program = program.described(module) if self.standin is None else self.standin.program
        self.shared: dict[int, str] = {}
        """By the value's id, the name of each global that other objects may hold as well."""

    def begin(self, kept: Mapping[str, Any]) -> None:
        """Find the globals that other objects may hold, such as a default of a function; called before each definition.

        Reference counts exclude most globals. A count that is too high for another reason costs only time. `kept` has
        the values that the catalogue holds, by name, which adds one reference to each.
        """
        self.shared = dict(self._find_shared(kept))

    def _find_shared(self, kept: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
        count, alone = getrefcount, _ALONE
        # The order is reversed so that a value's first name remains.
        for name, value in reversed(list(self.variables.items())):
            if count(value) <= alone + (kept.get(name) is value) and not getweakrefcount(value):
                continue
            kind = type(value)
            if kind in _NEVER_SHARED or is_of(value, type):
                continue
            if kind is FunctionType and (
                value.__globals__ is not self.variables or self.place(value) is not None
            ):
                continue  # the pickle refers to it by its name anyway
            if not (name.startswith("__") and name.endswith("__")):
                yield id(value), name

    def shared_name(self, value: Any) -> str | None:
        """Return the name of the global whose value is this very object, if other objects may hold it."""
        name = self.shared.get(id(value))
        return name if name is not None and self.variables.get(name) is value else None

    def has(self, value: Any) -> bool:
        """Return whether a function or class belongs to the script: it has a name there, or its code has created it."""
        if type(value) is FunctionType:
            return value.__globals__ is self.variables
        return attribute_of(value, "__module__") in NAMES

    def place(self, value: Any) -> str | None:
        """Return the name under which the script has a function or class ("Class.method"), or None if it has none."""
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
        """Return whether the program can resolve a reference to that place in a result."""
        return self.standin is None or self.standin.knows(place.partition(".")[0])


def _globals_of(module: ModuleType) -> dict[str, Any]:
    """Return the dictionary that the script's functions have as their globals.

    In a child of `multiprocessing` the script has run in another namespace, which was then copied to its module.
    """
    if module.__name__ == NAMES[1]:
        for value in list(vars(module).values()):
            if type(value) is FunctionType and value.__globals__.get("__name__") == NAMES[1]:
                return value.__globals__
    return vars(module)


_last: Origin | None = None


def of_this_process() -> Origin | None:
    """Return the script of this process, or None if there is none, for example while the interpreter shuts down."""
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
