"""The order and place in which queued tasks begin: the queue, the workers with room, and delayed tasks."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TypeAlias

from jobrunner.protocol.coordinator.peers import WorkerSession
from jobrunner.protocol.coordinator.placement import Permit, ReadyQueue, has_capacity
from jobrunner.protocol.coordinator.reservations import Reservations
from jobrunner.protocol.coordinator.resources import Requirements
from jobrunner.protocol.coordinator.roster import Roster
from jobrunner.protocol.coordinator.task import QUEUED, TaskRecord, WaitReason
from jobrunner.protocol.coordinator.task_table import TaskTable
from jobrunner.protocol.tuning import REST_AFTER_RETURN, UNKNOWN

LEFT_OVER = 1000
"""Maximum number of entries beyond the number of calls before ended calls are removed.

Calls that end while they wait for a slot or a time stay in line until their turn, which may never come.
"""

Assign: TypeAlias = "Callable[[TaskRecord, WorkerSession, float], None]"
"""A function that binds a queued task to a worker at a time."""


class Dispatcher:
    """The queue, the reservations of workers, and the tasks that are queued later."""

    def __init__(self, roster: Roster, tasks: TaskTable) -> None:
        self._roster = roster
        self._tasks = tasks
        self.queue = ReadyQueue()
        self.reservations = Reservations()
        self._delayed: list[tuple[float, int, TaskRecord]] = []
        self._timers = 0
        self._resting: dict[WorkerSession, float] = {}
        """The workers that have handed a task back, and until when they get no other one."""

    def add_worker(self, worker: WorkerSession) -> None:
        """Add a worker that has joined, and place tasks that nobody could run without it."""
        self._roster.add_worker(worker)
        self.queue.wake(worker.provides_all)

    # --- tasks that wait for a time ---

    @property
    def delayed(self) -> int:
        """The number of entries of delayed tasks, of which some may have ended since."""
        return len(self._delayed)

    def next_deadline(self) -> float | None:
        return self._delayed[0][0] if self._delayed else None

    def next_placement(self) -> float | None:
        """Return when `place` may find room for a queued task though nothing else happens."""
        if self._resting and self._tasks.counts[QUEUED]:
            return min(self._resting.values())
        return None

    def delay(self, record: TaskRecord, until: float, reason: WaitReason) -> None:
        """Let a WAITING task wait for a time."""
        self._timers += 1
        record.wait_for(reason, self._timers)
        heapq.heappush(self._delayed, (until, self._timers, record))

    def wait_longer(self, old: float, new: float) -> None:
        """Delay entries that wait until `old` until `new` instead."""
        self._delayed = [
            (new if until == old else until, number, record) for until, number, record in self._delayed
        ]
        heapq.heapify(self._delayed)

    def next_due(self, now: float) -> TaskRecord | None:
        """Return a task whose delay is over and that still waits, or None; each is returned once."""
        if len(self._delayed) > LEFT_OVER + 2 * len(self._tasks):
            self._delayed = [entry for entry in self._delayed if entry[2].timer == entry[1]]
            heapq.heapify(self._delayed)
        while self._delayed and self._delayed[0][0] <= now:
            _, timer, record = heapq.heappop(self._delayed)
            if record.timer == timer:
                return record
        return None

    # --- workers that have handed a task back ---

    def rest(self, worker: WorkerSession, now: float) -> None:
        """Give no task to a worker for a while, because it has no slot, although it counts as having one.

        This happens, for example, while an attempt is being stopped there. Without a rest the task would be handed back
        again and again until that slot is free.
        """
        self._resting[worker] = now + REST_AFTER_RETURN

    def wake(self, worker: WorkerSession) -> None:
        """End a worker's rest, because a task has ended there or the worker is gone."""
        self._resting.pop(worker, None)

    # --- placement ---

    def place(self, assign: Assign, now: float) -> None:
        """Bind queued tasks to workers: first to idle slots, evenly, then a little ahead if tasks are short."""
        if not self._tasks.counts[QUEUED]:
            self.queue.clear()
            return
        if self.queue.pushed > LEFT_OVER + len(self._tasks):
            self.queue.sweep()
        self.queue.rest(self.is_provided)
        self.reservations.renew(self.queue, self._roster.workers.values(), now)
        if self._resting:
            self._resting = {worker: until for worker, until in self._resting.items() if until > now}
        idle = [w for w in self._roster.workers_with_room if w.held < w.slots and w not in self._resting]
        while idle:
            more = []
            for worker in idle:
                record = self.queue.pop(worker.fits, permit=self._permit_for(worker))
                if record is None:
                    continue
                assign(record, worker, now)
                if worker.held < worker.slots:
                    more.append(worker)
            idle = more
        for worker in list(self._roster.workers_with_room):
            if worker.prefetch and self._tasks.counts[QUEUED] and worker not in self._resting:
                self._prefetch(worker, assign, now)
            if worker.held >= worker.slots:
                self._roster.has_no_room(worker)

    def is_provided(self, requirements: Requirements) -> bool:
        return any(worker.provides_all(requirements) for worker in self._roster.workers.values())

    def _prefetch(self, worker: WorkerSession, assign: Assign, now: float) -> None:
        def accept(record: TaskRecord) -> bool:
            if record.body.options.timeout is not None:
                return False  # its time limit must start when the task does
            estimate = record.function.estimate
            if estimate != UNKNOWN:
                estimate *= record.elements
            slots, held = worker.slots - worker.long, worker.held - worker.long
            return has_capacity(slots, held, worker.assigned_seconds, estimate)

        permit = self._permit_for(worker)
        while (record := self.queue.pop(worker.fits, accept, permit)) is not None:
            assign(record, worker, now)

    def _permit_for(self, worker: WorkerSession) -> Permit | None:
        """Return the check of what tasks may take at this worker if it keeps resources for others, else None."""
        if not self.reservations:
            return None
        return lambda rank, requirements: self.reservations.permit(worker, rank, requirements)
