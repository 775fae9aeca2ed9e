"""The memory that a client shares with processes of its host: where arguments are put, and how long it is kept."""

from __future__ import annotations

import time
from collections.abc import Sequence

from jobrunner.protocol.wire.payloads import Buffer, Payload
from jobrunner.shared_memory.attachments import attachments
from jobrunner.shared_memory.limits import IDLE_SECONDS, most_idle
from jobrunner.shared_memory.segment_pool import SegmentPool, can_share


class SharedStore:
    """A store that accepts nothing unless it `shares` and the system can.

    Any thread may call `store`, and the I/O thread calls the rest.
    """

    def __init__(self, shares: bool) -> None:
        self._pool: SegmentPool | None = None
        self._look_at: float | None = None
        if shares and can_share():
            most = most_idle()
            self._pool = SegmentPool(most)
            attachments.add_user(most)

    def store(self, parts: Sequence[Buffer]) -> Payload | None:
        """Return a payload in shared memory, or None, see payloads.Store."""
        return None if self._pool is None else self._pool.store(parts)

    def due(self) -> float | None:
        """Return the time of the next `look_after`."""
        if self._look_at is None and self._pool is not None and (self._pool.in_use or attachments.in_use):
            self._look_at = time.monotonic() + IDLE_SECONDS
        return self._look_at

    def look_after(self) -> None:
        """Release memory that was idle for long."""
        if self._pool is not None and self._look_at is not None and time.monotonic() >= self._look_at:
            self._look_at = None
            self._pool.trim()
            attachments.trim()

    def close(self) -> None:
        """Keep nothing from now on."""
        if self._pool is not None:
            self._pool.close()
            attachments.remove_user()
