"""The coordinator's decisions about tasks: accept, place, retry, cancel, finish.

The scheduler knows tasks, clients and workers, and leaves messages for them in their outboxes; it does not know about
sessions. In a turn, received messages change the records, then `place` binds tasks to workers, then the core sends each
outbox as one message.
"""

from __future__ import annotations

from itertools import islice

from jobrunner.protocol.bundles import whole_of
from jobrunner.protocol.coordinator.accounts import NO_QUOTA, Account, Accounts, Quota
from jobrunner.protocol.coordinator.attempts import Attempts
from jobrunner.protocol.coordinator.deadlocks import Deadlocks
from jobrunner.protocol.coordinator.dependencies import Dependencies
from jobrunner.protocol.coordinator.dispatcher import Dispatcher
from jobrunner.protocol.coordinator.division import Division
from jobrunner.protocol.coordinator.endings import Endings, drop_payload
from jobrunner.protocol.coordinator.finished_tasks import Results
from jobrunner.protocol.coordinator.function_table import FunctionTable
from jobrunner.protocol.coordinator.journal_gate import JournalGate
from jobrunner.protocol.coordinator.missing_modules import MissingModules
from jobrunner.protocol.coordinator.orphans import Orphans
from jobrunner.protocol.coordinator.peers import ClientSession, WorkerSession
from jobrunner.protocol.coordinator.roster import Roster
from jobrunner.protocol.coordinator.submission import Submission
from jobrunner.protocol.coordinator.task import (
    ACTIVE,
    CANCELLING,
    FAILED,
    QUEUED,
    RUNNING,
    WAITING,
    TaskRecord,
    WaitReason,
)
from jobrunner.protocol.coordinator.task_table import TaskTable
from jobrunner.protocol.link import Link
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import ClientId, TaskId, call_id, client_of

MAX_PIECES_ASKED = 1000
"""Maximum number of pieces of one chunk or bundle among which the task is sought that makes calls; few of them run."""


