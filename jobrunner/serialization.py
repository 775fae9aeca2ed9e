"""Calls, functions, results and exceptions: to bytes, and back.

What travels how:

    importable functions     by reference (module and qualified name)
    lambdas, closures, and   by value, through cloudpickle, pickled anew at every call unless nothing in them can have
    all that is __main__'s   changed (see `facts`): a changed closure or a function defined again never runs stale
    arguments and results    plain pickle, protocol 5; cloudpickle where that fails or __main__ is involved
    buffers >= 64 KiB        beside the pickle, not in it, so that nobody copies them
    exceptions               as raised, with the text of the remote traceback as their cause

A slot imports this module before its first task. So it loads only what every task needs: cloudpickle,
`errors` (which costs the standard library's logging) and traceback are imported where they are used.
"""

from __future__ import annotations

import functools
import pickle
import sys
import threading
from collections.abc import Callable, Sequence
from hashlib import blake2b
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from jobrunner.elements import Columns, ElementResults
from jobrunner.facts import Facts, facts_of, is_importable, same
from jobrunner.noting import modules_of, pickle_noting
from jobrunner.payloads import Buffer, Payload, buffers_of

if TYPE_CHECKING:
    from jobrunner.errors import SerializationError

OUT_OF_BAND = 64 * 1024
"""Bytes from which a buffer travels beside the pickle, and a pickle as a buffer of its own."""

KEY_BYTES = 16
PROTOCOL = 5
BY_REFERENCE = ord("r")
BY_VALUE = ord("v")
HEADER_BYTES = 3
"""A function's blob starts with BY_REFERENCE or BY_VALUE, and Python's major and minor version."""


class RemoteTraceback(Exception):
    """The cause of an exception that a task raised: the traceback's text, from where it was raised."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


# --- functions ------------------------------------------------------------------------------------------


class DumpedFunction(NamedTuple):
    """A function as it is at this moment; `key` is a hash of `blob`, so equal keys mean equal behaviour."""

    key: bytes
    name: str
    blob: bytes
    python: str
    """Where it goes by value, the version that it needs, "3.11"; else empty."""
    modules: tuple[str, ...] = ()
    """Top-level modules that are imported when it is unpickled; without those that are everywhere."""
    ships: tuple[str, ...] = ()
    """Top-level modules that it brings along, see `shipping`."""
    epoch: int = 0
    """See `versions`."""


_references: dict[Any, tuple[str, str, DumpedFunction]] = {}
"""Importable functions that were dumped before, with the module and name that they had then."""

MOST_REFERENCES = 1000
"""Functions in there; a function that was defined again is let go of when it is full."""

_modules_needed: dict[bytes, tuple[str, ...]] = {}
"""By key, what was found out for functions that were dumped before."""

_values_sent: dict[int, tuple[Facts, DumpedFunction]] = {}
"""By the id of their code, which is among the facts and so stays alive: functions that went by value."""

MOST_VALUES = 256


def dump_function(fn: Callable[..., Any]) -> DumpedFunction:
    """`fn` with its closure and globals as they are now. Raises SerializationError."""
    kind = type(fn)
    facts = None
    if isinstance(fn, (FunctionType, BuiltinFunctionType)):
        by_value = _registered_by_value()
        if is_importable(fn, by_value):
            place = fn.__module__, fn.__qualname__
            known = _references.get(fn)
            if known is not None and known[:2] == place:
                return known[2]
            dumped = _dumped(fn, pickle.dumps(fn, PROTOCOL), BY_REFERENCE, [fn])
            if len(_references) >= MOST_REFERENCES:
                _references.clear()
            _references[fn] = (*place, dumped)
            return dumped
        if isinstance(fn, FunctionType):
            facts = facts_of(fn, by_value)
            before = _values_sent.get(id(fn.__code__))
            if facts is not None and before is not None and same(facts, before[0]):
                return before[1]
    noted: list[Any] = []
    try:
        stream, goes_by_value = pickle_noting(fn, noted, plainly=kind is not FunctionType)
    except Exception as exc:
        raise _error(f"cannot pickle the function {function_name(fn)}: {describe(exc)}") from exc
    dumped = _dumped(fn, stream, BY_VALUE if goes_by_value else BY_REFERENCE, noted)
    if facts is not None and len(stream) < OUT_OF_BAND:
        if len(_values_sent) >= MOST_VALUES:
            _values_sent.clear()
        _values_sent[id(fn.__code__)] = facts, dumped
    return dumped


def dump_setup(initializer: Callable[..., object], initargs: tuple[Any, ...]) -> DumpedFunction:
    """An executor's initializer and its arguments, as a function without any. Raises SerializationError."""
    return dump_function(functools.partial(initializer, *initargs))


