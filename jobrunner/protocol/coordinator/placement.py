"""The choice of a worker for a queued task. Pure.

`ReadyQueue` keeps the order: the highest priority first; then deeper tasks, for which another task waits; then one
client after the other in turn, and for each client the order of submission. Push and pop cost O(log of the number of
priorities in use), however long the queue is.

`has_capacity` says how many tasks a worker may have beyond its slots. A task is bound to a worker as late as possible.
A worker gets more tasks than it can run only to hide the time of transport, so the limit is a time: tasks that take
longer than `PREFETCH_SECONDS` are never queued behind another one, and no task is queued behind them.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeAlias

from jobrunner.protocol.coordinator.resources import Requirements
from jobrunner.protocol.coordinator.task import QUEUED, TaskRecord
from jobrunner.protocol.tuning import (
    MIN_ESTIMATE,
    ONE_AHEAD_MAX_SECONDS,
    PREFETCH_LIMIT,
    PREFETCH_SECONDS,
    UNKNOWN,
)
from jobrunner.protocol.wire.ids import ClientId

Rank: TypeAlias = "tuple[int, int]"
"""The priority and depth of a task as a sort key, of which the smallest is the most urgent."""

Accept: TypeAlias = "Callable[[TaskRecord], bool]"

Permit: TypeAlias = "Callable[[Rank, Requirements], bool]"


class Lane:
    """The queued tasks of one priority with the same requirements, taken from their clients in turn."""

    __slots__ = ("clients", "rank", "requirements", "turns")

    def __init__(self, requirements: Requirements, rank: Rank) -> None:
        self.requirements = requirements
        self.rank = rank
        self.clients: dict[ClientId, deque[TaskRecord]] = {}
        self.turns: deque[ClientId] = deque()

    def push(self, record: TaskRecord, front: bool) -> None:
        client = record.client.id
        queue = self.clients.get(client)
        if queue is None:
            queue = self.clients[client] = deque()
            self.turns.append(client)
        if front:
            queue.appendleft(record)
        else:
            queue.append(record)

    def head(self, backpressured: set[ClientId]) -> TaskRecord | None:
        """Return the next task of the client whose turn it is, without backpressured clients."""
        turns = self.turns
        for _ in range(len(turns)):
            client = turns[0]
            queue = self.clients[client]
            while queue and (queue[0].state != QUEUED or queue[0].requirements != self.requirements):
                queue.popleft()  # it was cancelled, reattached to a worker, or moved to another line
            if not queue:
                turns.popleft()
                del self.clients[client]
            elif client not in backpressured:
                return queue[0]
            else:
                turns.rotate(-1)
        return None

    def sweep(self) -> None:
        """Remove entries that would be passed over."""
        for client, queue in list(self.clients.items()):
            left = dict.fromkeys(
                r for r in queue if r.state == QUEUED and r.requirements == self.requirements
            )
            if left:
                self.clients[client] = deque(left)
            else:
                del self.clients[client]
        self.turns = deque([client for client in self.turns if client in self.clients])

    def take(self) -> TaskRecord:
        """Remove and return the head; the next client's turn begins."""
        record = self.clients[self.turns[0]].popleft()
        self.turns.rotate(-1)
        return record


