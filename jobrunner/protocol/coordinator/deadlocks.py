"""Calls that need what only those tasks hold that wait for them: found, and refused.

A task that waits for calls of its own yields its slot, but keeps its resources. So a call for which no worker has
enough beside what such tasks hold would wait for ever, and they with it. Workers tell which tasks wait for which calls,
where that lasts and the wait has no time limit (`messages.Wait`).

The law: a call is refused only where it could not start, however long one waited. Every task that is not known to wait
is taken to end some time, and to release what it holds; so is every call that could start on some worker beside what
the waiting ones hold, and with it those that wait for it; and so on. What is left then can never go on: each call there
is refused that no worker has enough for, until those that wait for it can go on. A call that no worker could run even
if it were idle waits, as always, for a worker that may join.

What no worker says makes a deadlock go on, and never a call fail: of a wait with a time limit, or in another package's
way, nothing is known. Nor does one fail where so much is waited for and needed that going through all of it would keep
the coordinator from everything else (`MAX_STEPS`). After a change (a worker is lost, say) nobody is refused for
`PATIENCE`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

from jobrunner.protocol.coordinator.resources import Requirements, shown
from jobrunner.protocol.coordinator.task import ACTIVE, CANCELLING, FAILED, TaskRecord
from jobrunner.protocol.wire.ids import TaskId, short_id
from jobrunner.protocol.wire.messages import REFUSED, Outcome, Wait

if TYPE_CHECKING:
    from jobrunner.protocol.coordinator.dispatcher import Dispatcher
    from jobrunner.protocol.coordinator.endings import Endings
    from jobrunner.protocol.coordinator.orphans import Orphans
    from jobrunner.protocol.coordinator.peers import WorkerSession
    from jobrunner.protocol.coordinator.roster import Roster
    from jobrunner.protocol.coordinator.task_table import TaskTable

Found = TypeVar("Found")

LOOK_EVERY = 0.5
"""Seconds between two looks, at the least."""

PATIENCE = 2.0
"""Seconds for which a call must be found in a deadlock without a break before it is refused."""

MAX_STEPS = 100_000
"""Calls, and results that they need, that are gone through in one look, some tenth of a second: where those that
wait have more before them, nobody is refused."""

MAX_STEPS_TOLD = 1000
"""As MAX_STEPS, to tell of one call who waits for it through others."""

MAX_HOLDERS_NAMED = 5


class Deadlocks:
    """The tasks at workers that wait for calls, and which of them can never go on."""

    def __init__(
        self, *, tasks: TaskTable, roster: Roster, orphans: Orphans, dispatcher: Dispatcher, endings: Endings
    ) -> None:
        self._tasks = tasks
        self._roster = roster
        self._orphans = orphans
        self._dispatcher = dispatcher
        self._endings = endings
        self._waiting: dict[TaskId, TaskRecord] = {}
        """Tasks at workers, those with a `wait`."""
        self._since: dict[TaskId, float] = {}
        """Calls that were in a deadlock at the last look, and since when without a break."""
        self._looked_at = 0.0
        self._news = False
        """Some task waits for something else than at the last look."""

    def told(self, worker: WorkerSession, wait: Wait) -> None:
        """A worker tells what a task waits for; about others' tasks it has nothing to say."""
        record = self._tasks.get(wait.id)
        if record is None:
            held = self._orphans.get(wait.id)
            if held is not None and held.worker is worker:
                self._orphans.waits(held, wait)
        elif record.worker is worker and record.state in ACTIVE:
            self.waits_no_more(record)
            if wait.calls:
                record.wait = wait
                self._waiting[record.id] = record
                worker.keep_waiting(record.amounts, +1)
                self._news = True

    def waits_no_more(self, record: TaskRecord) -> None:
        """A task goes on, or its worker has it no longer."""
        if record.wait is not None:
            record.wait = None
            del self._waiting[record.id]
            assert record.worker is not None
            record.worker.keep_waiting(record.amounts, -1)

    def next_deadline(self) -> float | None:
        if not self._since and not self._news:
            return None
        soon = max(self._looked_at + LOOK_EVERY, self._orphans.reattach_deadline)
        return soon if self._news else max(soon, min(self._since.values()) + PATIENCE)

    def wait_longer(self, seconds: float) -> None:
        """For what may change, because this process did not run for so long."""
        self._since = {task: since + seconds for task, since in self._since.items()}

    def look(self, now: float) -> None:
        """Refuse calls that have been in a deadlock for long enough."""
        if not self._waiting:
            self._since.clear()
            self._news = False
            return
        if now < self._looked_at + LOOK_EVERY:
            return
        self._looked_at = now
        self._news = now < self._orphans.reattach_deadline  # workers may still come back
        if self._news:
            self._since.clear()
            return
        found = self._search()
        steps = found.steps
        self._since = {task: self._since.get(task, now) for task in found.calls}
        while steps <= MAX_STEPS and (overdue := self._overdue(found, now)):
            for record in overdue:
                if record.id in self._tasks:  # it may have needed the result of the one before
                    self._endings.finish(record, found.refusal(record), FAILED, now)
            found = self._search()
            steps += found.steps
            self._since = {task: since for task, since in self._since.items() if task in found.calls}

    def check_invariants(self) -> None:
        """What must hold after every step; for the simulation."""
        workers = self._roster.workers.values()
        waiting = {r.id: r for w in workers for r in w.tasks.values() if r.wait is not None}
        assert waiting == self._waiting, (list(waiting), list(self._waiting))
        for worker in workers:
            sums: dict[str, int] = {}
            for record in worker.tasks.values():
                for name, amount in record.amounts if record.wait is not None else ():
                    sums[name] = sums.get(name, 0) + amount
            kept = {name: amount for name, amount in worker.kept_waiting.items() if amount}
            assert kept == sums, f"{worker.name}: {kept} is kept waiting, not {sums}"

    def _search(self) -> Search:
        search = Search(self._tasks, self._roster, self._waiting)
        if search.is_needed(self._dispatcher.queue.requirements):
            search.run()
        return search

    def _overdue(self, found: Search, now: float) -> list[TaskRecord]:
        """Calls to refuse, all of one waiting task: without them it can never go on, whatever becomes of others."""
        for record in found.stuck.values():
            assert record.wait is not None
            victims = {victim.id: victim for victim in found.victims(record.wait)}
            due = [v for v in victims.values() if self._since.get(v.id, now) <= now - PATIENCE]
            if due:
                return due if record.wait.every else due[:1]
        return []


