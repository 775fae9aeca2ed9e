"""The way from bytes back to objects, and the errors of objects that cannot be loaded."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from jobrunner.protocol.wire.payloads import Buffer, MappedPayload, Payload, buffers_of

if TYPE_CHECKING:
    from jobrunner.errors import SerializationError

NO_PARTS: Mapping[bytes, Payload] = MappingProxyType({})


class Held(NamedTuple):
    """A called object in pickled form; the object is an argument of each call."""

    stream: bytes
    referenced: list[Any]
    """Objects to which the pickle refers by name."""
    names: tuple[str, ...]
    """Globals of the script that the object needs."""
    objects: list[Any]
    """All objects to which the pickle may refer a second time, in that order; `FreshCall.unpickled` returns the same.
    """
    has_parts: bool
    """Whether large buffers of the object travel apart."""
    value: Any
    """The object itself."""
    key: bytes
    """The key of the definition of the object."""


class FreshCall:
    """A called object that is an argument of the call, so it is unpickled anew for each call."""

    def __init__(self, stream: Buffer, parts: Mapping[bytes, Payload]) -> None:
        self._stream = stream
        self._parts = parts

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _load_target(self._stream, self._parts, pickle.loads)(*args, **kwargs)

    def unpickled(self) -> tuple[Callable[..., Any], dict[int, Any]]:
        """Return a new copy, and its objects by their places, see `Held.objects`. Raises SerializationError."""
        unpicklers: list[Any] = []

        def take(stream: Buffer, buffers: Iterable[Buffer]) -> Any:
            unpicklers.append(pickle.Unpickler(io.BytesIO(stream), buffers=buffers))
            return unpicklers[0].load()

        fn = _load_target(self._stream, self._parts, take)
        return fn, unpicklers[0].memo.copy()


def load_target(stream: Buffer, fresh: bool, parts: Mapping[bytes, Payload] = NO_PARTS) -> Callable[..., Any]:
    """Return the function in a pickle; if it is `fresh`, it is unpickled anew for each call.

    Raises SerializationError.
    """
    return FreshCall(stream, parts) if fresh else _load_target(stream, parts, loads)


def _load_target(stream: Buffer, parts: Mapping[bytes, Payload], take: Any) -> Callable[..., Any]:
    try:
        buffers = [own_buffer(part) for part in parts.values()]
        fn: Callable[..., Any] = take(stream, buffers=buffers)
    except (Exception, SystemExit) as exc:
        raise load_error("the function, or an object in it,", exc) from exc
    return fn


def load_global(name: str, payload: Payload) -> Any:
    """Return the value of a global of the script. Raises SerializationError."""
    try:
        if isinstance(payload, bytes):
            return loads(payload)
        stream, *buffers = buffers_of(payload)
        return loads(stream, _writable(buffers))
    except Exception as exc:
        raise load_error(f"the global {name!r} of the script", exc) from exc


class ScriptUnpickler(pickle.Unpickler):
    """An unpickler for pickles that refer to globals of the script, see `SharingPickler.persistent_id`."""

    find_global: Callable[[str, str], Any]
    """A function from a program's token and a name to a value, which `script.makers` sets."""

    def persistent_load(self, place: tuple[str, str]) -> Any:
        return self.find_global(*place)


def loads(stream: Buffer, buffers: Iterable[Buffer] = ()) -> Any:
    """Return the content of a pickle of the script's objects. Raises whatever unpickling raises."""
    return ScriptUnpickler(io.BytesIO(stream), buffers=buffers).load()


def apart_from(least: int, large: list[memoryview]) -> Callable[[pickle.PickleBuffer], bool]:
    """Return a pickler's callback that puts buffers of at least `least` bytes into `large` instead of the pickle."""

    def in_band(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < least:
            return True
        large.append(raw)
        return False

    return in_band


def own_buffer(payload: Payload) -> Buffer:
    """Return the bytes of a part for one function alone, because functions must not see what others write there."""
    if isinstance(payload, MappedPayload):
        return payload.views()[0]
    return bytearray(payload if isinstance(payload, bytes) else payload[0])


def load(payload: Payload) -> Any:
    if isinstance(payload, bytes):
        return pickle.loads(payload)
    stream, *buffers = buffers_of(payload)
    return pickle.loads(stream, buffers=_writable(buffers))


def _writable(buffers: Iterable[Buffer]) -> list[Buffer]:
    # Pickle itself knows which objects were read-only. The buffers that it gets must be writable, like those in band.
    return [bytearray(part) if memoryview(part).readonly else part for part in buffers]


def error(message: str, *causes: BaseException, otherwise: str = "") -> SerializationError:
    """Return an error that is also an instance of the classes of `causes`, see `serialization_error`."""
    from jobrunner.pickling.pickling_errors import (
        serialization_error,
    )  # here: a slot whose tasks succeed never needs it

    return serialization_error(message, *causes, otherwise=otherwise)


def load_error(what: str, exc: BaseException) -> SerializationError:
    """Return an error that is also a BrokenProcessPool, because a bad value breaks the standard library's pool.

    A MemoryError is raised instead, because it says nothing about the value, and the imports here may need memory, too.
    """
    if isinstance(exc, MemoryError):
        raise exc
    import platform
    from concurrent.futures.process import BrokenProcessPool

    causes = (BrokenProcessPool(), exc)
    where = f"{platform.node()} (Python {platform.python_version()})"
    if isinstance(exc, ModuleNotFoundError) and exc.name:
        return error(
            f"{what} cannot be unpickled on {where}, which lacks the module {exc.name!r}: install it there, or ship"
            f" it with Executor(..., ship=[{exc.name.partition('.')[0]}])",
            *causes,
        )
    return error(f"{what} could not be unpickled on {where}: {describe(exc)}", *causes)


def type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def describe(exc: BaseException) -> str:
    """Return the type and text of an exception, in one line if its text has one line."""
    try:
        text = str(exc)
    except Exception:
        text = "<its text is unknown, because str() fails>"
    return f"{type_name(exc)}: {text}" if text else type_name(exc)
