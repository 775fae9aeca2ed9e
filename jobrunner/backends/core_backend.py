"""What the "processes" and "cluster" backends share: a ClientCore on a thread of its own.

A call is pickled in the caller's thread and posted to the I/O thread, which sends whatever has gathered and resolves
the Futures as outcomes arrive. The two backends differ in their wire alone: the coordinator and the worker at its
other end are processes of a cluster, or cores in this process.
"""

from __future__ import annotations

import concurrent.futures
import copy
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from jobrunner.backends.base import CAPABILITIES, Backend, BackendSettings
from jobrunner.backends.bundle_builder import BundleBuilder
from jobrunner.backends.dependency_results import DependencyResults, with_placeholders
from jobrunner.backends.failures import exception_of
from jobrunner.backends.futures_in_arguments import AnyFuture, may_hold_futures
from jobrunner.backends.pending_calls import PendingCalls
from jobrunner.backends.prepared import PackedElements, Prepared, chunk, pack
from jobrunner.backends.queries import Queries
from jobrunner.backends.shared_store import SharedStore
from jobrunner.backends.slot_initializers import SlotInitializers
from jobrunner.calls import serialization
from jobrunner.display.printer import Printer
from jobrunner.errors import (
    InitializerError,
    JobRunnerError,
    NotSupportedError,
    SerializationError,
    TaskLostError,
)
from jobrunner.fixed.elements import ElementResults
from jobrunner.futures import CancelWaits, Future
from jobrunner.nested.task_context import current_task
from jobrunner.nested.wait_hooks import depth
from jobrunner.pickling.loading import Held
from jobrunner.protocol import bundles
from jobrunner.protocol.bundles import Limits
from jobrunner.protocol.client.core import ClientCore
from jobrunner.protocol.effects import (
    Accepted,
    AnnounceRunning,
    AnswerCancel,
    AnswerQuery,
    BundleSplit,
    CancelRequested,
    CapacityChanged,
    ChunkDivided,
    Connected,
    ConnectionLost,
    DrainRequested,
    Event,
    GiveUp,
    InitializerFailed,
    Log,
    RequestResults,
    ResolveTasks,
    ResultReplyRequested,
    ShowOutput,
    SubmitRequested,
    WatchRequested,
)
from jobrunner.protocol.tuning import BUNDLE_SMALL_CALL
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import ClientId, TaskId, new_id, task_id
from jobrunner.protocol.wire.kinds import SINGLE_CALL, Chunk
from jobrunner.protocol.wire.payloads import Payload
from jobrunner.system import conditions, forks
from jobrunner.system.atexit_hooks import do_all, finish_before_exit
from jobrunner.system.host import own_host, python_version
from jobrunner.transport.driver import Driver, Wire
from jobrunner.transport.service import error_named
from jobrunner.version import __version__

STOP_WAIT = 20.0
"""Seconds that `cancel(running=True)` waits for the confirmed stop: three signals with their pauses, and some."""

KILL_WAIT = 5.0
"""Seconds that `kill` waits for the I/O thread: for its orderly end, and once more when it is to leave its work."""


def nothing() -> None:
    """There is no wire yet."""


