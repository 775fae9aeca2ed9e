"""The times at which a worker may start the processes of its slots. Pure.

All missing processes are started at once. If that fails for lack of descriptors, processes or memory, no task has
failed: the existing slots continue, and a single start is tried from time to time, at growing intervals. As soon as one
succeeds, or a process has ended and released its resources, the others are tried too.
"""

from __future__ import annotations

from jobrunner.protocol.wire.ids import SlotId

FIRST_PAUSE = 0.2
"""Pause in seconds after the first failed start; each further pause is twice as long."""

MAX_PAUSE = 10.0
"""Maximum pause in seconds between two tries."""


class Starts:
    """The starts of one worker's slots."""

    def __init__(self) -> None:
        self.short = False
        """True if a start has failed and none that was tried since has succeeded."""
        self.failures = 0
        """The number of failed tries in a row without any change in between; starts of one moment count as one."""
        self.why = ""
        """The reason of the last failure."""
        self._try_at = 0.0
        self._trial: SlotId | None = None
        """The slot whose start is being tried."""

    def permitted(self, missing: int, now: float) -> int:
        """Return how many of the missing slots may be started now.

        If `short`, the caller passes the slot to `tried`.
        """
        if not self.short:
            return missing
        return min(missing, int(self._trial is None and now >= self._try_at))

    def tried(self, slot: SlotId) -> None:
        self._trial = slot

    def failed(self, slot: SlotId, why: str, now: float) -> bool:
        """Note that the slot could not be started; return True unless it is another failure of the same moment."""
        fresh = not self.short or slot == self._trial
        if fresh:
            self._trial = None
            self._try_at = now + min(MAX_PAUSE, FIRST_PAUSE * 2.0 ** min(self.failures, 16))
            self.short, self.why = True, why
            self.failures += 1
        return fresh

    def ready(self, slot: SlotId) -> None:
        """Note that the slot has started."""
        if slot == self._trial:
            self._trial = None
            self.short, self.failures = False, 0

    def hurry(self, slot: SlotId, now: float) -> None:
        """Try again at once, because a slot has ended and released its resources, or its task waits for others."""
        if slot == self._trial:
            self._trial = None
        self._try_at, self.failures = min(self._try_at, now), 0

    def is_tried(self, slot: SlotId) -> bool:
        """Return whether the slot is the one whose start is being tried."""
        return slot == self._trial

    def next_try(self) -> float | None:
        return self._try_at if self.short and self._trial is None else None
