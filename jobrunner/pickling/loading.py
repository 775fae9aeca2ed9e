"""From bytes back to objects, and the errors of those that cannot be had."""

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
    """An object that is called and that is an argument of the call, as it was pickled."""

    stream: bytes
    referenced: list[Any]
    """Objects to which it refers by name."""
    names: tuple[str, ...]
    """Globals of the script that it needs."""
    objects: list[Any]
    """All that its pickle may refer to a second time, in that order. They are what `FreshCall.unpickled` gives."""
    has_parts: bool
    """Large buffers of it travel apart."""
    value: Any
    """The object itself."""
    key: bytes
    """Of the definition that was made of it."""


class FreshCall:
    """An object that is called, and that is an argument of the call: it is unpickled anew for each."""

    def __init__(self, stream: Buffer, parts: Mapping[bytes, Payload]) -> None:
        self._stream = stream
        self._parts = parts

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _load_target(self._stream, self._parts, pickle.loads)(*args, **kwargs)

    def unpickled(self) -> tuple[Callable[..., Any], dict[int, Any]]:
        """A new one, and by their places its objects, see `Held.objects`. Raises SerializationError."""
        unpicklers: list[Any] = []

        def take(stream: Buffer, buffers: Iterable[Buffer]) -> Any:
            unpicklers.append(pickle.Unpickler(io.BytesIO(stream), buffers=buffers))
            return unpicklers[0].load()

        fn = _load_target(self._stream, self._parts, take)
        return fn, unpicklers[0].memo.copy()


def load_target(stream: Buffer, fresh: bool, parts: Mapping[bytes, Payload] = NO_PARTS) -> Callable[..., Any]:
    """The function in a pickle; if it is `fresh`, one that is unpickled anew for each call.

    Raises SerializationError.
    """
    return FreshCall(stream, parts) if fresh else _load_target(stream, parts, loads)


def _load_target(stream: Buffer, parts: Mapping[bytes, Payload], take: Any) -> Callable[..., Any]:
    try:
        buffers = [own_buffer(part) for part in parts.values()]
        fn: Callable[..., Any] = take(stream, buffers=buffers)
    except (Exception, SystemExit) as exc:
        raise load_error("the function, or what it holds,", exc) from exc
    return fn


def load_global(name: str, payload: Payload) -> Any:
    """The value of a global of the script. Raises SerializationError."""
    try:
        if isinstance(payload, bytes):
            return loads(payload)
        stream, *buffers = buffers_of(payload)
        return loads(stream, _writable(buffers))
    except Exception as exc:
        raise load_error(f"the global {name!r} of the script", exc) from exc


class ScriptUnpickler(pickle.Unpickler):
    """For pickles that refer to globals of the script: see `SharingPickler.persistent_id`."""

    find_global: Callable[[str, str], Any]
    """Set by `script.makers`: a program's token and a name, to the value."""

    def persistent_load(self, place: tuple[str, str]) -> Any:
        return self.find_global(*place)


def loads(stream: Buffer, buffers: Iterable[Buffer] = ()) -> Any:
    """What a pickle of the script's functions, classes and globals holds. Raises whatever unpickling raises."""
    return ScriptUnpickler(io.BytesIO(stream), buffers=buffers).load()


def apart_from(least: int, large: list[memoryview]) -> Callable[[pickle.PickleBuffer], bool]:
    """The callback of a pickler that is to put buffers of at least so many bytes into `large`, not into the pickle."""

    def in_band(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < least:
            return True
        large.append(raw)
        return False

    return in_band


def own_buffer(payload: Payload) -> Buffer:
    """The bytes of a part, for one function alone: others that have the same part must not see what it writes."""
    if isinstance(payload, MappedPayload):
        return payload.views()[0]
    return bytearray(payload if isinstance(payload, bytes) else payload[0])


def load(payload: Payload) -> Any:
    if isinstance(payload, bytes):
        return pickle.loads(payload)
    stream, *buffers = buffers_of(payload)
    return pickle.loads(stream, buffers=_writable(buffers))


def _writable(buffers: Iterable[Buffer]) -> list[Buffer]:
    # Pickle itself knows which objects were read-only; what it is given must be writable, as everything is
    # that was pickled in band.
    return [bytearray(part) if memoryview(part).readonly else part for part in buffers]


def error(message: str, *causes: BaseException, otherwise: str = "") -> SerializationError:
    """Also an instance of the classes of `causes`, for programs that catch these; see `serialization_error`."""
    from jobrunner.pickling.pickling_errors import (
        serialization_error,
    )  # here: a slot whose tasks succeed never needs it

    return serialization_error(message, *causes, otherwise=otherwise)


def load_error(what: str, exc: BaseException) -> SerializationError:
    """Also a BrokenProcessPool: the standard library's pool does not survive a value that does not unpickle.

    Raises a MemoryError instead: it says nothing about the value, and there may be no memory for what this imports.
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
    """Type and text of an exception, in one line where its text is one."""
    try:
        text = str(exc)
    except Exception:
        text = "<its text cannot be had: str() fails>"
    return f"{type_name(exc)}: {text}" if text else type_name(exc)
