"""The replacement of slots by new processes, for tasks of other owners or after the maximum number of calls.

A slot that leaves gets no more tasks, and is replaced as soon as it is idle. `dismissal` says which idle slots are of
no use to the waiting tasks. If more owners have tasks here than there are slots, a busy slot that has served its owner
for `FAIRNESS_QUANTUM` makes way as soon as it is idle.
"""

from __future__ import annotations

from collections.abc import Callable

from jobrunner.protocol.tuning import FAIRNESS_QUANTUM
from jobrunner.protocol.worker.dismissal import Estimate, outdated, unneeded
from jobrunner.protocol.worker.local_queue import LocalQueue
from jobrunner.protocol.worker.slot_table import SlotTable
from jobrunner.protocol.worker.slots import ENDING


class Replacing:
    """The check, in each turn, which slots must leave, and the time of the next check.

    `may_feed` tells whether queued tasks may go into slots now.
    """

    def __init__(
        self,
        slot_table: SlotTable,
        queue: LocalQueue,
        may_feed: Callable[[], bool],
        estimate: Estimate,
        calls: int | None,
    ) -> None:
        self._slot_table = slot_table
        self._queue = queue
        self._may_feed = may_feed
        self._estimate = estimate
        self._calls_are_limited = calls is not None
        self.look_at: float | None = None
        """The time at which a slot will have served its owner for long enough, if another owner waits."""

    def make_way(self, now: float) -> None:
        """Replace slots that others can use, and those that have made the maximum number of calls."""
        self.look_at = None
        if self._calls_are_limited:
            for slot in self._slot_table.slots.values():
                if slot.calls_left <= 0:
                    slot.leave()
        self._slot_table.replace_leaving(now)
        if self._queue and not self._slot_table.closed and self._may_feed():
            self._dismiss_idle(now)
            self._dismiss_busy(now)

    def _dismiss_idle(self, now: float) -> None:
        """Replace idle slots that can run none of the waiting tasks, for tasks that wait."""
        for slot in outdated(self._slot_table.staying(), self._queue):
            slot.leave()
        self._slot_table.replace_leaving(now)
        dismissed, self.look_at = unneeded(self._slot_table.staying(), self._queue, self._estimate, now)
        for slot in dismissed:
            slot.leave()
        self._slot_table.replace_leaving(now)

    def _dismiss_busy(self, now: float) -> None:
        """Replace a slot that has served its owner for long, if another owner has no slot and will get none soon."""
        staying = self._slot_table.staying()
        served = {slot.owner for slot in staying}
        slots = self._slot_table.slots.values()
        leaving = sum(slot.leaving and slot.state != ENDING for slot in slots)
        fresh = sum(slot.owner is None for slot in staying)
        unserved = sum(owner not in served for owner in self._queue.owners) - leaving - fresh
        if unserved <= 0:
            return
        taken = [slot for slot in staying if slot.owner is not None and not slot.blocked]
        for slot in sorted(taken, key=lambda slot: slot.owned_since)[:unserved]:
            time_is_up = slot.owned_since + FAIRNESS_QUANTUM
            if now < time_is_up:
                self.look_at = min(time_is_up, self.look_at or time_is_up)
                break
            slot.leave()
        self._slot_table.replace_leaving(now)