def may_go_on(waiting: TaskRecord, endless: Container[TaskId]) -> bool:
    """Return whether its wait may end even if these calls never end.

    A call that is unknown here has ended, or belongs to somebody else.
    """
    wait = waiting.wait
    assert wait is not None
    may_end = (call not in endless for call in wait.calls)
    return all(may_end) if wait.every else any(may_end)


class Search:
    """For waiting tasks that can never go on; nothing changes while it lasts."""

    def __init__(self, tasks: TaskTable, roster: Roster, waiting: dict[TaskId, TaskRecord]) -> None:
        self._tasks = tasks
        self._workers = [worker for worker in roster.workers.values() if not worker.draining]
        # One that is being stopped ends. The deepest first: where they go on, those that wait for them do, in one pass.
        lasting = [record for record in waiting.values() if record.state != CANCELLING]
        self._waiting = sorted(lasting, key=lambda record: -record.body.depth)
        self.stuck: dict[TaskId, TaskRecord] = {}
        """Those that can never go on."""
        self.calls: dict[TaskId, TaskRecord] = {}
        """Those that cannot start, as all of `stuck` hold too much."""
        self._held: dict[WorkerSession, dict[str, int]] = {worker: {} for worker in self._workers}
        """What `stuck` hold."""
        for record in self._waiting:
            self._hold(record, +1)
        self._startable: dict[Requirements, bool] = {}
        """Whether calls with such requirements may start some time, beside what `stuck` hold."""
        self.steps = 0
        self._needed: dict[TaskId, TaskRecord] = {}
        """The unfinished calls that somebody waits for, and those whose results they need, directly or not."""
        self._users: dict[TaskId, list[TaskId]] = {}
        """By one of these, those that need its result."""
        self._waiters: dict[TaskId, list[TaskId]] = {}
        """By one of these, the stuck tasks that wait for it."""
        self._victims: dict[TaskId, TaskRecord] = {}
        """By one of these, what keeps it from ending for want of resources: itself, or one that it depends_on."""

    def is_needed(self, queued: Iterable[Requirements]) -> bool:
        """Whether there is a call that might not start, if nobody who waits went on; mostly there is none."""
        return not all(map(self._may_start, queued))

    def run(self) -> None:
        self._go_through()
        stuck = {record.id: record for record in self._waiting}
        goes_on = True
        while goes_on and stuck and self.steps <= MAX_STEPS:
            self.stuck = stuck
            endless = self._reached_from({task: None for task in self._needed if not self._may_end(task)})
            freed = [record for record in stuck.values() if may_go_on(record, endless)]
            stuck = dict(stuck)
            for record in freed:
                del stuck[record.id]
                self._let_go(record)
            goes_on = bool(freed)
        if self.steps > MAX_STEPS:
            stuck = {}
        self.stuck = stuck
        self._victims = self._reached_from({t: r for t, r in self._needed.items() if self._cannot_start(r)})
        for record in stuck.values():
            assert record.wait is not None
            for call in record.wait.calls:
                self._waiters.setdefault(call, []).append(record.id)
            self.calls.update((victim.id, victim) for victim in self.victims(record.wait))

    def _go_through(self) -> None:
        """Find all calls that matter, as far as MAX_STEPS permit."""
        todo: list[TaskId] = []
        for record in self._waiting:
            assert record.wait is not None
            todo += record.wait.calls
        self.steps += len(todo)
        while todo and self.steps <= MAX_STEPS:
            task = todo.pop()
            call = self._tasks.get(task)
            if call is None or task in self._needed:
                continue
            self._needed[task] = call
            if call.unresolved_count:
                self.steps += len(call.depends_on)
                for need in call.depends_on:
                    if need in self._tasks:
                        self._users.setdefault(need, []).append(task)
                        todo.append(need)

    def _reached_from(self, found: dict[TaskId, Found]) -> dict[TaskId, Found]:
        """These, and all that need the results of one of them, each with what is referenced of the nearest."""
        todo = deque(found)
        while todo:
            task = todo.popleft()
            users = self._users.get(task, ())
            self.steps += 1 + len(users)
            for user in users:
                if user not in found:
                    found[user] = found[task]
                    todo.append(user)
        return found

    def victims(self, wait: Wait) -> list[TaskRecord]:
        """Of each call that a stuck task waits for, what keeps it from ending for want of resources, if that does."""
        return [self._victims[call] for call in wait.calls if call in self._victims]

    def refusal(self, record: TaskRecord) -> Outcome:
        """How that call ends."""
        wanted = {name for name, _ in record.amounts}
        on = self._on_the_way_to(record.id)
        holders = [
            self._holder(record, other, wanted, other.id in on)
            for other in self.stuck.values()
            if other.worker in self._held
            and other.worker.provides_all(record.requirements)
            and any(name in wanted for name, _ in other.amounts)
        ]
        named = "; ".join(holders[:MAX_HOLDERS_NAMED]) + ("; ..." if len(holders) > MAX_HOLDERS_NAMED else "")
        error = (
            f"it was not run: it needs {shown(record.amounts)}, and would wait for ever, as no worker has that beside"
            f" what is held by calls that wait: {named}. Let the call that waits ask for less, or end first, or submit"
            " this one outside of it"
        )
        return Outcome(record.id, record.attempt, REFUSED, detail={"error": error, "deadlock": True})

    def _holder(self, call: TaskRecord, other: TaskRecord, wanted: set[str], on_the_way: bool) -> str:
        """Who of the waiting tasks holds what where, and what it has to do with that call."""
        assert other.worker is not None
        assert other.wait is not None
        own = other.client.account is call.client.account
        who = f"{short_id(other.id)} ({other.name})" if own else "another's call"
        held = shown(tuple((name, amount) for name, amount in other.amounts if name in wanted))
        if call.id in other.wait.calls:
            why = "waits for this one"
        elif on_the_way:
            why = "waits for it through others"
        else:
            why = "waits for a call that cannot begin either"
        return f"{who} holds {held} on worker {other.worker.name}, and {why}"

    def _on_the_way_to(self, call: TaskId) -> set[TaskId]:
        """What waits for that call, or for what waits for it or needs its result; not all, where that is very much."""
        found: set[TaskId] = {call}
        todo = deque([call])
        while todo and len(found) <= MAX_STEPS_TOLD:
            task = todo.popleft()
            for user in chain(self._waiters.get(task, ()), self._users.get(task, ())):
                if user not in found:
                    found.add(user)
                    todo.append(user)
        return found

    def _may_end(self, task: TaskId) -> bool:
        """As far as it depends on itself."""
        return task not in self.stuck and not self._cannot_start(self._needed[task])

    def _cannot_start(self, record: TaskRecord) -> bool:
        return record.state not in ACTIVE and not self._may_start(record.requirements)

    def _may_start(self, requirements: Requirements) -> bool:
        known = self._startable.get(requirements)
        if known is None:
            able = [worker for worker in self._workers if worker.provides_all(requirements)]
            known = not able or any(self._has_room(worker, requirements) for worker in able)
            self._startable[requirements] = known
        return known

    def _has_room(self, worker: WorkerSession, requirements: Requirements) -> bool:
        """Of a worker that provides all of it."""
        held = self._held[worker]
        return all(
            worker.provides.get(name, amount) - held.get(name, 0) >= amount for name, amount in requirements
        )

    def _let_go(self, record: TaskRecord) -> None:
        """It may go on, and so end."""
        if record.amounts:
            self._hold(record, -1)
            self._startable.clear()

    def _hold(self, record: TaskRecord, sign: int) -> None:
        assert record.worker is not None
        held = self._held.get(record.worker, {})
        for name, amount in record.amounts:
            held[name] = held.get(name, 0) + sign * amount
