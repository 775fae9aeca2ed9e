"""The arrival of tasks at the coordinator: from their clients, or from the journal of an earlier coordinator."""

from __future__ import annotations

from jobrunner.protocol.bundles import place_of_call
from jobrunner.protocol.coordinator.accounts import Accounts, Quota
from jobrunner.protocol.coordinator.attempts import Attempts
from jobrunner.protocol.coordinator.dependencies import Dependencies
from jobrunner.protocol.coordinator.dispatcher import Dispatcher
from jobrunner.protocol.coordinator.endings import Endings
from jobrunner.protocol.coordinator.finished_tasks import FinishedTask, Results, beyond_quota
from jobrunner.protocol.coordinator.function_table import FunctionEntry, FunctionTable
from jobrunner.protocol.coordinator.journal_gate import JournalGate
from jobrunner.protocol.coordinator.missing_modules import MissingModules
from jobrunner.protocol.coordinator.orphans import Orphans
from jobrunner.protocol.coordinator.peers import ClientSession
from jobrunner.protocol.coordinator.python_versions import PythonVersions
from jobrunner.protocol.coordinator.resources import requirements_of
from jobrunner.protocol.coordinator.roster import Roster
from jobrunner.protocol.coordinator.task import (
    FAILED,
    QUEUED,
    RUNNING,
    WAITING,
    TaskRecord,
    WaitReason,
    call_size,
    required_of,
)
from jobrunner.protocol.coordinator.task_table import TaskTable
from jobrunner.protocol.journal_records import JournalState
from jobrunner.protocol.link import Link
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.details import passable
from jobrunner.protocol.wire.ids import ClientId, TaskId, client_of
from jobrunner.protocol.wire.principals import ANYONE, CLIENT, Principal


def written_owner(client: ClientSession) -> str:
    """Return the owner of a client's calls in the form of the journal."""
    key, owner = client.who.key, client.account.owner
    return key if key == owner else f"{key} {owner}"


def read_owner(state: JournalState, client: ClientId) -> tuple[str, str]:
    """Return the client's key and that of the owner of its calls; empty if they are unknown."""
    key, _, owner = state.owners.get(client, "").partition(" ")
    return key, owner or key