def load_function(blob: bytes) -> Callable[..., Any]:
    """The function of a DumpedFunction's blob. Raises SerializationError."""
    theirs, ours = tuple(blob[1:HEADER_BYTES]), sys.version_info[:2]
    if blob[0] == BY_VALUE and theirs != ours:
        raise _error(
            f"a function that was sent by value comes from Python {theirs[0]}.{theirs[1]} and cannot run"
            f" here, on Python {ours[0]}.{ours[1]}; use the same version on both sides, or put the function"
            " in a module that is installed on the workers"
        )
    try:
        fn: Callable[..., Any] = pickle.loads(memoryview(blob)[HEADER_BYTES:])
    except Exception as exc:
        raise _load_error("the function", exc) from exc
    return fn


def function_name(fn: Callable[..., Any]) -> str:
    """The qualified name of `fn`; for a partial, of the function inside; for an object, of its class."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return str(getattr(fn, "__qualname__", None) or type(fn).__qualname__)


def _dumped(fn: Callable[..., Any], stream: bytes, kind: int, noted: Sequence[Any]) -> DumpedFunction:
    """`noted` are the objects to which the pickle refers by name."""
    blob = bytes((kind, *sys.version_info[:2])) + stream
    python = ".".join(map(str, sys.version_info[:2])) if kind == BY_VALUE else ""
    key = blake2b(blob, digest_size=KEY_BYTES).digest()
    modules = _modules_needed.get(key)
    if modules is None:
        if len(_modules_needed) >= MOST_REFERENCES:
            _modules_needed.clear()
        modules = _modules_needed[key] = modules_of(noted, _registered_by_value())
    return DumpedFunction(key, function_name(fn), blob, python, modules)


def _registered_by_value() -> frozenset[str]:
    """The modules of which the program told cloudpickle that the workers do not have them."""
    cloudpickle = sys.modules.get("cloudpickle")
    return frozenset(() if cloudpickle is None else cloudpickle.list_registry_pickle_by_value())


# --- calls ----------------------------------------------------------------------------------------------


class Need:
    """Stands, among the arguments of a call, for the result of another task; unpickled, it is that result."""

    def __init__(self, index: int) -> None:
        self.index = index
        """Which of the results that are given to `load_call`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _take_value, (self.index,)


class _Values(threading.local):
    """What `Need`s become in the thread that unpickles a call."""

    def __init__(self) -> None:
        self.payloads: Sequence[Payload] = ()
        self.loaded: dict[int, Any] = {}


_values = _Values()


def _take_value(index: int) -> Any:
    if index not in _values.loaded:
        _values.loaded[index] = load_result(_values.payloads[index])
    return _values.loaded[index]


Store: TypeAlias = "Callable[[Sequence[Buffer]], Payload | None]"
"""Copies what is large to where it is wanted; None where it does not."""


def dump_call(
    args: tuple[Any, ...], kwargs: dict[str, Any], *, snapshot: bool, store: Store | None = None
) -> Payload:
    """The arguments of a call. `snapshot` copies large buffers: the caller may change them afterwards.

    Raises SerializationError, which names the argument.
    """
    try:
        return _dump((args, kwargs), snapshot, store)
    except Exception as exc:
        named: list[tuple[str, Any]] = [(f"argument {i}", value) for i, value in enumerate(args)]
        named += [(f"argument {name!r}", value) for name, value in kwargs.items()]
        raise _error(f"cannot pickle {_culprit(named, 'the arguments')}: {describe(exc)}") from exc


