"""The tasks at a worker, each in the local queue or in a slot, from their assignment until their outcome is on its way.

Here a task comes, ends, goes on under another name, returns to the head of the queue, or is given back to the
coordinator. Which slot it is in, the slot knows.
"""

from __future__ import annotations

from jobrunner.protocol.effects import Effect
from jobrunner.protocol.session import Session
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.worker import outcomes
from jobrunner.protocol.worker.local_queue import LocalQueue
from jobrunner.protocol.worker.slots import WorkerTask
from jobrunner.protocol.worker.stops import Stops
from jobrunner.protocol.worker.unacknowledged import Unacknowledged


class LocalTasks:
    """`tasks` are all that are here, `queue` those of them that are in no slot."""

    def __init__(
        self,
        stops: Stops,
        unacknowledged: Unacknowledged,
        session: Session,
        effects: list[Effect],
        now: float,
    ) -> None:
        self.tasks: dict[TaskId, WorkerTask] = {}
        self.queue = LocalQueue(now)
        self._stops = stops
        self._unacknowledged = unacknowledged
        self._session = session
        self._effects = effects

    def add(self, task: WorkerTask, now: float) -> None:
        """The task has come."""
        self.tasks[task.assignment.id] = task
        if not self.queue:
            self.queue.moved(now)
        self.queue.push(task)

    def join(self, task: WorkerTask, assignment: m.Assignment) -> None:
        """The task is assigned again while the earlier attempt is still here: it goes on under the new number."""
        task.assignment = task.assignment._replace(attempt=assignment.attempt, unbegun=assignment.unbegun)

    def end(self, task: WorkerTask, outcome: m.Outcome) -> None:
        """The task is out of every slot and queue: its outcome leaves with this turn."""
        del self.tasks[outcome.id]
        if task.stop_at is not None or task.stop_reason is not None:
            self._stops.discard(task)
        self._unacknowledged.add(outcome)

    def go_on(self, task: WorkerTask, assignment: m.Assignment) -> None:
        """A part of a task that has ended goes on in its slot, as a task of its own."""
        task.assignment = assignment
        self.tasks[assignment.id] = task

    def requeue(self, task: WorkerTask) -> None:
        """Back to the head of the local queue; it has not started (or is taken not to have)."""
        if task.stop_reason == m.CANCELLED:
            self.end(task, outcomes.cancelled(task))
            return
        self._stops.reset(task)
        self.queue.push(task, front=True)

    def give_back(self, now: float, keep: int = 0) -> None:
        """Let the coordinator find a better place for what has not started, but for the first `keep` tasks."""
        self.queue.moved(now)
        if not self._session.open or len(self.queue) <= keep:
            return
        returned = self.queue.cut(keep)
        for task in returned:
            del self.tasks[task.id]
        pairs = [(task.id, task.assignment.attempt) for task in returned]
        self._effects.append(self._session.send(m.TasksReturned(pairs), now))
