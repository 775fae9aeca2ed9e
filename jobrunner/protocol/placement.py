"""Which queued task goes where; pure.

`ReadyQueue` keeps the order: the highest priority first, within it deeper tasks (those that another task waits for)
first, within that one client after the other in turn, within a client in the order of submission. Push and pop cost
O(log of the number of priorities in use), however long the queue.

`room` says how many tasks a worker may have beyond its slots. A task is bound to a worker as late as possible; a
worker gets more than it can run only to hide the way there and back, and that is measured in time: tasks that take
longer than `PREFETCH_SECONDS` are never queued behind another one, nor is anything queued behind them.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeAlias

from jobrunner.ids import ClientId
from jobrunner.protocol.resources import UNIT, Demands
from jobrunner.protocol.task import QUEUED, TaskRecord

UNKNOWN = -1.0
"""The estimate of a function that has not finished a call yet."""

PREFETCH_SECONDS = 0.02
"""Work that a worker may hold beyond what its slots run, per slot."""

AT_HAND_SECONDS = 0.015
"""Estimate up to which a worker may hold one task per slot beyond what its slots run, and a slot one beyond what it
runs: else it would have nothing to do while an outcome goes up and the next task comes."""

PREFETCH_LIMIT = 512
"""Tasks that a worker may hold beyond what its slots run, per slot."""

MIN_ESTIMATE = 20e-6
"""Seconds that a call costs at the least, whatever was measured inside it."""

Rank: TypeAlias = "tuple[int, int]"
"""Of a task, by its priority and its depth: the smallest is the most urgent."""

Accept: TypeAlias = "Callable[[TaskRecord], bool]"

Permit: TypeAlias = "Callable[[Rank, Demands], bool]"


class Lane:
    """The queued tasks of one priority and one kind of resources, taken in turn from their clients."""

    __slots__ = ("clients", "needs", "rank", "turns")

    def __init__(self, needs: Demands, rank: Rank) -> None:
        self.needs = needs
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

    def head(self, parked: set[ClientId]) -> TaskRecord | None:
        """The next task of the client whose turn it is, leaving out the parked ones."""
        turns = self.turns
        for _ in range(len(turns)):
            client = turns[0]
            queue = self.clients[client]
            while queue and (queue[0].state != QUEUED or queue[0].demands != self.needs):
                queue.popleft()  # cancelled, adopted by a worker, or moved to another line
            if not queue:
                turns.popleft()
                del self.clients[client]
            elif client not in parked:
                return queue[0]
            else:
                turns.rotate(-1)
        return None

    def sweep(self) -> None:
        """Leave out what would be passed over."""
        for client, queue in list(self.clients.items()):
            left = dict.fromkeys(r for r in queue if r.state == QUEUED and r.demands == self.needs)
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
        self._lanes: dict[Demands, dict[Rank, Lane]] = {}
        self._order: dict[Demands, list[Rank]] = {}
        """A heap for each kind: the ranks of its lanes, but for those that are asleep."""
        self._offered: dict[Demands, list[Rank]] = {}
        """Those of the kinds that somebody offers, or may: the others are not looked at for each slot that is idle."""
        self._fresh: dict[Demands, None] = {}
        """Kinds of which `rest` has not heard whether they are offered."""
        self._asleep: dict[Demands, set[Rank]] = {}
        """Lanes with tasks of parked clients alone, so that nobody looks at them again and again."""
        self.parked: set[ClientId] = set()
        """Clients that get nothing new for now, because they do not take their outcomes; see `unpark`."""
        self.pushed = 0
        """Entries since the last `sweep` or `clear`."""

    def push(self, record: TaskRecord, *, front: bool = False) -> None:
        needs = record.demands
        rank = (-record.options.priority, -record.depth)
        lanes = self._lanes.get(needs)
        if lanes is None:
            lanes = self._lanes[needs] = {}
            self._order[needs] = self._offered[needs] = []
            self._fresh[needs] = None
        lane = lanes.get(rank)
        if lane is None:
            lane = lanes[rank] = Lane(needs, rank)
            heapq.heappush(self._order[needs], rank)
        elif rank in self._asleep.get(needs, ()):
            self._asleep[needs].discard(rank)
            heapq.heappush(self._order[needs], rank)
        lane.push(record, front)
        self.pushed += 1

    def unpark(self, client: ClientId) -> None:
        """It gets tasks again, or has gone."""
        if client not in self.parked:
            return
        self.parked.discard(client)
        for needs, ranks in self._asleep.items():
            for rank in ranks:
                heapq.heappush(self._order[needs], rank)
        self._asleep.clear()

    def rest(self, is_offered: Callable[[Demands], bool]) -> None:
        """Look no more at new kinds that no worker offers, until `wake`."""
        for needs in self._fresh:
            if not is_offered(needs):
                del self._offered[needs]
        self._fresh.clear()

    def wake(self, is_offered: Callable[[Demands], bool]) -> None:
        """A worker has come, or offers more than before."""
        for needs in [kind for kind in self._lanes if kind not in self._offered]:
            if is_offered(needs):
                self._offered[needs] = self._order[needs]

    def rests(self, needs: Demands) -> bool:
        """Whether there are tasks of that kind, and nobody offers what they need."""
        return needs in self._lanes and needs not in self._offered

    def has(self, needs: Demands) -> bool:
        """Whether there is a task of that kind that may go."""
        return needs in self._lanes and self._first_lane(needs) is not None

    def clear(self) -> None:
        """No record is queued any more: drop the entries of those that have left in other ways."""
        self._lanes.clear()
        self._order.clear()
        self._offered.clear()
        self._fresh.clear()
        self._asleep.clear()
        self.pushed = 0

    def sweep(self) -> None:
        """Drop the entries of records that have left in other ways, wherever they are."""
        self.pushed = 0
        for needs, lanes in list(self._lanes.items()):
            asleep = self._asleep.get(needs, set())
            for rank, lane in list(lanes.items()):
                lane.sweep()
                if not lane.turns:
                    del lanes[rank]
                    asleep.discard(rank)
            order = self._order[needs]  # in place, for it may be that of `_offered`, too
            order[:] = [rank for rank in order if rank in lanes]
            heapq.heapify(order)
            if not lanes:
                self._drop(needs)

    def _drop(self, needs: Demands) -> None:
        """There is no task of that kind."""
        del self._lanes[needs], self._order[needs]
        self._offered.pop(needs, None)
        self._fresh.pop(needs, None)

    @property
    def kinds(self) -> int:
        """Different demands of the tasks in it, at the most."""
        return len(self._lanes)

    @property
    def demands(self) -> Iterable[Demands]:
        """Those of the tasks in it, and maybe of some that have left it."""
        return self._lanes.keys()

    def waiting_since(self, before: float) -> list[tuple[Rank, Demands]]:
        """The kinds that somebody offers and whose first task was queued before that time: the most urgent first, then
        the oldest."""
        found = []
        for needs in list(self._lanes):
            lane = self._first_lane(needs)
            head = None if lane is None else lane.head(self.parked)
            if needs in self._offered and lane is not None and head is not None and head.since <= before:
                found.append((lane.rank, head.since, needs))
        return [(rank, needs) for rank, _, needs in sorted(found)]

    def pop(
        self, fits: Callable[[Demands], bool], accept: Accept | None = None, permit: Permit | None = None
    ) -> TaskRecord | None:
        """The first task whose resources fit; None when there is none, or when `accept` does not accept it.

        What is not accepted is not overtaken: it would wait for ever where short tasks keep all slots busy. What has
        no permit is passed over.
        """
        fitting = [needs for needs, order in self._offered.items() if order and fits(needs)]
        if len(fitting) > 1:
            fitting.sort(key=self._urgency)
        for needs in fitting:
            lane = self._first_lane(needs)
            if lane is None or (permit is not None and not permit(lane.rank, needs)):
                continue
            if accept is not None:
                record = lane.head(self.parked)
                if record is None or not accept(record):
                    return None
            return lane.take()
        return None

    def _urgency(self, needs: Demands) -> tuple[Rank, int]:
        """Of equal rank, what needs more resources goes first: fewer workers fit, and so many only at a time."""
        return self._order[needs][0], -len(needs)

    def _first_lane(self, needs: Demands) -> Lane | None:
        """The lane of the highest priority that has a task to give; its head is that task."""
        order, lanes = self._order[needs], self._lanes[needs]
        while order:
            lane = lanes[order[0]]
            if lane.head(self.parked) is not None:
                return lane
            rank = heapq.heappop(order)
            if lane.turns:
                self._asleep.setdefault(needs, set()).add(rank)
            else:
                del lanes[rank]
        if not lanes:
            self._drop(needs)
        return None


def python_demand(version: str) -> tuple[str, int]:
    """What a worker of that version has without end, and others do not have at all."""
    return f"Python {version}", UNIT


MODULE = "module "
"""Begins the name of what a worker has that can import a module, see `missing`."""


def module_demand(name: str) -> tuple[str, int]:
    """What every worker has until it says that it does not."""
    return MODULE + name, UNIT


def room(slots: int, held: int, held_seconds: float, estimate: float) -> bool:
    """Whether a worker that holds `held` tasks (`held_seconds` of estimated work) may get one more like this.

    `estimate` is the next task's expected duration in seconds, UNKNOWN if nobody knows. Long tasks (`is_long`) have a
    slot to themselves: neither they nor these slots are counted here.
    """
    if held < slots:
        return True
    if estimate == UNKNOWN or held >= slots * (1 + PREFETCH_LIMIT):
        return False
    if held < 2 * slots and estimate <= AT_HAND_SECONDS:
        return True
    return held_seconds + max(estimate, MIN_ESTIMATE) <= slots * PREFETCH_SECONDS


def is_long(estimate: float) -> bool:
    """Whether nothing is to wait behind a task of `estimate` seconds; UNKNOWN: it may be."""
    return estimate == UNKNOWN or estimate > PREFETCH_SECONDS
