"""When a worker may start the processes of its slots; pure.

All that are missing are started at once. Where that fails for want of descriptors, processes or memory, nothing has
died: the slots that there are go on, and a single start is tried from time to time, later and later. As soon as one
works, or a process has ended and released what it held, the others are tried too.
"""

from __future__ import annotations

from jobrunner.protocol.wire.ids import SlotId

FIRST_PAUSE = 0.2
"""Seconds after the first start that failed until another one is tried; each pause is twice as long as the last."""

MAX_PAUSE = 10.0
"""Seconds."""


class Starts:
    """The starts of one worker's slots."""

    def __init__(self) -> None:
        self.short = False
        """Starting more slots has failed, and no start that was tried since has worked."""
        self.failures = 0
        """Tries in a row that have failed without anything having changed; starts of one moment count as one."""
        self.why = ""
        """Of the last failure."""
        self._try_at = 0.0
        self._trial: SlotId | None = None
        """The slot whose start is being tried."""

    def permitted(self, missing: int, now: float) -> int:
        """How many of the missing slots may be started now; if `short`, tell `tried` which one it is."""
        if not self.short:
            return missing
        return min(missing, int(self._trial is None and now >= self._try_at))

    def tried(self, slot: SlotId) -> None:
        self._trial = slot

    def failed(self, slot: SlotId, why: str, now: float) -> bool:
        """That slot could not be started; True if this is a new try's failure, and not one of the same moment."""
        fresh = not self.short or slot == self._trial
        if fresh:
            self._trial = None
            self._try_at = now + min(MAX_PAUSE, FIRST_PAUSE * 2.0 ** min(self.failures, 16))
            self.short, self.why = True, why
            self.failures += 1
        return fresh

    def ready(self, slot: SlotId) -> None:
        """That slot has come up."""
        if slot == self._trial:
            self._trial = None
            self.short, self.failures = False, 0

    def hurry(self, slot: SlotId, now: float) -> None:
        """That slot, which was up, has ended and released what it held, or its task waits for others: try again."""
        if slot == self._trial:
            self._trial = None
        self._try_at, self.failures = min(self._try_at, now), 0

    def is_tried(self, slot: SlotId) -> bool:
        """Whether that slot is a mere trial so far."""
        return slot == self._trial

    def next_try(self) -> float | None:
        return self._try_at if self.short and self._trial is None else None
