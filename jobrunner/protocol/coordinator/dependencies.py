"""Tasks that depend on results of others, and clients that ask how any task ends.

`finished_tasks` has the ended tasks; this module has those that wait for them. A task that lacks a result is in the
state WAITING, and is queued when the last result has arrived. A task whose dependency did not succeed ends at once.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

from jobrunner.protocol.bundles import index_of_call, outcome_of_call, place_of_call
from jobrunner.protocol.coordinator.accounts import Account, Quota
from jobrunner.protocol.coordinator.dispatcher import Dispatcher
from jobrunner.protocol.coordinator.endings import Endings
from jobrunner.protocol.coordinator.finished_tasks import (
    FinishedTask,
    Results,
    beyond_quota,
    outcome_of_dependent,
)
from jobrunner.protocol.coordinator.journal_gate import JournalGate
from jobrunner.protocol.coordinator.orphans import Orphans
from jobrunner.protocol.coordinator.peers import ClientSession
from jobrunner.protocol.coordinator.roster import Roster
from jobrunner.protocol.coordinator.task import (
    FAILED,
    QUEUED,
    RUNNING,
    WAITING,
    Interest,
    TaskRecord,
    WaitReason,
)
from jobrunner.protocol.coordinator.task_table import TaskTable
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.checks import MAX_FRAMES
from jobrunner.protocol.wire.ids import ClientId, TaskId, client_of, short_id
from jobrunner.protocol.wire.kinds import Bundle
from jobrunner.protocol.wire.payloads import buffer_count

MAX_PIECES = MAX_FRAMES // 2
"""Maximum number of buffers of all results on which one call depends, because its arguments and functions come in the
same message."""

LOOKED_AT_PER_SWEEP = 10_000
"""Maximum number of unknown tasks, and of those that depend on them, in one sweep; the others are checked in the next
sweeps."""

WATCH_BYTES = 1000
"""Approximate size in bytes of watching a call."""


NAMED_AGAIN_WITHIN = 10.0
"""Time in seconds in which a client that has heard of a bundle's end submits its unfinished calls again."""


