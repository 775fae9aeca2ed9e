"""Cancellation tasks, at the request of their clients, of other programs or of operators."""

from __future__ import annotations

from jobrunner.protocol.coordinator.attempts import Attempts
from jobrunner.protocol.coordinator.endings import Endings
from jobrunner.protocol.coordinator.journal_gate import JournalGate
from jobrunner.protocol.coordinator.peers import ClientSession
from jobrunner.protocol.coordinator.roster import Roster
from jobrunner.protocol.coordinator.task import CANCELLING, QUEUED, RUNNING, WAITING, TaskRecord
from jobrunner.protocol.coordinator.task_table import TaskTable
from jobrunner.protocol.wire.ids import TaskId, call_id


class Cancellation:
    """Cancels tasks at once if they wait, and otherwise through the worker that has them."""

    def __init__(
        self,
        *,
        tasks: TaskTable,
        roster: Roster,
        endings: Endings,
        journal_gate: JournalGate,
        attempts: Attempts,
    ) -> None:
        self._tasks = tasks
        self._roster = roster
        self._endings = endings
        self._journal_gate = journal_gate
        self._attempts = attempts

    def cancel(self, task_id: TaskId, running: bool, now: float, asker: ClientSession | None = None) -> None:
        """Cancel a task for its client, which gets an Outcome or a CancelRefused."""
        record = self._tasks.get(task_id)
        if record is None:
            if asker is not None and task_id not in asker.done:
                asker.refused.append(task_id)
                self._roster.flush_later(asker)
            return
        if record.state in (QUEUED, WAITING):
            self._endings.finish_cancelled(record, now)
        elif record.state == RUNNING and not running:
            record.client.refused.append(task_id)
            self._roster.flush_later(record.client)
        elif self._journal_gate.withholds(record):
            self._attempts.withdraw(record)
            self._endings.finish_cancelled(record, now)
        else:
            assert record.worker is not None
            if record.cancel_asked and (record.state == CANCELLING or not running):
                return  # the worker has been told, and is told again if it comes back without having done it
            record.ask_to_cancel()
            if running and record.state != CANCELLING:
                self._tasks.move(record, CANCELLING, now)
            self._roster.cancel_at(record.worker, task_id, running=running)

    def cancel_call(self, bundle: TaskRecord, index: int, running: bool) -> None:
        """Ask the client of a bundle to cancel one of its calls, because only the client can split a bundle."""
        wanted = bundle.client.cancels
        call = call_id(bundle.id, index)
        wanted[call] = running or wanted.get(call, False)
        self._roster.flush_later(bundle.client)
