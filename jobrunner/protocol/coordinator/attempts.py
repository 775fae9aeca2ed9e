"""The attempts of tasks: they are bound to a worker, run and end; workers are lost and come back.

A worker's report counts only for the present attempt of a task that is bound to it. A report about any other attempt
changes nothing, and an attempt for which nobody waits any more is fenced: the worker is told to stop it.
"""

from __future__ import annotations

from jobrunner.protocol import retry
from jobrunner.protocol.chunks import part_id
from jobrunner.protocol.coordinator.deadlocks import Deadlocks
from jobrunner.protocol.coordinator.dispatcher import Dispatcher
from jobrunner.protocol.coordinator.division import Division
from jobrunner.protocol.coordinator.endings import Endings
from jobrunner.protocol.coordinator.function_table import FunctionTable
from jobrunner.protocol.coordinator.journal_gate import Begin, JournalGate
from jobrunner.protocol.coordinator.missing_modules import MissingModules
from jobrunner.protocol.coordinator.orphans import OrphanedTask, Orphans
from jobrunner.protocol.coordinator.peers import WorkerSession
from jobrunner.protocol.coordinator.roster import Roster
from jobrunner.protocol.coordinator.task import (
    ACTIVE,
    ASSIGNED,
    CANCELLED,
    CANCELLING,
    FAILED,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    WAITING,
    TaskRecord,
    WaitReason,
)
from jobrunner.protocol.coordinator.task_table import TaskTable
from jobrunner.protocol.estimates import updated_estimate
from jobrunner.protocol.tuning import UNKNOWN
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId, call_id, client_of, open_part
from jobrunner.protocol.wire.kinds import Bundle, Chunk

BEGIN_AGAIN_AFTER = 1.0
"""Time in seconds after which the coordinator tries again to write to the journal that an at-most-once call begins."""

LATEST_REATTACHED = 2**30
"""Maximum number of a reattached attempt, because later attempts have higher numbers, which must fit into a message."""


