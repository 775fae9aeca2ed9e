"""The coordinator's decisions about tasks: accept, place, retry, cancel, finish.

It knows tasks, clients and workers, and leaves what is to be sent in their outboxes; sessions and messages are the
business of `coordinator_core`. The order of a turn: everything received changes the records, then `place` binds what
can be bound, then the core sends each outbox as one message.
"""

from __future__ import annotations

from jobrunner.protocol import retry
from jobrunner.protocol.bundles import place_of_call, whole_of
from jobrunner.protocol.chunks import part_id
from jobrunner.protocol.coordinator.accounts import NO_QUOTA, Account, Accounts, Quota
from jobrunner.protocol.coordinator.deadlocks import Deadlocks
from jobrunner.protocol.coordinator.dependencies import Dependencies
from jobrunner.protocol.coordinator.dispatcher import Dispatcher
from jobrunner.protocol.coordinator.division import Division
from jobrunner.protocol.coordinator.endings import Endings, drop_payload
from jobrunner.protocol.coordinator.finished_tasks import FinishedTask, Results, beyond_quota
from jobrunner.protocol.coordinator.function_table import FunctionEntry, FunctionTable
from jobrunner.protocol.coordinator.journal_gate import Begin, JournalGate
from jobrunner.protocol.coordinator.missing_modules import MissingModules
from jobrunner.protocol.coordinator.orphans import OrphanedTask, Orphans
from jobrunner.protocol.coordinator.peers import ClientSession, WorkerSession
from jobrunner.protocol.coordinator.python_versions import PythonVersions
from jobrunner.protocol.coordinator.resources import requirements_of
from jobrunner.protocol.coordinator.roster import Roster
from jobrunner.protocol.coordinator.task import (
    ACTIVE,
    ASSIGNED,
    CANCELLED,
    CANCELLING,
    FAILED,
    QUEUED,
    RUNNING,
    STATE_NAMES,
    SUCCEEDED,
    WAITING,
    TaskRecord,
    call_size,
    required_of,
)
from jobrunner.protocol.coordinator.task_table import TaskTable
from jobrunner.protocol.estimates import updated_estimate
from jobrunner.protocol.journal_records import JournalState
from jobrunner.protocol.link import Link
from jobrunner.protocol.tuning import UNKNOWN
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.details import passable
from jobrunner.protocol.wire.ids import ClientId, TaskId, call_id, client_of, open_part
from jobrunner.protocol.wire.principals import ANYONE, CLIENT, Principal

BEGIN_AGAIN_AFTER = 1.0
"""Seconds after which it is tried again to write that a call begins which is to run at most once."""

LATEST_REATTACHED = 2**30
"""Attempts go on from the number that a worker comes back with, so it must leave room for them in a message."""


def written_owner(client: ClientSession) -> str:
    """As the journal has it."""
    key, owner = client.who.key, client.account.owner
    return key if key == owner else f"{key} {owner}"


def read_owner(state: JournalState, client: ClientId) -> tuple[str, str]:
    """The key under which that client came, and that of the owner of its calls; empty, where nobody knows."""
    key, _, owner = state.owners.get(client, "").partition(" ")
    return key, owner or key


