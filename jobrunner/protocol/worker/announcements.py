"""What the coordinator is told of tasks while they are here: that they run, and which calls they wait for.

Both are said once in a session. They leave behind the outcomes of the same turn, because one of these may be that of
the bundle or chunk which a task was in before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from jobrunner.protocol.effects import Effect, SlotAwaits
from jobrunner.protocol.session import Session
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.batches import batches, of_wait
from jobrunner.protocol.wire.checks import MAX_AWAITED
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.worker.slots import WorkerTask


class Announcements:
    """Which tasks the coordinator is to be told of at the end of the turn. `tasks` are all that are at the worker."""

    def __init__(self, tasks: Mapping[TaskId, WorkerTask], session: Session, effects: list[Effect]) -> None:
        self._tasks = tasks
        self._session = session
        self._effects = effects
        self._running: list[TaskId] = []
        self._waits: dict[TaskId, None] = {}
        """Tasks of which the coordinator is to be told what they wait for."""

    def runs(self, task: WorkerTask) -> None:
        """The task has been running for a while."""
        task.announced = True
        self._running.append(task.id)

    def awaits(self, task: WorkerTask, event: SlotAwaits) -> None:
        """Its slot has said which calls the task waits for, or that it waits no longer."""
        calls = tuple(event.calls)
        if len(calls) > MAX_AWAITED:
            calls = calls[:MAX_AWAITED] if event.every else ()
        task.wait = m.Wait(task.id, calls, event.every)
        self._waits[task.id] = None

    def repeat(self, task: WorkerTask) -> None:
        """The coordinator knows nothing of this task: neither that it runs nor what it waits for, if it does."""
        task.announced = False
        if task.wait is not None and task.wait.calls:
            self._waits[task.id] = None

    def session_lost(self, tasks: Iterable[WorkerTask]) -> None:
        """The next session begins without what this one was told."""
        self._running.clear()
        self._waits.clear()
        for task in tasks:
            self.repeat(task)

    def send(self, now: float) -> None:
        """Send everything; only while the session is open."""
        if self._running:
            running, self._running = [t for t in self._running if t in self._tasks], []
            if running:
                self._effects.append(self._session.send(m.Running(running), now))
        if self._waits:
            for waits in batches(self._take_waits(), of_wait):
                self._effects.append(self._session.send(m.Waits(waits), now))

    def leftovers(self) -> list[TaskId]:
        """Everything that is to be said; for tests."""
        return [*self._running, *self._waits]

    def _take_waits(self) -> list[m.Wait]:
        tasks = [self._tasks[task_id] for task_id in self._waits if task_id in self._tasks]
        self._waits.clear()
        return [task.wait._replace(id=task.id) for task in tasks if task.wait is not None]
