"""Which queued task goes where; pure.

`ReadyQueue` keeps the order: the highest priority first, within it deeper tasks (those that another task waits for)
first, within that one client after the other in turn, within a client in the order of submission. Push and pop cost
O(log of the number of priorities in use), however long the queue.

`has_capacity` says how many tasks a worker may have beyond its slots. A task is bound to a worker as late as possible;
a worker gets more than it can run only to hide the way there and back, and that is measured in time: tasks that take
longer than `PREFETCH_SECONDS` are never queued behind another one, nor is anything queued behind them.
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
"""Of a task, by its priority and its depth: the smallest is the most urgent."""

Accept: TypeAlias = "Callable[[TaskRecord], bool]"

Permit: TypeAlias = "Callable[[Rank, Requirements], bool]"


class Lane:
    """The queued tasks of one priority and one kind of resources, taken in turn from their clients."""

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
        """The next task of the client whose turn it is, leaving out the ones that are backpressured."""
        turns = self.turns
        for _ in range(len(turns)):
            client = turns[0]
            queue = self.clients[client]
            while queue and (queue[0].state != QUEUED or queue[0].requirements != self.requirements):
                queue.popleft()  # cancelled, reattached to a worker, or moved to another line
            if not queue:
                turns.popleft()
                del self.clients[client]
            elif client not in backpressured:
                return queue[0]
            else:
                turns.rotate(-1)
        return None

    def sweep(self) -> None:
        """Leave out what would be passed over."""
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
        """Remove the head; the next client's turn begins."""
        record = self.clients[self.turns[0]].popleft()
        self.turns.rotate(-1)
        return record


class ReadyQueue:
    """All queued tasks. A record may be in it twice or have left the queued state; such entries are passed over."""

    def __init__(self) -> None:
        self._lanes: dict[Requirements, dict[Rank, Lane]] = {}
        self._order: dict[Requirements, list[Rank]] = {}
        """A heap for each kind: the ranks of its lanes, but for those that are asleep."""
        self._provided: dict[Requirements, list[Rank]] = {}
        """Those of the kinds that a worker provides, or may: the others are not looked at for each idle slot."""
        self._fresh: dict[Requirements, None] = {}
        """Kinds of which `rest` has not heard whether they are provided."""
        self._asleep: dict[Requirements, set[Rank]] = {}
        """Lanes with tasks of backpressured clients alone, so that nobody looks at them again and again."""
        self.backpressured: set[ClientId] = set()
        """Clients that get nothing new for now, because they do not take their outcomes; see `resume`."""
        self.pushed = 0
        """Entries since the last `sweep` or `clear`."""

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
        """It gets tasks again, or has gone."""
        if client not in self.backpressured:
            return
        self.backpressured.discard(client)
        for requirements, ranks in self._asleep.items():
            for rank in ranks:
                heapq.heappush(self._order[requirements], rank)
        self._asleep.clear()

    def rest(self, is_provided: Callable[[Requirements], bool]) -> None:
        """Look no more at new kinds that no worker provides, until `wake`."""
        for requirements in self._fresh:
            if not is_provided(requirements):
                del self._provided[requirements]
        self._fresh.clear()

    def wake(self, is_provided: Callable[[Requirements], bool]) -> None:
        """A worker has come, or provides more than before."""
        for requirements in [kind for kind in self._lanes if kind not in self._provided]:
            if is_provided(requirements):
                self._provided[requirements] = self._order[requirements]

    def rests(self, requirements: Requirements) -> bool:
        """Whether there are tasks of that kind, and nobody provides what they need."""
        return requirements in self._lanes and requirements not in self._provided

    def has(self, requirements: Requirements) -> bool:
        """Whether there is a task of that kind that may go."""
        return requirements in self._lanes and self._first_lane(requirements) is not None

    def clear(self) -> None:
        """No record is queued any more: drop the entries of those that have left in other ways."""
        self._lanes.clear()
        self._order.clear()
        self._provided.clear()
        self._fresh.clear()
        self._asleep.clear()
        self.pushed = 0

    def sweep(self) -> None:
        """Drop the entries of records that have left in other ways, wherever they are."""
        self.pushed = 0
        for requirements, lanes in list(self._lanes.items()):
            asleep = self._asleep.get(requirements, set())
            for rank, lane in list(lanes.items()):
                lane.sweep()
                if not lane.turns:
                    del lanes[rank]
                    asleep.discard(rank)
            order = self._order[requirements]  # in place, for it may be that of `_provided`, too
            order[:] = [rank for rank in order if rank in lanes]
            heapq.heapify(order)
            if not lanes:
                self._drop(requirements)

    def _drop(self, requirements: Requirements) -> None:
        """There is no task of that kind."""
        del self._lanes[requirements], self._order[requirements]
        self._provided.pop(requirements, None)
        self._fresh.pop(requirements, None)

    @property
    def kinds(self) -> int:
        """Different requirements of the tasks in it, at the most."""
        return len(self._lanes)

    @property
    def requirements(self) -> Iterable[Requirements]:
        """Those of the tasks in it, and maybe of some that have left it."""
        return self._lanes.keys()

    def waiting_since(self, before: float) -> list[tuple[Rank, Requirements]]:
        """The kinds that a worker provides and whose first task was queued before that time.

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
        """The first task whose resources fit; None when there is none, or when `accept` does not accept it.

        What is not accepted is not overtaken: it would wait for ever where short tasks keep all slots busy. What has
        no permit is passed over.
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
        """Of equal rank, what requirements more resources goes first: fewer workers fit, and so many only at a time."""
        return self._order[requirements][0], -len(requirements)

    def _first_lane(self, requirements: Requirements) -> Lane | None:
        """The lane of the highest priority that has a task to give; its head is that task."""
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
    """Whether a worker that holds `held` tasks (`held_seconds` of estimated work) may get one more like this.

    `estimate` is the next task's expected duration in seconds, UNKNOWN if nobody knows. Long tasks (`is_long`) have a
    slot to themselves: neither they nor these slots are counted here.
    """
    if held < slots:
        return True
    if estimate == UNKNOWN or held >= slots * (1 + PREFETCH_LIMIT):
        return False
    if held < 2 * slots and estimate <= ONE_AHEAD_MAX_SECONDS:
        return True
    return held_seconds + max(estimate, MIN_ESTIMATE) <= slots * PREFETCH_SECONDS


def is_long(estimate: float) -> bool:
    """Whether nothing is to wait behind a task of `estimate` seconds; UNKNOWN: it may be."""
    return estimate == UNKNOWN or estimate > PREFETCH_SECONDS
