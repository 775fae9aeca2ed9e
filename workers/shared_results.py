"""A slot's part in shared memory: where its results go, and how long it keeps what it has.

What this needs is imported when the first large payload comes, so that other slots start as fast as ever.
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
    """`most_idle` bytes of segments and as many of maps are kept; with 0 nothing is shared.

    The main thread uses it. The control thread looks after it as long as `look_after` says so, and is woken by `wake`.
    """

    def __init__(self, most_idle: int, wake: Callable[[], object]) -> None:
        self._most_idle = most_idle
        self._wake = wake
        self._watched = False
        self._pool: SegmentPool | None = None

    def expect(self, payload: Payload) -> None:
        """Be ready for it, before it is loaded."""
        if isinstance(payload, SharedPayload):
            self._begin()

    def store(self, parts: Sequence[Buffer]) -> Payload | None:
        """A result in shared memory; None where it does not belong there. See payloads.Store."""
        if not self._most_idle or payload_size(tuple(parts)) < SHARE_FROM:
            return None
        return self._begin().store(parts)

    def look_after(self) -> float | None:
        """Let go of what was idle for long; after how many seconds to come again, None: when woken."""
        if not self._watched:
            return None
        from jobrunner.shared_memory.attachments import attachments

        assert self._pool is not None
        self._pool.trim()
        attachments.trim()
        self._watched = False  # first; the main thread may begin anew while we look
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
    """They have been loaded, and are not needed again."""
    for payload in payloads:
        if isinstance(payload, SharedPayload):
            payload.close()