class Submission:
    """The acceptance of tasks, once each."""

    def __init__(
        self,
        *,
        quota: Quota,
        tasks: TaskTable,
        roster: Roster,
        functions: FunctionTable,
        accounts: Accounts,
        results: Results,
        journal_gate: JournalGate,
        dispatcher: Dispatcher,
        orphans: Orphans,
        endings: Endings,
        dependencies: Dependencies,
        missing_modules: MissingModules,
        attempts: Attempts,
    ) -> None:
        self._quota = quota
        self._tasks = tasks
        self._roster = roster
        self._functions = functions
        self._accounts = accounts
        self._results = results
        self._journal_gate = journal_gate
        self._dispatcher = dispatcher
        self._orphans = orphans
        self._endings = endings
        self._dependencies = dependencies
        self._missing_modules = missing_modules
        self._attempts = attempts
        self._python_versions = PythonVersions(roster, functions)

    def submit(self, client: ClientSession, spec: m.TaskSpec, now: float) -> bool:
        """Accept a call; return False if it names a function that nobody has sent."""
        if client.awaiting_resubmission:
            bundle = place_of_call(spec.id)
            if bundle is not None:
                client.awaiting_resubmission.discard(bundle[0])
        if client.unnamed and client.unnamed.pop(spec.id, False):
            client.take_done(spec.id)  # it had the outcome before this message came
            return True
        if self._known(client, spec.id):
            return True
        body = spec.body
        options = body.options
        function = self._functions.get(body.function)
        initializer = None if body.initializer is None else self._functions.get(body.initializer)
        if function is None or (body.initializer is not None and initializer is None):
            return False
        size = call_size(body.payload, options, spec.depends_on)
        resources = options.resources
        excess = client.account.excess(size, self._quota) or client.account.kinds_excess(resources)
        if excess:
            self._endings.tell_client(client, beyond_quota(spec.id, excess))
            return True
        refusal = self._refusal(spec, function, initializer, now)
        client.account.add_call(size, resources)
        record = TaskRecord(spec.id, client, body, function, initializer, now)
        if self._missing_modules.contested_modules:
            record.require(self._missing_modules.requirements(record))
        function.users += 1
        if initializer is not None:
            initializer.users += 1
        client.submitted += record.weight
        client.add_task(record)
        self._tasks.add(record)
        if self._journal_gate.enabled:
            self._journal_gate.note_accepted(spec)
            if client.who.key:
                self._journal_gate.note_owner(client.id, written_owner(client))
        if self._results.unknown_tasks:
            self._dependencies.came(record)
        if spec.depends_on:
            self._dependencies.collect(record, spec.depends_on, now)
        if options.detach:
            self._endings.tell_accepted(record)
        held = self._orphans.take(spec.id) if self._orphans else None
        may_have_run = options.at_most_once and client.is_new and not client.resubmission_complete
        if may_have_run and self._journal_gate.enabled:
            self._journal_gate.note_may_have_run(spec.id)
        # It was sent to an earlier coordinator, and may be with a worker that is on its way back.
        settling = held is None and not client.resubmission_complete and now < self._orphans.reattach_deadline
        waits = settling or record.unresolved_count or may_have_run
        self._tasks.count(record, WAITING if waits else QUEUED)
        if held is not None:
            self._attempts.claim(record, held, now)
        elif record.failed_dependency is not None:
            self._endings.finish(record, record.failed_dependency, FAILED, now)
        elif settling or may_have_run:
            reason = WaitReason.MAY_HAVE_RUN if may_have_run else WaitReason.REATTACHMENT
            self._dispatcher.delay(record, self._orphans.reattach_deadline, reason)
        elif refusal is not None:
            self._endings.finish(record, refusal, FAILED, now)
        elif record.state == QUEUED:
            self._dispatcher.queue.push(record)
        else:
            record.wait_for(WaitReason.DEPENDENCIES)
        return True

    def _known(self, client: ClientSession, task_id: TaskId) -> bool:
        """Return whether a submitted task is already here; its client learns again what it may have missed."""
        record = self._tasks.get(task_id)
        if record is not None:
            if record.client is not client:
                self._take_back(record, client)
            if task_id in client.resent:
                return True
            client.resent.add(task_id)
            self._roster.flush_later(client)
            if record.state == RUNNING:
                client.running.append(task_id)
            if record.body.options.detach:
                self._endings.tell_accepted(record)
            if record.unresolved_count and task_id not in client.needs_told:
                client.needs_told.add(record.id)
                self._dependencies.recall(
                    client, [n for n in record.depends_on if n in self._results.unknown_tasks]
                )
            return True
        record = client.done.get(task_id)
        if record is not None and record.outcome is not None:
            self._endings.tell_again(client, record.outcome)
            return True
        ended = self._results.find(task_id)
        if ended is None or not (task_id in self._results.detached or ended.is_of(client.account)):
            return False
        self._endings.tell_again(client, ended.outcome)
        return True

    def _take_back(self, record: TaskRecord, client: ClientSession) -> None:
        """Keep a task that was to be stopped, because its client, which was considered lost, has come back."""
        size = record.size
        record.client.account.remove_call(size, record.body.options.resources)
        client.account.add_call(size, record.body.options.resources)
        for value in (record.dependency_results or {}).values():
            record.client.account.remove_value(value)
            client.account.add_value(value)
        record.client.remove_task(record)
        client.add_task(record)
        record.client = client
        record.keep()

    def _refusal(
        self, spec: m.TaskSpec, function: FunctionEntry, initializer: FunctionEntry | None, now: float
    ) -> m.Outcome | None:
        """Return the outcome of a new call for which no worker has the Python version or the modules, or None."""
        refusal = self._python_versions.refusal(spec.id, function, initializer)
        if refusal is not None or not self._missing_modules.contested_modules:
            return refusal
        base = required_of(requirements_of(spec.body.options.resources), function, initializer)
        return self._missing_modules.refusal(spec.id, function, initializer, base, now)

    def refuse_new(self, client: ClientSession, task_id: TaskId, excess: str) -> None:
        """Refuse a call that exceeds a limit, unless it is already here."""
        if not self._known(client, task_id):
            self._endings.tell_client(client, beyond_quota(task_id, excess))

    def refuse_other_pythons(self, now: float) -> None:
        """End the tasks that wait for a Python version that no worker has, because a worker has joined."""
        strange = self._python_versions.unprovided()
        if not strange:
            return
        for record in list(self._tasks.values()):
            entry = record.function if record.function in strange else record.initializer
            if entry is not None and entry in strange and record.state in (QUEUED, WAITING):
                self._endings.finish(
                    record, self._python_versions.wrong_python(record.id, entry), FAILED, now
                )

    # --- the journal ---

    def written(self, task_ids: list[TaskId]) -> None:
        """Note that these detached tasks are in the journal."""
        for task_id in task_ids:
            record = self._tasks.get(task_id)
            if record is not None:
                self._endings.tell_accepted(record)

    def refuse(self, task_ids: list[TaskId], error: str, now: float) -> None:
        """Refuse tasks that could not be written to the journal, except those that already run."""
        for task_id in task_ids:
            record = self._tasks.get(task_id)
            if record is not None and record.state in (QUEUED, WAITING):
                outcome = m.Outcome(task_id, record.attempt, m.REFUSED, detail={"error": error})
                # It was not accepted, so nobody may rely on its outcome, and the journal has nothing to drop.
                record.keep_no_outcome()
                self._endings.finish(record, outcome, FAILED, now)
                self._journal_gate.note_nothing_of(task_id)

    def restore(self, state: JournalState, now: float) -> None:
        """Take over the state of an earlier coordinator; neither clients nor workers are connected yet."""
        for kept in state.outcomes.values():
            client_id = client_of(kept.outcome.id)
            account = self._accounts.of(client_id, read_owner(state, client_id)[1])
            self._results.keep(FinishedTask(kept.name, passable(kept.outcome), now - kept.age, account))
        for spec, progress in state.tasks.values():
            owner = client_of(spec.id)
            client = self._roster.clients.get(owner) or self._absent(owner, *read_owner(state, owner), now)
            named = [
                state.functions[key] for key in (spec.body.function, spec.body.initializer) if key is not None
            ]
            for definition in named:
                for part in definition.parts:
                    self._functions.define(state.functions[part], client.account)
                self._functions.define(definition, client.account)
            self.submit(client, spec, now)
            for definition in named:
                entry = self._functions.get(definition.key)
                if entry is not None:  # another task depends on it; otherwise the call has ended at once
                    self._functions.drop_if_idle(entry)
            record = self._tasks.get(spec.id)
            if record is None:
                continue  # its dependency did not succeed
            record.restore(progress)
            if spec.body.options.at_most_once and record.timer:
                reason = WaitReason.MAY_HAVE_RUN if record.begun else WaitReason.REATTACHMENT
                record.wait_for(reason, record.timer)
        self._journal_gate.restored()

    def _absent(self, client_id: ClientId, key: str, owner: str, now: float) -> ClientSession:
        """Return the session of an earlier client, which may come back."""
        hello = m.ClientHello(client_id, "", "", "unknown, since the coordinator was started again", 0, 0.0)
        who = Principal(key, "", CLIENT) if key else ANYONE
        account = self._accounts.open(client_id, who, owner)
        client = ClientSession(hello, b"", Link("", now, 0.0), account, who, lost_at=now)
        self._roster.add_client(client)
        return client
