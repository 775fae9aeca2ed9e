"""The stop of tasks in their slots: by a cancel, by a coordinator that fences an attempt, or when time is up.

A task that has begun is stopped in three steps, SIGINT, SIGTERM and SIGKILL, which affect only its slot. A task that
has not begun is taken out of the queue or out of its slot. No step affects another task: if another one runs in the
slot, the task is recalled instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from jobrunner.protocol.effects import Effect, InterruptTask, SignalSlot
from jobrunner.protocol.session import Session
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.worker import outcomes
from jobrunner.protocol.worker.local_tasks import LocalTasks
from jobrunner.protocol.worker.slots import Slot, WorkerTask
from jobrunner.protocol.worker.stops import Stops

STOP_STEPS = ("SIGINT", "SIGTERM", "SIGKILL")


class Stopping:
    """Cancels, and the steps that are due. `recall` asks a slot for the tasks that it has not begun."""

    def __init__(
        self,
        local_tasks: LocalTasks,
        stops: Stops,
        recall: Callable[[Slot, float], None],
        session: Session,
        effects: list[Effect],
        grace: float,
    ) -> None:
        self._local_tasks = local_tasks
        self._stops = stops
        self._recall = recall
        self._session = session
        self._effects = effects
        self._grace = grace
        """The time in seconds between two steps."""

    def cancel(self, requests: Iterable[m.CancelRequest], now: float) -> None:
        """Cancel these tasks; a task in a slot is stopped only if its request says so."""
        for request in requests:
            task = self._local_tasks.tasks.get(request.id)
            if task is None:
                continue  # its outcome is already on the way
            if task.slot is None:
                self._local_tasks.queue.remove(task)
                self._local_tasks.end(task, outcomes.cancelled(task))
            elif request.running:
                self.stop(task, now)
            elif (
                self._session.open
            ):  # otherwise the session was lost in this turn, and the coordinator asks again in the next one
                self._effects.append(self._session.send(m.CancelRefused([task.id]), now))

    def stop(self, task: WorkerTask, now: float) -> None:
        """Begin to stop a task in a slot, unless that has begun already."""
        if task.slot is None or task.stop_stage:
            return
        self._stops.cancel(task)
        if task.slot.running() is not task:
            self._recall(task.slot, now)
        self._step(task, now)

    def check(self, now: float) -> None:
        """Take the steps that are due."""
        for task in self._stops.due(now):
            self._step(task, now)

    def _step(self, task: WorkerTask, now: float) -> None:
        """Take the next step, and set the time of the following one."""
        slot = task.slot
        if slot is None or task.stop_stage >= len(STOP_STEPS):
            self._stops.wait(task, None)
            return
        step = STOP_STEPS[task.stop_stage]
        if step != "SIGINT" and slot.running() is not task:
            self._stops.wait(task, now + self._grace)
            return  # another task runs there, which must not be affected, and this one is being recalled
        self._stops.took_step(task, now + self._grace if task.stop_stage + 1 < len(STOP_STEPS) else None)
        if step == "SIGINT":
            self._effects.append(InterruptTask(slot.id, task.number))
        else:
            self._effects.append(SignalSlot(slot.id, step))