class Scheduler:
    """All unfinished tasks and where they are."""

    def __init__(
        self,
        *,
        crash_limit: int,
        result_cache: int = 64 * 1024 * 1024,
        journaling: bool = False,
        quota: Quota = NO_QUOTA,
    ) -> None:
        self.crash_limit = crash_limit
        self.quota = quota
        self.accounts = Accounts()
        self.results = Results(result_cache)
        self.journal_gate = JournalGate(enabled=journaling)
        self.tasks = TaskTable()
        self.roster = Roster()
        self.functions = FunctionTable()
        self.endings = Endings(
            tasks=self.tasks,
            roster=self.roster,
            functions=self.functions,
            accounts=self.accounts,
            results=self.results,
            journal_gate=self.journal_gate,
            crash_limit=crash_limit,
        )
        self.dependencies = Dependencies(self)
        self.endings.tell(self.dependencies)
        self.missing_modules = MissingModules(self)
        self.division = Division(self)
        self.deadlocks = Deadlocks(self)
        self._python_versions = PythonVersions(self.roster, self.functions)
        self.dispatcher = Dispatcher(self.roster, self.tasks)
        self.orphans = Orphans(self.roster, self.tasks)
        self.reattach_deadline = 0.0
        """When every worker of an earlier coordinator must have come back to this one, if it still lives."""
        self.stale_outcomes = 0

    # --- from clients ---

    def submit(self, client: ClientSession, spec: m.TaskSpec, now: float) -> bool:
        """Accept a call; False if it names a function that nobody has sent."""
        if client.awaiting_resubmission:
            bundle = place_of_call(spec.id)
            if bundle is not None:
                client.awaiting_resubmission.discard(bundle[0])
        if client.unnamed and client.unnamed.pop(spec.id, False):
            client.take_done(spec.id)  # it had the outcome before this came
            return True
        if self._known(client, spec.id):
            return True
        function = self.functions.get(spec.function)
        initializer = None if spec.initializer is None else self.functions.get(spec.initializer)
        if function is None or (spec.initializer is not None and initializer is None):
            return False
        size = call_size(spec.payload, spec.options, spec.depends_on)
        resources = spec.options.resources
        excess = client.account.excess(size, self.quota) or client.account.kinds_excess(resources)
        if excess:
            self.endings.tell_client(client, beyond_quota(spec.id, excess))
            return True
        refusal = self._refusal(spec, function, initializer, now)
        client.account.add_call(size, resources)
        record = TaskRecord(
            spec.id, client, function, spec.payload, spec.span, spec.options, initializer, spec.depth, now
        )
        if self.missing_modules.contested_modules:
            record.requirements = self.missing_modules.requirements(record)
        function.users += 1
        if initializer is not None:
            initializer.users += 1
        client.submitted += record.weight
        client.unfinished += record.weight
        self.tasks.add(record)
        if self.journal_gate.enabled:
            self.journal_gate.note_accepted(spec)
            if client.who.key:
                self.journal_gate.note_owner(client.id, written_owner(client))
        if self.results.unknown_tasks:
            record.interest = self.results.unknown_tasks.take(spec.id)
            if isinstance(spec.span, int):
                self.dependencies.bundle_came(spec.id)
        if spec.depends_on:
            self.dependencies.collect(record, spec.depends_on, now)
        if spec.options.detach:
            self.endings.tell_accepted(record)
        held = self.orphans.take(spec.id) if self.orphans else None
        record.may_have_run = spec.options.at_most_once and client.is_new and not client.resubmission_complete
        if record.may_have_run and self.journal_gate.enabled:
            self.journal_gate.note_may_have_run(spec.id)
        # Sent to an earlier coordinator: it may be with a worker that is on its way back.
        settling = held is None and not client.resubmission_complete and now < self.reattach_deadline
        waits = settling or record.unresolved_count or record.may_have_run
        self.tasks.count(record, WAITING if waits else QUEUED)
        if held is not None:
            self._claim(record, held, now)
        elif record.failed_dependency is not None:
            self.endings.finish(record, record.failed_dependency, FAILED, now)
        elif settling or record.may_have_run:
            self.dispatcher.delay(record, self.reattach_deadline)
        elif refusal is not None:
            self.endings.finish(record, refusal, FAILED, now)
        elif record.state == QUEUED:
            self.dispatcher.queue.push(record)
        return True

    def refuse_new(self, client: ClientSession, task_id: TaskId, excess: str) -> None:
        """Something of that call is too much; unless it is here already."""
        if not self._known(client, task_id):
            self.endings.tell_client(client, beyond_quota(task_id, excess))

    def _refusal(
        self, spec: m.TaskSpec, function: FunctionEntry, initializer: FunctionEntry | None, now: float
    ) -> m.Outcome | None:
        """How a new call ends that no worker who is here can run, for want of a version of Python or of modules."""
        refusal = self._python_versions.refusal(spec.id, function, initializer)
        if refusal is not None or not self.missing_modules.contested_modules:
            return refusal
        base = required_of(requirements_of(spec.options.resources), function, initializer)
        return self.missing_modules.refusal(spec.id, function, initializer, base, now)

    def refuse_other_pythons(self, now: float) -> None:
        """A worker has come: end what waits for a version of Python that none of those who are here has."""
        strange = self._python_versions.unprovided()
        if not strange:
            return
        for record in list(self.tasks.values()):
            entry = record.function if record.function in strange else record.initializer
            if entry is not None and entry in strange and record.state in (QUEUED, WAITING):
                self.endings.finish(record, self._python_versions.wrong_python(record.id, entry), FAILED, now)

    def restore(self, state: JournalState, now: float) -> None:
        """Take over what a coordinator before this one has kept. The clients are not here yet, nor the workers."""
        for kept in state.outcomes.values():
            client_id = client_of(kept.outcome.id)
            account = self.accounts.of(client_id, read_owner(state, client_id)[1])
            self.results.keep(FinishedTask(kept.name, passable(kept.outcome), now - kept.age, account))
        for spec, progress in state.tasks.values():
            owner = client_of(spec.id)
            client = self.roster.clients.get(owner) or self._absent(owner, *read_owner(state, owner), now)
            named = [state.functions[key] for key in (spec.function, spec.initializer) if key is not None]
            for definition in named:
                for part in definition.parts:
                    self.functions.define(state.functions[part], client.account)
                self.functions.define(definition, client.account)
            self.submit(client, spec, now)
            for definition in named:
                entry = self.functions.get(definition.key)
                if entry is not None:  # it is needed, or else the call has ended at once
                    self.functions.drop_if_idle(entry)
            record = self.tasks.get(spec.id)
            if record is None:
                continue  # what it needs did not succeed
            record.attempt, record.failures, record.crashes, _, record.unbegun = progress
            record.history = list(progress.history) or None
            record.may_have_run = spec.options.at_most_once and record.begun > 0
            # Written when that attempt had ended; only of those that run at most once it is when they begin.
            record.ended = 0 if spec.options.at_most_once else progress.attempt
        self.journal_gate.restored()

    def _absent(self, client_id: ClientId, key: str, owner: str, now: float) -> ClientSession:
        """A client of before, that may come back."""
        hello = m.ClientHello(client_id, "", "", "unknown, since the coordinator was started again", 0, 0.0)
        who = Principal(key, "", CLIENT) if key else ANYONE
        account = self.accounts.open(client_id, who, owner)
        client = ClientSession(hello, b"", Link("", now, 0.0), account, who)
        client.lost_at = now
        self.roster.add_client(client)
        return client

    def _known(self, client: ClientSession, task_id: TaskId) -> bool:
        """Whether a submitted task is here already; its client learns again what it may have missed."""
        record = self.tasks.get(task_id)
        if record is not None:
            if record.client is not client:
                self._take_back(record, client)
            if task_id in client.resent:
                return True
            client.resent.add(task_id)
            self.roster.flush_later(client)
            if record.state == RUNNING:
                client.running.append(task_id)
            if record.options.detach:
                self.endings.tell_accepted(record)
            if record.unresolved_count:
                self.dependencies.recall(
                    client, [n for n in record.depends_on if n in self.results.unknown_tasks]
                )
            return True
        record = client.done.get(task_id)
        if record is not None and record.outcome is not None:
            self.endings.tell_again(client, record.outcome)
            return True
        ended = self.results.find(task_id)
        if ended is None or not (task_id in self.results.detached or ended.is_of(client.account)):
            return False
        self.endings.tell_again(client, ended.outcome)
        return True

    def _take_back(self, record: TaskRecord, client: ClientSession) -> None:
        """Its client, taken for dead, has come back before the task could be stopped: it is wanted after all."""
        size = record.size
        record.client.account.remove_call(size, record.options.resources)
        client.account.add_call(size, record.options.resources)
        for value in (record.dependency_results or {}).values():
            record.client.account.remove_value(value)
            client.account.add_value(value)
        record.client.unfinished -= record.weight
        client.unfinished += record.weight
        record.client = client
        record.cancel_asked = False

    def cancel(self, task_id: TaskId, running: bool, now: float, asker: ClientSession | None = None) -> None:
        """Cancel a task for its client, which gets an Outcome or a CancelRefused."""
        record = self.tasks.get(task_id)
        if record is None:
            if asker is not None and task_id not in asker.done:
                asker.refused.append(task_id)
                self.roster.flush_later(asker)
            return
        if record.state in (QUEUED, WAITING):
            self.endings.finish(record, m.Outcome(task_id, record.attempt, m.CANCELLED), CANCELLED, now)
        elif record.state == RUNNING and not running:
            record.client.refused.append(task_id)
            self.roster.flush_later(record.client)
        elif self.journal_gate.withholds(record):
            self._not_begun(record)
            self.endings.finish(record, m.Outcome(task_id, record.attempt, m.CANCELLED), CANCELLED, now)
        else:
            assert record.worker is not None
            if record.cancel_asked and (record.state == CANCELLING or not running):
                return  # the worker has been told; if it forgets, it will be told again when it comes back
            record.cancel_asked = True
            if running and record.state != CANCELLING:
                self.tasks.move(record, CANCELLING, now)
            record.worker.cancels.append(m.CancelRequest(task_id, running))
            self.roster.flush_later(record.worker)

    def cancel_call(self, bundle: TaskRecord, index: int, running: bool) -> None:
        """Somebody wants one call of a bundle cancelled. Its client is asked, which alone can split a bundle."""
        wanted = bundle.client.cancels
        call = call_id(bundle.id, index)
        wanted[call] = running or wanted.get(call, False)
        self.roster.flush_later(bundle.client)

    def client_gone(self, client: ClientSession, now: float) -> None:
        """The client will not come back: cancel all that it has here, but for what it has detached."""
        if client.unfinished:  # else a goodbye of anybody would cost a look at all calls of others
            for record in [r for r in self.tasks.values() if r.client is client and not r.options.detach]:
                self.cancel(record.id, True, now)
        for key in sorted(client.function_refs.values()):
            self.functions.drop_ref(key)
        client.function_refs.clear()
        self.endings.forget_untaken_outcomes(client)
        client.outcomes.clear()
        client.link = Link("", now, 0.0)  # with all that it has not taken
        self.dependencies.watches_no_more(client)
        self.dispatcher.queue.resume(client.id)
        if self.roster.remove_client(client):
            self.accounts.close(client.account)

    def resubmission_complete(self, client_id: ClientId) -> None:
        """The client has named all that it waits for; what is held for it beyond that, nobody wants."""
        client = self.roster.clients.get(client_id)
        if client is not None:
            client.resubmission_complete = True
            if client.cancels:
                self.roster.flush_later(client)
            wanted = {outcome.id for outcome in client.outcomes}
            for message in client.link.unacked():
                if type(message) is m.Outcomes:
                    wanted.update(outcome.id for outcome in message.outcomes)
            for task_id in client.done.keys() - wanted:
                if not self.orphans.named_later(task_id):
                    taken = client.take_done(task_id)
                    if taken is not None:
                        drop_payload(taken)
        for task_id in self.orphans.of_client(client_id):
            if not self.orphans.named_later(task_id):
                self.orphans.drop(task_id)

    def wait_longer(self, seconds: float, now: float) -> None:
        """For those that come back, because this process did not run for so long."""
        self.orphans.wait_longer(seconds)
        for interest in self.results.unknown_tasks.values():
            interest.since += seconds
        self.deadlocks.wait_longer(seconds)
        if now - seconds >= self.reattach_deadline:
            return
        reattach_deadline, self.reattach_deadline = self.reattach_deadline, self.reattach_deadline + seconds
        self.dispatcher.wait_longer(reattach_deadline, self.reattach_deadline)

    # --- detached tasks, and the journal ---

    def written(self, task_ids: list[TaskId]) -> None:
        """These detached tasks are in the journal."""
        for task_id in task_ids:
            record = self.tasks.get(task_id)
            if record is not None:
                self.endings.tell_accepted(record)

    def begin_later(self, begins: list[Begin], now: float) -> list[TaskRecord]:
        """It could not be written down that these begin, so they do not yet; those of them that have not ended."""
        held_back = self.journal_gate.still_withheld(begins)
        for record in held_back:
            self._not_begun(record)
            self.tasks.move(record, WAITING, now)
            self.dispatcher.delay(record, now + BEGIN_AGAIN_AFTER)
        return held_back

    def note_later(self, records: list[TaskRecord]) -> None:
        """Of those of `begin_later` the journal may be about to say that they have begun."""
        for record in records:
            if self.tasks.get(record.id) is record:
                self._note_progress(record)

    def send_withheld(self) -> None:
        """The end of the turn: the workers of those whose beginning is written down by now hear of them."""
        for record in self.journal_gate.take_written():
            assert record.worker is not None
            self.journal_gate.let_go(record)
            record.worker.assigned.append(record)
            self.roster.flush_later(record.worker)

    def _not_begun(self, record: TaskRecord) -> None:
        """A call that was withheld is with its worker no more."""
        record.not_begun()
        self._release(record)

    def refuse(self, task_ids: list[TaskId], error: str, now: float) -> None:
        """These could not be written down. Those that run already go on."""
        for task_id in task_ids:
            record = self.tasks.get(task_id)
            if record is not None and record.state in (QUEUED, WAITING):
                outcome = m.Outcome(task_id, record.attempt, m.REFUSED, detail={"error": error})
                # It was not accepted: nobody may count on its outcome, and the journal has nothing to forget.
                record.options = record.options._replace(detach=False)
                self.endings.finish(record, outcome, FAILED, now)
                self.journal_gate.note_nothing_of(task_id)

    def _note_progress(self, record: TaskRecord) -> None:
        if self.journal_gate.enabled:
            self.journal_gate.note_progress(record)

    # --- from workers ---

    def outcome(self, worker: WorkerSession, outcome: m.Outcome, now: float) -> None:
        """An attempt has ended; whatever is not the present attempt, on its worker, changes nothing."""
        record = self.tasks.get(outcome.id)
        if record is None:
            held = self.orphans.get(outcome.id)
            if held is not None and held.worker is worker and held.attempt == outcome.attempt:
                self.orphans.ended(held, outcome)
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
            self.missing_modules.initializer_failed(worker, record, outcome, now)
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
        """The worker gives back a task, which it has not started unless `begun`.

        `prefetch`: not because it had too many.
        """
        record = self.tasks.get(task_id)
        if record is None:
            held = self.orphans.get(task_id)
            if held is not None and held.worker is worker and held.attempt == attempt:
                self.orphans.take(task_id)
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
        record = self.tasks.get(task_id)
        held = self.orphans.get(task_id) if record is None else None
        if held is not None and held.worker is worker:
            held.running = True
        if record is not None and record.worker is worker and record.state == ASSIGNED:
            self.tasks.move(record, RUNNING, now)
            self.division.started(record)
            watchers = () if record.interest is None else record.interest.watchers
            others = [self.roster.clients[client] for client in watchers if client in self.roster.clients]
            for client in (record.client, *others):
                client.running.append(task_id)
                self.roster.flush_later(client)

    def owner_of(self, task_id: TaskId, key: str, now: float) -> str | None:
        """The owner of a task that a worker with that key has; empty: nobody who is known here. None: that is still to
        be seen. It may be a call of a bundle, or have a part of it running on under another id.
        """
        whole = whole_of(task_id)
        for worker in self.roster.workers.values():
            if worker.who.key == key:
                for record in worker.tasks.values():
                    if whole_of(record.id) == whole:
                        return record.client.account.owner
        return None if self.orphans.has_at(key, whole) or now < self.reattach_deadline else ""

    def client_with_task_at(self, worker: WorkerSession, task_id: TaskId) -> ClientSession | None:
        """Whose task it is, if that worker has it, or has had one of its client, and its client is here."""
        client = self.roster.clients.get(client_of(task_id))
        record = self.tasks.get(task_id)
        if record is not None:
            return client if record.worker is worker and record.client is client else None
        held = self.orphans.get(task_id)
        if held is not None:
            return client if held.worker is worker else None
        return client if client is not None and client.id in worker.served else None

    def cancel_refused(self, worker: WorkerSession, task_id: TaskId) -> None:
        record = self.tasks.get(task_id)
        if record is None or record.worker is not worker or record.state == CANCELLING:
            return
        record.cancel_asked = False
        record.client.refused.append(task_id)
        self.roster.flush_later(record.client)

    def reattach(self, worker: WorkerSession, held: list[m.Held], now: float) -> None:
        """A worker has come back with these tasks: keep what is still its own, fence the rest."""
        for record in worker.tasks.values():
            self.deadlocks.waits_no_more(record)  # it is told again
        still_there = {(entry.id, entry.attempt) for entry in held}
        gone = [r for r in worker.tasks.values() if (r.id, r.attempt) not in still_there]
        for record in reversed(gone):  # each goes to the head of the queue
            self._release(record)
            if record.claimed:
                record.ended = (
                    record.attempt
                )  # it may have run, and its outcome be lost with another coordinator
                record.record_event(f"attempt {record.begun} was lost with worker {worker.name}")
            else:
                record.not_begun()
                record.record_event(f"it was lost on its way to worker {worker.name}")
            if record.claimed and record.options.at_most_once:
                # It was with the worker, which may have told a coordinator before this one how it ended.
                error = f"worker {worker.name} has it no more, and may have run it"
                lost = m.Outcome(record.id, record.attempt, m.LOST, detail={"error": error})
                self.endings.finish_lost(record, lost, now)
            else:
                self.again(record, now)
        self.orphans.drop_those_at(worker)
        for entry in held:
            self._reattach_one(worker, entry, now)
        self.division.asked_in_vain(worker)

    def _reattach_one(self, worker: WorkerSession, entry: m.Held, now: float) -> None:
        record = self.tasks.get(entry.id)
        if entry.attempt > LATEST_REATTACHED:
            self.roster.fence(worker, entry.id)
        elif record is None:
            self._reattach_unknown(worker, entry, now)
        elif (
            record.state in (QUEUED, WAITING)
            and entry.attempt >= record.attempt
            and entry.attempt > record.ended
        ):
            self._claim(record, OrphanedTask(worker, entry, now), now)
        elif record.worker is not worker or record.attempt != entry.attempt:
            self.roster.fence(worker, entry.id)
        elif record.cancel_asked and record.state in ACTIVE:
            # The request may have been lost with the old session.
            worker.cancels.append(m.CancelRequest(entry.id, record.state == CANCELLING))
            self.roster.flush_later(worker)

    def _reattach_unknown(self, worker: WorkerSession, entry: m.Held, now: float) -> None:
        """Keep it for a client that may still name it; of two workers that have it, the later attempt counts."""
        client = self.roster.clients.get(client_of(entry.id))
        if client is not None and client.resubmission_complete and not self.orphans.named_later(entry.id):
            self.roster.fence(worker, entry.id)
            return
        other = self.orphans.get(entry.id)
        if other is None or (other.outcome is None and other.attempt < entry.attempt):
            if other is not None:
                self.orphans.drop(entry.id)
            self.orphans.add(worker, entry, now)
        elif other.worker is not worker or other.attempt != entry.attempt:
            self.roster.fence(worker, entry.id)

    def worker_lost(self, worker: WorkerSession, reason: str, now: float) -> None:
        """Queue its tasks again. Those that may have been running count it as a crash."""
        records = list(worker.tasks.values())
        oldest = {record.id for record in records[: worker.slots]}
        for record in reversed(records):  # each goes to the head of the queue
            if self.journal_gate.withholds(record):
                self._not_begun(record)
                self._note_progress(record)
                self.again(record, now)
                continue
            self._release(record)
            suspect = record.state != ASSIGNED or record.id in oldest
            if suspect:
                record.crashes += 1
                record.suspected = record.attempt
                record.record_event(f"attempt {record.begun}: worker {worker.name} {reason}")
            detail = {
                "error": f"worker {worker.name} {reason}",
                "worker": worker.name,
                "host": worker.hello.host,
            }
            outcome = m.Outcome(record.id, record.attempt, m.LOST, detail=detail)
            verdict = retry.verdict(record, m.LOST, self.crash_limit)
            if verdict == retry.REQUEUE or not (suspect or record.options.at_most_once):
                if suspect:
                    self._note_progress(record)
                self.again(record, now)
            else:
                self.endings.finish_lost(record, outcome, now)
        self.roster.remove_worker(worker)
        self.functions.worker_gone(worker.id)
        self.missing_modules.worker_gone(worker)
        self.orphans.drop_those_at(worker)

    def add_worker(self, worker: WorkerSession) -> None:
        self.roster.add_worker(worker)
        self.dispatcher.queue.wake(worker.provides_all)

    def capacity(self, worker: WorkerSession, slots: int) -> None:
        worker.stuck = ""
        self.roster.resize(worker, slots)
        self.roster.may_have_room(worker)

    def stuck(self, worker: WorkerSession, why: str, now: float) -> None:
        """All tasks there wait for tasks of their own that have no slot. If all workers are stuck, refuse the deepest.

        Otherwise nothing would ever go on; the tasks that wait for these do, as soon as they hear of it.
        """
        worker.stuck = why or "unknown"
        if any(not (other.stuck or other.draining) for other in self.roster.workers.values()):
            return
        nested = [r for r in self.tasks.values() if r.state == QUEUED and r.depth]
        deepest = max((record.depth for record in nested), default=0)
        error = (
            "it was not run: every slot's task waits for a call of its own, as this one is, and no further slot can be"
            f" started ({worker.stuck})"
        )
        for record in nested:
            if record.depth == deepest:
                detail = {"error": error, "no_slot": True}
                self.endings.finish(
                    record, m.Outcome(record.id, record.attempt, m.REFUSED, detail=detail), FAILED, now
                )
        for other in self.roster.workers.values():
            other.stuck = ""

    # --- each turn ---

    def due(self, now: float) -> None:
        """Queue the tasks that wait for a time which has come."""
        self.missing_modules.due(now)
        while (record := self.dispatcher.next_due(now)) is not None:
            if record.may_have_run:
                error = (
                    "the coordinator was started again, and it may have run before: it is to run at most once"
                )
                outcome = m.Outcome(record.id, record.attempt, m.LOST, detail={"error": error})
                self.endings.finish_lost(record, outcome, now)
            elif not record.unresolved_count:
                self.tasks.move(record, QUEUED, now)
                self.dispatcher.queue.push(record)

    def place(self, now: float) -> None:
        """Bind queued tasks to workers."""
        self.dispatcher.place(self._assign, now)

    # --- the steps that all of these share ---

    def _assign(self, record: TaskRecord, worker: WorkerSession, now: float) -> None:
        record.attempt += 1
        record.claimed = False
        self._bind(record, worker, now)
        if record.options.at_most_once and self.journal_gate.enabled:
            self.journal_gate.withhold(record)
        else:
            worker.assigned.append(record)
            self.roster.flush_later(worker)

    def _bind(self, record: TaskRecord, worker: WorkerSession, now: float) -> None:
        estimate = record.function.estimate
        record.estimate = estimate if estimate == UNKNOWN else estimate * record.elements
        self.tasks.move(record, ASSIGNED, now)
        worker.take(record)

    def _release(self, record: TaskRecord) -> None:
        worker = record.worker
        assert worker is not None
        self.journal_gate.let_go(record)
        self.deadlocks.waits_no_more(record)
        worker.release(record)
        self.division.released(record)
        if self.roster.has_worker(worker):  # it may be lost, and only its outcome be here
            self.roster.may_have_room(worker)

    def _split(
        self, record: TaskRecord, outcome: m.Outcome, worker: WorkerSession, now: float, *, fresh: bool = True
    ) -> None:
        """A bundle was split: its client names the call that runs on as soon as it knows, and then the others.

        Not `fresh`: the worker told it before the client named the bundle; what runs on may have ended since.
        """
        if isinstance(record.span, tuple):
            self.division.divided(record, outcome, worker, now, fresh)
            return
        running = (outcome.detail or {}).get("running", -1)
        if not isinstance(record.span, int) or not 0 <= running < record.span:
            detail = {"error": f"worker {worker.name} split a bundle that it did not have"}
            self.endings.finish(
                record, m.Outcome(record.id, record.attempt, m.LOST, detail=detail), FAILED, now
            )
            return
        if record.state == CANCELLING and record.cancel_asked:
            self.roster.fence(worker, call_id(record.id, running))
            self.endings.finish(record, m.Outcome(record.id, record.attempt, m.CANCELLED), CANCELLED, now)
            return
        self.endings.leave_to_client(record, record.span - running)
        record.client.awaiting_resubmission.add(open_part(record.id))
        self.endings.finish(record, outcome, SUCCEEDED, now)
        if fresh:
            self.goes_on(worker, outcome, now)

    def goes_on(self, worker: WorkerSession, outcome: m.Outcome, now: float) -> None:
        """Of a bundle that this worker has just split, one call runs on; or a part of a chunk, see `chunks`."""
        detail: m.Detail = outcome.detail or {}
        if "running" in detail:
            goes_on = call_id(outcome.id, detail["running"])
        else:
            goes_on = part_id(outcome.id, detail.get("stop", -1))
        self._reattach_one(worker, m.Held(goes_on, 1, True), now)

    def _ended(self, record: TaskRecord, outcome: m.Outcome, now: float) -> None:
        status = outcome.status
        record.ended = record.attempt
        if status == m.OK:
            function = record.function
            function.estimate = updated_estimate(function.estimate, outcome.duration / record.elements)
            self.endings.finish(record, outcome, SUCCEEDED, now)
            return
        if status == m.CANCELLED:
            if record.cancel_asked:
                self.endings.finish(record, outcome, CANCELLED, now)
            else:
                self.again(record, now)
            return
        error = (outcome.detail or {}).get("error", m.STATUS_NAMES[status])
        record.record_event(f"attempt {record.begun} on {record.worker and record.worker.name}: {error}")
        if status == m.CRASHED:
            record.crashes += 1
        else:
            record.failures += 1
        final = bool(outcome.detail and outcome.detail.get("final"))
        verdict = retry.verdict(record, status, self.crash_limit, final=final)
        if verdict != retry.FINISH:
            self._note_progress(record)
        if verdict == retry.REQUEUE:
            self.again(record, now)
        elif verdict == retry.RETRY:
            self.tasks.move(record, WAITING, now)
            self.dispatcher.delay(record, now + retry.backoff(record.failures, record.options.backoff))
        elif status == m.CRASHED:
            self.endings.finish_lost(record, outcome, now)
        else:
            self.endings.finish(record, outcome, FAILED, now)

    def again(self, record: TaskRecord, now: float) -> None:
        """Back to the head of the queue, unless it was to be cancelled."""
        if record.cancel_asked:
            self.endings.finish(record, m.Outcome(record.id, record.attempt, m.CANCELLED), CANCELLED, now)
            return
        if record.failed_dependency is not None:
            self.endings.finish(record, record.failed_dependency, FAILED, now)
        elif record.unresolved_count:
            self.tasks.move(record, WAITING, now)
        else:
            self.tasks.move(record, QUEUED, now)
            self.dispatcher.queue.push(record, front=True)

    def _claim(self, record: TaskRecord, held: OrphanedTask, now: float) -> None:
        """A queued task turns out to be with a worker already: join that attempt instead of starting another."""
        if record.suspected == held.attempt:
            record.crashes -= 1  # it was alive all the time
            record.suspected = 0
        record.may_have_run = False  # it did, and here it is
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
            self.deadlocks.told(held.worker, held.wait)

    def check_invariants(self) -> None:
        """What must hold after every step; for the simulation."""
        self.tasks.check_invariants()
        for record in self.tasks.values():
            task_id = record.id
            here = self.roster.has_client(record.client)
            assert here or record.cancel_asked or record.options.detach, f"{task_id} is nobody's"
            with_worker = record.worker is not None and task_id in record.worker.tasks
            assert with_worker == (record.state in ACTIVE), (task_id, STATE_NAMES[record.state])
            assert record.begun >= (record.state in ACTIVE), (
                f"{task_id}: {record.unbegun} of {record.attempt}"
            )
        self.roster.check_invariants()
        self.orphans.check_invariants()
        self.journal_gate.check_invariants(ACTIVE)
        for requirements in {record.requirements for record in self.tasks.values() if record.state == QUEUED}:
            if self.dispatcher.queue.rests(requirements):
                assert not self.dispatcher.is_provided(requirements), (
                    f"calls that need {requirements} rest, and could be run"
                )
        for worker in self.roster.workers.values():
            for record in worker.tasks.values():
                assert self.tasks.get(record.id) is record
                assert record.worker is worker
        self.functions.check_invariants()
        self.deadlocks.check_invariants()
        self._check_values()
        for client in self.roster.clients.values():
            assert client.unfinished == sum(r.weight for r in self.tasks.values() if r.client is client)

    def _check_values(self) -> None:
        """Each result that calls wait with is charged to their owners, as long as they do."""
        users: dict[Account, dict[int, int]] = {account: {} for account in self.accounts}
        for record in self.tasks.values():
            charged = users.setdefault(record.client.account, {})
            for value in (record.dependency_results or {}).values():
                charged[id(value)] = charged.get(id(value), 0) + 1
        for account, charged in users.items():
            assert account.values == charged, (
                f"{account.label}: {len(account.values)} of {len(charged)} results"
            )