class Attempts:
    """The moves of tasks between the queue and the workers."""

    def __init__(
        self,
        *,
        crash_limit: int,
        tasks: TaskTable,
        roster: Roster,
        functions: FunctionTable,
        journal_gate: JournalGate,
        dispatcher: Dispatcher,
        orphans: Orphans,
        endings: Endings,
        missing_modules: MissingModules,
        division: Division,
        deadlocks: Deadlocks,
    ) -> None:
        self._crash_limit = crash_limit
        self._tasks = tasks
        self._roster = roster
        self._functions = functions
        self._journal_gate = journal_gate
        self._dispatcher = dispatcher
        self._orphans = orphans
        self._endings = endings
        self._missing_modules = missing_modules
        self._division = division
        self._deadlocks = deadlocks
        self.stale_outcomes = 0
        """Number of outcomes that were not of a present attempt."""

    # --- what workers say ---

    def is_unheard(self, worker: WorkerSession, task_id: TaskId, attempt: int) -> bool:
        """Return whether this attempt is at the worker, and the worker has not acknowledged its assignment.

        Everything that a worker reports about an attempt comes with that acknowledgement.
        """
        record = self._tasks.get(task_id)
        if record is None or record.worker is not worker or record.attempt != attempt:
            return False
        return record.sent_in > worker.link.acknowledged

    def outcome(self, worker: WorkerSession, outcome: m.Outcome, now: float) -> None:
        """End an attempt; an outcome changes nothing unless it is of the present attempt, from its worker."""
        self._dispatcher.wake(worker)
        record = self._tasks.get(outcome.id)
        if record is None:
            held = self._orphans.get(outcome.id)
            if held is not None and held.worker is worker and held.attempt == outcome.attempt:
                self._orphans.ended(outcome.id, outcome)
                if outcome.status == m.SPLIT:
                    self.goes_on(worker, outcome, now)
            else:
                self.stale_outcomes += 1
            return
        if record.worker is not worker or record.attempt != outcome.attempt or record.state not in ACTIVE:
            self.stale_outcomes += 1
            return
        worker.completed += record.weight
        worker.prefetch = True
        self._release(record)
        if outcome.status == m.SPLIT:
            self._split(record, outcome, worker, now)
        elif record.initializer is not None and outcome.detail and "setup" in outcome.detail:
            record.ended = record.attempt
            self._missing_modules.initializer_failed(worker, record, outcome, now)
        else:
            self._ended(record, outcome, now)

    def returned(
        self,
        worker: WorkerSession,
        task_id: TaskId,
        attempt: int,
        now: float,
        *,
        prefetch: bool = False,
        begun: bool = False,
    ) -> None:
        """Take back a task from a worker, which has not started it unless `begun`.

        `prefetch` tells that the worker did not have too many tasks.
        """
        record = self._tasks.get(task_id)
        if record is None:
            held = self._orphans.get(task_id)
            if held is not None and held.worker is worker and held.attempt == attempt:
                self._orphans.take(task_id)
            return
        if record.worker is not worker or record.attempt != attempt or record.state not in ACTIVE:
            return
        worker.prefetch = prefetch
        if begun:
            record.ended = attempt
        else:
            record.not_begun()
        self._release(record)
        self.again(record, now)

    def started(self, worker: WorkerSession, task_id: TaskId, now: float) -> None:
        record = self._tasks.get(task_id)
        held = self._orphans.get(task_id) if record is None else None
        if held is not None and held.worker is worker:
            held.running = True
        if record is not None and record.worker is worker and record.state == ASSIGNED:
            self._tasks.move(record, RUNNING, now)
            self._division.started(record)
            watchers = () if record.interest is None else record.interest.watchers
            others = [self._roster.clients[client] for client in watchers if client in self._roster.clients]
            for client in (record.client, *others):
                client.running.append(task_id)
                self._roster.flush_later(client)

    def cancel_refused(self, worker: WorkerSession, task_id: TaskId) -> None:
        record = self._tasks.get(task_id)
        if record is None or record.worker is not worker or record.state == CANCELLING:
            return
        record.keep()
        record.client.refused.append(task_id)
        self._roster.flush_later(record.client)

    # --- how attempts begin ---

    def assign(self, record: TaskRecord, worker: WorkerSession, now: float) -> None:
        record.attempt += 1
        record.claimed = False
        self._bind(record, worker, now)
        if record.body.options.at_most_once and self._journal_gate.enabled:
            self._journal_gate.withhold(record)
        else:
            worker.assigned.append(record)
            self._roster.flush_later(worker)

    def _bind(self, record: TaskRecord, worker: WorkerSession, now: float) -> None:
        estimate = record.function.estimate
        record.estimate = estimate if estimate == UNKNOWN else estimate * record.elements
        self._tasks.move(record, ASSIGNED, now)
        record.note_sent(0)
        worker.take(record)

    def _release(self, record: TaskRecord) -> None:
        worker = record.worker
        assert worker is not None
        self._journal_gate.let_go(record)
        self._deadlocks.waits_no_more(record)
        worker.release(record)
        self._division.released(record)
        if self._roster.has_worker(worker):  # the worker may be lost, and only its outcome may be here
            self._roster.may_have_room(worker)

    def withdraw(self, record: TaskRecord) -> None:
        """Take a withheld call back from its worker, which has not heard of it."""
        record.not_begun()
        self._release(record)

    def begin_later(self, begins: list[Begin], now: float) -> list[TaskRecord]:
        """Postpone calls whose beginning could not be written to the journal; return those that have not ended."""
        held_back = self._journal_gate.still_withheld(begins)
        for record in held_back:
            self.withdraw(record)
            self._tasks.move(record, WAITING, now)
            self._dispatcher.delay(record, now + BEGIN_AGAIN_AFTER, WaitReason.JOURNAL)
        return held_back

    def note_later(self, records: list[TaskRecord]) -> None:
        """Note postponed calls as not begun, because the journal may be about to say that they have begun."""
        for record in records:
            if self._tasks.get(record.id) is record:
                self._note_progress(record)

    def send_withheld(self) -> None:
        """Send withheld calls whose beginning is written by now to their workers, at the end of the turn."""
        for record in self._journal_gate.take_written():
            assert record.worker is not None
            self._journal_gate.let_go(record)
            record.worker.assigned.append(record)
            self._roster.flush_later(record.worker)

    def _note_progress(self, record: TaskRecord) -> None:
        if self._journal_gate.enabled:
            self._journal_gate.note_progress(record)

    # --- how attempts end ---

    def _ended(self, record: TaskRecord, outcome: m.Outcome, now: float) -> None:
        status = outcome.status
        record.ended = record.attempt
        if status == m.OK:
            function = record.function
            function.estimate = updated_estimate(function.estimate, outcome.duration / record.elements)
            self._endings.finish(record, outcome, SUCCEEDED, now)
            return
        if status == m.CANCELLED:
            if record.cancel_asked:
                self._endings.finish(record, outcome, CANCELLED, now)
            else:
                self.again(record, now)
            return
        error = m.error_of(outcome)
        record.record_event(f"attempt {record.begun} on {record.worker and record.worker.name}: {error}")
        if status == m.CRASHED:
            record.crashes += 1
        else:
            record.failures += 1
        final = bool(outcome.detail and outcome.detail.get("final"))
        verdict = self._verdict(record, status, final=final)
        if verdict is not retry.FINISH:
            self._note_progress(record)
        if verdict is retry.REQUEUE:
            self.again(record, now)
        elif isinstance(verdict, retry.RetryAfter):
            self._tasks.move(record, WAITING, now)
            self._dispatcher.delay(record, now + verdict.seconds, WaitReason.BACKOFF)
        elif status == m.CRASHED:
            self._endings.finish_lost(record, outcome, now)
        else:
            self._endings.finish(record, outcome, FAILED, now)

    def _verdict(self, record: TaskRecord, status: m.Status, *, final: bool = False) -> retry.Verdict:
        """Return what follows this end of the record's attempt, which its counts include already."""
        return retry.decide(
            record.body.options,
            status,
            failures=record.failures,
            crashes=record.crashes,
            crash_limit=self._crash_limit,
            final=final or record.cancel_asked,
            splits=retry.is_split_after(status, record.body.kind, record.elements),
        )

    def _split(
        self, record: TaskRecord, outcome: m.Outcome, worker: WorkerSession, now: float, *, fresh: bool = True
    ) -> None:
        """End a bundle that was split. Its client names the running call as soon as it knows, and then the others.

        `fresh` is False if the worker reported it before the client named the bundle; the running call may have ended
        since.
        """
        if isinstance(record.body.kind, Chunk):
            self._division.divided(record, outcome, worker, now, fresh)
            return
        running = (outcome.detail or {}).get("running", -1)
        if not isinstance(record.body.kind, Bundle) or not 0 <= running < record.body.kind.calls:
            detail: m.Detail = {"error": f"worker {worker.name} split a bundle that it did not have"}
            self._endings.finish(
                record, m.Outcome(record.id, record.attempt, m.LOST, detail=detail), FAILED, now
            )
            return
        if record.state == CANCELLING and record.cancel_asked:
            self._roster.fence(worker, call_id(record.id, running))
            self._endings.finish_cancelled(record, now)
            return
        self._endings.leave_to_client(record, record.body.kind.calls - running)
        record.client.awaiting_resubmission.add(open_part(record.id))
        self._endings.finish(record, outcome, SUCCEEDED, now)
        if fresh:
            self.goes_on(worker, outcome, now)

    def again(self, record: TaskRecord, now: float) -> None:
        """Put a task back at the head of the queue, unless it must be cancelled."""
        if record.cancel_asked:
            self._endings.finish_cancelled(record, now)
            return
        if record.failed_dependency is not None:
            self._endings.finish(record, record.failed_dependency, FAILED, now)
        elif record.unresolved_count:
            self._tasks.move(record, WAITING, now)
            record.wait_for(WaitReason.DEPENDENCIES)
        else:
            self._tasks.move(record, QUEUED, now)
            self._dispatcher.queue.push(record, front=True)

    # --- workers that come back, or do not ---

    def reattach(self, worker: WorkerSession, held: list[m.Held], now: float) -> None:
        """Reattach the tasks of a worker that has come back: keep those that are still its own, fence the others."""
        self._dispatcher.wake(worker)
        for record in worker.tasks.values():
            self._deadlocks.waits_no_more(record)  # its worker reports its wait again
            record.note_sent(0)
        still_there = {(entry.id, entry.attempt) for entry in held}
        gone = [r for r in worker.tasks.values() if (r.id, r.attempt) not in still_there]
        for record in reversed(gone):  # each goes to the head of the queue, so the order is reversed
            self._release(record)
            if record.claimed:
                record.ended = (
                    record.attempt
                )  # it may have run, and its outcome may have been lost with another coordinator
                record.record_event(f"attempt {record.begun} was lost with worker {worker.name}")
            else:
                record.not_begun()
                record.record_event(f"it was lost on its way to worker {worker.name}")
            if record.claimed and record.body.options.at_most_once:
                # The worker had the task, and may have reported its end to an earlier coordinator.
                error = f"worker {worker.name} has it no more, and may have run it"
                lost = m.Outcome(record.id, record.attempt, m.LOST, detail={"error": error})
                self._endings.finish_lost(record, lost, now)
            else:
                self.again(record, now)
        self._orphans.drop_those_at(worker)
        for entry in held:
            self._reattach_one(worker, entry, now)
        self._division.asked_in_vain(worker)

    def _reattach_one(self, worker: WorkerSession, entry: m.Held, now: float) -> None:
        record = self._tasks.get(entry.id)
        if entry.attempt > LATEST_REATTACHED:
            self._roster.fence(worker, entry.id)
        elif record is None:
            self._reattach_unknown(worker, entry, now)
        elif (
            record.state in (QUEUED, WAITING)
            and entry.attempt >= record.attempt
            and entry.attempt > record.ended
        ):
            self.claim(record, OrphanedTask(worker, entry, now), now)
        elif record.worker is not worker or record.attempt != entry.attempt:
            self._roster.fence(worker, entry.id)
        elif record.cancel_asked and record.state in ACTIVE:
            # The request may have been lost with the old session.
            self._roster.cancel_at(worker, entry.id, running=record.state == CANCELLING)

    def _reattach_unknown(self, worker: WorkerSession, entry: m.Held, now: float) -> None:
        """Keep a task for a client that may still name it; if two workers have it, the later attempt counts."""
        client = self._roster.clients.get(client_of(entry.id))
        if client is not None and client.resubmission_complete and not self._orphans.named_later(entry.id):
            self._roster.fence(worker, entry.id)
            return
        other = self._orphans.get(entry.id)
        if other is None or (other.outcome is None and other.attempt < entry.attempt):
            if other is not None:
                self._orphans.drop(entry.id)
            self._orphans.add(worker, entry, now)
        elif other.worker is not worker or other.attempt != entry.attempt:
            self._roster.fence(worker, entry.id)

    def claim(self, record: TaskRecord, held: OrphanedTask, now: float) -> None:
        """Join the attempt of a queued task that a worker already has, instead of starting another one."""
        if record.suspected == held.attempt:
            record.crashes -= 1  # its worker was alive all the time
            record.suspected = 0
        record.attempt = held.attempt
        record.unbegun = max(record.unbegun, held.unbegun)
        record.claimed = True
        self._bind(record, held.worker, now)
        if held.outcome is not None and held.outcome.status == m.SPLIT:
            self._release(record)
            self._split(record, held.outcome, held.worker, now, fresh=False)
        elif held.outcome is not None:
            self.outcome(held.worker, held.outcome, now)
        elif held.running:
            self.started(held.worker, record.id, now)
        if held.wait is not None and record.state in ACTIVE:
            self._deadlocks.told(held.worker, held.wait)

    def is_not_completed(self, record: TaskRecord, worker: WorkerSession) -> None:
        """Take back that the worker has completed this task, because a part of it runs on there."""
        worker.completed -= record.weight

    def goes_on(self, worker: WorkerSession, outcome: m.Outcome, now: float) -> None:
        """Continue with one call of a bundle that this worker has just split, or a part of a chunk, see `chunks`."""
        detail: m.Detail = outcome.detail or {}
        if "running" in detail:
            goes_on = call_id(outcome.id, detail["running"])
        else:
            goes_on = part_id(outcome.id, detail.get("stop", -1))
        self._reattach_one(worker, m.Held(goes_on, 1, True), now)

    def worker_lost(self, worker: WorkerSession, reason: str, now: float) -> None:
        """Queue the tasks of a lost worker again. For those that may have been running it counts as a crash."""
        records = list(worker.tasks.values())
        oldest = {record.id for record in records[: worker.slots]}
        for record in reversed(records):  # each goes to the head of the queue, so the order is reversed
            if self._journal_gate.withholds(record):
                self.withdraw(record)
                self._note_progress(record)
                self.again(record, now)
                continue
            self._release(record)
            suspect = record.state != ASSIGNED or record.id in oldest
            if suspect:
                record.crashes += 1
                record.suspected = record.attempt
                record.record_event(f"attempt {record.begun}: worker {worker.name} {reason}")
            detail: m.Detail = {
                "error": f"worker {worker.name} {reason}",
                "worker": worker.name,
                "host": worker.hello.host,
            }
            outcome = m.Outcome(record.id, record.attempt, m.LOST, detail=detail)
            verdict = self._verdict(record, m.LOST)
            if verdict is retry.REQUEUE or not (suspect or record.body.options.at_most_once):
                if suspect:
                    self._note_progress(record)
                self.again(record, now)
            else:
                self._endings.finish_lost(record, outcome, now)
        self._roster.remove_worker(worker)
        self._dispatcher.wake(worker)
        self._functions.worker_gone(worker.id)
        self._missing_modules.worker_gone(worker)
        self._orphans.drop_those_at(worker)
