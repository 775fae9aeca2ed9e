"""A queue of events for one thread, which sleeps until the next event comes; events may have a delay."""

from __future__ import annotations

import heapq
import queue
import time
from collections.abc import Callable
from typing import TypeAlias

Event: TypeAlias = "Callable[[], None]"


class Events:
    """The queue. Any thread and the garbage collector may call `post`; one thread calls the other methods."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._timers: list[tuple[float, int, Event]] = []
        self._number = 0

    def post(self, event: Event) -> None:
        self._queue.put(event)

    def after(self, seconds: float, event: Event) -> None:
        """Post an event after this number of seconds."""
        self._number += 1
        heapq.heappush(self._timers, (time.monotonic() + seconds, self._number, event))

    def take(self) -> list[Event]:
        """Wait for an event, and return all events that have come."""
        events: list[Event] = []
        wait = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None
        try:
            events.append(self._queue.get(timeout=wait))
            while True:
                events.append(self._queue.get_nowait())
        except queue.Empty:
            pass
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            events.append(heapq.heappop(self._timers)[2])
        return events
