"""The tasks of a worker that have a time limit or are being stopped, and when the next step of each is due.

Alone, this says nothing about how a task is stopped: `stopping` does.
"""

from __future__ import annotations

from collections.abc import Iterable

from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.worker.slots import WorkerTask


class Stops:
    """The owner of what a WorkerTask says of its stop: `stop_at`, `stop_reason` and `stop_stage`."""

    def __init__(self) -> None:
        self._tasks: dict[TaskId, WorkerTask] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def limit(self, task: WorkerTask, until: float) -> None:
        """The task's time is up then."""
        task.stop_at = until
        self._tasks[task.id] = task

    def cancel(self, task: WorkerTask) -> None:
        """The task is being stopped because it was cancelled."""
        task.stop_reason = m.CANCELLED
        self._tasks[task.id] = task

    def due(self, now: float) -> list[WorkerTask]:
        """The tasks whose next step is due; those whose time is up are being stopped from now on."""
        due = [task for task in self._tasks.values() if task.stop_at is not None and now >= task.stop_at]
        for task in due:
            if task.stop_reason is None:
                task.stop_reason = m.TIMED_OUT
        return due

    def wait(self, task: WorkerTask, until: float | None) -> None:
        """The next step of the task is due then, or never."""
        task.stop_at = until

    def took_step(self, task: WorkerTask, until: float | None) -> None:
        """One more step was taken, and the next one is due then, or never."""
        task.stop_stage += 1
        task.stop_at = until

    def reset(self, task: WorkerTask) -> None:
        """The task is in no slot any more, and begins anew in the next one."""
        self._tasks.pop(task.id, None)
        task.stop_reason, task.stop_stage, task.stop_at = None, 0, None

    def discard(self, task: WorkerTask) -> None:
        """The task has ended."""
        self._tasks.pop(task.id, None)

    def times(self) -> Iterable[float | None]:
        """When the next steps are due."""
        return [task.stop_at for task in self._tasks.values()]