def load_call(payload: Payload, values: Sequence[Payload] = ()) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(args, kwargs), with the results `values` in place of the `Need`s. Raises SerializationError."""
    try:
        if not values:
            return _load(payload)  # type: ignore[no-any-return]
        before = _values.payloads, _values.loaded
        _values.payloads, _values.loaded = values, {}
        try:
            return _load(payload)  # type: ignore[no-any-return]
        finally:
            _values.payloads, _values.loaded = before
    except Exception as exc:
        raise _load_error("the arguments", exc) from exc


def dump_elements(columns: Columns, *, snapshot: bool, store: Store | None = None) -> Payload:
    """The arguments of a chunk of `map`; objects that several of them share stay shared.

    Raises SerializationError, which names the argument and its type.
    """
    try:
        return _dump(columns, snapshot, store)
    except Exception as exc:
        named = [(f"argument {i}", value) for i, column in enumerate(columns) for value in column]
        raise _error(f"cannot pickle {_culprit(named, 'the elements')}: {describe(exc)}") from exc


def load_elements(payload: Payload) -> Columns:
    """What `dump_elements` was given. Raises SerializationError."""
    try:
        columns: Columns = _load(payload)
    except Exception as exc:
        raise _load_error("the elements of a chunk", exc) from exc
    return columns


# --- results --------------------------------------------------------------------------------------------


def dump_result(value: Any, store: Store | None = None) -> Payload:
    """A function's result; its large buffers are referred to, unless `store` copies. Raises SerializationError."""
    try:
        return _dump(value, False, store)
    except Exception as exc:
        raise _error(f"cannot pickle the result, of type {_type_name(value)}: {describe(exc)}") from exc


def dump_small_result(value: Any) -> bytes:
    """As `dump_result`, in one piece however large it is. Raises SerializationError."""
    try:
        return _pickle(value, None)[0]
    except Exception as exc:
        raise _error(f"cannot pickle the result, of type {_type_name(value)}: {describe(exc)}") from exc


def load_result(payload: Payload) -> Any:
    """Raises SerializationError."""
    try:
        return _load(payload)
    except Exception as exc:
        raise _load_error("the result", exc) from exc


def dump_element_results(results: ElementResults, store: Store | None = None) -> Payload:
    """A value that cannot be pickled costs only its element."""
    failures = {index: _encode_exception(failure) for index, failure in results.failures.items()}
    try:
        return _dump((results.values, failures), False, store)
    except Exception:
        values = list(results.values)
    for index, value in enumerate(values):
        try:
            dump_result(value)
        except Exception as exc:  # a SerializationError
            values[index], failures[index] = None, _encode_exception(exc)
    return _dump((values, failures), False, store)


def load_element_results(payload: Payload) -> ElementResults:
    """What `dump_element_results` was given. Raises SerializationError."""
    values, failures = load_result(payload)
    return ElementResults(values, {index: _decode_exception(*encoded) for index, encoded in failures.items()})


# --- exceptions -----------------------------------------------------------------------------------------


def without_frames_of(file: str, exc: BaseException) -> BaseException:
    """`exc` with a traceback that starts behind the frames of `file`, in the task's code, if it ever got there."""
    trace = exc.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == file:
        trace = trace.tb_next
    return exc if trace is None else exc.with_traceback(trace)


def dump_exception(exc: BaseException) -> Payload:
    """Never fails: what cannot make the journey arrives as a SerializationError with its type and text."""
    stream = dump_small_exception(exc)
    return stream if len(stream) < OUT_OF_BAND else (stream,)


def dump_small_exception(exc: BaseException) -> bytes:
    """As `dump_exception`, in one piece however large it is."""
    return pickle.dumps(_encode_exception(exc), PROTOCOL)


def load_exception(payload: Payload) -> BaseException:
    """The exception, its `__cause__` a RemoteTraceback. Never fails either."""
    try:
        return _decode_exception(*_load(payload))
    except Exception as exc:
        return _load_error("the exception", exc)


def dump_classes(classes: tuple[type[BaseException], ...]) -> bytes:
    """Classes of exceptions, for `is_one_of`. Raises SerializationError."""
    try:
        return _pickle(classes, None)[0]
    except Exception as exc:
        raise _error(f"cannot pickle these classes of exceptions: {describe(exc)}") from exc


@functools.lru_cache(maxsize=64)
def load_classes(stream: bytes) -> tuple[type[BaseException], ...]:
    """What `dump_classes` was given. Raises whatever unpickling raises."""
    classes: tuple[type[BaseException], ...] = pickle.loads(stream)
    return classes


def is_one_of(exc: BaseException, stream: bytes) -> bool:
    """Whether it is an instance of the classes that `dump_classes` was given; True if they cannot be had here."""
    try:
        return isinstance(exc, load_classes(stream))
    except Exception:
        return True


