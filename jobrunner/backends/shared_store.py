"""The memory that a client shares with processes of its host, in which large arguments are placed."""

from __future__ import annotations

import time
from collections.abc import Sequence

from jobrunner.protocol.wire.payloads import Buffer, Payload
from jobrunner.shared_memory.attachments import attachments
from jobrunner.shared_memory.limits import IDLE_SECONDS, most_idle
from jobrunner.shared_memory.segment_pool import SegmentPool, can_share


class SharedStore:
    """The store for large arguments. It accepts nothing unless `shares` is true and the system supports shared memory.

    Any thread may call `store`, and the I/O thread calls the other methods.
    """

    def __init__(self, shares: bool) -> None:
        self._pool: SegmentPool | None = None
        self._look_at: float | None = None
        if shares and can_share():
            most = most_idle()
            self._pool = SegmentPool(most)
            attachments.add_user(most)

    def store(self, parts: Sequence[Buffer]) -> Payload | None:
        """Return a payload in shared memory, or None, see `payloads.Store`."""
        return None if self._pool is None else self._pool.store(parts)

    def due(self) -> float | None:
        """Return the time at which `look_after` should be called next, or None if no call is needed."""
        if self._look_at is None and self._pool is not None and (self._pool.in_use or attachments.in_use):
            self._look_at = time.monotonic() + IDLE_SECONDS
        return self._look_at

    def look_after(self) -> None:
        """Release memory that has been idle for a long time."""
        if self._pool is not None and self._look_at is not None and time.monotonic() >= self._look_at:
            self._look_at = None
            self._pool.trim()
            attachments.trim()

    def close(self) -> None:
        """Release all memory, and accept nothing more."""
        if self._pool is not None:
            self._pool.close()
            attachments.remove_user()
