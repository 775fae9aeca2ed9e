"""The choice of the tasks that a client sends to its coordinator next, and the tasks that the coordinator has.

The coordinator's window limits the number of a client's unfinished tasks and their bytes. The other tasks wait here. A
task that depends on a waiting task is sent after it; otherwise tasks that cannot run yet could fill the window and keep
out the tasks that they wait for. Tasks that the coordinator has had before, as parts of bundles or chunks, are sent
even if the window is full.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from jobrunner.protocol.client.functions import SubmittedFunctions
from jobrunner.protocol.client.submission_queue import SubmissionQueue
from jobrunner.protocol.effects import Effect
from jobrunner.protocol.session import Session
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.batches import BATCH_BYTES, BATCH_ENTRIES, batches, of_task
from jobrunner.protocol.wire.checks import MAX_DEPENDENCIES
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.wire.payloads import payload_size


class SendWindow:
    """The tasks that were sent in this session, and the queue of the others.

    `pending` has all tasks without an outcome, in the order of submission. `bundle_with` finds the pending bundle of a
    call.
    """

    def __init__(
        self,
        pending: Mapping[TaskId, m.TaskSpec],
        bundle_with: Callable[[TaskId], tuple[TaskId, int] | None],
        functions: SubmittedFunctions,
        session: Session,
        effects: list[Effect],
    ) -> None:
        self._pending = pending
        self._bundle_with = bundle_with
        self._functions = functions
        self._session = session
        self._effects = effects
        self._queue = SubmissionQueue()
        self._regained: list[m.TaskSpec] = []
        """Tasks that the coordinator has had as parts of bundles or chunks; they are sent in this turn."""
        self._sent: set[TaskId] = set()
        """The pending tasks that the coordinator has in this session."""
        self._sent_bytes = 0
        """The size in bytes of the payloads of the tasks in `_sent`."""
        self._followers: dict[TaskId, list[m.TaskSpec]] = {}
        """For each task that waits to be sent, the tasks that depend on it and are queued after it."""

    def has_sent(self, task_id: TaskId) -> bool:
        """Return whether the coordinator has the task in this session."""
        return task_id in self._sent

    def enqueue(self, spec: m.TaskSpec) -> None:
        """Queue a task to be sent, after the tasks on which it depends."""
        for dependency in spec.depends_on:
            unsent = self._unsent(dependency)
            if unsent is not None:
                self._followers.setdefault(unsent, []).append(spec)
                return
        self._queue.push(spec)

    def regain(self, spec: m.TaskSpec) -> None:
        """Have a task sent in this turn that the coordinator has had as a part of another one.

        Such a task may be running, or another task may depend on it. So it must not wait for room in the window, which
        may be full of other tasks of this kind.
        """
        self._sent.add(spec.id)
        self._sent_bytes += payload_size(spec.body.payload)
        self._regained.append(spec)

    def discard(self, spec: m.TaskSpec) -> None:
        """Drop a task that is no longer pending, and queue the tasks that were to follow it."""
        task_id = spec.id
        if task_id in self._sent:
            self._sent.remove(task_id)
            self._sent_bytes -= payload_size(spec.body.payload)
        if task_id in self._followers:
            self._let_follow(task_id)

    def session_opened(self) -> list[m.TaskSpec]:
        """Queue the tasks that the coordinator may have had before, and return the other pending tasks.

        The caller enqueues the returned tasks after everything that is queued now has been sent.
        """
        sent_before, self._sent = self._sent, set()
        self._sent_bytes = 0
        self._queue.clear()
        self._regained.clear()
        self._followers.clear()
        later = []
        for spec in self._pending.values():
            if spec.id in sent_before:
                self._queue.push(spec)
            else:
                later.append(spec)
        return later

    def send(self, now: float, *, unlimited: bool = False) -> list[m.Outcome]:
        """Send all tasks for which the window has room, in one message if possible.

        A task that is larger than the window is sent alone; `unlimited` ignores the window. Return the outcomes of
        tasks that are larger than the coordinator accepts; handling these outcomes may queue further tasks.
        """
        too_large: list[m.Outcome] = []
        # The part of a chunk that continues may have ended by now.
        regained, self._regained = [s for s in self._regained if s.id in self._pending], []
        for tasks in batches(regained, of_task):
            self._submit(tasks, now)
        while tasks := self._take(unlimited, too_large):
            self._submit(tasks, now)
        return too_large

    def check_invariants(self) -> None:
        assert self._sent <= self._pending.keys()
        assert self._sent_bytes == sum(payload_size(self._pending[t].body.payload) for t in self._sent)

    def leftovers(self) -> list[object]:
        """Return the tasks that were sent or wait; for tests."""
        queued = self._queue.peek()
        return [*self._sent, *self._followers, *([] if queued is None else [queued])]

    def _unsent(self, task_id: TaskId) -> TaskId | None:
        """Return the task that will bring this one to the coordinator, which is itself or its bundle.

        Return None if the task was sent, or is not pending.
        """
        if task_id not in self._pending:
            bundle = self._bundle_with(task_id)
            if bundle is None:
                return None
            task_id = bundle[0]
        return None if task_id in self._sent else task_id

    def _let_follow(self, task_id: TaskId) -> None:
        for spec in self._followers.pop(task_id, ()):
            if spec.id in self._pending:
                self.enqueue(spec)

    def _take(self, unlimited: bool, too_large: list[m.Outcome]) -> list[m.TaskSpec]:
        """Return the waiting tasks for the next message, as far as the window has room.

        Tasks that are too large end here: their outcomes are added to `too_large`.
        """
        welcome = self._session.welcome
        spec = self._queue.peek()
        if spec is None or welcome is None:
            return []
        tasks: list[m.TaskSpec] = []
        header = 0
        largest_function = self._functions.largest
        while spec is not None and header < BATCH_BYTES and len(tasks) < BATCH_ENTRIES:
            if spec.id not in self._pending or spec.id in self._sent:
                self._queue.pop()
                spec = self._queue.peek()
                continue
            bytes_ = payload_size(spec.body.payload)
            most = welcome.max_payload
            if bytes_ > most or largest_function > most or len(spec.depends_on) > MAX_DEPENDENCIES:
                excess = self._excess(spec, most)
                if excess is not None:
                    self._queue.pop()
                    too_large.append(excess)
                    spec = self._queue.peek()
                    continue
            full = len(self._sent) >= welcome.window_tasks or (
                self._sent and self._sent_bytes + bytes_ > welcome.window_bytes
            )
            if full and not unlimited:
                break
            self._queue.pop()
            self._sent.add(spec.id)
            self._sent_bytes += bytes_
            header += of_task(spec)
            tasks.append(spec)
            if spec.id in self._followers:
                self._let_follow(spec.id)
            spec = self._queue.peek()
        return tasks

    def _excess(self, spec: m.TaskSpec, most: int) -> m.Outcome | None:
        """Return the outcome of a task if the coordinator does not accept its size, or None if it does."""
        decoded = self._session.link.peer_timeout > 0  # within one process there are no limits
        if decoded and len(spec.depends_on) > MAX_DEPENDENCIES:
            error = (
                f"it needs the results of {len(spec.depends_on):,} other calls, and a call may need"
                f" {MAX_DEPENDENCIES:,}: let some calls collect them, and this one need those"
            )
            return m.Outcome(spec.id, 0, m.ERROR, detail={"too_large": True, "final": True, "error": error})
        if payload_size(spec.body.payload) > most:
            return m.quota_exceeded(spec.id, 0, "arguments have", payload_size(spec.body.payload), most)
        return self._functions.excess(spec, most)

    def _submit(self, tasks: list[m.TaskSpec], now: float) -> None:
        """Send these tasks, with those of their functions that the coordinator does not know."""
        functions, dropped = self._functions.to_send(tasks)
        size = sum([payload_size(spec.body.payload) for spec in tasks])
        size += sum([payload_size(definition.blob) for definition in functions])
        self._effects.append(self._session.send(m.Submit(tasks, functions, dropped), now, size))
