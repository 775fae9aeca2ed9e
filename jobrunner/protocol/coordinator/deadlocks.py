"""Calls that need resources which only the tasks that wait for them hold: they are found and refused.

A task that waits for calls of its own yields its slot, but keeps its resources. A call for which no worker has enough
beside the resources of such tasks would wait for ever, and the tasks with it. Workers report which tasks wait for which
calls, if that lasts and the wait has no time limit (`messages.Wait`).

The law: a call is refused only if it could not start, however long one waited. Every task that is not known to wait is
assumed to end some time and to release its resources. So is every call that could start on some worker beside the
waiting tasks, and with it the tasks that wait for it, and so on. The remaining tasks can never go on. Of their calls,
those are refused for which no worker has enough, until the tasks that wait for them can go on. A call that no worker
could run even if it were idle waits, as always, for a worker that may join.

A wait that no worker reports can let a deadlock last, but never makes a call fail: nothing is known of a wait with a
time limit, or of one by means of another package. Nor does a call fail if there are so many waits and dependencies that
following all of them would keep the coordinator from its work (`MAX_STEPS`). After a change, such as the loss of a
worker, no call is refused for `PATIENCE`.
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
"""Minimum time in seconds between two searches."""

PATIENCE = 2.0
"""Time in seconds for which a call must be found in a deadlock without interruption before it is refused."""

MAX_STEPS = 100_000
"""Maximum number of calls and dependencies that one search follows, which takes about a tenth of a second.

If there are more, no call is refused.
"""

MAX_STEPS_TOLD = 1000
"""Maximum number of calls that are followed to tell which tasks wait for one call through others."""

MAX_HOLDERS_NAMED = 5


class Deadlocks:
    """The tasks at workers that wait for calls, and the search for those that can never go on."""

    def __init__(
        self, *, tasks: TaskTable, roster: Roster, orphans: Orphans, dispatcher: Dispatcher, endings: Endings
    ) -> None:
        self._tasks = tasks
        self._roster = roster
        self._orphans = orphans
        self._dispatcher = dispatcher
        self._endings = endings
        self._waiting: dict[TaskId, TaskRecord] = {}
        """The tasks at workers that have a `wait`."""
        self._since: dict[TaskId, float] = {}
        """The calls that were in a deadlock at the last search, and since when without interruption."""
        self._looked_at = 0.0
        self._news = False
        """True if a task has changed its wait since the last search."""

    def told(self, worker: WorkerSession, wait: Wait) -> None:
        """Take a worker's report about the calls for which a task waits, if the task is at that worker."""
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
        """Note that a task goes on, or has left its worker."""
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
        """Postpone refusals, because this process did not run for this number of seconds."""
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
                if record.id in self._tasks:  # it may have depended on the previous one
                    self._endings.finish(record, found.refusal(record), FAILED, now)
            found = self._search()
            steps += found.steps
            self._since = {task: since for task, since in self._since.items() if task in found.calls}

    def check_invariants(self) -> None:
        """Assert the conditions that hold after every step; for the simulation."""
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
        """Return the calls to refuse, all of one waiting task, without which it can never go on, whatever others do."""
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
    """The search for waiting tasks that can never go on; nothing changes while it lasts."""

    def __init__(self, tasks: TaskTable, roster: Roster, waiting: dict[TaskId, TaskRecord]) -> None:
        self._tasks = tasks
        self._workers = [worker for worker in roster.workers.values() if not worker.draining]
        # A task that is being stopped ends. The deepest tasks come first, so that one pass frees those that wait for
        # them.
        lasting = [record for record in waiting.values() if record.state != CANCELLING]
        self._waiting = sorted(lasting, key=lambda record: -record.body.depth)
        self.stuck: dict[TaskId, TaskRecord] = {}
        """The tasks that can never go on."""
        self.calls: dict[TaskId, TaskRecord] = {}
        """The calls that cannot start because the tasks in `stuck` hold too much."""
        self._held: dict[WorkerSession, dict[str, int]] = {worker: {} for worker in self._workers}
        """The resources that the tasks in `stuck` hold."""
        for record in self._waiting:
            self._hold(record, +1)
        self._startable: dict[Requirements, bool] = {}
        """Whether calls with these requirements can ever start beside the tasks in `stuck`."""
        self.steps = 0
        self._needed: dict[TaskId, TaskRecord] = {}
        """The unfinished calls for which somebody waits, and those on which they depend, directly or not."""
        self._users: dict[TaskId, list[TaskId]] = {}
        """By one of these calls, the calls that depend on it."""
        self._waiters: dict[TaskId, list[TaskId]] = {}
        """By one of these calls, the stuck tasks that wait for it."""
        self._victims: dict[TaskId, TaskRecord] = {}
        """By one of these calls, the call that lacks resources and keeps it from ending: itself, or a dependency."""

    def is_needed(self, queued: Iterable[Requirements]) -> bool:
        """Return whether some call could not start unless a waiting task goes on; usually there is none."""
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
        """Return these calls and all that depend on them, each with the value of the nearest one."""
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
        """Return the calls whose lack of resources keeps the calls of this wait from ending."""
        return [self._victims[call] for call in wait.calls if call in self._victims]

    def refusal(self, record: TaskRecord) -> Outcome:
        """Return the outcome of a refused call."""
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
            f"it was not run: it needs {shown(record.amounts)} and would wait for ever, because no worker has that"
            f" beside the resources of waiting calls: {named}. Let the waiting call require less, or end first, or"
            " submit this one outside of it"
        )
        return Outcome(record.id, record.attempt, REFUSED, detail={"error": error, "deadlock": True})

    def _holder(self, call: TaskRecord, other: TaskRecord, wanted: set[str], on_the_way: bool) -> str:
        """Return a text about a waiting task: which resources it holds where, and how it depends on that call."""
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
        """Return the tasks that wait for that call or depend on it, directly or not, up to a limit."""
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
        """Return whether the task can end, as far as it depends on itself."""
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
        """Return whether a worker that provides all of it has enough beside waiting tasks."""
        held = self._held[worker]
        return all(
            worker.provides.get(name, amount) - held.get(name, 0) >= amount for name, amount in requirements
        )

    def _let_go(self, record: TaskRecord) -> None:
        """Release the resources of a task that may go on, and so end."""
        if record.amounts:
            self._hold(record, -1)
            self._startable.clear()

    def _hold(self, record: TaskRecord, sign: int) -> None:
        assert record.worker is not None
        held = self._held.get(record.worker, {})
        for name, amount in record.amounts:
            held[name] = held.get(name, 0) + sign * amount
