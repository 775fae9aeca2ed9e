"""The end of a worker: it drains, and stops when its tasks have ended; or it gives up, because it is of no use.

A draining worker accepts no new tasks, gives its queue back, and lets running tasks end until `drain_timeout`. Tasks
that have not ended by then are given back too, except those that may run only once.
"""

from __future__ import annotations

from jobrunner.protocol.effects import Effect, GiveUp, Log, Stop
from jobrunner.protocol.session import Session
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.worker.local_tasks import LocalTasks
from jobrunner.protocol.worker.recalling import Recalling
from jobrunner.protocol.worker.slot_table import SlotTable
from jobrunner.protocol.worker.unacknowledged import Unacknowledged


class Leaving:
    """The end of a worker: whether it drains, and whether it has stopped."""

    def __init__(
        self,
        slot_table: SlotTable,
        local_tasks: LocalTasks,
        recalling: Recalling,
        unacknowledged: Unacknowledged,
        session: Session,
        effects: list[Effect],
        drain_timeout: float,
    ) -> None:
        self._slot_table = slot_table
        self._local_tasks = local_tasks
        self._recalling = recalling
        self._unacknowledged = unacknowledged
        self._session = session
        self._effects = effects
        self._drain_timeout = drain_timeout
        self.draining = False
        self.drain_until: float | None = None
        """The time at which the worker leaves in any case."""
        self.stopped = False
        """True if the worker has ended, so that no event has an effect any more."""

    def drain(self, now: float) -> None:
        """Accept no new tasks, and leave as soon as the running ones have ended."""
        if self.draining:
            return
        self.draining = True
        self._slot_table.close()
        self.drain_until = now + self._drain_timeout
        slots = self._slot_table.slots.values()
        running = sum(len(slot.queue) for slot in slots)
        self._log("info", f"draining: {running} tasks are running; interrupt again to leave at once")
        if self._session.open:
            self._effects.append(self._session.send(m.Drain(), now))
            if self._local_tasks.queue:
                self._local_tasks.give_back(now)
        for slot in slots:
            if len(slot.queue) > 1:
                self._recalling.recall(slot, now)

    def leave_if_done(self, now: float) -> None:
        """Stop if the worker drains and has nothing left to do, or has no time left."""
        if not self.draining:
            return
        tasks, queue, slots = (
            self._local_tasks.tasks,
            self._local_tasks.queue,
            self._slot_table.slots.values(),
        )
        if queue and self._session.open:
            self._local_tasks.give_back(now)
        for slot in slots:
            if slot.idle and slot.owner is not None and not queue:
                self._slot_table.end(slot, now)
        out_of_time = self.drain_until is not None and now >= self.drain_until
        ending = any(slot.kill_at is not None for slot in slots)
        busy = tasks or ending or self._unacknowledged.undelivered()
        if self.stopped or (busy and not out_of_time):
            return
        if tasks and self._session.open:
            self._log("warning", f"{len(tasks)} tasks did not finish in time; they run again elsewhere")
            # A running task that may run only once is not given back: it is lost.
            pairs = [
                (task.id, task.assignment.attempt)
                for task in tasks.values()
                if not task.assignment.body.options.at_most_once
            ]
            self._effects.append(self._session.send(m.TasksReturned(pairs, begun=True), now))
        if self._session.open:
            self._effects.append(self._session.send(m.Goodbye(), now))
        self.stopped = True
        self._effects.append(Stop())

    def give_up(self, error: str, kind: str) -> None:
        """Stop with an error of that kind, because no coordinator accepts this worker or no slot can be started."""
        self.stopped = True
        self._effects.append(GiveUp(error, kind))

    def _log(self, level: str, text: str) -> None:
        self._effects.append(Log(level, text))
