"""The coordinator's decisions about tasks: accept, place, retry, cancel, finish.

The scheduler knows tasks, clients and workers, and leaves messages for them in their outboxes; it does not know about
sessions. In a turn, received messages change the records, then `place` binds tasks to workers, then the core sends each
outbox as one message.
"""

from __future__ import annotations

from jobrunner.protocol.coordinator.accounts import NO_QUOTA, Account, Accounts, Quota
from jobrunner.protocol.coordinator.attempts import Attempts
from jobrunner.protocol.coordinator.cancellation import Cancellation
from jobrunner.protocol.coordinator.client_tasks import ClientTasks
from jobrunner.protocol.coordinator.deadlocks import Deadlocks
from jobrunner.protocol.coordinator.dependencies import Dependencies
from jobrunner.protocol.coordinator.dispatcher import Dispatcher
from jobrunner.protocol.coordinator.division import Division
from jobrunner.protocol.coordinator.endings import Endings
from jobrunner.protocol.coordinator.finished_tasks import Results
from jobrunner.protocol.coordinator.function_table import FunctionTable
from jobrunner.protocol.coordinator.journal_gate import JournalGate
from jobrunner.protocol.coordinator.missing_modules import MissingModules
from jobrunner.protocol.coordinator.orphans import Orphans
from jobrunner.protocol.coordinator.ownership import Ownership
from jobrunner.protocol.coordinator.roster import Roster
from jobrunner.protocol.coordinator.stuck_workers import StuckWorkers
from jobrunner.protocol.coordinator.submission import Submission
from jobrunner.protocol.coordinator.task import (
    ACTIVE,
    QUEUED,
    WAITING,
    WaitReason,
)
from jobrunner.protocol.coordinator.task_table import TaskTable
from jobrunner.protocol.wire import messages as m


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
        self.cancellation = Cancellation(
            tasks=self.tasks,
            roster=self.roster,
            endings=self.endings,
            journal_gate=self.journal_gate,
            attempts=self.attempts,
        )
        self.client_tasks = ClientTasks(
            roster=self.roster,
            accounts=self.accounts,
            functions=self.functions,
            dispatcher=self.dispatcher,
            orphans=self.orphans,
            endings=self.endings,
            dependencies=self.dependencies,
            cancellation=self.cancellation,
        )
        self.ownership = Ownership(tasks=self.tasks, roster=self.roster, orphans=self.orphans)
        self.stuck_workers = StuckWorkers(tasks=self.tasks, roster=self.roster, endings=self.endings)
        self.missing_modules.hand_back_to(self.attempts)
        self.division.hand_on_to(self.attempts, self.submission)

    # --- from clients ---

    def wait_longer(self, seconds: float, now: float) -> None:
        """Give peers more time to come back, because this process did not run for a while."""
        self.orphans.wait_longer(seconds)
        for interest in self.results.unknown_tasks.values():
            interest.since += seconds
        self.deadlocks.wait_longer(seconds)
        before = self.orphans.reattach_deadline
        if self.orphans.reattach_later(seconds, now):
            self.dispatcher.wait_longer(before, self.orphans.reattach_deadline)

    # --- each turn ---

    def due(self, now: float) -> None:
        """Queue the tasks whose delay is over, and end those that cannot continue."""
        self.stuck_workers.refuse_deepest(now)
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
