"""The globals and the streams that an initializer sets, which later calls must see.

In the standard library's pool the functions of a program and its initializer share the `__main__` of the child. Here
they are sent by value, and a function by value has globals of its own. So the globals that the initializer has set are
noted, and each function of the same module gets them. Otherwise a function that both the initializer and a call use
would see the values that the program had at `submit`.
"""

from __future__ import annotations

import functools
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from jobrunner.calls.serialization import DumpedFunction


class Provided(NamedTuple):
    """The globals of `module` that an initializer has set, by name."""

    module: str
    values: dict[str, Any]
    streams: tuple[tuple[str, Any], ...] = ()
    """The objects that it has put in the place of streams of `sys`, by their names; they may be None."""

    def give_to(self, fn: Callable[..., Any]) -> None:
        """Add the globals to those of a function that was just unpickled."""
        target = by_value(fn)
        if target is not None and target.__module__ == self.module:
            target.__globals__.update(self.values)

    def set_streams(self) -> None:
        """Set the streams that the initializer has chosen, because each call begins with streams of its own."""
        for name, stream in self.streams:
            setattr(sys, name, stream)


NOTHING = Provided("", {})


class Wrapper(ABC):
    """An initializer that runs another one."""

    @abstractmethod
    def __call__(self) -> Provided:
        """Run the initializer, and return the globals that it has set."""

    @abstractmethod
    def dump(self) -> DumpedFunction:
        """Return the initializer in its pickled form, whose key is the same in every process."""


def run(initializer: Callable[[], object]) -> Provided:
    """Call the initializer, and return the globals that it has set if it came by value. Raises whatever it raises."""
    if isinstance(initializer, Wrapper):
        return initializer()
    fn = by_value(initializer)
    variables = {} if fn is None else fn.__globals__
    before = dict(variables)
    streams = {"stdout": sys.stdout, "stderr": sys.stderr}
    initializer()
    missing = object()
    return Provided(
        "" if fn is None else fn.__module__,
        {name: value for name, value in variables.items() if before.get(name, missing) is not value},
        tuple(
            (name, getattr(sys, name)) for name, given in streams.items() if getattr(sys, name) is not given
        ),
    )


def by_value(fn: Callable[..., Any]) -> FunctionType | None:
    """Return the function in `fn`, or None if it belongs to a module that this process has."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    if isinstance(fn, MethodType):
        fn = fn.__func__
    if not isinstance(fn, FunctionType):
        return None
    home = sys.modules.get(fn.__module__)
    return fn if home is None or fn.__globals__ is not vars(home) else None
