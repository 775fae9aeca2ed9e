"""The quickest check of a function of the script: whether all that its calls need is the same as at its definition.

It serves plain functions, which most are: functions without a closure whose helpers are plain, too, and whose globals
cannot change inside. `looks` serves any function, in ten times the time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import CodeType, FunctionType
from typing import Any, NamedTuple

from jobrunner.pickling.function_fingerprint import ATOMS
from jobrunner.script.function_parts import annotations_of, names_in
from jobrunner.script.looks import is_fixed


class _Plain(NamedTuple):
    """The state of a plain function."""

    function: Any
    code: CodeType
    defaults: tuple[Any, ...] | None
    names: tuple[str, str, str | None, str | None]
    annotations: dict[str, Any]

    def is_same(self) -> bool:
        fn = self.function
        return (
            fn.__code__ is self.code
            and fn.__defaults__ is self.defaults
            and (fn.__name__, fn.__qualname__, fn.__module__, fn.__doc__) == self.names
            and not fn.__kwdefaults__
            and not fn.__dict__
            and annotations_of(fn) == self.annotations
        )


class Unchanged:
    """The state of `fn`, of the globals `names`, and of the functions among these."""

    __slots__ = ("_absent", "_count", "_functions", "_modules", "_values", "_variables", "fn")

    def __init__(
        self,
        fn: FunctionType,
        functions: tuple[_Plain, ...],
        values: tuple[tuple[str, Any], ...],
        absent: tuple[str, ...],
        variables: dict[str, Any],
    ) -> None:
        self.fn = fn
        self._functions = functions
        self._values = values
        self._absent = absent
        self._variables = variables
        self._count = len(variables)
        self._modules = len(sys.modules)

    @classmethod
    def of(
        cls, fn: FunctionType, names: Iterable[str], gone: Iterable[str], variables: dict[str, Any]
    ) -> Unchanged | None:
        """Return the present state, or None if no quick check can do. `gone` names globals that must be absent."""
        functions = [fn]
        values = []
        for name in names:
            value = variables[name]
            if type(value) is FunctionType and value.__globals__ is variables:
                functions.append(value)
            elif not is_fixed(value):
                return None
            values.append((name, value))
        plain = [_plain(each) for each in functions]
        found = tuple([each for each in plain if each is not None])
        if len(found) != len(plain):
            return None
        absent = dict.fromkeys(gone)
        for each in functions:
            absent.update(dict.fromkeys(name for name in names_in(each.__code__) if name not in variables))
        return cls(fn, found, tuple(values), tuple(absent), variables)

    def holds(self) -> bool:
        """Return whether nothing has changed."""
        variables = self._variables
        if len(variables) != self._count or len(sys.modules) != self._modules:
            return False
        for name, value in self._values:
            if variables.get(name, self) is not value:
                return False
        for name in self._absent:
            if name in variables:
                return False
        return all(function.is_same() for function in self._functions)


def _plain(fn: FunctionType) -> _Plain | None:
    annotations = annotations_of(fn)
    if (
        fn.__closure__
        or fn.__kwdefaults__
        or fn.__dict__
        or not all(type(value) in ATOMS for value in fn.__defaults__ or ())
        or not all(type(value) is str or _is_builtin(value) for value in annotations.values())
    ):
        return None
    names = (fn.__name__, fn.__qualname__, fn.__module__, fn.__doc__)
    return _Plain(fn, fn.__code__, fn.__defaults__, names, dict(annotations))


def _is_builtin(value: Any) -> bool:
    return value is None or (isinstance(value, type) and value.__module__ == "builtins")
