"""Which queued task goes where; pure.

`ReadyQueue` keeps the order: the highest priority first, within it deeper tasks (those that another task waits for)
first, within that one client after the other in turn, within a client in the order of submission. Push and pop cost
O(log of the number of priorities in use), however long the queue.

`room` says how many tasks a worker may have beyond its slots. A task is bound to a worker as late as possible; a
worker gets more than it can run only to hide the way there and back, and that is measured in time: tasks that take
longer than `PREFETCH_SECONDS` are never queued behind another one.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from jobrunner.ids import ClientId
from jobrunner.protocol.functions import UNKNOWN
from jobrunner.protocol.task import QUEUED, TaskRecord

PREFETCH_SECONDS = 0.02
"""Work that a worker may hold beyond what its slots run, per slot."""

PREFETCH_LIMIT = 512
"""Tasks that a worker may hold beyond what its slots run, per slot."""

LEAST_ESTIMATE = 20e-6
"""Seconds that a call costs at the least, whatever was measured inside it."""

Resources: TypeAlias = "tuple[tuple[str, float], ...]"
Accept: TypeAlias = "Callable[[TaskRecord], bool]"


class Lane:
    """The queued tasks of one priority and one kind of resources, taken in turn from their clients."""

    __slots__ = ("clients", "turns")

    def __init__(self) -> None:
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

    def pop(self, parked: set[ClientId], accept: Accept | None) -> TaskRecord | None:
        """The next acceptable task of the client whose turn it is, leaving out the parked ones."""
        for _ in range(len(self.turns)):
            client = self.turns[0]
            queue = self.clients[client]
            while queue and queue[0].state != QUEUED:
                queue.popleft()  # cancelled, or adopted by a worker, while it was in line
            if not queue:
                self.turns.popleft()
                del self.clients[client]
                continue
            self.turns.rotate(-1)
            if client not in parked and (accept is None or accept(queue[0])):
                return queue.popleft()
        return None


class ReadyQueue:
    """All queued tasks. A record may be in it twice or have left the queued state; such entries are passed over."""

    def __init__(self) -> None:
        self._lanes: dict[Resources, dict[tuple[int, int], Lane]] = {}
        self._order: dict[Resources, list[tuple[int, int]]] = {}
        self.parked: set[ClientId] = set()
        """Clients that get nothing new for now, because they do not take their outcomes."""

    def push(self, record: TaskRecord, *, front: bool = False) -> None:
        needs = record.options.resources
        rank = (-record.options.priority, -record.depth)
        lanes = self._lanes.get(needs)
        if lanes is None:
            lanes = self._lanes[needs] = {}
            self._order[needs] = []
        lane = lanes.get(rank)
        if lane is None:
            lane = lanes[rank] = Lane()
            heapq.heappush(self._order[needs], rank)
        lane.push(record, front)

    def clear(self) -> None:
        """No record is queued any more: drop the entries of those that have left in other ways."""
        self._lanes.clear()
        self._order.clear()

    def pop(self, fits: Callable[[Resources], bool], accept: Accept | None = None) -> TaskRecord | None:
        """The first task whose resources fit and that `accept` accepts; None when there is none."""
        if len(self._lanes) == 1:
            (needs,) = self._lanes
            return self._pop_from(needs, accept) if fits(needs) else None
        for needs in sorted((n for n in self._lanes if fits(n)), key=self._urgency):
            record = self._pop_from(needs, accept)
            if record is not None:
                return record
        return None

    def _urgency(self, needs: Resources) -> tuple[tuple[int, int], int]:
        """Of equal rank, what needs more resources goes first: fewer workers fit, and so many only at a time."""
        return self._order[needs][0], -len(needs)

    def _pop_from(self, needs: Resources, accept: Accept | None) -> TaskRecord | None:
        order, lanes = self._order[needs], self._lanes[needs]
        held_back: list[tuple[int, int]] = []
        record = None
        while order and record is None:
            lane = lanes[order[0]]
            record = lane.pop(self.parked, accept)
            if record is None:
                rank = heapq.heappop(order)
                if lane.turns:
                    held_back.append(rank)  # work that may not go now
                else:
                    del lanes[rank]
        for rank in held_back:
            heapq.heappush(order, rank)
        if not lanes:
            del self._lanes[needs], self._order[needs]
        return record


def room(slots: int, held: int, held_seconds: float, estimate: float) -> bool:
    """Whether a worker that holds `held` tasks (`held_seconds` of estimated work) may get one more like this.

    `estimate` is the next task's expected duration in seconds, UNKNOWN if nobody knows.
    """
    if held < slots:
        return True
    if estimate == UNKNOWN or held >= slots * (1 + PREFETCH_LIMIT):
        return False
    return held_seconds + max(estimate, LEAST_ESTIMATE) <= slots * PREFETCH_SECONDS