class CoreBackend(Backend):
    """Subclasses make the wire (on the I/O thread), and end what they started in `_closed`."""

    capabilities = frozenset(CAPABILITIES)

    def __init__(self, settings: BackendSettings) -> None:
        self._config = settings.config
        self._client = ClientId(new_id(self._key))
        self._pid = os.getpid()
        task = current_task()
        self._within = None if task is None else TaskId(task.id)
        # Reentrant: the garbage collector may shut an executor down in a thread that is in here.
        self._lock = forks.lock()
        self._outgoing: list[m.TaskSpec | BundleBuilder] = []
        self._builder: BundleBuilder | None = None
        """The last of `_outgoing`, if that is one."""
        self._limits: Limits
        self._prepared: Prepared | None = None
        """The last one: mostly the same function is submitted again."""
        self._definitions: dict[tuple[m.FunctionKey, m.FunctionKey | None], Prepared] = {}
        """The functions of `_outgoing`."""
        self._dependency_results = DependencyResults(self._reply_with_results, self)
        self._cancel_waits = CancelWaits()
        self._pending = PendingCalls(self._lock, self._cancel_waits, self._dependency_results.release)
        self._queries = Queries(self._lock, self._check_open, self._post)
        self._number = 0
        self._shut_down = False
        self._failure: JobRunnerError | None = None
        self._slots = 0
        self._printer = Printer()
        self._store = SharedStore(self._shares)
        self._connected = conditions.Event()
        """Set once connected, or once it is known that it will not be."""
        self._slot_initializers = SlotInitializers(settings, self._store.store, same_host=self.same_host)
        self._started = conditions.Event()
        self._start_error: BaseException | None = None
        self._driver: Driver
        self._close_wire: Callable[[], None] = nothing
        self._finished = False
        """The driver's loop has ended as it should."""
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=f"jobrunner-{self.name}", daemon=True)
        try:
            self._thread.start()
            self._started.wait()
            if self._start_error is not None:
                raise self._start_error
            finish_before_exit(self.shutdown, self.kill)
        except BaseException:  # Ctrl-C, maybe: nobody will have this object
            self._shut_down = True
            if self._started.is_set() and self._start_error is None:  # else its thread will find it so
                self._maybe_drain()
            raise

    # --- for subclasses ---

    def _make_wire(self) -> Wire:
        """Called on the I/O thread."""
        raise NotImplementedError

    def _timeouts(self) -> dict[str, float | None]:
        """Keyword arguments of ClientCore: connect_timeout, reconnect_timeout."""
        return {}

    @property
    def _key(self) -> str:
        """The public key under which this end connects; empty: none. Asked once, before anything else."""
        return ""

    @property
    def _peer_timeout(self) -> float:
        return self._config.peer_timeout

    @property
    def _shares(self) -> bool:
        """Whether what runs the calls is on this host, and can take large arguments in shared memory."""
        return False

    def _closed(self) -> None:
        """The I/O thread has ended; called on it."""

    def _first_call(self) -> None:
        """A call comes, and there was none unfinished; called with the lock held."""

    @property
    def cluster(self) -> str | None:
        """What tells a cluster that others can join from others; None where nobody can."""
        return None

    # --- submitting ---

    def prepare(self, fn: Callable[..., Any]) -> Prepared:
        last = self._prepared
        prepared = Prepared.of(fn, self._store.store, last, self._slot_initializers.current())
        if prepared is not last:
            self._prepared = prepared if prepared.may_be_kept else None
        return prepared

    def submit(
        self,
        prepared: Prepared,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: m.TaskOptions = m.DEFAULT_OPTIONS,
    ) -> Future[Any]:
        futures: list[AnyFuture] = []
        try:
            args, kwargs = prepared.arguments(args, kwargs)
            if may_hold_futures(args, kwargs):
                args, kwargs, futures = with_placeholders(args, kwargs)
            names: dict[str, None] = {}
            payload = serialization.dump_call(
                args,
                kwargs,
                snapshot=True,
                store=self._store.store,
                names=names,
                held=len(prepared.args),
                function=prepared.dumped.name,
            )
            if names or (futures and serialization.script_has_classes()):
                prepared = prepared.with_names(names)
        except SerializationError as exc:
            self._check_open()
            future: Future[Any] = Future()
            future.set_exception(exc)
            return future
        if futures:
            depends_on = self._dependency_results.add(futures, self._new_id)
            try:
                return self._send(prepared, payload, None, options, depends_on)
            except BaseException:
                self._dependency_results.release(depends_on)  # a call that is refused keeps nothing
                raise
        if type(payload) is bytes and len(payload) <= BUNDLE_SMALL_CALL and bundles.permits(options):
            function = prepared.definition.key
            limit = self._limits.of(function)
            if limit > 1:
                return self._send_with_others(prepared, payload, options, limit)
            future = self._send(prepared, payload, None, options)
            if self._limits.is_new(function):
                # Let the I/O thread run, which would otherwise wait for milliseconds while a loop submits hundreds of
                # calls: the sooner some have been made, the sooner it is known whether the rest can go in bundles.
                time.sleep(0)
            return future
        return self._send(prepared, payload, None, options)

    def held(self, prepared: Prepared) -> Held | None:
        return prepared.held()

    def pack(self, elements: Any) -> Payload | PackedElements:
        return pack(elements, self._store.store)

    def submit_chunk(
        self,
        prepared: Prepared,
        packed: Payload | PackedElements,
        start: int,
        stop: int,
        options: m.TaskOptions = m.DEFAULT_OPTIONS,
    ) -> Future[ElementResults]:
        return self._send(*chunk(prepared, packed), (start, stop), options)

    def _send(
        self,
        prepared: Prepared,
        payload: Payload,
        span: tuple[int, int] | None,
        options: m.TaskOptions,
        depends_on: tuple[TaskId, ...] = (),
    ) -> Future[Any]:
        if options.detach:
            self._check_detach()
        if options.resources:
            self._check_resources()
        definition = prepared.definition
        future: Future[Any] = Future()
        with self._lock:
            self._check_open()
            task = self._new_id()
            future.bind(task, options.name or definition.name, self.cancel, self)
            kind = SINGLE_CALL if span is None else Chunk(*span)
            body = m.CallBody(definition.key, payload, kind, options, prepared.keys[1], depth())
            spec = m.TaskSpec(task, body, depends_on)
            self._builder = None
            if not self._pending.entries:
                self._first_call()
            try:
                self._definitions[prepared.keys] = prepared
                self._pending.add(task, future, span is not None, depends_on)
                self._outgoing.append(spec)
            except BaseException:
                self._never_sent(task)
                raise
        self._driver.wake()
        return future

    def _never_sent(self, task: TaskId) -> None:
        """With the lock held. Ctrl-C came before all was noted of a call, which nobody is to wait for then."""
        self._builder = None
        self._pending.discard(task)
        self._outgoing = [entry for entry in self._outgoing if entry.id != task]

    def _send_with_others(
        self, prepared: Prepared, payload: bytes, options: m.TaskOptions, limit: int
    ) -> Future[Any]:
        """Have a short call travel with others like it that are on their way to the I/O thread."""
        definition, initializer = prepared.definition, prepared.initializer
        nested = depth()
        with self._lock:
            self._check_open()
            builder = self._builder
            if builder is not None and builder.takes(definition, options, nested, initializer):
                future = builder.add(payload)
            else:
                task = self._new_id()
                builder = BundleBuilder(self, task, definition, options, nested, limit, initializer)
                future = builder.add(payload)
                if not self._pending.entries:
                    self._first_call()
                try:
                    self._definitions[prepared.keys] = prepared
                    self._pending.add_bundle(builder)
                    self._outgoing.append(builder)
                    self._builder = builder
                except BaseException:
                    self._never_sent(task)
                    raise
        self._driver.wake()
        return future

    def _new_id(self) -> TaskId:
        with self._lock:
            self._number += 1
            return task_id(self._client, self._number)

    def _check_resources(self) -> None:
        """Raises NotSupportedError where no worker can ever offer a named resource: the call would wait for ever."""

    def _check_detach(self) -> None:
        """Raises NotSupportedError unless what runs the calls outlives this program."""
        raise NotSupportedError(
            f'detach=True: nothing of the "{self.name}" backend outlives this program; use the address of a'
            " cluster, see `jobrunner coordinator start`"
        )

    # --- calls that others have submitted ---

    def future(self, task_id: str) -> Future[Any]:
        task = TaskId(task_id)
        with self._lock:
            present = self._pending.future_of(task)
            if present is not None:
                return present
            self._check_open()
            future: Future[Any] = Future()
            future.bind(task_id, "", self._cancel_elsewhere, self)
            if not self._pending.entries:
                self._first_call()
            self._pending.add_watched(task, future)
        self._driver.post(WatchRequested([task]))
        return future

    def future_there(self, future: Future[Any]) -> tuple[Any, ...] | None:
        """For `Future.__reduce__`: what makes a Future for the same call in another process; None where nothing can."""
        from jobrunner.backends.connections import connected_future  # here: it needs ZeroMQ, this may not

        address = self.connection()
        return None if address is None else (connected_future, (address, future.id, future.name))

    def forget(self, task_id: str) -> None:
        self.query("forget", task_id)

    def _cancel_elsewhere(self, future: Future[Any], running: bool) -> bool:
        if future.running() and not running:
            return False
        self.query("cancel", future.id if running else f"{future.id} queued")
        concurrent.futures.wait([future], STOP_WAIT if running else self._config.cancel_wait)
        return future.cancelled()

    def _collect(self) -> list[Event]:
        """All calls that have gathered since the last turn."""
        self._store.look_after()
        if not self._outgoing:
            return []
        with self._lock:
            outgoing, self._outgoing, self._builder = self._outgoing, [], None
            definitions, self._definitions = self._definitions, {}
        functions = [
            each
            for prepared in definitions.values()
            for each in (*prepared.definitions, *prepared.initializer)
        ]
        tasks = [entry.spec() if isinstance(entry, BundleBuilder) else entry for entry in outgoing]
        return [SubmitRequested(tasks, functions)]

    def _post(self, event: Event) -> None:
        """Give the I/O thread an event."""
        self._driver.post(event)

    def _check_open(self) -> None:
        if self._failure is not None:
            raise self._failure_anew(self._failure)
        if self._shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if os.getpid() != self._pid:
            raise RuntimeError(
                "this Executor belongs to the process that forked this one; make a new one here"
            )

    # --- cancelling ---

    def cancel(self, future: Future[Any], running: bool) -> bool:
        """What `Future.cancel` of this backend's calls does."""
        task = TaskId(future.id)
        if (future.running() and not running) or os.getpid() != self._pid:
            return False  # in a forked process nobody asks, and nobody answers
        ask = partial(self._driver.post, CancelRequested([task], running))
        if not self.can_wait:
            # A callback: the answer comes through this very thread, so nobody can wait for it here.
            if not future.done():
                ask()
            return future.cancelled()
        with self._cancel_waits.one_more(future) as wait:
            if not future.done():  # else nobody will answer
                wait.wait(ask, STOP_WAIT if running else self._config.cancel_wait, running)
        return future.cancelled()

    def cancel_all(self, futures: Sequence[Future[Any]], *, running: bool = False) -> None:
        self._driver.post(CancelRequested([TaskId(future.id) for future in futures], running))

    # --- the end ---

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if os.getpid() != self._pid:
            return  # a forked child has no I/O thread to end; the lock may even be held, for ever
        with self._lock:
            self._shut_down = True
            if cancel_futures:
                self._cancel_what_waits()
            if self._pending.has_only_loose:
                self._driver.post(DrainRequested())
            else:
                self._driver.wake()  # Ctrl-C may have come when a call had been noted, and nobody told of it
        if wait and self.can_wait:
            self._thread.join()

    @property
    def can_wait(self) -> bool:
        return threading.current_thread() is not self._thread

    def _cancel_what_waits(self) -> None:
        """With the lock held. Where the slots are this program's alone, calls that a free one can begin go on."""
        depends_on = self._pending.dependent()
        blocked = {task for task, needed in depends_on if not self._dependency_results.are_done(needed)}
        own = self._pending.own()
        self._driver.post(CancelRequested([task for task in own if task in blocked], False))
        slots = self.max_workers if self.same_host else 0
        self._driver.post(CancelRequested([task for task in own if task not in blocked], False, slots))

    def kill(self) -> None:
        if os.getpid() != self._pid:
            return  # as in shutdown
        with self._lock:
            self._shut_down = True
        self._driver.post(DrainRequested())
        if self.can_wait:
            self._thread.join(KILL_WAIT)
            if self._thread.is_alive():
                self._driver.abort()
                self._thread.join(KILL_WAIT)
            if self._thread.is_alive():
                # It is in code of the user's, maybe for ever: a result that is unpickled, or a callback. It changes
                # nothing any more if it comes back.
                do_all(self._take_what_is_left, *self._ends_of_waits)

    # --- asking ---

    @property
    def max_workers(self) -> int:
        return max(1, self._slots)

    @property
    def unfinished(self) -> int:
        return self._pending.count

    def query(self, kind: str, argument: str = "", timeout: float = 10.0) -> Any:
        """Ask the coordinator. Raises JobRunnerError with its words, CoordinatorLostError after `timeout` s."""
        return self._queries.ask(kind, argument, timeout)

    @property
    def broken(self) -> str:  # type: ignore[override]
        return "" if self._failure is None else str(self._failure)

    @property
    def usable(self) -> bool:
        """Neither shut down nor failed, nor of the process that forked this one."""
        return not self._shut_down and self._failure is None and os.getpid() == self._pid

    def status(self) -> dict[str, Any]:
        return dict(self.query("status"))

    # --- the I/O thread ---

    def _run(self) -> None:
        """The I/O thread. Whatever is raised, and wherever: it gets to `_end`, and if need be once more."""
        try:
            try:
                self._open()
                self._finished = self._driver.run()
            except BaseException as exc:
                if not self._started.is_set():
                    self._start_error = exc
                else:
                    failure = JobRunnerError(f"the I/O thread failed: {exc!r}; this is a bug in jobrunner")
                    failure.__cause__ = exc
                    self._failure = failure
            finally:
                self._end()
        finally:
            if not self._ended:
                self._end()

    def _open(self) -> None:
        wire = self._make_wire()
        self._close_wire = wire.close
        core = ClientCore(
            m.ClientHello(
                self._client,
                __version__,
                python_version(),
                own_host(),
                os.getpid(),
                self._peer_timeout,
                self._config.show_output,
                within=self._within,
            ),
            random.Random(),
            time.monotonic(),
            **self._timeouts(),
        )
        self._limits = core.limits
        self._driver = Driver(core, wire, self._effects(), collect=self._collect, due=self._store.due)
        self._close_wire = lambda: self._driver.close(orderly=self._finished)
        self._printer.start()
        self._started.set()
        self._maybe_drain()

    def _effects(self) -> dict[type, Callable[[Any], None]]:
        return {
            ResolveTasks: self._on_outcomes,
            BundleSplit: self._pending.split,
            ChunkDivided: self._pending.divide,
            AnnounceRunning: self._pending.announce_running,
            AnswerCancel: self._pending.refuse_cancel,
            AnswerQuery: self._queries.answer,
            ShowOutput: self._show_output,
            RequestResults: lambda effect: self._dependency_results.requested(effect.ids),
            Accepted: self._on_accepted,
            Connected: self._on_connected,
            CapacityChanged: self._on_capacity,
            ConnectionLost: lambda effect: None,
            InitializerFailed: self._on_initializer_failed,
            GiveUp: self._give_up,
            Log: lambda effect: None,
        }

    def _end(self) -> None:
        """Whatever happened: no Future stays pending, nothing that was started stays behind, and nobody waits.

        Raises what the first of these steps raised that could not be done, after the others.
        """
        do_all(
            self._take_what_is_left,
            self._close_wire,
            self._closed,
            self._slot_initializers.close,
            self._store.close,
            self._printer.close,
            *self._ends_of_waits,
            self._started.set,
            self._has_ended,
        )

    @property
    def _ends_of_waits(self) -> tuple[Callable[[], None], ...]:
        """Return the steps that end every wait for this backend, once it is known what is left.

        They may be repeated, and two threads may perform them at the same time.
        """
        return (
            self._resolve_what_is_left,
            self._cancel_waits.end,
            self._end_queries,
            self._connected.set,
        )

    def _has_ended(self) -> None:
        self._ended = True

    def _take_what_is_left(self) -> None:
        with self._lock:
            self._shut_down = True
            self._pending.take_what_is_left()

    def _resolve_what_is_left(self) -> None:
        self._pending.resolve_what_is_left(self._error_at_end)

    def _error_at_end(self, task: TaskId, future: Future[Any], is_loose: bool) -> JobRunnerError | None:
        """The error with which a call ends that is still pending when this backend ends; None: it is cancelled."""
        if self._failure is not None:
            return self._failure_anew(self._failure)
        if self.ended_by_force and future.running():
            text = f"call {task} ({future.name}) was stopped by terminate_workers or kill_workers"
            return TaskLostError(text)
        if is_loose:
            text = (
                f"this Executor was shut down before call {task} was done, which goes on without it; ask"
                " another Executor on the same cluster for it, with future(id)"
            )
            return JobRunnerError(text)
        return None

    def _end_queries(self) -> None:
        self._queries.end(self._own_failure)

    def _own_failure(self) -> JobRunnerError | None:
        """Why this backend has ended before its time, as an error for one who raises it."""
        return None if self._failure is None else self._failure_anew(self._failure)

    def _give_up(self, effect: GiveUp) -> None:
        self._failure = error_named(effect.kind, self._describe_failure(effect))
        self._driver.abort()

    def _on_initializer_failed(self, effect: InitializerFailed) -> None:
        """The executor is broken, as the standard library's pools are then; `_end` fails what is pending."""
        if self._failure is None:
            error = exception_of(effect.outcome, "")
            if not isinstance(
                error, InitializerError
            ):  # one of a version of Python or of jobrunner that is not here
                error = InitializerError(str(error))
            self._failure = error
            self._driver.post(DrainRequested())

    @staticmethod
    def _failure_anew(failure: JobRunnerError) -> JobRunnerError:
        """The same error, for one who raises it: a traceback holds on to all that is in its frames."""
        error = copy.copy(failure)
        error.__cause__ = failure.__cause__
        return error

    def _describe_failure(self, effect: GiveUp) -> str:
        return effect.error

    def _on_connected(self, effect: Connected) -> None:
        self._slots = effect.slots
        self._connected.set()

    def _on_capacity(self, effect: CapacityChanged) -> None:
        self._slots = effect.slots

    def _on_outcomes(self, effect: ResolveTasks) -> None:
        self._pending.resolve_outcomes(effect.outcomes)
        self._maybe_drain()

    def _maybe_drain(self) -> None:
        if self._shut_down and self._pending.has_only_loose:
            self._driver.post(DrainRequested())

    def _on_accepted(self, effect: Accepted) -> None:
        self._pending.accept(effect.ids)
        self._maybe_drain()

    def _reply_with_results(self, outcomes: list[m.Outcome], unknown: list[TaskId]) -> None:
        self._driver.post(ResultReplyRequested(outcomes, unknown))

    def _show_last_words(self, texts: list[tuple[int, str]]) -> None:
        """What slots print while they end."""
        if self._config.show_output:
            self._printer.show(texts)

    def _show_output(self, effect: ShowOutput) -> None:
        self._printer.show([(chunk.stream, chunk.text) for chunk in effect.chunks])
