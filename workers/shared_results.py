"""The use of shared memory by a slot: the place of its results, and the time for which it keeps memory.

Modules are imported when the first large payload arrives, so that other slots start as fast as before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from jobrunner.protocol.wire.payloads import Buffer, Payload, payload_size
from jobrunner.shared_memory.limits import IDLE_SECONDS, SHARE_FROM
from jobrunner.shared_memory.shared_payload import SharedPayload

if TYPE_CHECKING:
    from jobrunner.shared_memory.segment_pool import SegmentPool


class SlotSharing:
    """The shared memory of a slot; it keeps at most `most_idle` bytes of segments, and as many of maps.

    With 0 nothing is shared. The main thread uses it. The control thread calls `look_after` at the times that this
    returns, and is woken by `wake`.
    """

    def __init__(self, most_idle: int, wake: Callable[[], object]) -> None:
        self._most_idle = most_idle
        self._wake = wake
        self._watched = False
        self._pool: SegmentPool | None = None

    def expect(self, payload: Payload) -> None:
        """Prepare for a payload, before it is loaded."""
        if isinstance(payload, SharedPayload):
            self._begin()

    def store(self, parts: Sequence[Buffer]) -> Payload | None:
        """Return a result in shared memory, or None if it does not belong there; see payloads.Store."""
        if not self._most_idle or payload_size(tuple(parts)) < SHARE_FROM:
            return None
        return self._begin().store(parts)

    def look_after(self) -> float | None:
        """Release memory that was idle for long; return the seconds until the next call, or None to be woken."""
        if not self._watched:
            return None
        from jobrunner.shared_memory.attachments import attachments

        assert self._pool is not None
        self._pool.trim()
        attachments.trim()
        self._watched = False  # this comes first, because the main thread may begin anew meanwhile
        self._watched = self._pool.in_use or attachments.in_use
        return IDLE_SECONDS if self._watched else None

    def _begin(self) -> SegmentPool:
        from jobrunner.shared_memory.attachments import attachments
        from jobrunner.shared_memory.segment_pool import SegmentPool

        if self._pool is None:
            self._pool = SegmentPool(self._most_idle)
            attachments.populate = True
            attachments.add_user(self._most_idle)
        if not self._watched:
            self._watched = True
            self._wake()
        return self._pool


def release(*payloads: Payload) -> None:
    """Release payloads that have been loaded and are not needed again."""
    for payload in payloads:
        if isinstance(payload, SharedPayload):
            payload.close()
