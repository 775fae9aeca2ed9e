"""The calls that the threads of a client have submitted and that its I/O thread will send, some of them in bundles."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from jobrunner.backends.bundle_builder import BundleBuilder
from jobrunner.backends.client_thread import ClientThread
from jobrunner.backends.connection import Connection
from jobrunner.backends.dependency_results import DependencyResults
from jobrunner.backends.futures_in_arguments import AnyFuture
from jobrunner.backends.home import Home
from jobrunner.backends.pending_calls import PendingCalls
from jobrunner.backends.prepared import Prepared
from jobrunner.futures import Future
from jobrunner.nested.wait_hooks import depth
from jobrunner.protocol import bundles
from jobrunner.protocol.bundles import Limits
from jobrunner.protocol.effects import Event, SubmitRequested
from jobrunner.protocol.tuning import BUNDLE_SMALL_CALL
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import ClientId, TaskId, task_id
from jobrunner.protocol.wire.kinds import SINGLE_CALL, Chunk, Kind
from jobrunner.protocol.wire.payloads import Payload


class OutgoingCalls:
    """The tasks that the I/O thread has not taken yet. This class implements `wait_hooks.Caller`.

    `home` is the backend to which the Futures belong. `lock` also guards `pending` and `check_open`, which raises if no
    call is accepted any more. `limits` tells how many calls of a function may be in one bundle.
    """

    def __init__(
        self,
        home: Home,
        client: ClientId,
        lock: threading.RLock,
        check_open: Callable[[], None],
        pending: PendingCalls,
        dependency_results: DependencyResults,
        connection: Connection,
        limits: Limits,
        thread: ClientThread,
    ) -> None:
        self._home = home
        self._client = client
        self._lock = lock
        self._check_open = check_open
        self._pending = pending
        self._dependency_results = dependency_results
        self._connection = connection
        self._limits = limits
        self._thread = thread
        self._tasks: list[m.TaskSpec | BundleBuilder] = []
        self._builder: BundleBuilder | None = None
        """The last of `_tasks`, if it is a bundle that accepts more calls."""
        self._functions: dict[tuple[m.FunctionKey, m.FunctionKey | None], Prepared] = {}
        """The functions of `_tasks`."""
        self._number = 0

    def send(
        self,
        prepared: Prepared,
        payload: Payload,
        kind: Kind,
        options: m.TaskOptions,
        futures: Sequence[AnyFuture] = (),
    ) -> Future[Any]:
        """Have the I/O thread send a call or a chunk, see `submission.Send`; short calls go into a bundle."""
        if futures:
            return self._send_dependent(prepared, payload, options, futures)
        if (
            isinstance(kind, Chunk)
            or type(payload) is not bytes
            or len(payload) > BUNDLE_SMALL_CALL
            or not bundles.permits(options)
        ):
            return self._send_alone(prepared, payload, kind, options)
        definition, initializer = prepared.definition, prepared.initializer
        limit = self._limits.of(definition.key)
        if limit <= 1:
            future = self._send_alone(prepared, payload, SINGLE_CALL, options)
            if self._limits.is_new(definition.key):
                # Let the I/O thread run, which would otherwise wait for milliseconds while a loop submits hundreds of
                # calls. The sooner some calls have run, the sooner it is known whether the others can go in bundles.
                time.sleep(0)
            return future
        nested = depth()
        with self._lock:
            self._check_open()
            builder = self._builder
            if builder is not None and builder.takes(definition, options, nested, initializer):
                future = builder.add(payload)
            else:
                task = self.new_id()
                builder = BundleBuilder(self._home, task, definition, options, nested, limit, initializer)
                future = builder.add(payload)
                if not self._pending.entries:
                    self._connection.first_call(self)
                try:
                    self._functions[prepared.keys] = prepared
                    self._pending.add_bundle(builder)
                    self._tasks.append(builder)
                    self._builder = builder
                except BaseException:
                    self._never_sent(task)
                    raise
        self._thread.driver.wake()
        return future

    def _send_dependent(
        self, prepared: Prepared, payload: Payload, options: m.TaskOptions, futures: Sequence[AnyFuture]
    ) -> Future[Any]:
        depends_on = self._dependency_results.add(futures, self.new_id)
        try:
            return self._send_alone(prepared, payload, SINGLE_CALL, options, depends_on)
        except BaseException:
            self._dependency_results.release(depends_on)  # a call that was refused must keep no dependency
            raise

    def _send_alone(
        self,
        prepared: Prepared,
        payload: Payload,
        kind: Kind,
        options: m.TaskOptions,
        depends_on: tuple[TaskId, ...] = (),
    ) -> Future[Any]:
        if options.detach:
            self._connection.check_detach()
        if options.resources:
            self._connection.check_resources()
        definition = prepared.definition
        future: Future[Any] = Future()
        with self._lock:
            self._check_open()
            self._number += 1
            task = task_id(self._client, self._number)
            future.bind(task, options.name or definition.name, self._home.cancel, self._home)
            body = m.CallBody(definition.key, payload, kind, options, prepared.keys[1], depth())
            spec = m.TaskSpec(task, body, depends_on)
            self._builder = None
            if not self._pending.entries:
                self._connection.first_call(self)
            try:
                self._functions[prepared.keys] = prepared
                self._pending.add(task, future, isinstance(kind, Chunk), depends_on)
                self._tasks.append(spec)
            except BaseException:
                self._never_sent(task)
                raise
        self._thread.driver.wake()
        return future

    def _never_sent(self, task: TaskId) -> None:
        """Drop a call whose submission was interrupted by Ctrl-C, so that nobody waits for it; the lock is held."""
        self._builder = None
        self._pending.discard(task)
        self._tasks = [entry for entry in self._tasks if entry.id != task]

    def new_id(self) -> TaskId:
        """Return an id that no other task has."""
        with self._lock:
            self._number += 1
            return task_id(self._client, self._number)

    def unfinished_calls(self) -> list[str]:
        """Return the ids of the unfinished calls, see `wait_hooks.Caller`.

        Calls that are submitted later do not join a bundle with one of these.
        """
        with self._lock:
            self._builder = None
            return list(self._pending.entries)

    def take(self) -> list[Event]:
        """Return all tasks that have gathered since the last turn; called on the I/O thread."""
        if not self._tasks:
            return []
        with self._lock:
            tasks, self._tasks, self._builder = self._tasks, [], None
            functions, self._functions = self._functions, {}
        definitions = [
            each for prepared in functions.values() for each in (*prepared.definitions, *prepared.initializer)
        ]
        specs = [entry.spec() if isinstance(entry, BundleBuilder) else entry for entry in tasks]
        return [SubmitRequested(specs, definitions)]
