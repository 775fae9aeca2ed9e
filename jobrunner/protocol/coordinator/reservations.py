"""The reservation of workers' resources for tasks that have waited for long. Pure.

A worker takes the most urgent task that fits into its free resources. If it provides two GPUs, and tasks for one of
them come without end, two are never free at a time: a task that requires both would wait for ever, however urgent it
is. So once the first task of a kind (with the same requirements) has been queued for `RESERVE_AFTER`, one worker that
could run it is reserved: no other task that is equally or less urgent takes what the reserved kind requires there.
Tasks with other requirements continue to run. Slots need no reservation, because a free one takes the most urgent task
that fits.

No reservation is made where it would be useless: on a worker where tasks that wait for calls of their own hold too
much. There these calls go first, however urgent they are, because nothing becomes free before they have ended.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from jobrunner.protocol.coordinator.peers import WorkerSession
from jobrunner.protocol.coordinator.placement import Rank, ReadyQueue
from jobrunner.protocol.coordinator.resources import Requirements

RESERVE_AFTER = 1.0
"""Time in seconds in the queue after which a worker is reserved; until then, other tasks that fit may pass."""

FREE_LOOKS = 1000
"""Maximum number of checks, of kinds and of workers for them, in each turn."""

PAUSE_PER_LOOK = 5e-6
"""Pause in seconds for each check beyond these before the next decision: ten times the time of a check."""

MAX_RESERVED = 16
"""Maximum number of kinds of tasks that have a worker reserved at a time, one each."""


class Kind(NamedTuple):
    """A kind of task for which a worker is reserved."""

    rank: Rank
    requirements: Requirements
    kept: dict[str, int]
    """The part of its requirements that tasks take from each other."""


class Reservations:
    """The reservations of one Scheduler.

    They are decided again in each turn, or less often if there are very many, but a kind of task keeps its worker.
    """

    def __init__(self) -> None:
        self._workers: dict[Requirements, WorkerSession] = {}
        self._kinds: dict[WorkerSession, Kind] = {}
        self._again_at = 0.0
        """The earliest time of the next decision, because the last one took long."""

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def renew(self, queue: ReadyQueue, workers: Collection[WorkerSession], now: float) -> None:
        """Reserve workers for kinds that have waited for long: the most urgent first, then the oldest."""
        if now < self._again_at and queue.kinds >= 2:
            self._drop_idle(queue)
            return
        before, self._workers = self._workers, {}
        self._kinds.clear()
        if queue.kinds < 2:
            return
        looks = queue.kinds
        for rank, requirements in queue.waiting_since(now - RESERVE_AFTER):
            if len(self._workers) == MAX_RESERVED:
                break
            looks += len(workers)
            able = [
                w
                for w in workers
                if w.slots and w not in self._kinds and w.provides_beside_waiting(requirements)
            ]
            if not able:
                continue
            worker = before.get(requirements)
            if worker not in able:
                worker = max(able, key=lambda worker: share_free(worker, requirements))
            assert worker is not None
            kept = {name: amount for name, amount in requirements if name in worker.hello.resources}
            if kept:
                self._workers[requirements] = worker
                self._kinds[worker] = Kind(rank, requirements, kept)
        self._again_at = now if looks <= FREE_LOOKS else now + looks * PAUSE_PER_LOOK

    def _drop_idle(self, queue: ReadyQueue) -> None:
        """Drop the reservations of kinds of which no task is left."""
        for requirements, worker in list(self._workers.items()):
            if not queue.has(requirements):
                del self._workers[requirements], self._kinds[worker]

    def permit(self, worker: WorkerSession, rank: Rank, requirements: Requirements) -> bool:
        """Return whether a task of that rank may take these resources from the worker."""
        reserved = self._kinds.get(worker)
        if reserved is None or rank < reserved.rank or requirements == reserved.requirements:
            return True
        kept = reserved.kept
        return all(worker.free[name] - amount >= kept[name] for name, amount in requirements if name in kept)


def share_free(worker: WorkerSession, requirements: Requirements) -> float:
    """Return the free share of the scarcest resource that a task requires of the worker."""
    shares = [worker.free[name] / amount for name, amount in requirements if name in worker.hello.resources]
    return min(shares, default=1.0)
