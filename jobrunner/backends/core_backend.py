"""The common base of the "processes" and "cluster" backends, which drives a ClientCore on a thread of its own.

A call is pickled in the caller's thread (Submission) and added to the outgoing calls (OutgoingCalls). The I/O thread
(ClientThread) takes and sends the calls that have gathered there. The Futures are resolved as outcomes arrive
(PendingCalls). The two backends differ only in their Connection: the coordinator and the worker at its other end are
processes of a cluster, or cores in this process.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from jobrunner.backends.base import CAPABILITIES, Backend, BackendSettings
from jobrunner.backends.cancelling import Cancelling
from jobrunner.backends.client_thread import ClientThread
from jobrunner.backends.connection import Connection
from jobrunner.backends.dependency_results import DependencyResults
from jobrunner.backends.open_state import OpenState
from jobrunner.backends.outgoing_calls import OutgoingCalls
from jobrunner.backends.pending_calls import PendingCalls
from jobrunner.backends.prepared import PackedElements, Prepared
from jobrunner.backends.queries import Queries
from jobrunner.backends.shared_store import SharedStore
from jobrunner.backends.slot_initializers import SlotInitializers
from jobrunner.backends.submission import Submission
from jobrunner.errors import JobRunnerError, TaskLostError
from jobrunner.fixed.elements import ElementResults
from jobrunner.futures import CancelWaits, Future
from jobrunner.nested.task_context import current_task
from jobrunner.pickling.loading import Held
from jobrunner.protocol.client.core import ClientCore
from jobrunner.protocol.effects import (
    Accepted,
    AnnounceRunning,
    AnswerCancel,
    AnswerQuery,
    BundleSplit,
    CapacityChanged,
    ChunkDivided,
    Connected,
    ConnectionLost,
    Event,
    GiveUp,
    InitializerFailed,
    Log,
    RequestResults,
    ResolveTasks,
    ResultReplyRequested,
    ShowOutput,
    WatchRequested,
)
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import ClientId, TaskId, new_id
from jobrunner.protocol.wire.payloads import Payload
from jobrunner.system import forks
from jobrunner.system.atexit_hooks import finish_before_exit
from jobrunner.system.host import own_host, python_version
from jobrunner.version import __version__


class CoreBackend(Backend):
    """Implements Backend by its parts. This class itself owns only the last function that was prepared."""

    capabilities = frozenset(CAPABILITIES)

    def __init__(self, settings: BackendSettings, connection: Connection) -> None:
        config = settings.config
        client = ClientId(new_id(connection.key))
        task = current_task()
        self._connection = connection
        # The lock is reentrant, because the garbage collector may shut an executor down in a thread that holds it.
        self._lock = forks.lock()
        self._state = OpenState()
        self._prepared: Prepared | None = None
        """The last prepared function, because usually the same function is submitted again."""
        self._dependency_results = DependencyResults(
            lambda outcomes, unknown: self._thread.post(ResultReplyRequested(outcomes, unknown)), self
        )
        cancel_waits = CancelWaits()
        self._pending = PendingCalls(self._lock, cancel_waits, self._dependency_results.release)
        self._thread = ClientThread(
            self.name, self._state, self._pending, connection, show_output=config.show_output
        )
        self._queries = Queries(self._lock, self._state.check, self._thread.post)
        self._cancelling = Cancelling(
            self._state, self._pending, cancel_waits, self._queries, self._thread, config.cancel_wait
        )
        self._store = SharedStore(connection.same_host)
        self._slot_initializers = SlotInitializers(
            settings, self._store.store, same_host=connection.same_host
        )
        core = ClientCore(
            m.ClientHello(
                client,
                __version__,
                python_version(),
                own_host(),
                os.getpid(),
                connection.peer_timeout,
                config.show_output,
                within=None if task is None else TaskId(task.id),
            ),
            random.Random(),
            time.monotonic(),
            **connection.timeouts,
        )
        self._outgoing = OutgoingCalls(
            self,
            client,
            self._lock,
            self._state.check,
            self._pending,
            self._dependency_results,
            connection,
            core.limits,
            self._thread,
        )
        self._submission = Submission(self._state.check, self._outgoing.send, self._store.store)
        try:
            self._thread.start(
                core,
                self._effects(),
                collect=self._collect,
                due=self._store.due,
                closes=(self._slot_initializers.close, self._store.close),
                ends_of_waits=(
                    partial(self._pending.resolve_what_is_left, self._error_at_end),
                    cancel_waits.end,
                    partial(self._queries.end, self._state.failure_anew),
                    connection.connected.set,
                ),
            )
            finish_before_exit(self.shutdown, self.kill)
        except BaseException:  # for example Ctrl-C; no caller gets this object, so nobody else could end it
            self._state.shut_down()
            self._thread.abandon()
            raise

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
        return self._submission.submit(prepared, args, kwargs, options)

    def held(self, prepared: Prepared) -> Held | None:
        return prepared.held()

    def pack(self, elements: Any) -> Payload | PackedElements:
        return self._submission.pack(elements)

    def submit_chunk(
        self,
        prepared: Prepared,
        packed: Payload | PackedElements,
        start: int,
        stop: int,
        options: m.TaskOptions = m.DEFAULT_OPTIONS,
    ) -> Future[ElementResults]:
        return self._submission.submit_chunk(prepared, packed, start, stop, options)

    # --- calls that others have submitted ---

    def future(self, task_id: str) -> Future[Any]:
        task = TaskId(task_id)
        with self._lock:
            present = self._pending.future_of(task)
            if present is not None:
                return present
            self._state.check()
            future: Future[Any] = Future()
            future.bind(task_id, "", self._cancelling.cancel_elsewhere, self)
            if not self._pending.entries:
                self._connection.first_call(self._outgoing)
            self._pending.add_watched(task, future)
        self._thread.post(WatchRequested([task]))
        return future

    def future_there(self, future: Future[Any]) -> tuple[Any, ...] | None:
        """Return what `Future.__reduce__` returns for a call of this backend, or None, see `Home`."""
        from jobrunner.backends.connections import connected_future  # imported here, because it loads ZeroMQ

        address = self.connection()
        return None if address is None else (connected_future, (address, future.id, future.name))

    def forget(self, task_id: str) -> None:
        self.query("forget", task_id)

    # --- cancelling ---

    def cancel(self, future: Future[Any], running: bool) -> bool:
        """Do what `Future.cancel` does for this backend's calls."""
        return self._cancelling.cancel(future, running)

    def cancel_all(self, futures: Sequence[Future[Any]], *, running: bool = False) -> None:
        self._cancelling.cancel_all(futures, running)

    # --- the end ---

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if not self._state.is_of_this_process:
            return  # a forked child has no I/O thread to end, and its copy of the lock may be held for ever
        with self._lock:
            self._state.shut_down()
            if cancel_futures:
                # If no other program uses the slots, the calls that a free slot can begin are not cancelled.
                slots = self.max_workers if self.same_host else 0
                self._cancelling.cancel_what_waits(self._dependency_results.are_done, slots)
            self._thread.finish()
        if wait and self.can_wait:
            self._thread.join()

    @property
    def can_wait(self) -> bool:
        return not self._thread.is_current

    def kill(self) -> None:
        if not self._state.is_of_this_process:
            return  # see `shutdown`
        self._connection.end_at_once()
        with self._lock:
            self._state.shut_down()
        self._thread.kill()

    # --- asking ---

    @property
    def max_workers(self) -> int:
        return self._connection.max_workers

    @property
    def same_host(self) -> bool:
        return self._connection.same_host

    @property
    def cluster(self) -> str | None:
        """The address of the cluster that other processes can join, or None, see `Home`."""
        return self._connection.cluster

    @property
    def unfinished(self) -> int:
        return self._pending.count

    def query(self, kind: str, argument: str = "", timeout: float = 10.0) -> Any:
        """Ask the coordinator a question, and return its answer.

        Raises JobRunnerError with the coordinator's text, and CoordinatorLostError after `timeout` seconds.
        """
        return self._queries.ask(kind, argument, timeout)

    @property
    def broken(self) -> str:  # type: ignore[override]
        return "" if self._state.failure is None else str(self._state.failure)

    @property
    def usable(self) -> bool:
        """Whether the backend accepts calls, see `OpenState.usable`."""
        return self._state.usable

    def status(self) -> dict[str, Any]:
        return dict(self.query("status"))

    # --- for the I/O thread ---

    def _collect(self) -> list[Event]:
        """Return the events for the core that have gathered since the last turn; the Driver calls this."""
        self._store.look_after()
        events = self._outgoing.take()
        if events:
            self._connection.calls_are_sent()
        return events

    def _effects(self) -> dict[type, Callable[[Any], None]]:
        """Return the handlers of the core's effects, for the Driver."""
        return {
            ResolveTasks: self._thread.on_outcomes,
            BundleSplit: self._pending.split,
            ChunkDivided: self._pending.divide,
            AnnounceRunning: self._pending.announce_running,
            AnswerCancel: self._pending.refuse_cancel,
            AnswerQuery: self._queries.answer,
            ShowOutput: self._thread.on_output,
            RequestResults: lambda effect: self._dependency_results.requested(effect.ids),
            Accepted: self._thread.on_accepted,
            Connected: self._connection.on_connected,
            CapacityChanged: self._connection.on_capacity,
            ConnectionLost: self._connection.on_connection_lost,
            InitializerFailed: self._thread.on_initializer_failed,
            GiveUp: self._thread.give_up,
            Log: lambda effect: None,
        }

    def _error_at_end(self, task: TaskId, future: Future[Any], is_loose: bool) -> JobRunnerError | None:
        """Return the error of a call that is pending when this backend ends, or None to cancel the call."""
        if self._state.failure is not None:
            return self._state.failure_anew()
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
