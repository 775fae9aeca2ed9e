"""The way of tasks from the local queue into slots: one to each idle slot, then short ones behind them, evenly.

Each slot knows how much it may be given (`slots`). No task is fed while too many outcomes are unacknowledged, or while
the worker drains and can give its queue back instead.
"""

from __future__ import annotations

from jobrunner.protocol.effects import Effect, SlotTask
from jobrunner.protocol.session import Session
from jobrunner.protocol.wire.ids import SlotId
from jobrunner.protocol.worker.function_store import FunctionStore
from jobrunner.protocol.worker.local_queue import LocalQueue
from jobrunner.protocol.worker.slot_table import SlotTable
from jobrunner.protocol.worker.slots import READY, Slot
from jobrunner.protocol.worker.stops import Stops
from jobrunner.protocol.worker.unacknowledged import Unacknowledged


class Feeding:
    """The feeding of a worker's slots, once in each turn."""

    def __init__(
        self,
        slot_table: SlotTable,
        queue: LocalQueue,
        functions: FunctionStore,
        stops: Stops,
        unacknowledged: Unacknowledged,
        session: Session,
        effects: list[Effect],
    ) -> None:
        self._slot_table = slot_table
        self._slots = slot_table.slots
        self._queue = queue
        self._functions = functions
        self._stops = stops
        self._unacknowledged = unacknowledged
        self._session = session
        self._effects = effects

    def may_feed(self) -> bool:
        """Return whether queued tasks may go into slots now."""
        if self._slot_table.closed and self._session.open:
            return False
        return self._unacknowledged.has_room()

    def feed(self, now: float) -> None:
        """Give queued tasks to slots."""
        if not self._queue or not self.may_feed():
            return
        batches: dict[SlotId, list[SlotTask]] = {}
        ready = [s for s in self._slots.values() if s.state == READY and not s.stalled(now)]
        while self._queue and ready:
            still = []
            for slot in sorted(ready, key=lambda s: len(s.queue)):
                if not self._queue:
                    break
                if self._feed_one(slot, batches, now):
                    still.append(slot)
            ready = still
        for slot_id, tasks in batches.items():
            self._effects.append(self._functions.run_tasks(self._slots[slot_id], tasks))

    def _feed_one(self, slot: Slot, batches: dict[SlotId, list[SlotTask]], now: float) -> bool:
        """Give the slot the next task of its owner, if there is one for which it has capacity."""
        owner = self._queue.neediest(self._slots.values()) if slot.owner is None else slot.owner
        task = self._queue.first(owner)
        if task is None:
            return False
        a, body = task.assignment, task.assignment.body
        calls, timeout = body.kind.calls, body.options.timeout
        estimate = self._functions.estimate(task)
        if not slot.has_capacity(estimate, timeout is not None, calls):
            if calls > slot.calls_left:
                slot.leave()  # a new process takes the task
            return False
        self._queue.pop(owner, now)
        task.estimate = max(estimate, 0.0)
        slot.put(task, now)
        if timeout is not None:
            self._stops.limit(task, now + timeout)
        entry = SlotTask(
            task.number,
            a.id,
            self._functions.name_of(task),
            a.begun,
            body.function,
            body.payload,
            body.kind,
            body.initializer,
            body.depth,
            a.values,
            body.options.retry_on,
        )
        batches.setdefault(slot.id, []).append(entry)
        return True
