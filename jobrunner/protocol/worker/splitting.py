"""The split of bundles and the division of chunks while they run in a slot.

The bundle or chunk ends with the outcome "split", and the part of it that its slot has begun continues there as a task
of its own, which the client will name. If the client has named that task before, as one of several, the two are
different attempts, and the running one is stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from jobrunner.protocol.bundles import call_of
from jobrunner.protocol.chunks import kept, may_stop, part_id
from jobrunner.protocol.effects import DivideChunk, Effect, SlotDivided, SlotSplit
from jobrunner.protocol.session import Session
from jobrunner.protocol.wire.ids import SlotId, TaskId
from jobrunner.protocol.worker import outcomes
from jobrunner.protocol.worker.announcements import Announcements
from jobrunner.protocol.worker.local_tasks import LocalTasks
from jobrunner.protocol.worker.settings import WorkerSettings
from jobrunner.protocol.worker.slots import Slot
from jobrunner.protocol.worker.stopping import Stopping
from jobrunner.protocol.worker.stops import Stops


class Splitting:
    """The splits and divisions; this class owns the fields `division` and `division_asked_at` of a Slot."""

    def __init__(
        self,
        slots: Mapping[SlotId, Slot],
        local_tasks: LocalTasks,
        stops: Stops,
        stopping: Stopping,
        announcements: Announcements,
        session: Session,
        settings: WorkerSettings,
        effects: list[Effect],
    ) -> None:
        self._slots = slots
        self._local_tasks = local_tasks
        self._stops = stops
        self._stopping = stopping
        self._announcements = announcements
        self._session = session
        self._settings = settings
        self._effects = effects

    def bundle_split(self, event: SlotSplit, now: float) -> None:
        """End a bundle, whose running call continues as a task of its own."""
        slot = self._slots.get(event.slot)
        task = None if slot is None else slot.queue.get(event.number)
        if slot is None or task is None or not task.bundled:
            return
        bundle = task.assignment
        running = call_of(bundle, event.running, b"")._replace(attempt=1, unbegun=0)
        if task.stop_reason is None and running.id in self._local_tasks.tasks:
            # The bundle is an old one whose calls the client has named since, so one of the two attempts must end.
            self._stopping.stop(task, now)
        if task.stop_reason is not None:
            task.was_split = True
            return
        slot.give_back_calls(task.elements - event.running - 1)
        excess = outcomes.too_large(task, event.payload, self._session.welcome, self._settings)
        self._local_tasks.end(
            task, excess or outcomes.split(task, event.running, event.payload, self._settings)
        )
        self._local_tasks.go_on(task, running)
        self._announcements.repeat(task)
        if excess is not None:  # the client then submits each of the calls again
            self._stopping.stop(task, now)

    def divide(self, ids: Iterable[TaskId], now: float) -> None:
        """Ask the slots that run these chunks for the elements that have not begun."""
        for task_id in ids:
            task = self._local_tasks.tasks.get(task_id)
            if task is not None and task.slot is not None and task.is_chunk and task.stop_reason is None:
                task.slot.division, task.slot.division_asked_at = task.number, now
                self._effects.append(DivideChunk(task.slot.id, task.number))

    def chunk_divided(self, event: SlotDivided, now: float) -> None:
        """End a chunk, of which the part that its slot has begun continues as a task of its own."""
        slot = self._slots.get(event.slot)
        if slot is not None and slot.division == event.number:
            slot.division = 0
        task = None if slot is None else slot.queue.get(event.number)
        if slot is None or task is None or not may_stop(task.assignment, event.stop):
            return
        chunk = task.assignment
        if task.stop_reason is None and part_id(chunk.id, event.stop) in self._local_tasks.tasks:
            # As with a bundle, the chunk is an old one, so one of the two attempts must end.
            self._stopping.stop(task, now)
        if task.stop_reason is not None:
            task.was_split = True
            return
        stop_at = task.stop_at
        self._local_tasks.end(task, outcomes.divided(task, event.stop, self._settings))
        part = kept(chunk, event.stop)._replace(attempt=1, unbegun=0)
        self._local_tasks.go_on(task, part)
        slot.give_back_calls(chunk.body.kind.calls - part.body.kind.calls)
        self._announcements.repeat(task)
        whole, left = chunk.body.options.timeout, part.body.options.timeout
        if stop_at is not None and whole is not None and left is not None:
            self._stops.limit(task, stop_at - (whole - left))
