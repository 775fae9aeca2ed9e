"""The order in which a client's tasks are sent: highest priority first, then in the order of submission."""

from __future__ import annotations

import heapq
from collections import deque

from jobrunner.protocol.wire import messages as m


class SubmissionQueue:
    """The tasks that wait until the window has room for them."""

    __slots__ = ("_lanes", "_order")

    def __init__(self) -> None:
        self._lanes: dict[int, deque[m.TaskSpec]] = {}
        """The tasks by their negated priority, so that the most urgent tasks have the smallest key."""
        self._order: list[int] = []
        """A heap of the keys of `_lanes`."""

    def push(self, spec: m.TaskSpec) -> None:
        rank = -spec.body.options.priority
        lane = self._lanes.get(rank)
        if lane is None:
            lane = self._lanes[rank] = deque()
            heapq.heappush(self._order, rank)
        lane.append(spec)

    def peek(self) -> m.TaskSpec | None:
        """Return the next task to send, or None if no task waits."""
        while self._order:
            lane = self._lanes[self._order[0]]
            if lane:
                return lane[0]
            del self._lanes[heapq.heappop(self._order)]
        return None

    def pop(self) -> m.TaskSpec:
        """Remove the task that `peek` has just returned."""
        return self._lanes[self._order[0]].popleft()

    def clear(self) -> None:
        self._lanes.clear()
        self._order.clear()
