"""A bundle in its slot: calls that came as one task, run one after the other, and split when one takes long.

Each result is noted on the crash board, too, where the worker finds it if it splits the bundle without the slot (see
`gate`). Results are packed here and unpacked in `protocol.bundles`, which a slot does not import, because it must start
fast.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgpack

from jobrunner.protocol.wire.payloads import Payload, buffers_of
from jobrunner.workers.crash_board import RESULT
from jobrunner.workers.framing import SPLIT

if TYPE_CHECKING:
    from jobrunner.workers.outbox import Outbox


class Bundle:
    """A running bundle; the main thread runs its calls, and the control thread may split it.

    `note` writes a result to the crash board; it raises ValueError if there is no room for the result.
    """

    def __init__(self, number: int, payload: Payload, note: Callable[[bytes], int]) -> None:
        self.number = number
        self._note = note
        packed = payload if isinstance(payload, bytes) else b"".join(buffers_of(payload))
        self.calls: deque[bytes] = deque(msgpack.unpackb(packed))
        """The calls that have not started; a thread that has removed a call from the deque owns it."""
        self.index = -1
        """The index of the running call; only the main thread changes it."""
        self.payloads: list[bytes] = []
        self.durations: list[float] = []
        self.failed: list[int] = []
        self._count = len(self.calls)
        self._full = False
        self._lock = threading.Lock()
        self._ended = False
        self._was_split = False

    def add(self, payload: bytes, duration: float, failed: bool) -> None:
        """Add the result of the call that ran, in the main thread; the last statement makes it count."""
        if failed:
            self.failed.append(self.index)
        try:
            self._note(_pack_result(duration, len(payload), failed) + payload)
        except ValueError:
            self._full = True
        self.durations.append(duration)
        self.payloads.append(payload)

    @property
    def was_split(self) -> bool:
        return self._was_split

    @property
    def full(self) -> bool:
        """Whether the results are too large to collect more of them, so that the other calls are given back."""
        return self._full and bool(self.calls)

    def split(self, tell: Callable[[bytes, int], None]) -> None:
        """Remove the calls that have not started, and `tell` the results so far and the index of the running call.

        Nothing happens if the bundle has not begun, has ended, or was split before. The outcome of the running call
        must not overtake the message of `tell`, so `end` waits for it.
        """
        with self._lock:
            if self._ended or self._was_split or self.index < 0:
                return
            left = 0
            while self.calls:
                try:
                    self.calls.pop()
                except IndexError:  # the main thread took the last call
                    break
                left += 1
            self._was_split = True
            running = self._count - left - 1
            tell(self._results(running), running)

    def keep(self, index: int) -> bool:
        """Note that the worker has taken the calls after this one.

        Return whether this one is the last that has begun.
        """
        with self._lock:
            self.calls.clear()
            self._was_split = True
            last, self.index = self.index, index
            return last == index

    def end(self) -> bool:
        """End the bundle after its last call; return False if it was split and only the last call's outcome is due."""
        with self._lock:
            self._ended = True
            return not self._was_split

    def results(self) -> bytes:
        """Return the packed results of all calls."""
        return self._results(self._count)

    def _results(self, stop: int) -> bytes:
        failed = [index for index in self.failed if index < stop]
        return pack_results(self.payloads[:stop], self.durations[:stop], failed)


def split_and_tell(bundle: Bundle, outbox: Outbox) -> None:
    """Send the results so far, and let the calls that have not started run elsewhere; both threads call this."""
    bundle.split(lambda results, running: outbox.tell([SPLIT, [bundle.number, results, running]]))


_pack_result = RESULT.pack


def pack_results(payloads: list[bytes], durations: list[float], failed: list[int]) -> bytes:
    """Pack the results of calls, in the format of `protocol.bundles`."""
    packed: bytes = msgpack.packb((payloads, durations, failed))
    return packed
