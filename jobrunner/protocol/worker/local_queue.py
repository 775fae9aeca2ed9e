"""The tasks of a worker that wait for a slot, in order for each owner."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from jobrunner.protocol.worker.slots import Owner, Slot, WorkerTask


class LocalQueue:
    """The tasks that wait for a slot, in order for each owner. The owners are in the order of their arrival."""

    __slots__ = ("_queues", "_size", "moved_at")

    def __init__(self, now: float = 0.0) -> None:
        self._queues: dict[Owner, deque[WorkerTask]] = {}
        self._size = 0
        self.moved_at = now
        """The last time when a slot took one of these tasks, or when another event made it likely that one soon will.
        """

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[WorkerTask]:
        for queue in self._queues.values():
            yield from queue

    @property
    def owners(self) -> Iterable[Owner]:
        return self._queues.keys()

    def count(self, owner: Owner) -> int:
        """Return the number of tasks of that owner."""
        return len(self._queues.get(owner, ()))

    def tasks_of(self, owner: Owner) -> Iterable[WorkerTask]:
        """Return the tasks of that owner, in order."""
        return self._queues.get(owner, ())

    def push(self, task: WorkerTask, *, front: bool = False) -> None:
        queue = self._queues.get(task.owner)
        if queue is None:
            queue = self._queues[task.owner] = deque()
        if front:
            queue.appendleft(task)
        else:
            queue.append(task)
        self._size += 1

    def first(self, owner: Owner) -> WorkerTask | None:
        """Return the next task of that owner."""
        queue = self._queues.get(owner)
        return queue[0] if queue else None

    def moved(self, now: float) -> None:
        """Note that the tasks have a prospect of a slot at this time."""
        self.moved_at = now

    def pop(self, owner: Owner, now: float) -> WorkerTask:
        """Remove and return the next task of that owner."""
        task = self._queues[owner].popleft()
        self.moved_at = now
        self._taken(owner)
        return task

    def remove(self, task: WorkerTask) -> None:
        self._queues[task.owner].remove(task)
        self._taken(task.owner)

    def cut(self, keep: int) -> list[WorkerTask]:
        """Remove and return all tasks but the first `keep`."""
        tasks = list(self)
        self._queues.clear()
        self._size = 0
        for task in tasks[:keep]:
            self.push(task)
        return tasks[keep:]

    def neediest(self, slots: Iterable[Slot]) -> Owner:
        """Return the owner whom the fewest of these slots serve; of several, the one that arrived first."""
        if len(self._queues) == 1:
            return next(iter(self._queues))
        served = [slot.owner for slot in slots if slot.stays]
        return min(self._queues, key=served.count)

    def _taken(self, owner: Owner) -> None:
        self._size -= 1
        if not self._queues[owner]:
            del self._queues[owner]
