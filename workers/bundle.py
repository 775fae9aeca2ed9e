"""A bundle in its slot: calls that came as one task, run one after the other, and given up when one takes long.

What is put together here is taken apart in `protocol.bundles`, which a slot does not import, since it must start fast.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

import msgpack

from jobrunner.payloads import Payload, buffers_of

MOST_RESULTS = 256 * 1024
"""Bytes of results that are collected; what comes after them in the bundle goes back."""


class Bundle:
    """Two threads share it: the main one runs the calls, the attendant may give it up."""

    def __init__(self, number: int, payload: Payload) -> None:
        self.number = number
        packed = payload if isinstance(payload, bytes) else b"".join(buffers_of(payload))
        self.calls: deque[bytes] = deque(msgpack.unpackb(packed))
        """Those that have not started. Whoever takes one from it has it."""
        self.index = -1
        """Of the call that runs; main thread."""
        self.payloads: list[bytes] = []
        self.durations: list[float] = []
        self.failed: list[int] = []
        self._count = len(self.calls)
        self._size = 0
        self._lock = threading.Lock()
        self._ended = False
        self._given_up = False

    def add(self, payload: bytes, duration: float, failed: bool) -> None:
        """The call that ran has ended; main thread. What is appended last makes it count."""
        if failed:
            self.failed.append(self.index)
        self._size += len(payload)
        self.durations.append(duration)
        self.payloads.append(payload)

    @property
    def given_up(self) -> bool:
        return self._given_up

    @property
    def full(self) -> bool:
        """Whether its results are too large to go on collecting."""
        return self._size > MOST_RESULTS and bool(self.calls)

    def give_up(self, tell: Callable[[bytes, int], None]) -> None:
        """Let go of what has not started, and `tell` the results so far and the index of the call that goes on alone.

        Nothing happens if it has not begun, has ended, or was given up before. The outcome of the call that goes on
        must not overtake what is told here, so `end` waits for it.
        """
        with self._lock:
            if self._ended or self._given_up or self.index < 0:
                return
            left = 0
            while self.calls:
                try:
                    self.calls.pop()
                except IndexError:  # the main thread took the last one
                    break
                left += 1
            self._given_up = True
            running = self._count - left - 1
            tell(self._results(running), running)

    def end(self) -> bool:
        """All calls that were left have run; False if it was given up, and only the last one's outcome is due."""
        with self._lock:
            self._ended = True
            return not self._given_up

    def results(self) -> bytes:
        """Of all calls."""
        return self._results(self._count)

    def _results(self, stop: int) -> bytes:
        failed = [index for index in self.failed if index < stop]
        packed: bytes = msgpack.packb((self.payloads[:stop], self.durations[:stop], failed))
        return packed
