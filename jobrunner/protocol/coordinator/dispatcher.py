"""When and where queued tasks begin: the order of the queue, the workers with room, and tasks that wait for a time."""

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
"""Calls that have ended while they waited (for a slot, or for a time) stay in line until it is their turn, which may
never come. They are looked for when so many more have been put in line than there are calls."""

Assign: TypeAlias = "Callable[[TaskRecord, WorkerSession, float], None]"
"""Binds a queued task to a worker, at a time."""


class Dispatcher:
    """The queue, the reservations of workers, and the tasks that are put into the queue later."""

    def __init__(self, roster: Roster, tasks: TaskTable) -> None:
        self._roster = roster
        self._tasks = tasks
        self.queue = ReadyQueue()
        self.reservations = Reservations()
        self._delayed: list[tuple[float, int, TaskRecord]] = []
        self._timers = 0
        self._resting: dict[WorkerSession, float] = {}
        """Workers that have handed a task back, and until when they get no other one."""

    # --- tasks that wait for a time ---

    @property
    def delayed(self) -> int:
        """Entries of tasks that wait for a time; some may have ended since."""
        return len(self._delayed)

    def next_deadline(self) -> float | None:
        return self._delayed[0][0] if self._delayed else None

    def next_placement(self) -> float | None:
        """Return when `place` may find room for a queued task though nothing else happens."""
        if self._resting and self._tasks.counts[QUEUED]:
            return min(self._resting.values())
        return None

    def delay(self, record: TaskRecord, until: float, reason: WaitReason) -> None:
        """Have a WAITING task wait for a time."""
        self._timers += 1
        record.wait_for(reason, self._timers)
        heapq.heappush(self._delayed, (until, self._timers, record))

    def wait_longer(self, old: float, new: float) -> None:
        """What was to wait until `old` waits until `new`."""
        self._delayed = [
            (new if until == old else until, number, record) for until, number, record in self._delayed
        ]
        heapq.heapify(self._delayed)

    def next_due(self, now: float) -> TaskRecord | None:
        """A task that has waited for a time which has come, and still waits; each is returned once."""
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
        """It has no slot for the task, though it counts as having one: an attempt is being stopped there, say.

        Without a rest the task would be handed back again and again until that slot is free.
        """
        self._resting[worker] = now + REST_AFTER_RETURN

    def wake(self, worker: WorkerSession) -> None:
        """Something has ended there, or the worker is gone."""
        self._resting.pop(worker, None)

    # --- placement ---

    def place(self, assign: Assign, now: float) -> None:
        """Bind queued tasks to workers: idle slots first, evenly, then a little ahead where tasks are short."""
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
                return False  # its clock must start when it does
            estimate = record.function.estimate
            if estimate != UNKNOWN:
                estimate *= record.elements
            slots, held = worker.slots - worker.long, worker.held - worker.long
            return has_capacity(slots, held, worker.assigned_seconds, estimate)

        permit = self._permit_for(worker)
        while (record := self.queue.pop(worker.fits, accept, permit)) is not None:
            assign(record, worker, now)

    def _permit_for(self, worker: WorkerSession) -> Permit | None:
        """What tasks may take at this worker, where it keeps something for others."""
        if not self.reservations:
            return None
        return lambda rank, requirements: self.reservations.permit(worker, rank, requirements)
