"""The ends of tasks: the changes of their records, and the receivers of their outcomes.

An outcome goes to the task's client until that acknowledges it, to tasks and clients that wait for the result, to the
journal if it must be kept, and in brief to the list of recently finished tasks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobrunner.protocol.coordinator.accounts import Accounts, Quota
from jobrunner.protocol.coordinator.finished_tasks import FinishedTask, Results, beyond_quota
from jobrunner.protocol.coordinator.function_table import FunctionTable
from jobrunner.protocol.coordinator.journal_gate import JournalGate
from jobrunner.protocol.coordinator.peers import ClientSession
from jobrunner.protocol.coordinator.roster import Roster
from jobrunner.protocol.coordinator.task import CANCELLED, FAILED, TaskRecord, TaskState
from jobrunner.protocol.coordinator.task_table import TaskTable
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId, client_of, open_part
from jobrunner.protocol.wire.kinds import Bundle
from jobrunner.protocol.wire.payloads import payload_size

if TYPE_CHECKING:
    from jobrunner.protocol.coordinator.dependencies import Dependencies


class Endings:
    """The ends of tasks, and the messages about them to their clients."""

    def __init__(
        self,
        *,
        tasks: TaskTable,
        roster: Roster,
        functions: FunctionTable,
        accounts: Accounts,
        results: Results,
        journal_gate: JournalGate,
        crash_limit: int,
        quota: Quota,
    ) -> None:
        self._tasks = tasks
        self._roster = roster
        self._functions = functions
        self._accounts = accounts
        self._results = results
        self._journal_gate = journal_gate
        self._crash_limit = crash_limit
        self._quota = quota
        self._dependencies: Dependencies

    def tell(self, dependencies: Dependencies) -> None:
        """Set the dependencies, which are told of every end: dependent tasks, and clients that ask for it."""
        self._dependencies = dependencies

    def finish(self, record: TaskRecord, outcome: m.Outcome, state: TaskState, now: float) -> None:
        client = record.client
        client.account.remove_call(record.size, record.body.options.resources)
        self._dependencies.drop(record)
        excess = self._kept_excess(record, outcome, now)
        if excess:
            outcome, state = beyond_quota(record.id, excess)._replace(attempt=record.attempt), FAILED
        self._tasks.move(record, state, now)
        record.finish(outcome)
        self._functions.release(record.function)
        if record.initializer is not None:
            self._functions.release(record.initializer)
        self._tasks.remove(record)
        client.remove_task(record)
        if self._roster.has_client(client):
            client.add_done(record)
            self.tell_client(client, outcome)
        else:
            record.drop_payload()
        self._remember(record, outcome, now)
        record.drop_body()

    def _kept_excess(self, record: TaskRecord, outcome: m.Outcome, now: float) -> str:
        """Return why keeping that outcome is too much for its owner, or an empty string.

        Nobody knew the size of the outcome when the call was accepted.
        """
        if not record.body.options.detach or not (outcome.payload or outcome.detail):
            return ""
        account = record.client.account
        excess = account.bytes_excess(FinishedTask("", outcome, now).size, self._quota)
        size = payload_size(outcome.payload)
        return excess and f"its result, of {size:,} bytes, is not kept: {excess}"

    def _remember(self, record: TaskRecord, outcome: m.Outcome, now: float) -> None:
        """Keep the outcome for those who want to know now, and for those who may ask later."""
        account = record.client.account
        ended = FinishedTask(record.name, outcome, now, account, isinstance(record.body.kind, Bundle))
        if record.body.options.detach:
            self._results.keep(ended)
        elif outcome.status != m.CANCELLED:
            self._results.add(ended)
        if self._journal_gate.enabled:
            if record.body.options.detach:
                self._journal_gate.note_outcome(record.name, outcome)
            else:
                self._journal_gate.note_gone(record.id)
        if not account.clients:
            self._accounts.drop_idle(account)
        interest = record.take_interest()
        if interest is not None:
            self._dependencies.notify(interest, ended, now)
        if self._dependencies.unknown_calls:
            self._dependencies.bundle_ended(ended, now)

    def finish_cancelled(self, record: TaskRecord, now: float) -> None:
        """End a task that somebody wanted cancelled and for which there is no outcome of a worker."""
        self.finish(record, m.Outcome(record.id, record.attempt, m.CANCELLED), CANCELLED, now)

    def finish_lost(self, record: TaskRecord, outcome: m.Outcome, now: float) -> None:
        """End a task whose process or worker died too often, or died under it when it was to be cancelled."""
        if record.cancel_asked:
            self.finish_cancelled(record, now)
            return
        if isinstance(record.body.kind, Bundle):
            self.leave_to_client(record, record.weight)
        detail: m.Detail = {**(outcome.detail or {})}
        detail["attempts"] = list(record.history or ())
        if record.body.options.at_most_once:
            detail["at_most_once"] = True
        elif record.crashes >= self._crash_limit:
            detail["limit"] = self._crash_limit
        self.finish(record, outcome._replace(detail=detail), FAILED, now)

    def leave_to_client(self, record: TaskRecord, calls: int) -> None:
        """Note that this number of a bundle's calls will be submitted again, so that they do not count twice."""
        record.client.unfinished -= calls
        record.client.submitted -= calls
        self._tasks.lighten(record, calls)

    def tell_client(self, client: ClientSession, outcome: m.Outcome) -> None:
        client.outcomes.append(outcome)
        self._roster.flush_later(client)

    def tell_again(self, client: ClientSession, outcome: m.Outcome) -> None:
        """Send an outcome again, but only once in a turn, because a short request asks for something large."""
        if outcome.id not in client.resent:
            client.resent.add(outcome.id)
            bundle = outcome.status == m.SPLIT and "running" in (outcome.detail or {})
            if bundle and client_of(outcome.id) == client.id:
                client.awaiting_resubmission.add(open_part(outcome.id))
            self.tell_client(client, outcome)

    def tell_accepted(self, record: TaskRecord) -> None:
        """Tell a client that its task was accepted, unless it depends on a result that only the client may have."""
        if self._journal_gate.is_unwritten(record.id) or not self._dependencies.are_found(record):
            return
        record.client.accepted.append(record.id)
        self._roster.flush_later(record.client)

    def acknowledged(self, client: ClientSession, outcomes: list[m.Outcome]) -> None:
        """Note that the client has these outcomes, so that only a brief description of them must be kept."""
        if not client.resubmission_complete:
            return  # a Submit of this session, which is still under way, may name them
        for outcome in outcomes:
            if outcome.id in client.unnamed:
                client.unnamed[outcome.id] = True
                record = client.done.get(outcome.id)
            else:
                record = client.take_done(outcome.id)
            if record is not None:
                record.drop_payload()

    def forget_untaken_outcomes(self, client: ClientSession) -> None:
        """Drop the outcomes that a client has not acknowledged and will not get any more."""
        for record in client.done.values():
            record.drop_payload()
        client.clear_done()

    def forget_outcome(self, task_id: TaskId) -> bool:
        """Drop the outcome of a detached task; return False if there is none."""
        kept = self._results.forget_outcome(task_id)
        if kept is None:
            return False
        if kept.account is not None:
            self._accounts.drop_idle(kept.account)
        if self._journal_gate.enabled:
            self._journal_gate.note_gone(task_id)
        return True

    def forget_outdated_outcomes(self, before: float) -> None:
        for task_id in self._results.outdated(before):
            self.forget_outcome(task_id)