def _encode_exception(exc: BaseException) -> tuple[bytes | None, str, str]:
    """Pickle (None if it cannot be unpickled again), description, and text of the traceback."""
    import traceback  # here: a slot whose tasks succeed never needs it

    try:
        remote = "".join(traceback.format_exception(type(exc), exc, exc.__traceback__))
    except Exception as failure:
        remote = f"{describe(exc)} (no traceback: {describe(failure)})\n"
    try:
        stream = _pickle(exc, None)[0]
        # An exception may well pickle and yet not unpickle, say when its __init__ takes two arguments.
        if not isinstance(pickle.loads(stream), BaseException):
            raise TypeError("it unpickles to something that is not an exception")
        return stream, describe(exc), remote
    except BaseException as failure:
        return None, f"{describe(exc)} (this exception itself could not be sent: {describe(failure)})", remote


def _decode_exception(stream: bytes | None, description: str, remote: str) -> BaseException:
    exc: BaseException
    if stream is None:
        exc = _error(description)
    else:
        try:
            exc = pickle.loads(stream)
        except Exception as failure:
            exc = _error(
                f"{description} (this exception itself could not be unpickled here: {describe(failure)})"
            )
    exc.__cause__ = RemoteTraceback(remote)
    return exc


# --- pickle ---------------------------------------------------------------------------------------------


def _pickle(value: Any, buffers: list[memoryview] | None) -> tuple[bytes, bool]:
    """The pickle, and whether cloudpickle made it. Raises whatever pickling raises.

    `buffers` takes the large buffers; None keeps all in the pickle.
    """

    in_band: Callable[[pickle.PickleBuffer], bool] | None = None
    if buffers is not None:
        large = buffers

        def in_band(buffer: pickle.PickleBuffer) -> bool:
            raw = buffer.raw()
            if raw.nbytes < OUT_OF_BAND:
                return True
            large.append(raw)
            return False

    try:
        stream = pickle.dumps(value, PROTOCOL, buffer_callback=in_band)
        # What __main__ defines has to go by value, for a slot never imports the program's __main__. A false
        # alarm costs time only.
        if b"__main__" not in stream and b"__mp_main__" not in stream:
            return stream, False
    except Exception:  # whatever it was, cloudpickle may be able to, or else says why not
        pass
    if buffers is not None:
        buffers.clear()  # of what the first attempt left there
    return _pickle_by_value(value, in_band), True


def _pickle_by_value(value: Any, callback: Callable[[pickle.PickleBuffer], bool] | None = None) -> bytes:
    import cloudpickle

    stream: bytes = cloudpickle.dumps(value, PROTOCOL, buffer_callback=callback)
    return stream


def _dump(value: Any, snapshot: bool, store: Store | None) -> Payload:
    buffers: list[memoryview] = []
    stream, _ = _pickle(value, buffers)
    if not buffers and len(stream) < OUT_OF_BAND:
        return stream
    if store is not None:
        stored = store((stream, *buffers))
        if stored is not None:
            return stored
    return (stream, *(bytes(raw) for raw in buffers)) if snapshot else (stream, *buffers)


def _load(payload: Payload) -> Any:
    if isinstance(payload, bytes):
        return pickle.loads(payload)
    stream, *buffers = buffers_of(payload)
    # Pickle itself knows which objects were read-only; what it is given must be writable, as everything is
    # that was pickled in band.
    writable = [bytearray(part) if memoryview(part).readonly else part for part in buffers]
    return pickle.loads(stream, buffers=writable)


# --- error messages -------------------------------------------------------------------------------------


def _error(message: str) -> SerializationError:
    from jobrunner.errors import SerializationError

    return SerializationError(message)


def _load_error(what: str, exc: BaseException) -> SerializationError:
    import platform

    where = f"{platform.node()} (Python {platform.python_version()})"
    if isinstance(exc, ModuleNotFoundError) and exc.name:
        return _error(
            f"{what} needs the module {exc.name!r}, which {where} cannot import: install it there, or ship it with"
            f" Executor(..., ship=[{exc.name.partition('.')[0]}])"
        )
    return _error(f"{what} could not be unpickled on {where}: {describe(exc)}")


def _culprit(named: list[tuple[str, Any]], otherwise: str) -> str:
    """The first of the named values that cannot be pickled by itself, with its type."""
    for name, value in named:
        try:
            _pickle(value, None)
        except Exception:
            return f"{name}, of type {_type_name(value)}"
    return otherwise


def _type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def describe(exc: BaseException) -> str:
    """Type and text of an exception, in one line where its text is one."""
    try:
        text = str(exc)
    except Exception:
        text = "<its text cannot be had: str() fails>"
    return f"{_type_name(exc)}: {text}" if text else _type_name(exc)
