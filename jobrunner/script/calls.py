"""Functions of the script, as they are called where they have arrived."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jobrunner.pickling.loading import load_target
from jobrunner.protocol.wire.payloads import Payload
from jobrunner.script import standin
from jobrunner.script.current import script_module
from jobrunner.script.definition import Outline


class ScriptCall:
    """A function that needs its script: `ready`, before each task, has it there as the definition says."""

    def __init__(self, outline: Outline, parts: Mapping[bytes, Payload]) -> None:
        self._outline = outline
        self._parts = dict(zip(outline.parts, parts.values(), strict=True))
        self._script: standin.Script | None = None
        self._target: Callable[..., Any] | None = None

    def ready(self) -> Callable[..., Any]:
        """The function. Raises SerializationError."""
        outline = self._outline
        script = standin.enter(outline, self._parts)
        if outline.place is not None:
            return self._found(outline.place)
        if self._target is None or script is not self._script:
            assert outline.target is not None
            self._script, self._target = script, load_target(outline.target, outline.fresh)
        return self._target

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.ready()(*args, **kwargs)

    def _found(self, place: str) -> Callable[..., Any]:
        found: Any = script_module()
        for name in place.split("."):
            found = getattr(found, name)
        return found  # type: ignore[no-any-return]


def ready(fn: Callable[..., Any]) -> Callable[..., Any]:
    """What is called, now that a task of it begins. Raises SerializationError."""
    return fn.ready() if type(fn) is ScriptCall else fn
