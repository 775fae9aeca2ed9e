"""Which workers keep resources free for tasks that have waited for long; pure decisions.

A worker takes the most urgent task that fits into what it has free. Where it provides two GPUs, and tasks for one of
them come without end, there are never two free at a time: a task that asks for both would wait for ever, however urgent
it is. So once the first task of a kind (of the same requirements) has been queued for `RESERVE_AFTER`, one worker that
could run it is reserved: no other task that is less urgent, or as urgent, takes what the reserved kind needs there.
Tasks that need other things go on, and slots need no reservation: one that becomes free takes the most urgent that
fits.

Nothing is kept where it is of no use: on a worker on which tasks that wait for calls of their own hold too much. There
these calls go first, however urgent they are, for nothing becomes free before they have ended.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from jobrunner.protocol.coordinator.peers import WorkerSession
from jobrunner.protocol.coordinator.placement import Rank, ReadyQueue
from jobrunner.protocol.coordinator.resources import Requirements

RESERVE_AFTER = 1.0
"""Seconds in the queue; for so long the tasks that fit are let pass."""

FREE_LOOKS = 1000
"""Looks at kinds, and at workers for them, that each turn may take."""

PAUSE_PER_LOOK = 5e-6
"""Seconds that pass for each look before it is decided anew, if they were more: ten times what it took."""

MAX_RESERVED = 16
"""Kinds of tasks that have a worker reserved at a time, one each."""


class Kind(NamedTuple):
    """Tasks that a worker is reserved for."""

    rank: Rank
    requirements: Requirements
    kept: dict[str, int]
    """Those of its requirements that tasks take from each other."""


class Reservations:
    """The reservations of one Scheduler.

    They are decided again in each turn, or less often if there are very many, but a kind of task keeps its worker.
    """

    def __init__(self) -> None:
        self._workers: dict[Requirements, WorkerSession] = {}
        self._kinds: dict[WorkerSession, Kind] = {}
        self._again_at = 0.0
        """Not before it is decided anew: it took long."""

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
        """Keep nothing for kinds of which no task is left."""
        for requirements, worker in list(self._workers.items()):
            if not queue.has(requirements):
                del self._workers[requirements], self._kinds[worker]

    def permit(self, worker: WorkerSession, rank: Rank, requirements: Requirements) -> bool:
        """Whether a task of that urgency may take this there."""
        reserved = self._kinds.get(worker)
        if reserved is None or rank < reserved.rank or requirements == reserved.requirements:
            return True
        kept = reserved.kept
        return all(worker.free[name] - amount >= kept[name] for name, amount in requirements if name in kept)


def share_free(worker: WorkerSession, requirements: Requirements) -> float:
    """How much of what a task needs the worker has free, of the scarcest thing."""
    shares = [worker.free[name] / amount for name, amount in requirements if name in worker.hello.resources]
    return min(shares, default=1.0)
