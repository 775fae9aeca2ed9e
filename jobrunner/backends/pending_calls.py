"""The pending calls of a backend, with their Futures, from the submission to the result.

Only this module resolves the Futures, as outcomes arrive or at the end of the backend, which leaves no Future pending.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jobrunner.backends.bundle_builder import BundleBuilder
from jobrunner.backends.failures import exception_of
from jobrunner.calls import serialization
from jobrunner.errors import JobRunnerError, ProtocolError
from jobrunner.fixed import load_element_results
from jobrunner.futures import CancelWaits, Future, resolve
from jobrunner.protocol import bundles
from jobrunner.protocol.effects import AnnounceRunning, AnswerCancel, BundleSplit, ChunkDivided
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId, call_id, open_part
from jobrunner.protocol.wire.payloads import Payload


class PendingCalls:
    """The tasks that a backend waits for: calls and chunks with a Future each, and bundles with a BundleBuilder each.

    Callers add tasks with `lock` held, and the backend's thread handles outcomes. `cancel_waits` are the threads that
    wait for a call to be cancelled. `release` is called with the dependencies of each call that has ended.
    """

    def __init__(
        self,
        lock: threading.RLock,
        cancel_waits: CancelWaits,
        release: Callable[[Iterable[TaskId]], None] = lambda ids: None,
    ) -> None:
        self._lock = lock
        self._cancel_waits = cancel_waits
        self._release = release
        self.entries: dict[TaskId, Future[Any] | BundleBuilder] = {}
        """The Future or the bundle of each task that is not done; other classes may only read this."""
        self._builders: weakref.WeakValueDictionary[str, BundleBuilder] = weakref.WeakValueDictionary()
        """The builders of pending bundles, by the open parts of their ids."""
        self._chunks: set[TaskId] = set()
        self._loose: set[TaskId] = set()
        """The tasks whose end the backend does not wait for: calls of other programs, and detached calls."""
        self._dependencies_of: dict[TaskId, tuple[TaskId, ...]] = {}
        self._resolving: tuple[TaskId, Future[Any] | BundleBuilder] | None = None
        """The task that is being resolved, and that was removed from `entries`."""
        self._left: list[tuple[TaskId, Future[Any]]] = []
        """The calls that were not resolved when the backend ended."""

    # --- noting calls; with the lock held ---

    def add(self, task: TaskId, future: Future[Any], is_chunk: bool, depends_on: tuple[TaskId, ...]) -> None:
        self.entries[task] = future
        if is_chunk:
            self._chunks.add(task)
        if depends_on:
            self._dependencies_of[task] = depends_on

    def add_bundle(self, builder: BundleBuilder) -> None:
        self.entries[builder.id] = builder
        self._builders[open_part(builder.id)] = builder

    def add_watched(self, task: TaskId, future: Future[Any]) -> None:
        """Add a call that another program has submitted."""
        self.entries[task] = future
        self._loose.add(task)

    def discard(self, task: TaskId) -> None:
        """Drop a call that was never sent; its addition may have been interrupted."""
        self.entries.pop(task, None)
        self._chunks.discard(task)
        self._dependencies_of.pop(task, None)

    def accept(self, tasks: Iterable[TaskId]) -> None:
        """Note that the coordinator has these calls, which are detached."""
        with self._lock:
            self._loose.update(task for task in tasks if task in self.entries)

    # --- asking ---

    @property
    def has_only_loose(self) -> bool:
        """Whether the end of the backend waits for no call."""
        return len(self.entries) == len(self._loose)

    @property
    def count(self) -> int:
        """The number of pending calls, including each call in a bundle."""
        entries = list(self.entries.values())
        return sum(len(entry.futures) if isinstance(entry, BundleBuilder) else 1 for entry in entries)

    def own(self) -> list[TaskId]:
        """Return the tasks whose end the backend waits for; called with the lock held."""
        return [task for task in self.entries if task not in self._loose]

    def dependent(self) -> list[tuple[TaskId, tuple[TaskId, ...]]]:
        """Return the tasks that depend on others, with their dependencies."""
        return list(self._dependencies_of.items())  # a copy, because the I/O thread removes items

    def future_of(self, task: TaskId) -> Future[Any] | None:
        """Return the Future of a call that is not done, or None for any other id."""
        entry = self.entries.get(task)
        if entry is None:
            bundle = bundles.place_of_call(task)
            builder = None if bundle is None else self._builders.get(bundle[0])
            return None if builder is None else builder.future_of(task)
        return None if isinstance(entry, BundleBuilder) else entry

    # --- outcomes; on the backend's thread ---

    def resolve_outcomes(self, outcomes: Sequence[m.Outcome]) -> None:
        """Resolve the calls of these outcomes; the outcome of a task that is not pending has no effect."""
        for outcome in outcomes:
            entry: Future[Any] | BundleBuilder | None = None
            try:
                with self._lock:
                    entry = self.entries.pop(outcome.id, None)
                    self._resolving = None if entry is None else (outcome.id, entry)
                    self._loose.discard(outcome.id)
                if self._dependencies_of:
                    self._release(self._dependencies_of.pop(outcome.id, ()))
                if isinstance(entry, BundleBuilder):
                    self._resolve_bundle(entry, outcome)
                    entry.futures = []
                elif entry is not None:
                    self._resolve(entry, outcome)
            except BaseException as exc:
                self._fail(outcome.id, entry, exc)
        self._resolving = None

    def fail(self, task: TaskId, error: BaseException) -> None:
        """Resolve a call with an error that did not come with an outcome, if the call is pending."""
        with self._lock:
            future = self.entries.pop(task, None)
            self._resolving = None if future is None else (task, future)
        if isinstance(future, Future):
            resolve(future, exception=error)
            self._chunks.discard(task)
            wait = self._cancel_waits.of(future)
            if wait is not None:
                wait.end()
        self._resolving = None

    def _fail(self, task: TaskId, entry: Future[Any] | BundleBuilder | None, cause: BaseException) -> None:
        """Fail the Futures of an outcome that could not be handled because of an unexpected error."""
        with self._lock:
            entry = entry or self.entries.pop(task, None)
        futures = entry.futures if isinstance(entry, BundleBuilder) else [] if entry is None else [entry]
        for future in futures:
            if not future.done():
                error = JobRunnerError(f"call {task} ended, but its outcome could not be taken: {cause!r}")
                error.__cause__ = cause
                resolve(future, exception=error)
            wait = self._cancel_waits.of(future)
            if wait is not None:
                wait.end()

    def _resolve_bundle(self, builder: BundleBuilder, outcome: m.Outcome) -> None:
        if outcome.status == m.OK:
            self._resolve_calls(builder.id, builder.futures, outcome.payload, bundles.location_of(outcome))
            return
        for index, future in enumerate(builder.futures):
            self._resolve(future, outcome._replace(id=builder.id_of(index)))

    def _resolve_calls(
        self, bundle: TaskId, futures: list[Future[Any]], payload: Payload, location: m.Detail | None
    ) -> None:
        """Resolve calls of a bundle; calls that succeeded take a faster path."""
        try:
            payloads, durations, failed = bundles.unpack_results(payload)
            calls = list(zip(futures, payloads, durations, strict=True))
        except Exception as exc:
            error = ProtocolError(f"the results of bundle {bundle} make no sense: {exc}")
            for future in futures:
                resolve(future, exception=error)
            return
        raised = set(failed)
        for index, (future, stream, duration) in enumerate(calls):
            if index in raised or self._cancel_waits:
                status = m.ERROR if index in raised else m.OK
                task = call_id(bundle, index)
                self._resolve(future, m.Outcome(task, 1, status, stream, duration, location))
                continue
            future.duration = duration
            try:
                future.set_result(serialization.load_result(stream))
            except BaseException as exc:  # of the user's code, or because the Future is resolved
                resolve(future, exception=exc)

    def _resolve(self, future: Future[Any], outcome: m.Outcome) -> None:
        status = outcome.status
        if status == m.CANCELLED:
            future.confirm_cancelled(self._cancel_waits.of(future))
        else:
            future.duration = outcome.duration
            chunk = outcome.id in self._chunks
            value, error = self._decode(outcome, chunk, future.name)
            resolve(future, value, error)
        self._chunks.discard(outcome.id)
        wait = self._cancel_waits.of(future)
        if wait is not None:
            wait.end()

    def _decode(self, outcome: m.Outcome, chunk: bool, name: str) -> tuple[Any, BaseException | None]:
        """Return the result and the error, one of which is None.

        Unpickling runs code of the user, which may raise any exception.
        """
        try:
            if outcome.status == m.OK:
                load = load_element_results if chunk else serialization.load_result
                return load(outcome.payload), None
            return None, exception_of(outcome, name)
        except BaseException as exc:
            return None, exc

    def split(self, effect: BundleSplit) -> None:
        """Resolve the calls of a bundle that have ended, and wait for each of the others as a task of its own."""
        builder = self.entries.get(effect.id)
        if not isinstance(builder, BundleBuilder):
            return
        if effect.start:
            self._resolve_calls(builder.id, builder.futures[: effect.start], effect.results, None)
        with self._lock:
            for index in range(effect.start, len(builder.futures)):
                self.entries[builder.id_of(index)] = builder.futures[index]
            del self.entries[effect.id]
            builder.futures = []

    def divide(self, effect: ChunkDivided) -> None:
        """Wait for a part of a chunk under the id of that part; the other elements are given back to the front."""
        with self._lock:
            future = self.entries.get(effect.id)
            if not isinstance(future, Future):
                return
            self.entries[effect.part] = future
            self._chunks.add(effect.part)
            del self.entries[effect.id]
            self._chunks.discard(effect.id)
        future.id = effect.part
        future.give_back(effect.stop)

    def announce_running(self, effect: AnnounceRunning) -> None:
        for task in effect.ids:
            future = self.future_of(task)
            if future is not None:
                future.confirm_running()

    def refuse_cancel(self, effect: AnswerCancel) -> None:
        for task in effect.refused:
            future = self.future_of(task)
            if future is not None:
                future.confirm_running()
                wait = self._cancel_waits.of(future)
                if wait is not None:
                    wait.refuse()

    # --- the end ---

    def take_what_is_left(self, shut_down: Callable[[], None]) -> None:
        """Take the pending calls, so that outcomes no longer resolve them, but `resolve_what_is_left` does.

        `shut_down` ensures that no further call is added.
        """
        with self._lock:
            shut_down()
            entries = list(self.entries.items())
            if self._resolving is not None:
                entries.append(self._resolving)
            for task, entry in entries:
                futures = entry.futures if isinstance(entry, BundleBuilder) else [entry]
                self._left += [(task, future) for future in futures]
            self.entries = {}

    def resolve_what_is_left(
        self, error_of: Callable[[TaskId, Future[Any], bool], BaseException | None]
    ) -> None:
        """Resolve the calls that were pending at the end of the backend.

        `error_of(task, future, is_loose)` returns the error of a call, or None to cancel it. This method may be called
        repeatedly, and by two threads at the same time.
        """
        for task, future in self._left:
            try:
                error = error_of(task, future, task in self._loose)
                if error is None:
                    future.confirm_cancelled()
                else:
                    resolve(future, exception=error)
            except BaseException as exc:
                resolve(future, exception=exc)
        self._left = []
