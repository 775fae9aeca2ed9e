"""What runs in the workers of somebody else's engine: one call, from our bytes to our bytes.

The engine carries a tuple of plain values each way, so that it needs none of our classes to route it:

    to the worker       (head, parts, values, *apart)    head: the fields of `Head`
    back                (status, duration, output, detail, parts)

`parts` are the buffers of a payload; `values` are those of the results that the call needs; `apart` are the parts of
the call's functions that are not in the head. A function is unpickled once per content hash and process. What is
engine-specific is in the class `EngineContext` of the backend's module.
"""

from __future__ import annotations

import importlib
import os
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from jobrunner.backends.engine.printed import Capture
from jobrunner.backends.engine.stops import Stops
from jobrunner.calls import serialization
from jobrunner.calls.function_cache import FILE as CACHE_FILE
from jobrunner.calls.function_cache import FunctionCache, Loaded
from jobrunner.errors import InitializerError, NotSupportedError
from jobrunner.fixed import load_elements, run_fixed
from jobrunner.nested import task_context
from jobrunner.nested import wait_hooks as blocking
from jobrunner.protocol.tuning import ENGINE_GIVE_BACK_AFTER, ENGINE_GIVE_BACK_BYTES
from jobrunner.protocol.wire.messages import CANCELLED, CRASHED, ERROR, LOST, OK, TIMED_OUT
from jobrunner.protocol.wire.payloads import Buffer, Payload, buffers_of, payload_size
from jobrunner.script import per_thread as threads
from jobrunner.script.calls import ready
from jobrunner.system.host import own_host

if TYPE_CHECKING:
    from jobrunner.calls.serialization import DumpedFunction

PROTOCOL = 3
"""Of the tuples above. A worker that has another version of jobrunner may still speak the same."""

FUNCTIONS_KEPT = 256
"""Unpickled functions that a worker's process keeps."""

FUNCTION_BYTES_KEPT = 128 * 1024 * 1024
"""As FUNCTIONS_KEPT, bytes of what they were unpickled from; the last one may have more."""

OWN_FILES = (__file__, CACHE_FILE)
"""The files whose frames precede those of a call in a traceback."""

Fields = tuple[bytes, Any, "tuple[tuple[bytes, Any], ...]"]
"""Of a function on its way: its key; its blob; and for each part its key and its blob, or None where that is apart. A
blob of several buffers is a tuple of them."""


def fields_of(dumped: DumpedFunction, *, apart: bool) -> Fields:
    """`apart`: without the blobs of the parts."""
    parts = tuple([(part.key, None if apart else wrapped(part.blob)) for part in dumped.parts])
    return dumped.key, dumped.blob if isinstance(dumped.blob, bytes) else wrapped(dumped.blob), parts


def whole(fields: Fields, apart: Iterator[Any]) -> Fields:
    """With what was apart."""
    key, blob, parts = fields
    return key, blob, tuple([(part, next(apart) if it is None else it) for part, it in parts])


class Head(NamedTuple):
    """All of a call but its arguments."""

    protocol: int
    module: str
    """Where the class `EngineContext` of the backend is."""
    backend: str
    function: Fields
    initializer: Fields | None
    id: str
    name: str
    attempt: int
    elements: tuple[int, int] | None
    depth: int
    retry_on: bytes | None
    timeout: float | None
    once: bool
    """It must not begin a second time."""
    show_output: bool


Back = tuple[int, float, list[tuple[int, str]], dict[str, Any], tuple[Any, ...]]


class EngineContext(Protocol):
    """The context of a call in an engine's worker."""

    name: str
    """Of the worker."""

    address: str | None
    """At which calls of the call reach the same engine, see `connections.connection_to`; None where they cannot."""

    waiting: blocking.Hook | None
    until: blocking.Until | None
    keeps_results: bool
    """The engine keeps what `run` gives, and may send it later: it must not share memory with the call's objects."""

    interruptible: bool
    """Calls run in the main thread, where a signal can stop them."""

    def begins(self, call: str) -> bool:
        """Note that a call begins that may do so once; False where it has begun before."""
        ...


class CallContext:
    """See `task_context.Context`."""

    def __init__(self, head: Head, engine: EngineContext, stops: Stops) -> None:
        self._engine = engine
        self._task = task_context.Task(head.id, head.name, head.attempt, engine.name, lambda: stops.asked)
        self._backend = head.backend

    def task(self) -> task_context.Task:
        return self._task

    def cluster(self) -> str:
        if self._engine.address is None:
            raise NotSupportedError(
                f'a call on the "{self._backend}" backend cannot submit calls; use "cluster", "dask" or "ray"'
            )
        return self._engine.address


