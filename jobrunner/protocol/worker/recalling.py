"""The way of tasks back from slots in which they wait too long.

A slot whose task turns out to be long gives back the tasks behind it (RecallTasks). If it has not answered for a while,
because a call blocks its whole process, the tasks are taken from it without its help (RetractTasks). Each slot knows
when each of these is due (`slots`).
"""

from __future__ import annotations

from jobrunner.protocol.effects import (
    Effect,
    InterruptTask,
    RecallTasks,
    RetractTasks,
    SlotRetracted,
    SlotReturned,
)
from jobrunner.protocol.tuning import RUNNING_AFTER, UNKNOWN
from jobrunner.protocol.worker.announcements import Announcements
from jobrunner.protocol.worker.local_tasks import LocalTasks
from jobrunner.protocol.worker.slot_table import SlotTable
from jobrunner.protocol.worker.slots import Owner, Slot


class Recalling:
    """The recalls of slots; this class owns the fields `recalled`, `recalled_at` and `retracted_at` of a Slot."""

    def __init__(
        self,
        slot_table: SlotTable,
        local_tasks: LocalTasks,
        announcements: Announcements,
        effects: list[Effect],
    ) -> None:
        self._slot_table = slot_table
        self._slots = slot_table.slots
        self._local_tasks = local_tasks
        self._announcements = announcements
        self._effects = effects

    def recall(self, slot: Slot, now: float, *, bundle: bool = True) -> None:
        """Ask the slot for the tasks that it has not begun; `bundle` includes the rest of a bundle that it runs."""
        slot.recalled, slot.recalled_at = True, now
        self._effects.append(RecallTasks(slot.id, bundle))

    def returned(self, event: SlotReturned, now: float) -> None:
        """Take back the tasks that the slot has returned."""
        slot = self._slots.get(event.slot)
        if slot is None:
            return
        slot.recalled = False
        self._take_back(slot, event.numbers, now)
        running = slot.running()
        if running is not None and running.stop_reason is not None and running.stop_stage == 1:
            # The task may have begun after its interrupt had found another one running.
            self._effects.append(InterruptTask(slot.id, running.number))

    def retracted(self, event: SlotRetracted, now: float) -> None:
        """Take back tasks that were retracted.

        The slot gets no further tasks before it has answered the recall.
        """
        slot = self._slots.get(event.slot)
        if slot is None:
            return
        self._take_back(slot, event.numbers, now)
        if not slot.queue:
            slot.leave()  # nobody waits for the call that keeps its process busy

    def watch(self, now: float) -> None:
        """Recall tasks behind one that turns out to be long, and announce tasks that have been running for a while."""
        spare = self._spare_for()
        for slot in self._slots.values():
            running = slot.running()
            if running is None:
                self._slot_table.kill_if_late(slot, now)
                continue
            recall_at = slot.recall_at(slot.owner in spare)
            if recall_at is not None and now >= recall_at:
                self.recall(slot, now, bundle=slot.is_stuck(now))
            retract_at = slot.retract_at()
            if retract_at is not None and now >= retract_at:
                slot.retracted_at = now
                chunks = tuple(number for number, task in slot.queue.items() if task.may_be_divided)
                self._effects.append(RetractTasks(slot.id, chunks))
            if not running.announced and now >= slot.progress + RUNNING_AFTER:
                self._announcements.runs(running)

    def times(self) -> list[float | None]:
        """Return the times at which `watch` has something to do."""
        times: list[float | None] = []
        spare = self._spare_for()
        for slot in self._slots.values():
            running = slot.running()
            if running is None:
                times.append(slot.kill_at)
                continue
            times += [slot.recall_at(slot.owner in spare), slot.retract_at()]
            if not running.announced:
                times.append(slot.progress + RUNNING_AFTER)
        return times

    def _take_back(self, slot: Slot, numbers: list[int], now: float) -> None:
        """Put the tasks with these numbers back at the head of the queue, in order."""
        tasks = [task for number in numbers if (task := slot.take_back(number)) is not None]
        for task in reversed(tasks):
            self._local_tasks.requeue(task)
        self._local_tasks.queue.moved(now)

    def _spare_for(self) -> set[Owner | None]:
        """Return the owners whose tasks an idle slot could take."""
        if self._local_tasks.queue:
            return set()
        idle = {slot.owner for slot in self._slots.values() if slot.has_capacity(UNKNOWN, alone=True)}
        return {slot.owner for slot in self._slots.values()} if None in idle else idle
