"""The reports of slots about their tasks: how they end, what they print and wait for, and that the process has died.

When a slot's process dies, the task that ran in it has crashed, and the others in it return to the head of the queue.
"""

from __future__ import annotations

from jobrunner.protocol.effects import (
    INITIALIZER_FAILED,
    SlotAwaits,
    SlotBlocked,
    SlotExited,
    SlotFinished,
    SlotPrinted,
    SlotSpoiled,
)
from jobrunner.protocol.session import Session
from jobrunner.protocol.worker import outcomes
from jobrunner.protocol.worker.announcements import Announcements
from jobrunner.protocol.worker.function_store import FunctionStore
from jobrunner.protocol.worker.local_tasks import LocalTasks
from jobrunner.protocol.worker.recalling import Recalling
from jobrunner.protocol.worker.settings import WorkerSettings
from jobrunner.protocol.worker.slot_table import SlotTable
from jobrunner.protocol.worker.unacknowledged import Unacknowledged


class SlotEvents:
    """The handler of slots' reports, which passes them on to other parts of the worker.

    Reports of ended slots are ignored.
    """

    def __init__(
        self,
        slot_table: SlotTable,
        local_tasks: LocalTasks,
        functions: FunctionStore,
        recalling: Recalling,
        announcements: Announcements,
        unacknowledged: Unacknowledged,
        session: Session,
        settings: WorkerSettings,
    ) -> None:
        self._slot_table = slot_table
        self._slots = slot_table.slots
        self._local_tasks = local_tasks
        self._functions = functions
        self._recalling = recalling
        self._announcements = announcements
        self._unacknowledged = unacknowledged
        self._session = session
        self._settings = settings

    def finished(self, event: SlotFinished, now: float) -> None:
        """End tasks that have ended by themselves or because they were interrupted."""
        slot = self._slots.get(event.slot)
        if slot is None:
            return
        slot.progresses(now)
        self._local_tasks.queue.moved(now)
        for number, status, payload, duration in event.outcomes:
            task = slot.take(number)
            if task is None:
                continue
            self._functions.took(task, duration)
            if task.was_split or (task.stop_reason is not None and status in outcomes.FAILURES):
                outcome = outcomes.stopped(task, duration, None, self._settings)
            else:
                if status == INITIALIZER_FAILED:
                    slot.leave()  # nobody knows what the interrupted task has left behind there
                excess = outcomes.too_large(task, payload, self._session.welcome, self._settings)
                outcome = excess or outcomes.ended(task, status, payload, duration, self._settings)
            self._local_tasks.end(task, outcome)
            slot.last = outcome.id, self._functions.name_of(task)

    def exited(self, event: SlotExited, now: float) -> None:
        """Handle the end of a slot's process, which has died or was told to end."""
        slot = self._slot_table.exited(event, now)
        if slot is None:
            return
        guilty = slot.queue.get(event.number) or slot.running()
        others = [task for task in slot.queue.values() if task is not guilty]
        for task in reversed(others):
            slot.take(task.number)
            self._local_tasks.requeue(task)
        if guilty is not None:
            slot.take(guilty.number)
            duration = now - slot.progress
            if guilty.stop_reason is not None:
                self._local_tasks.end(guilty, outcomes.stopped(guilty, duration, event, self._settings))
            else:
                self._local_tasks.end(guilty, outcomes.crashed(guilty, duration, event, self._settings))
        self._local_tasks.queue.moved(now)

    def blocked(self, event: SlotBlocked, now: float) -> None:
        """Note that the running task waits, or no longer waits, for its own tasks; recall the tasks behind it."""
        slot = self._slot_table.blocked(event, now)
        if slot is not None and slot.holds_back:
            self._recalling.recall(slot, now)

    def awaits(self, event: SlotAwaits, now: float) -> None:
        """Note the calls for which a task waits."""
        slot = self._slots.get(event.slot)
        task = None if slot is None else slot.queue.get(event.number)
        if task is not None:
            self._announcements.awaits(task, event)

    def spoiled(self, event: SlotSpoiled, now: float) -> None:
        """Let the slot leave, because its process must run no other task."""
        slot = self._slots.get(event.slot)
        if slot is not None:
            slot.leave()

    def printed(self, event: SlotPrinted, now: float) -> None:
        """Attribute text to the task that its slot names, to the running one, or to the last one that ran."""
        slot = self._slots.get(event.slot)
        if slot is None or not self._unacknowledged.takes_output():
            return
        for number, stream, text in event.printed:
            task = slot.queue.get(number) or slot.running()
            source = slot.last if task is None else (task.id, self._functions.name_of(task))
            if source is not None:
                self._unacknowledged.add_output(source, stream, text)
