"""The tasks of a worker, each in the local queue or in a slot, from their assignment until their outcome is sent.

Here a task arrives, ends, continues under another id, returns to the head of the queue, or is given back to the
coordinator. Each slot knows which tasks are in it.
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
    """The tasks of a worker: `tasks` has all of them, and `queue` those that are in no slot."""

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
        """Add a task that has arrived."""
        self.tasks[task.assignment.id] = task
        if not self.queue:
            self.queue.moved(now)
        self.queue.push(task)

    def join(self, task: WorkerTask, assignment: m.Assignment) -> None:
        """Continue a task that is still here under the number of the attempt that is assigned now."""
        task.assignment = task.assignment._replace(attempt=assignment.attempt, unbegun=assignment.unbegun)

    def end(self, task: WorkerTask, outcome: m.Outcome) -> None:
        """Remove a task that is in no slot or queue; its outcome is sent in this turn."""
        del self.tasks[outcome.id]
        if task.stop_at is not None or task.stop_reason is not None:
            self._stops.discard(task)
        self._unacknowledged.add(outcome)

    def go_on(self, task: WorkerTask, assignment: m.Assignment) -> None:
        """Continue a part of a task that has ended as a task of its own, in the same slot."""
        task.assignment = assignment
        self.tasks[assignment.id] = task

    def requeue(self, task: WorkerTask) -> None:
        """Put a task back at the head of the local queue; it has not started, or counts as not started."""
        if task.stop_reason == m.CANCELLED:
            self.end(task, outcomes.cancelled(task))
            return
        self._stops.reset(task)
        self.queue.push(task, front=True)

    def give_back(self, now: float, keep: int = 0) -> None:
        """Give queued tasks, except the first `keep`, back to the coordinator, which finds a better place."""
        self.queue.moved(now)
        if not self._session.open or len(self.queue) <= keep:
            return
        returned = self.queue.cut(keep)
        for task in returned:
            del self.tasks[task.id]
        pairs = [(task.id, task.assignment.attempt) for task in returned]
        self._effects.append(self._session.send(m.TasksReturned(pairs), now))
