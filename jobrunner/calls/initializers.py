"""What an initializer sets in the program's globals, and as its streams, for the calls that come after it.

In the standard library's pool the functions of a program and its initializer share the `__main__` of the child. Here
they go by value, and what goes by value has globals of its own. So what the initializer has set is noted, and each
function of the same module gets it; a function that the initializer and a call have in common would otherwise see the
values that the program had at `submit`.
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
    """What an initializer has set, by name, in the globals of `module`."""

    module: str
    values: dict[str, Any]
    streams: tuple[tuple[str, Any], ...] = ()
    """What it has put in the place of streams of `sys`, which may be None, by their names."""

    def give_to(self, fn: Callable[..., Any]) -> None:
        """Have a function that was just unpickled see it."""
        target = by_value(fn)
        if target is not None and target.__module__ == self.module:
            target.__globals__.update(self.values)

    def set_streams(self) -> None:
        """Print to where the initializer has chosen: each call begins with streams of its own."""
        for name, stream in self.streams:
            setattr(sys, name, stream)


NOTHING = Provided("", {})


class Wrapper(ABC):
    """An initializer that runs another one."""

    @abstractmethod
    def __call__(self) -> Provided:
        """Run it; what it has set."""

    @abstractmethod
    def dump(self) -> DumpedFunction:
        """This one, to be sent. Its key is the same wherever it is asked for."""


def run(initializer: Callable[[], object]) -> Provided:
    """Call it; what it has set in its globals, if it has come by value. Raises what it raises."""
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
    """The function in `fn`, unless it is one of a module that this process has."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    if isinstance(fn, MethodType):
        fn = fn.__func__
    if not isinstance(fn, FunctionType):
        return None
    home = sys.modules.get(fn.__module__)
    return fn if home is None or fn.__globals__ is not vars(home) else None
