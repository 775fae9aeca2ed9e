"""The tasks of a worker that have a time limit or are being stopped, and the time of the next step of each.

This module does not know how a task is stopped; `stopping` does.
"""

from __future__ import annotations

from collections.abc import Iterable

from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.worker.slots import WorkerTask


class Stops:
    """The pending stops; this class owns the fields `stop_at`, `stop_reason` and `stop_stage` of a WorkerTask."""

    def __init__(self) -> None:
        self._tasks: dict[TaskId, WorkerTask] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def limit(self, task: WorkerTask, until: float) -> None:
        """Limit the time of a task, which is up at `until`."""
        task.stop_at = until
        self._tasks[task.id] = task

    def cancel(self, task: WorkerTask) -> None:
        """Note that the task is being stopped because it was cancelled."""
        task.stop_reason = m.CANCELLED
        self._tasks[task.id] = task

    def due(self, now: float) -> list[WorkerTask]:
        """Return the tasks whose next step is due. Those whose time is up count as being stopped from now on."""
        due = [task for task in self._tasks.values() if task.stop_at is not None and now >= task.stop_at]
        for task in due:
            if task.stop_reason is None:
                task.stop_reason = m.TIMED_OUT
        return due

    def wait(self, task: WorkerTask, until: float | None) -> None:
        """Set the time of the task's next step; None: never."""
        task.stop_at = until

    def took_step(self, task: WorkerTask, until: float | None) -> None:
        """Note that a step was taken, and set the time of the next one; None: never."""
        task.stop_stage += 1
        task.stop_at = until

    def reset(self, task: WorkerTask) -> None:
        """Forget the stop of a task that has left its slot; it begins anew in the next one."""
        self._tasks.pop(task.id, None)
        task.stop_reason, task.stop_stage, task.stop_at = None, 0, None

    def discard(self, task: WorkerTask) -> None:
        """Remove a task that has ended."""
        self._tasks.pop(task.id, None)

    def times(self) -> Iterable[float | None]:
        """Return the times of the next steps."""
        return [task.stop_at for task in self._tasks.values()]
