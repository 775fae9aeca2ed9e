"""Calls of functions of the script and of closures, in the process that runs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jobrunner.pickling.loading import load_target
from jobrunner.protocol.wire.payloads import Payload
from jobrunner.script import makers, standin
from jobrunner.script.current import script_module
from jobrunner.script.definition import Outline


class ScriptCall:
    """A function that needs globals of its script; `ready` loads them before each task, as the definition says."""

    def __init__(self, outline: Outline, parts: Mapping[bytes, Payload]) -> None:
        self._outline = outline
        self._parts = dict(zip(outline.parts, parts.values(), strict=True))
        self._script: standin.Script | None = None
        self._target: Callable[..., Any] | None = None
        self._classes: list[makers.LocalClass] = []
        """The classes in the target that functions have made."""

    def ready(self) -> Callable[..., Any]:
        """Return the function, with all that it needs in place. Raises SerializationError."""
        outline = self._outline
        script = standin.enter(outline, self._parts)
        if outline.place is not None:
            return self._found(outline.place)
        if self._target is None or script is not self._script:
            assert outline.target is not None
            with makers.noting_classes() as self._classes:
                self._target = load_target(outline.target, outline.fresh)
            self._script = script
        elif self._classes:
            makers.renew(self._classes)
        return self._target

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.ready()(*args, **kwargs)

    def _found(self, place: str) -> Callable[..., Any]:
        found: Any = script_module()
        for name in place.split("."):
            found = getattr(found, name)
        return found  # type: ignore[no-any-return]


class ClosureCall:
    """A function that was sent by value and has classes in it.

    `ready` restores these classes, before each task, to their state at `submit`.
    """

    def __init__(self, target: Callable[..., Any], classes: list[makers.LocalClass]) -> None:
        self._target = target
        self._classes = classes

    def ready(self) -> Callable[..., Any]:
        """Return the function. Raises whatever unpickling an attribute of a class raises."""
        makers.renew(self._classes)
        return self._target

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.ready()(*args, **kwargs)


def closure(load: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
    """Return the function that `load` returns, as a ClosureCall if there are classes in it."""
    with makers.noting_classes() as classes:
        target = load()
    return ClosureCall(target, classes) if classes else target


_KINDS = frozenset((ScriptCall, ClosureCall))


def ready(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function to call for a task that begins now. Raises SerializationError."""
    return fn.ready() if type(fn) in _KINDS else fn  # type: ignore[attr-defined]