def run(
    fields: tuple[Any, ...],
    parts: tuple[Any, ...],
    values: Sequence[tuple[Any, ...]],
    *apart: tuple[Any, ...],
) -> Back:
    """Run one call. Raises nothing of the call's own."""
    if fields[0] != PROTOCOL:
        text = f"the worker on {own_host()} has another version of jobrunner; install the same on both sides"
        return LOST, 0.0, [], {"error": text, "unable": True}, ()
    head = Head(*fields)
    pieces = iter(apart)
    head = head._replace(function=whole(head.function, pieces))
    if head.initializer is not None:
        head = head._replace(initializer=whole(head.initializer, pieces))
    engine: EngineContext = importlib.import_module(head.module).EngineContext()
    if head.once and not engine.begins(head.id):
        text = "the process of its first attempt died"
        return CRASHED, 0.0, [], {"error": text, "at_most_once": True}, ()
    if threading.current_thread() is not threading.main_thread():
        threads.divide()  # others may run beside it, of other programs
    stops = Stops(head.timeout) if engine.interruptible else Stops.none()
    capture = Capture(head.show_output)
    task_context.install_in_thread(CallContext(head, engine, stops))
    blocking.install(engine.waiting)
    blocking.install_until(engine.until)
    blocking.set_depth(head.depth + 1)
    try:
        with capture:
            status, duration, detail, payload = _outcome(head, stops, parts, values)
    finally:
        task_context.install_in_thread(None)
        blocking.install(None)
        blocking.install_until(None)
        blocking.set_depth(0)
    detail |= {"host": own_host(), "worker": engine.name, "pid": os.getpid()}
    parts = copied(payload) if engine.keeps_results else wrapped(payload)
    return status, duration, capture.texts(), detail, parts


def wrapped(payload: Payload) -> tuple[Any, ...]:
    """The parts of a payload, so that an engine whose pickles have buffers beside them copies none."""
    if isinstance(payload, bytes):
        return (payload,)
    return tuple(pickle.PickleBuffer(part) for part in buffers_of(payload))


def copied(payload: Payload) -> tuple[bytes, ...]:
    """The parts of a payload, none of them shared with anybody who may still change it."""
    return (payload,) if isinstance(payload, bytes) else tuple(map(bytes, buffers_of(payload)))


def unwrapped(parts: Sequence[Buffer]) -> Payload:
    """The payload of these parts, as they arrive."""
    return tuple(parts)


def _outcome(
    head: Head, stops: Stops, parts: Sequence[Buffer], values: Sequence[Sequence[Buffer]]
) -> tuple[int, float, dict[str, Any], Payload]:
    started = perf_counter()
    try:
        with stops:
            if head.initializer is not None:
                _functions.initialize(head.initializer)
                started = perf_counter()
            fn = _functions.get(head.function, None if head.initializer is None else head.initializer[0])
            if head.elements is None:
                args, kwargs = serialization.load_call(
                    unwrapped(parts), [unwrapped(value) for value in values]
                )
                value = fn(*args, **kwargs)
            else:
                packed = unwrapped(parts)
                # An exception while a stop is under way is the chunk's, and no element's.
                results = run_fixed(
                    fn,
                    load_elements(packed),
                    *head.elements,
                    head.retry_on,
                    lambda: stops.asked or stops.timed_out,
                    ENGINE_GIVE_BACK_AFTER if _bytes_of(parts) <= ENGINE_GIVE_BACK_BYTES else None,
                )
        duration = perf_counter() - started
        payload = serialization.dump_result(value, fn=fn) if head.elements is None else results.dump()
        return OK, duration, {}, payload
    except BaseException as exc:
        duration = perf_counter() - started
        if stops.timed_out:
            return (
                TIMED_OUT,
                duration,
                {"error": f"it ran longer than its timeout of {head.timeout:g} s"},
                b"",
            )
        if stops.asked and isinstance(exc, KeyboardInterrupt):
            return CANCELLED, duration, {}, b""
        detail = {}
        if head.retry_on is not None and not serialization.is_one_of(exc, head.retry_on):
            detail["final"] = True
        return (
            ERROR,
            duration,
            detail,
            serialization.dump_exception(serialization.without_frames_of(OWN_FILES, exc)),
        )


def _bytes_of(parts: Sequence[Buffer]) -> int:
    return sum(memoryview(part).nbytes for part in parts)


class EngineFunctions:
    """The functions of a worker's process, which come with the calls that name them; several threads may run calls."""

    def __init__(self, max_functions: int = FUNCTIONS_KEPT, max_bytes: int = FUNCTION_BYTES_KEPT) -> None:
        self._cache = FunctionCache(max_functions, max_bytes)
        self._loading = threading.Lock()
        self._initializing = threading.Lock()

    def get(self, fields: Fields, initializer: bytes | None = None) -> Callable[..., Any]:
        """Return a function after its initializer, which has run; raise SerializationError if it cannot be loaded."""
        with self._loading:
            fn = self._cache.get(fields[0], initializer, lambda _: loaded(fields))
        return ready(fn)

    def initialize(self, fields: Fields) -> None:
        """Run an initializer when a call names it for the first time; raise InitializerError each time if it fails."""
        with self._initializing:
            self._cache.initialize(fields[0], lambda: self.get(fields), initializer_error)


def loaded(fields: Fields) -> Loaded:
    """Unpickle a function."""
    # Within one process they come as they were wrapped.
    blob: Payload = fields[1] if isinstance(fields[1], bytes) else tuple(map(memoryview, fields[1]))
    parts: dict[bytes, Payload] = {key: tuple(map(memoryview, buffers)) for key, buffers in fields[2]}
    fn = serialization.load_function(blob, parts)
    return fn, payload_size(blob) + sum(map(payload_size, parts.values()))


def initializer_error(exc: BaseException) -> InitializerError | None:
    """Return the error for all calls that name an initializer that has raised `exc`; None if it was to be stopped."""
    if not isinstance(exc, Exception):
        return None
    failure = InitializerError(f"the initializer failed in this worker: {serialization.describe(exc)}")
    failure.__cause__ = serialization.without_frames_of(OWN_FILES, exc)
    return failure


_functions = EngineFunctions()
