"""The execution of a call in a worker of another engine, from the pickled arguments to the pickled result.

The engine passes a tuple of plain values each way, so that it needs no class of this package to route it:

    to the worker       (head, parts, values, *apart)    head: the fields of `Head`
    back                (status, duration, output, detail, parts)

`parts` are the buffers of a payload. `values` are the buffers of the results that the call depends on. `apart` are the
parts of the call's functions that are not in the head. A function is unpickled once per content hash and process. The
class `EngineContext` of the backend's module has everything that depends on the engine.
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
"""The version of the tuples above, which a worker with another version of jobrunner may have in common."""

FUNCTIONS_KEPT = 256
"""Maximum number of unpickled functions that a worker's process keeps, because they use memory."""

FUNCTION_BYTES_KEPT = 128 * 1024 * 1024
"""Maximum total size in bytes of the pickles of the functions that are kept; the last function may exceed it."""

OWN_FILES = (__file__, CACHE_FILE)
"""The files whose frames precede those of a call in a traceback."""

Fields = tuple[bytes, Any, "tuple[tuple[bytes, Any], ...]"]
"""A function in a message: its key, its blob, and the key and blob of each part; None stands for a blob that is apart.

A blob of several buffers is a tuple of them.
"""


def fields_of(dumped: DumpedFunction, *, apart: bool) -> Fields:
    """Return a function in the form for a message; with `apart`, the blobs of its parts are left out."""
    parts = tuple([(part.key, None if apart else wrapped(part.blob)) for part in dumped.parts])
    return dumped.key, dumped.blob if isinstance(dumped.blob, bytes) else wrapped(dumped.blob), parts


def whole(fields: Fields, apart: Iterator[Any]) -> Fields:
    """Return a function with the blobs of parts that were left out, which are taken from `apart`."""
    key, blob, parts = fields
    return key, blob, tuple([(part, next(apart) if it is None else it) for part, it in parts])


class Head(NamedTuple):
    """The properties of a call, except for its arguments."""

    protocol: int
    module: str
    """The name of the module with the backend's class `EngineContext`."""
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
    """True if the call must not begin a second time."""
    show_output: bool


Back = tuple[int, float, list[tuple[int, str]], dict[str, Any], tuple[Any, ...]]


class EngineContext(Protocol):
    """The context of a call in an engine's worker."""

    name: str
    """The name of the worker."""

    address: str | None
    """The address at which nested calls reach the same engine, see `connections.connection_to`; None if they cannot."""

    waiting: blocking.Hook | None
    until: blocking.Until | None
    keeps_results: bool
    """True if the engine keeps the result of `run` and may send it later.

    Then the result must not share memory with objects of the call.
    """

    interruptible: bool
    """True if calls run in the main thread, where a signal can stop them."""

    def begins(self, call: str) -> bool:
        """Note that a call begins that may begin only once; return False if it has begun before."""
        ...


class CallContext:
    """The context of code of the call, see `task_context.Context`."""

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
    """Run one call, and return its outcome; an exception of the call is part of the outcome, and is not raised."""
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
        threads.divide()  # other threads may run calls of other programs at the same time
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
    """Return the buffers of a payload in a form that engines with out-of-band pickle buffers do not copy."""
    if isinstance(payload, bytes):
        return (payload,)
    return tuple(pickle.PickleBuffer(part) for part in buffers_of(payload))


def copied(payload: Payload) -> tuple[bytes, ...]:
    """Return copies of the buffers of a payload, which share no memory with objects that may change."""
    return (payload,) if isinstance(payload, bytes) else tuple(map(bytes, buffers_of(payload)))


def unwrapped(parts: Sequence[Buffer]) -> Payload:
    """Return the payload that consists of these received buffers."""
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
                # An exception during a stop belongs to the chunk, and not to an element.
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
    """The functions of a worker's process, which arrive with the calls that name them. Thread-safe."""

    def __init__(self, max_functions: int = FUNCTIONS_KEPT, max_bytes: int = FUNCTION_BYTES_KEPT) -> None:
        self._cache = FunctionCache(max_functions, max_bytes)
        self._loading = threading.Lock()
        self._initializing = threading.Lock()

    def get(self, fields: Fields, initializer: bytes | None = None) -> Callable[..., Any]:
        """Return a function whose initializer has run; raise SerializationError if it cannot be loaded."""
        with self._loading:
            fn = self._cache.get(fields[0], initializer, lambda _: loaded(fields))
        return ready(fn)

    def initialize(self, fields: Fields) -> None:
        """Run an initializer when a call names it for the first time; raise InitializerError each time if it fails."""
        with self._initializing:
            self._cache.initialize(fields[0], lambda: self.get(fields), initializer_error)


def loaded(fields: Fields) -> Loaded:
    """Unpickle a function, and return it with the size in bytes of its pickle."""
    # Within one process, the buffers arrive as they were wrapped.
    blob: Payload = fields[1] if isinstance(fields[1], bytes) else tuple(map(memoryview, fields[1]))
    parts: dict[bytes, Payload] = {key: tuple(map(memoryview, buffers)) for key, buffers in fields[2]}
    fn = serialization.load_function(blob, parts)
    return fn, payload_size(blob) + sum(map(payload_size, parts.values()))


def initializer_error(exc: BaseException) -> InitializerError | None:
    """Return the error for all calls that name an initializer that has raised `exc`, or None if it was stopped."""
    if not isinstance(exc, Exception):
        return None
    failure = InitializerError(f"the initializer failed in this worker: {serialization.describe(exc)}")
    failure.__cause__ = serialization.without_frames_of(OWN_FILES, exc)
    return failure


_functions = EngineFunctions()
