"""The announcements of tasks to the coordinator: that they run, and which calls they wait for.

Each is sent once per session. They follow the outcomes of the same turn, because one of these may be that of the bundle
or chunk to which the task belonged.
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
    """The tasks that are announced at the end of the turn. `tasks` has all tasks of the worker."""

    def __init__(self, tasks: Mapping[TaskId, WorkerTask], session: Session, effects: list[Effect]) -> None:
        self._tasks = tasks
        self._session = session
        self._effects = effects
        self._running: list[TaskId] = []
        self._waits: dict[TaskId, None] = {}
        """Tasks whose awaited calls must be announced."""

    def runs(self, task: WorkerTask) -> None:
        """Announce a task that has been running for a while."""
        task.announced = True
        self._running.append(task.id)

    def awaits(self, task: WorkerTask, event: SlotAwaits) -> None:
        """Note the calls for which the task waits, as its slot has reported them, or that it no longer waits."""
        calls = tuple(event.calls)
        if len(calls) > MAX_AWAITED:
            calls = calls[:MAX_AWAITED] if event.every else ()
        task.wait = m.Wait(task.id, calls, event.every)
        self._waits[task.id] = None

    def repeat(self, task: WorkerTask) -> None:
        """Announce the task again, because the coordinator knows neither that it runs nor for which calls it waits."""
        task.announced = False
        if task.wait is not None and task.wait.calls:
            self._waits[task.id] = None

    def session_lost(self, tasks: Iterable[WorkerTask]) -> None:
        """Prepare to announce all tasks again in the next session."""
        self._running.clear()
        self._waits.clear()
        for task in tasks:
            self.repeat(task)

    def send(self, now: float) -> None:
        """Send everything; call it only while the session is open."""
        if self._running:
            running, self._running = [t for t in self._running if t in self._tasks], []
            if running:
                self._effects.append(self._session.send(m.Running(running), now))
        if self._waits:
            for waits in batches(self._take_waits(), of_wait):
                self._effects.append(self._session.send(m.Waits(waits), now))

    def leftovers(self) -> list[TaskId]:
        """Return everything that waits to be sent; for tests."""
        return [*self._running, *self._waits]

    def _take_waits(self) -> list[m.Wait]:
        tasks = [self._tasks[task_id] for task_id in self._waits if task_id in self._tasks]
        self._waits.clear()
        return [task.wait._replace(id=task.id) for task in tasks if task.wait is not None]