class ReadyQueue:
    """All queued tasks. Entries of records that have left the queued state, and second entries, are passed over."""

    def __init__(self) -> None:
        self._lanes: dict[Requirements, dict[Rank, Lane]] = {}
        self._order: dict[Requirements, list[Rank]] = {}
        """By requirements, a heap of the ranks of its lanes, without those that are asleep."""
        self._provided: dict[Requirements, list[Rank]] = {}
        """The part of `_order` that a worker provides or may provide, because the others need not be checked for each
        slot."""
        self._fresh: dict[Requirements, None] = {}
        """The requirements that `rest` has not yet compared with the workers."""
        self._asleep: dict[Requirements, set[Rank]] = {}
        """The lanes whose tasks all belong to backpressured clients, so that they are not checked again and again."""
        self.backpressured: set[ClientId] = set()
        """The clients that get nothing new because they do not take their outcomes, see `resume`."""
        self.pushed = 0
        """Number of entries since the last `sweep` or `clear`."""

    def push(self, record: TaskRecord, *, front: bool = False) -> None:
        requirements = record.requirements
        rank = (-record.body.options.priority, -record.body.depth)
        lanes = self._lanes.get(requirements)
        if lanes is None:
            lanes = self._lanes[requirements] = {}
            self._order[requirements] = self._provided[requirements] = []
            self._fresh[requirements] = None
        lane = lanes.get(rank)
        if lane is None:
            lane = lanes[rank] = Lane(requirements, rank)
            heapq.heappush(self._order[requirements], rank)
        elif rank in self._asleep.get(requirements, ()):
            self._asleep[requirements].discard(rank)
            heapq.heappush(self._order[requirements], rank)
        lane.push(record, front)
        self.pushed += 1

    def resume(self, client: ClientId) -> None:
        """Continue with the tasks of a client that was backpressured or has gone."""
        if client not in self.backpressured:
            return
        self.backpressured.discard(client)
        for requirements, ranks in self._asleep.items():
            for rank in ranks:
                heapq.heappush(self._order[requirements], rank)
        self._asleep.clear()

    def rest(self, is_provided: Callable[[Requirements], bool]) -> None:
        """Pass over new requirements that no worker provides, until `wake`."""
        for requirements in self._fresh:
            if not is_provided(requirements):
                del self._provided[requirements]
        self._fresh.clear()

    def wake(self, is_provided: Callable[[Requirements], bool]) -> None:
        """Check again which requirements are provided, because a worker has come or provides more than before."""
        for requirements in [kind for kind in self._lanes if kind not in self._provided]:
            if is_provided(requirements):
                self._provided[requirements] = self._order[requirements]

    def rests(self, requirements: Requirements) -> bool:
        """Return whether there are tasks with these requirements that no worker provides."""
        return requirements in self._lanes and requirements not in self._provided

    def has(self, requirements: Requirements) -> bool:
        """Return whether there is a task with these requirements that may start."""
        return requirements in self._lanes and self._first_lane(requirements) is not None

    def clear(self) -> None:
        """Drop all entries, because no record is queued any more."""
        self._lanes.clear()
        self._order.clear()
        self._provided.clear()
        self._fresh.clear()
        self._asleep.clear()
        self.pushed = 0

    def sweep(self) -> None:
        """Drop the entries of records that have left the queue in other ways, wherever they are."""
        self.pushed = 0
        for requirements, lanes in list(self._lanes.items()):
            asleep = self._asleep.get(requirements, set())
            for rank, lane in list(lanes.items()):
                lane.sweep()
                if not lane.turns:
                    del lanes[rank]
                    asleep.discard(rank)
            order = self._order[requirements]  # in place, because it may be a list of `_provided`, too
            order[:] = [rank for rank in order if rank in lanes]
            heapq.heapify(order)
            if not lanes:
                self._drop(requirements)

    def _drop(self, requirements: Requirements) -> None:
        """Remove requirements that no task has."""
        del self._lanes[requirements], self._order[requirements]
        self._provided.pop(requirements, None)
        self._fresh.pop(requirements, None)

    @property
    def kinds(self) -> int:
        """Maximum number of different requirements among the queued tasks."""
        return len(self._lanes)

    @property
    def requirements(self) -> Iterable[Requirements]:
        """The requirements of the queued tasks, and perhaps of some that have left the queue."""
        return self._lanes.keys()

    def waiting_since(self, before: float) -> list[tuple[Rank, Requirements]]:
        """Return the provided requirements whose first task was queued before that time.

        The most urgent come first, then the oldest.
        """
        found = []
        for requirements in list(self._lanes):
            lane = self._first_lane(requirements)
            head = None if lane is None else lane.head(self.backpressured)
            if (
                requirements in self._provided
                and lane is not None
                and head is not None
                and head.since <= before
            ):
                found.append((lane.rank, head.since, requirements))
        return [(rank, requirements) for rank, _, requirements in sorted(found)]

    def pop(
        self, fits: Callable[[Requirements], bool], accept: Accept | None = None, permit: Permit | None = None
    ) -> TaskRecord | None:
        """Return the first task whose requirements fit, or None if there is none or `accept` rejects it.

        A rejected task is not overtaken, because it would wait for ever if short tasks kept all slots busy. A task
        without a permit is passed over.
        """
        fitting = [
            requirements for requirements, order in self._provided.items() if order and fits(requirements)
        ]
        if len(fitting) > 1:
            fitting.sort(key=self._urgency)
        for requirements in fitting:
            lane = self._first_lane(requirements)
            if lane is None or (permit is not None and not permit(lane.rank, requirements)):
                continue
            if accept is not None:
                record = lane.head(self.backpressured)
                if record is None or not accept(record):
                    return None
            return lane.take()
        return None

    def _urgency(self, requirements: Requirements) -> tuple[Rank, int]:
        """Return the sort key of requirements; of equal rank, those for more come first, because fewer workers fit."""
        return self._order[requirements][0], -len(requirements)

    def _first_lane(self, requirements: Requirements) -> Lane | None:
        """Return the lane of the highest priority that has a task to give, which is its head."""
        order, lanes = self._order[requirements], self._lanes[requirements]
        while order:
            lane = lanes[order[0]]
            if lane.head(self.backpressured) is not None:
                return lane
            rank = heapq.heappop(order)
            if lane.turns:
                self._asleep.setdefault(requirements, set()).add(rank)
            else:
                del lanes[rank]
        if not lanes:
            self._drop(requirements)
        return None


def has_capacity(slots: int, held: int, held_seconds: float, estimate: float) -> bool:
    """Return whether a worker with `held` tasks (`held_seconds` of estimated work) may get one more like this.

    `estimate` is the next task's expected duration in seconds, or UNKNOWN. Long tasks (`is_long`) have a slot to
    themselves, so neither they nor these slots are counted here.
    """
    if held < slots:
        return True
    if estimate == UNKNOWN or held >= slots * (1 + PREFETCH_LIMIT):
        return False
    if held < 2 * slots and estimate <= ONE_AHEAD_MAX_SECONDS:
        return True
    return held_seconds + max(estimate, MIN_ESTIMATE) <= slots * PREFETCH_SECONDS


def is_long(estimate: float) -> bool:
    """Return whether no task should wait behind one of `estimate` seconds; UNKNOWN counts as long."""
    return estimate == UNKNOWN or estimate > PREFETCH_SECONDS