class Dependencies:
    """The tasks that depend on results of others, and the clients that ask for results."""

    def __init__(
        self,
        *,
        tasks: TaskTable,
        roster: Roster,
        results: Results,
        orphans: Orphans,
        dispatcher: Dispatcher,
        endings: Endings,
        journal_gate: JournalGate,
        quota: Quota,
    ) -> None:
        self._tasks = tasks
        self._roster = roster
        self.results = results
        self._orphans = orphans
        self._dispatcher = dispatcher
        self._endings = endings
        self._journal_gate = journal_gate
        self._quota = quota
        self.journaled: dict[TaskId, int] = {}
        """By result that the journal keeps, the number of unfinished detached tasks that depend on it."""
        self.unknown_calls: dict[TaskId, dict[TaskId, None]] = {}
        """By unfinished bundle, those of its calls that somebody looks for."""
        self._news: deque[tuple[Interest, FinishedTask]] = deque()

    def watch(self, client: ClientSession, task_id: TaskId, now: float) -> None:
        """Tell the client how that task ends, whoever has submitted it."""
        record = self._tasks.get(task_id)
        ended = None if record is not None else self._ended_before(task_id)
        if ended is not None:
            self._endings.tell_again(client, ended.outcome)
            return
        known = record.interest if record is not None else self.results.unknown_tasks.get(task_id)
        if known is None or client.id not in known.watchers:
            excess = client.account.bytes_excess(WATCH_BYTES, self._quota)
            if excess:
                self._endings.tell_client(client, beyond_quota(task_id, excess))
                return
            interest = self._look_for(task_id, now) if record is None else self._interest_in(record, now)
            interest.watchers[client.id] = None
            client.watching.add(task_id)
            client.account.bytes += WATCH_BYTES
        if record is not None and record.state == RUNNING:
            client.running.append(task_id)
            self._roster.flush_later(client)

    def watches_no_more(self, client: ClientSession) -> None:
        """End all watching of a client that has gone."""
        for task_id in client.watching:
            interest = self._known_interest(task_id)
            if interest is not None:
                interest.watchers.pop(client.id, None)
        client.account.bytes -= len(client.watching) * WATCH_BYTES
        client.watching.clear()

    def _known_interest(self, task_id: TaskId) -> Interest | None:
        """Return the interest in a task, whether it is known or unknown here."""
        record = self._tasks.get(task_id)
        return self.results.unknown_tasks.get(task_id) if record is None else record.interest

    def check_invariants(self) -> None:
        """Assert that each watching client is connected, and that its account counts the watching."""
        interests = [record.interest for record in self._tasks.values()]
        for interest in (*filter(None, interests), *self.results.unknown_tasks.values()):
            gone = [watcher for watcher in interest.watchers if watcher not in self._roster.clients]
            assert not gone, f"{gone} watch, and are gone"

    def take_reply(
        self, client: ClientSession, outcomes: list[m.Outcome], unknown: list[TaskId], now: float
    ) -> None:
        """Take a client's reply about unknown tasks: how they ended, or that the client does not know.

        The reply counts for everybody if the tasks are the client's own. About others' tasks it counts only for its own
        tasks.
        """
        for outcome in outcomes:
            if outcome.status == m.CANCELLED and client_of(outcome.id) == client.id:
                self._bundle_cancelled(client, outcome, now)
            interest = self.results.unknown_tasks.get(outcome.id)
            if interest is None:
                continue
            ended = FinishedTask("", outcome, now, client.account)
            if client_of(outcome.id) == client.id:
                del self.results.unknown_tasks[outcome.id]
                self.results.add(ended)
            else:
                interest.asked.pop(client.id, None)
                interest = self._part_of(interest, client.account, now)
            self.notify(interest, ended, now)
        for task_id in unknown:
            interest = self.results.unknown_tasks.get(task_id)
            if interest is not None:
                interest.asked.pop(client.id, None)

    def _part_of(self, interest: Interest, account: Account, now: float) -> Interest:
        """Split off and return the interest of tasks of one account, for which a reply of that account counts."""
        part = Interest(now)
        part.dependents = {r: None for r in interest.dependents if r.client.account is account}
        interest.dependents = {r: None for r in interest.dependents if r.client.account is not account}
        return part

    def stop_looking(self, now: float) -> None:
        """End the search for tasks that nobody can name any more."""
        unknown, looked_at = self.results.unknown_tasks, 0
        for task_id, interest in list(islice(unknown.items(), LOOKED_AT_PER_SWEEP)):
            if looked_at > LOOKED_AT_PER_SWEEP:
                break
            looked_at += 1 + len(interest.asked)
            unknown.move_to_end(task_id)
            if not interest.watchers and not interest.dependents:
                del self.results.unknown_tasks[task_id]
                continue
            if any(client_id in self._roster.clients for client_id in interest.asked):
                continue
            owner = self._roster.clients.get(client_of(task_id))
            if owner is not None and self._is_named_soon(task_id, interest, now):
                continue
            if owner.resubmission_complete if owner is not None else now >= self._orphans.reattach_deadline:
                del self.results.unknown_tasks[task_id]
                shown = (
                    short_id(task_id) if task_id.count("-") > 1 else task_id
                )  # others see the id in the status
                error = f"there is no task {shown} here: the id is wrong, or its outcome is not kept any more"
                outcome = m.Outcome(task_id, 0, m.LOST, detail={"error": error, "unknown": True})
                self.notify(interest, FinishedTask("", outcome, now), now)

    def _look_for(self, task_id: TaskId, now: float) -> Interest:
        """Return the interest in a task that is unknown here; the task may be one of a bundle's calls."""
        bundle = self._tasks.bundle_with(task_id)
        if bundle is not None:
            self.unknown_calls.setdefault(bundle[0].id, {})[task_id] = None
        return self.results.look_for(task_id, now)

    def came(self, record: TaskRecord) -> None:
        """Note who has asked for a new task, or for calls of a new bundle, before it was here."""
        record.interest = self.results.unknown_tasks.take(record.id)
        if isinstance(record.body.kind, Bundle):
            unknown = self.results.unknown_tasks.calls_of(record.id)
            if unknown:
                self.unknown_calls[record.id] = dict.fromkeys(unknown)

    def _bundle_cancelled(self, client: ClientSession, outcome: m.Outcome, now: float) -> None:
        """Tell the end of calls of a cancelled bundle, because its client wants none of them any more."""
        for task_id in self.results.unknown_tasks.calls_of(outcome.id):
            interest = self.results.unknown_tasks[task_id]
            del self.results.unknown_tasks[task_id]
            self.notify(interest, FinishedTask("", outcome._replace(id=task_id), now, client.account), now)

    def bundle_ended(self, ended: FinishedTask, now: float) -> None:
        """Tell the ends of a bundle's calls to those who look for them, except calls that will be submitted again."""
        for task_id in self.unknown_calls.pop(ended.outcome.id, ()):
            interest = self.results.unknown_tasks.get(task_id)
            call = self._call_of(ended, task_id)
            if interest is None:
                continue
            if call is None:
                interest.since = now
            else:
                del self.results.unknown_tasks[task_id]
                self.notify(interest, call, now)

    def _call_of(self, ended: FinishedTask, task_id: TaskId) -> FinishedTask | None:
        """Return the end of one call, as far as the end of its bundle tells it."""
        index = index_of_call(ended.outcome.id, task_id)
        outcome = None if index is None else outcome_of_call(ended.outcome, index)
        return None if outcome is None else ended._replace(outcome=outcome)

    def _is_named_soon(self, task_id: TaskId, interest: Interest, now: float) -> bool:
        """Return whether it is a call of a bundle that is here, or of whose end its client has only recently heard."""
        if self._orphans.named_later(task_id):
            interest.since = now
        bundle = place_of_call(task_id)
        if bundle is None:
            return False
        ended = self._known_end_of_bundle(client_of(task_id), bundle[0])
        if ended is not None and index_of_call(ended.outcome.id, task_id) is None:
            return False  # somebody has guessed the id
        return now < interest.since + NAMED_AGAIN_WITHIN

    def _interest_in(self, record: TaskRecord, now: float) -> Interest:
        if record.interest is None:
            record.interest = Interest(now)
        return record.interest

    def _ended_before(self, task_id: TaskId) -> FinishedTask | None:
        """Return how a task ended that is not unfinished here, by itself or with its bundle."""
        ended = self._known_end(task_id)
        bundle = place_of_call(task_id) if ended is None else None
        if bundle is None or bundle[0] in self._tasks.bundles:
            return ended
        whole = self._known_end_of_bundle(client_of(task_id), bundle[0])
        return None if whole is None else self._call_of(whole, task_id)

    def _known_end_of_bundle(self, client: ClientId, part: str) -> FinishedTask | None:
        """Return the end of that client's bundle with this public part of its id."""
        owner = self._roster.clients.get(client)
        record = None if owner is None else owner.done_bundles.get(part)
        if record is not None and record.outcome is not None:
            return FinishedTask(record.name, record.outcome, record.since)
        return self.results.find_bundle(part)

    def _known_end(self, task_id: TaskId) -> FinishedTask | None:
        owner = self._roster.clients.get(client_of(task_id))
        record = None if owner is None else owner.done.get(task_id)
        if record is not None and record.outcome is not None:
            return FinishedTask(record.name, record.outcome, record.since)
        return self.results.find(task_id)

    def collect(self, record: TaskRecord, depends_on: tuple[TaskId, ...], now: float) -> None:
        """Collect the results on which a new task depends, as far as they are known."""
        record.need(depends_on)
        unknown = []
        for dependency in dict.fromkeys(depends_on):
            other = self._tasks.get(dependency)
            ended = None if other is not None else self._ended_before(dependency)
            if ended is None:
                record.unresolved_count += 1
                interest = self._look_for(dependency, now) if other is None else self._interest_in(other, now)
                interest.dependents[record] = None
                if other is None:
                    unknown.append(dependency)
            elif record.failed_dependency is not None:
                continue
            elif ended.outcome.status == m.OK:
                self._take(record, ended)
            else:
                record.failed_dependency = outcome_of_dependent(record, ended.outcome, ended.name)
        if unknown:
            self.recall(record.client, unknown)
        if not record.unresolved_count and record.failed_dependency is None:
            self._check_pieces(record)

    def _check_pieces(self, record: TaskRecord) -> None:
        """Check the number of buffers of a task's results, because all of them go to its worker in one message."""
        values = record.dependency_results or {}
        pieces = sum([buffer_count(values[dependency]) for dependency in record.depends_on])
        if pieces > MAX_PIECES:
            error = (
                f"it was not run: the results that it needs are of {pieces:,} buffers, and {MAX_PIECES:,} at most can"
                " be brought to one call"
            )
            record.failed_dependency = m.Outcome(
                record.id, record.attempt, m.REFUSED, detail={"error": error}
            )

    def recall(self, client: ClientSession, depends_on: list[TaskId]) -> None:
        for dependency in depends_on:
            self.results.unknown_tasks[dependency].asked[client.id] = None
        client.result_requests.extend(depends_on)
        self._roster.flush_later(client)

    def are_found(self, record: TaskRecord) -> bool:
        """Return whether no dependency of the task is looked for. Each is checked once, however often this is asked."""
        depends_on = record.depends_on
        while record.found < len(depends_on) and depends_on[record.found] not in self.results.unknown_tasks:
            record.found += 1
        return record.found == len(depends_on)

    def notify(self, interest: Interest, ended: FinishedTask, now: float) -> None:
        """Tell the end of a task to everybody who wants to know.

        A chain of tasks causes no recursion, however long it is.
        """
        self._news.append((interest, ended))
        if len(self._news) > 1:
            return  # the loop of the outer call will come to it
        while self._news:
            interest, ended = self._news[0]
            for client_id in interest.watchers:
                client = self._roster.clients.get(client_id)
                if client is not None:
                    if ended.outcome.id in client.watching:
                        client.watching.remove(ended.outcome.id)
                        client.account.bytes -= WATCH_BYTES
                    self._endings.tell_client(client, ended.outcome)
            for record in interest.dependents:
                if self._tasks.get(record.id) is record:
                    self._dependency_ended(record, ended, now)
            self._news.popleft()

    def _dependency_ended(self, record: TaskRecord, ended: FinishedTask, now: float) -> None:
        outcome = ended.outcome
        if record.failed_dependency is not None:
            return
        if outcome.status == m.OK:
            assert record.dependency_results is not None
            if outcome.id not in record.dependency_results and self._take(record, ended):
                record.unresolved_count -= 1
                if record.body.options.detach and record.found < len(record.depends_on):
                    self._endings.tell_accepted(record)
            if not record.unresolved_count:
                self._check_pieces(record)
            if (
                not record.unresolved_count
                and record.failed_dependency is None
                and record.wait_reason is WaitReason.DEPENDENCIES
            ):
                self._tasks.move(record, QUEUED, now)
                self._dispatcher.queue.push(record)
        else:
            record.failed_dependency = outcome_of_dependent(record, outcome, ended.name)
        if record.failed_dependency is not None and record.state in (QUEUED, WAITING):
            self._endings.finish(record, record.failed_dependency, FAILED, now)

    def _take(self, record: TaskRecord, ended: FinishedTask) -> bool:
        """Give a task one of the results on which it depends; return False if that exceeds its owner's quota."""
        assert record.dependency_results is not None
        dependency, value = ended.outcome.id, ended.outcome.payload
        account = record.client.account
        excess = account.value_excess(value, self._quota)
        if excess:
            record.failed_dependency = beyond_quota(record.id, excess)
            return False
        record.dependency_results[dependency] = value
        account.add_value(value)
        if (
            self._journal_gate.enabled
            and record.body.options.detach
            and dependency not in self.results.detached
        ):
            # The client that could supply it after a restart may be gone by then.
            count = self.journaled.get(dependency, 0)
            self.journaled[dependency] = count + 1
            if not count:
                self._journal_gate.note_outcome(ended.name, ended.outcome)
        return True

    def drop(self, record: TaskRecord) -> None:
        """Release the results of a task that has ended."""
        for need in dict.fromkeys(record.depends_on) if record.unresolved_count else ():
            interest = self._known_interest(need)
            if interest is not None:
                interest.dependents.pop(record, None)
        for dependency, value in (record.dependency_results or {}).items():
            record.client.account.remove_value(value)
            count = self.journaled.get(dependency, 0)
            if count > 1:
                self.journaled[dependency] = count - 1
            elif count:
                del self.journaled[dependency]
                self._journal_gate.note_gone(dependency)
        record.dependency_results = record.failed_dependency = None