class Scheduler:
    """All unfinished tasks, and the parts that move them."""

    def __init__(
        self,
        *,
        crash_limit: int,
        result_cache: int = 64 * 1024 * 1024,
        journaling: bool = False,
        quota: Quota = NO_QUOTA,
    ) -> None:
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
            quota=quota,
        )
        self.dispatcher = Dispatcher(self.roster, self.tasks)
        self.orphans = Orphans(self.roster, self.tasks, quota)
        self.dependencies = Dependencies(
            tasks=self.tasks,
            roster=self.roster,
            results=self.results,
            orphans=self.orphans,
            dispatcher=self.dispatcher,
            endings=self.endings,
            journal_gate=self.journal_gate,
            quota=quota,
        )
        self.endings.tell(self.dependencies)
        self.deadlocks = Deadlocks(
            tasks=self.tasks,
            roster=self.roster,
            orphans=self.orphans,
            dispatcher=self.dispatcher,
            endings=self.endings,
        )
        self.missing_modules = MissingModules(
            tasks=self.tasks,
            roster=self.roster,
            functions=self.functions,
            dispatcher=self.dispatcher,
            endings=self.endings,
        )
        self.division = Division(
            tasks=self.tasks,
            roster=self.roster,
            functions=self.functions,
            dispatcher=self.dispatcher,
            endings=self.endings,
        )
        self.attempts = Attempts(
            crash_limit=crash_limit,
            tasks=self.tasks,
            roster=self.roster,
            functions=self.functions,
            journal_gate=self.journal_gate,
            dispatcher=self.dispatcher,
            orphans=self.orphans,
            endings=self.endings,
            missing_modules=self.missing_modules,
            division=self.division,
            deadlocks=self.deadlocks,
        )
        self.submission = Submission(
            quota=quota,
            tasks=self.tasks,
            roster=self.roster,
            functions=self.functions,
            accounts=self.accounts,
            results=self.results,
            journal_gate=self.journal_gate,
            dispatcher=self.dispatcher,
            orphans=self.orphans,
            endings=self.endings,
            dependencies=self.dependencies,
            missing_modules=self.missing_modules,
            attempts=self.attempts,
        )
        self._newly_stuck: WorkerSession | None = None
        """The last worker that has reported in this turn that it is stuck."""
        self.missing_modules.hand_back_to(self.attempts)
        self.division.hand_on_to(self.attempts, self.submission)

    # --- from clients ---

    def cancel(self, task_id: TaskId, running: bool, now: float, asker: ClientSession | None = None) -> None:
        """Cancel a task for its client, which gets an Outcome or a CancelRefused."""
        record = self.tasks.get(task_id)
        if record is None:
            if asker is not None and task_id not in asker.done:
                asker.refused.append(task_id)
                self.roster.flush_later(asker)
            return
        if record.state in (QUEUED, WAITING):
            self.endings.finish_cancelled(record, now)
        elif record.state == RUNNING and not running:
            record.client.refused.append(task_id)
            self.roster.flush_later(record.client)
        elif self.journal_gate.withholds(record):
            self.attempts.withdraw(record)
            self.endings.finish_cancelled(record, now)
        else:
            assert record.worker is not None
            if record.cancel_asked and (record.state == CANCELLING or not running):
                return  # the worker has been told, and is told again if it comes back without having done it
            record.cancel_asked = True
            if running and record.state != CANCELLING:
                self.tasks.move(record, CANCELLING, now)
            self.roster.cancel_at(record.worker, task_id, running=running)

    def cancel_call(self, bundle: TaskRecord, index: int, running: bool) -> None:
        """Ask the client of a bundle to cancel one of its calls, because only the client can split a bundle."""
        wanted = bundle.client.cancels
        call = call_id(bundle.id, index)
        wanted[call] = running or wanted.get(call, False)
        self.roster.flush_later(bundle.client)

    def client_gone(self, client: ClientSession, now: float) -> None:
        """Cancel all tasks of a client that will not come back, except detached ones."""
        for record in [record for record in client.tasks.values() if not record.body.options.detach]:
            record.record_event("its client has gone, and it was not detached")
            self.cancel(record.id, True, now)
        for key in client.take_function_refs():
            self.functions.drop_ref(key)
        self.endings.forget_untaken_outcomes(client)
        client.outcomes.clear()
        client.renew_link(Link("", now, 0.0))  # together with the messages that it has not received
        self.dependencies.watches_no_more(client)
        self.dispatcher.queue.resume(client.id)
        if self.roster.remove_client(client):
            self.accounts.close(client.account)

    def resubmission_complete(self, client_id: ClientId) -> None:
        """Drop orphaned tasks of a client that has named all tasks that it waits for, because nobody wants them."""
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
        """Give peers more time to come back, because this process did not run for a while."""
        self.orphans.wait_longer(seconds)
        for interest in self.results.unknown_tasks.values():
            interest.since += seconds
        self.deadlocks.wait_longer(seconds)
        before = self.orphans.reattach_deadline
        if self.orphans.reattach_later(seconds, now):
            self.dispatcher.wait_longer(before, self.orphans.reattach_deadline)

    # --- detached tasks, and the journal ---

    # --- from workers ---

    def owner_of(self, task_id: TaskId, key: str, now: float) -> str | None:
        """Return the owner of a task that a worker with this key has.

        The result is empty if no known task has this id, and None if that is not decided yet. The task may be a call of
        a bundle, or a part of it may run on under another id.
        """
        whole, held_there = whole_of(task_id), False
        for each in (whole, *islice(self.tasks.pieces_of(whole), MAX_PIECES_ASKED)):
            record = self.tasks.get(each)
            if record is not None and record.worker is not None and record.worker.who.key == key:
                return record.client.account.owner
        for each in (whole, *islice(self.orphans.pieces_of(whole), MAX_PIECES_ASKED)):
            orphan = self.orphans.get(each)
            held_there = held_there or (orphan is not None and orphan.worker.who.key == key)
        return None if held_there or now < self.orphans.reattach_deadline else ""

    def client_with_task_at(self, worker: WorkerSession, task_id: TaskId) -> ClientSession | None:
        """Return the client of a task that this worker has, or of an earlier task there, if the client is present."""
        client = self.roster.clients.get(client_of(task_id))
        record = self.tasks.get(task_id)
        if record is not None:
            return client if record.worker is worker and record.client is client else None
        held = self.orphans.get(task_id)
        if held is not None:
            return client if held.worker is worker else None
        return client if client is not None and client.id in worker.served else None

    def add_worker(self, worker: WorkerSession) -> None:
        self.roster.add_worker(worker)
        self.dispatcher.queue.wake(worker.provides_all)

    def capacity(self, worker: WorkerSession, slots: int) -> None:
        worker.stuck = ""
        self.roster.resize(worker, slots)
        self.roster.may_have_room(worker)

    def stuck(self, worker: WorkerSession, why: str) -> None:
        """Note that all tasks of a worker wait for tasks of their own that have no slot."""
        worker.stuck = why or "unknown"
        self._newly_stuck = worker

    def _refuse_deepest(self, now: float) -> None:
        """Refuse the deepest calls if all workers are stuck; this examines all calls, so it is done once in a turn.

        Otherwise nothing would ever continue; the tasks that wait for the refused ones do, as soon as they hear of it.
        """
        worker, self._newly_stuck = self._newly_stuck, None
        if worker is None or not worker.stuck:
            return
        if any(not (other.stuck or other.draining) for other in self.roster.workers.values()):
            return
        nested = [r for r in self.tasks.values() if r.state == QUEUED and r.body.depth]
        deepest = max((record.body.depth for record in nested), default=0)
        error = (
            "it was not run: every slot's task waits for a call of its own, as this one is, and no further slot can be"
            f" started ({worker.stuck})"
        )
        for record in nested:
            if record.body.depth == deepest:
                detail: m.Detail = {"error": error, "no_slot": True}
                self.endings.finish(
                    record, m.Outcome(record.id, record.attempt, m.REFUSED, detail=detail), FAILED, now
                )
        for other in self.roster.workers.values():
            other.stuck = ""

    # --- each turn ---

    def due(self, now: float) -> None:
        """Queue the tasks whose delay is over, and end those that cannot continue."""
        self._refuse_deepest(now)
        self.missing_modules.due(now)
        while (record := self.dispatcher.next_due(now)) is not None:
            if record.wait_reason is WaitReason.MAY_HAVE_RUN:
                error = (
                    "the coordinator was started again, and it may have run before: it is to run at most once"
                )
                outcome = m.Outcome(record.id, record.attempt, m.LOST, detail={"error": error})
                self.endings.finish_lost(record, outcome, now)
            elif record.unresolved_count:
                record.wait_for(WaitReason.DEPENDENCIES)
            else:
                self.tasks.move(record, QUEUED, now)
                self.dispatcher.queue.push(record)

    def place(self, now: float) -> None:
        """Bind queued tasks to workers."""
        self.dispatcher.place(self.attempts.assign, now)

    # --- the steps that all of these share ---

    def check_invariants(self) -> None:
        """Assert the conditions that hold after every step; for the simulation."""
        self.tasks.check_invariants()
        for record in self.tasks.values():
            task_id = record.id
            here = self.roster.has_client(record.client)
            assert here or record.cancel_asked or record.body.options.detach, f"{task_id} is nobody's"
            with_worker = record.worker is not None and task_id in record.worker.tasks
            assert with_worker == (record.state in ACTIVE), (task_id, record.state.label)
            waits = record.wait_reason is not WaitReason.NOTHING
            assert waits == (record.state == WAITING), (task_id, record.state.label, record.wait_reason.name)
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
        self.dependencies.check_invariants()
        self._check_values()
        for client in self.roster.clients.values():
            assert client.unfinished == sum(record.weight for record in client.tasks.values())
        of_clients = [(record.client, record.id) for record in self.tasks.values()]
        assert all(client.tasks.get(task_id) is self.tasks[task_id] for client, task_id in of_clients)
        clients = {
            **dict.fromkeys(self.roster.clients.values()),
            **dict.fromkeys(client for client, _ in of_clients),
        }
        assert sum(len(client.tasks) for client in clients) == len(self.tasks)

    def _check_values(self) -> None:
        """Assert that each result with which calls wait is charged to their owners as long as they wait."""
        users: dict[Account, dict[int, int]] = {account: {} for account in self.accounts}
        for record in self.tasks.values():
            charged = users.setdefault(record.client.account, {})
            for value in (record.dependency_results or {}).values():
                charged[id(value)] = charged.get(id(value), 0) + 1
        for account, charged in users.items():
            assert account.values == charged, (
                f"{account.label}: {len(account.values)} of {len(charged)} results"
            )
