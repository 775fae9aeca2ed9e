"""How tasks end: what becomes of the record, and who is told of the outcome.

An outcome goes to the task's client until that acknowledges it, to those who wait for the result, into the journal
where it is to be kept, and in brief into the list of what has finished lately.
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
from jobrunner.protocol.wire.details import brief
from jobrunner.protocol.wire.ids import TaskId, client_of, open_part
from jobrunner.protocol.wire.kinds import Bundle
from jobrunner.protocol.wire.payloads import payload_size

if TYPE_CHECKING:
    from jobrunner.protocol.coordinator.dependencies import Dependencies


def drop_payload(record: TaskRecord) -> None:
    """Nobody gets its result from it any more; what else is known of its end, in brief, is for the curious."""
    outcome = record.outcome
    if outcome is None:
        return
    detail = None if outcome.detail is None else brief(outcome.detail)
    if outcome.payload or detail != outcome.detail:
        record.outcome = outcome._replace(payload=b"", detail=detail)


def drop_body(record: TaskRecord) -> None:
    """It has ended, and nobody's account has what it brought along: that may be megabytes, of each of very many."""
    function, _, kind, options, initializer, depth = record.body
    if options.retry_on or options.resources:
        options = m.TaskOptions(options.name, options.priority, options.retries)
        record.amounts = ()
    record.body = m.CallBody(function, b"", kind, options, initializer, depth)
    record.depends_on = record.requirements = ()


class Endings:
    """Ends tasks, and tells their clients."""

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
        """Who is told of every end: tasks that depend on this one, and clients that ask for it."""
        self._dependencies = dependencies

    def finish(self, record: TaskRecord, outcome: m.Outcome, state: TaskState, now: float) -> None:
        client = record.client
        client.account.remove_call(record.size, record.body.options.resources)
        self._dependencies.drop(record)
        excess = self._kept_excess(record, outcome, now)
        if excess:
            outcome, state = beyond_quota(record.id, excess)._replace(attempt=record.attempt), FAILED
        self._tasks.move(record, state, now)
        record.outcome = outcome
        self._functions.release(record.function)
        if record.initializer is not None:
            self._functions.release(record.initializer)
        self._tasks.remove(record)
        client.remove_task(record)
        record.failed_dependency = None  # with the outcome of what it needed
        if self._roster.has_client(client):
            client.add_done(record)
            self.tell_client(client, outcome)
        else:
            drop_payload(record)
        self._remember(record, outcome, now)
        drop_body(record)

    def _kept_excess(self, record: TaskRecord, outcome: m.Outcome, now: float) -> str:
        """Why it is too much for its owner to keep that outcome; empty: it is not, or is not to be kept.

        When the call was accepted, nobody knew how much it would be.
        """
        if not record.body.options.detach or not (outcome.payload or outcome.detail):
            return ""
        account = record.client.account
        excess = account.bytes_excess(FinishedTask("", outcome, now).size, self._quota)
        size = payload_size(outcome.payload)
        return excess and f"its result, of {size:,} bytes, is not kept: {excess}"

    def _remember(self, record: TaskRecord, outcome: m.Outcome, now: float) -> None:
        """For those who want to know now, and those who may ask later."""
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
        interest, record.interest = record.interest, None
        if interest is not None:
            self._dependencies.notify(interest, ended, now)
        if self._dependencies.unknown_calls:
            self._dependencies.bundle_ended(ended, now)

    def finish_cancelled(self, record: TaskRecord, now: float) -> None:
        """End a task that somebody wanted cancelled, with no outcome of a worker's."""
        self.finish(record, m.Outcome(record.id, record.attempt, m.CANCELLED), CANCELLED, now)

    def finish_lost(self, record: TaskRecord, outcome: m.Outcome, now: float) -> None:
        """The process or worker died once too often, or died under a task that was to be cancelled."""
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
        """So many calls of a bundle will be submitted again: they do not count as ended, nor twice as submitted."""
        record.client.unfinished -= calls
        record.client.submitted -= calls
        self._tasks.lighten(record, calls)

    def tell_client(self, client: ClientSession, outcome: m.Outcome) -> None:
        client.outcomes.append(outcome)
        self._roster.flush_later(client)

    def tell_again(self, client: ClientSession, outcome: m.Outcome) -> None:
        """Once in a turn, however often it asks: a few bytes ask for something large."""
        if outcome.id not in client.resent:
            client.resent.add(outcome.id)
            bundle = outcome.status == m.SPLIT and "running" in (outcome.detail or {})
            if bundle and client_of(outcome.id) == client.id:
                client.awaiting_resubmission.add(open_part(outcome.id))
            self.tell_client(client, outcome)

    def tell_accepted(self, record: TaskRecord) -> None:
        """Not as long as it needs what only its client may have."""
        if self._journal_gate.is_unwritten(record.id) or not self._dependencies.are_found(record):
            return
        record.client.accepted.append(record.id)
        self._roster.flush_later(record.client)

    def acknowledged(self, client: ClientSession, outcomes: list[m.Outcome]) -> None:
        """The client has these outcomes: nothing more needs to be kept, but a trace for the curious."""
        if not client.resubmission_complete:
            return  # a Submit of this session, still under way, may name them
        for outcome in outcomes:
            if outcome.id in client.unnamed:
                client.unnamed[outcome.id] = True
                record = client.done.get(outcome.id)
            else:
                record = client.take_done(outcome.id)
            if record is not None:
                drop_payload(record)

    def forget_untaken_outcomes(self, client: ClientSession) -> None:
        """It will not have the outcomes any more that it has not acknowledged."""
        for record in client.done.values():
            drop_payload(record)
        client.clear_done()

    def forget_outcome(self, task_id: TaskId) -> bool:
        """Drop the outcome of a detached task; False if there is none."""
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
