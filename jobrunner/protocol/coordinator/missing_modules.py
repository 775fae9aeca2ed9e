"""The modules and initializers that workers lack, and the consequences for calls that require them.

A function names the modules that it requires (`FunctionDef.modules`). A worker is assumed to have all of them until it
gives a call back because it has not. From then on such calls go to other workers; if none of those that could run a
call has its modules, the call ends. As long as no worker lacks anything this costs nothing, and the queue does not know
about modules.

An initializer that has failed on a worker, or killed its process there, counts as a module that this worker lacks: the
call has not begun, and goes to another one.

An answer does not hold for ever, because the module may be installed meanwhile. It is dropped after some time, or when
it would end a new call, and the worker checks again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from jobrunner.protocol.coordinator.function_table import FunctionEntry
from jobrunner.protocol.coordinator.resources import Requirements, module_requirement
from jobrunner.protocol.coordinator.task import ACTIVE, FAILED, QUEUED, WAITING, TaskRecord, required_of
from jobrunner.protocol.wire.batches import of_outcome
from jobrunner.protocol.wire.details import cut
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.wire.messages import REFUSED, Outcome
from jobrunner.protocol.wire.payloads import payload_size

if TYPE_CHECKING:
    from jobrunner.protocol.coordinator.attempts import Attempts
    from jobrunner.protocol.coordinator.dispatcher import Dispatcher
    from jobrunner.protocol.coordinator.endings import Endings
    from jobrunner.protocol.coordinator.function_table import FunctionTable
    from jobrunner.protocol.coordinator.peers import WorkerSession
    from jobrunner.protocol.coordinator.roster import Roster
    from jobrunner.protocol.coordinator.task_table import TaskTable

ANSWER_SECONDS = 30.0
"""Time in seconds for which a worker's answer holds."""

NEW_ANSWER_SECONDS = 1.0
"""Time in seconds for which it holds if it would end a new call."""

MAX_WORKERS_NAMED = 5

MAX_PAIRS = 1000
"""Maximum number of functions, each with an initializer, whose contested modules are cached."""

MAX_FAILURE_BYTES = 16 * 1024
"""Maximum size in bytes of a kept failure of an initializer, which no account counts and which each such call gets."""

INITIALIZER = "initializer "
"""The prefix of an initializer's key among the names of modules, none of which contains a space."""


class MissingModules:
    """The modules that workers lack; a part of one Scheduler."""

    def __init__(
        self,
        *,
        tasks: TaskTable,
        roster: Roster,
        functions: FunctionTable,
        dispatcher: Dispatcher,
        endings: Endings,
    ) -> None:
        self._tasks = tasks
        self._roster = roster
        self._functions = functions
        self._dispatcher = dispatcher
        self._endings = endings
        self._attempts: Attempts
        self.contested_modules: frozenset[str] = frozenset()
        """The modules that some worker lacks."""
        self._contested_of: dict[tuple[FunctionEntry, FunctionEntry | None], list[str]] = {}
        """By function and initializer, the contested modules that they require, because very many calls ask for them.
        """
        self._oldest = 0.0
        """The time of the oldest answer that still holds."""
        self._failures: dict[str, Outcome] = {}
        """The last failure of each initializer that is among `contested_modules`, by its name there."""

    def hand_back_to(self, attempts: Attempts) -> None:
        """Set the object that takes the tasks which workers give back because they lack a module."""
        self._attempts = attempts

    def requirements(self, record: TaskRecord) -> Requirements:
        """Return the requirements of a task, including the modules that not every worker has."""
        return base_requirements(record) + module_requirements(
            self._contested(record.function, record.initializer)
        )

    def refusal(
        self,
        task_id: TaskId,
        function: FunctionEntry,
        initializer: FunctionEntry | None,
        base: Requirements,
        now: float,
    ) -> Outcome | None:
        """Return the outcome of a new call for which no worker can import the required modules, or None."""
        if not self._is_hopeless(function, initializer, base):
            return None
        names = self._contested(function, initializer)
        if self._drop(names, now - NEW_ANSWER_SECONDS):
            return None  # a worker checks again
        return self._outcome(task_id, 0, function, initializer, base)

    def report(
        self, worker: WorkerSession, returned: Iterable[tuple[TaskId, int]], names: Iterable[str], now: float
    ) -> None:
        """Note that a worker cannot import these modules and therefore gives those tasks (with their attempts) back."""
        records = [
            record
            for task_id, attempt in returned
            if (record := self._tasks.get(task_id)) is not None
            and record.worker is worker
            and record.attempt == attempt
            and record.state in ACTIVE
        ]
        # A worker's report is kept only for modules of tasks that it was given.
        asked = {name for record in records for name in needed(record.function, record.initializer)}
        missing = asked.intersection(names)
        if not self.contested_modules:
            self._oldest = now
        news = missing - worker.missing_modules.keys()
        worker.missing_modules.update(dict.fromkeys(sorted(missing), now))
        if missing - self.contested_modules:
            self._count()
            self._sort_again(self._tasks_with(missing))
        else:
            for record in records:
                record.require(self.requirements(record))
        for task_id, attempt in reversed(list(returned)):
            self._attempts.returned(worker, task_id, attempt, now, prefetch=worker.prefetch and bool(missing))
        self._end_hopeless(self._tasks_with(news) if news else records, now)

    def initializer_failed(
        self, worker: WorkerSession, record: TaskRecord, outcome: Outcome, now: float
    ) -> None:
        """Note that a task, which is with no worker now, has not begun on this one because its initializer failed."""
        assert record.initializer is not None
        name = initializer_name(record.initializer)
        error = (outcome.detail or {}).get("error", "raised")
        record.record_event(f"attempt {record.begun} on {worker.name}: the initializer failed: {error}")
        self._failures[name] = moderate(outcome)
        if not self.contested_modules:
            self._oldest = now
        news = name not in worker.missing_modules
        worker.missing_modules[name] = now
        self._attempts.again(record, now)
        if name not in self.contested_modules:
            self._count()
            self._sort_again(self._tasks_with({name}))
        else:
            record.require(self.requirements(record))
            if record.state == QUEUED:
                self._dispatcher.queue.push(record, front=True)
        self._end_hopeless(self._tasks_with({name}) if news else [record], now)

    def worker_gone(self, worker: WorkerSession) -> None:
        if worker.missing_modules:
            self._count()

    def due(self, now: float) -> None:
        """Drop the answers that have become old."""
        if self.contested_modules and now > self._oldest + ANSWER_SECONDS:
            self._drop(self.contested_modules, now - ANSWER_SECONDS)
            answers = [
                at for worker in self._roster.workers.values() for at in worker.missing_modules.values()
            ]
            self._oldest = min(answers, default=now)

    def why(self, record: TaskRecord) -> str:
        """Return the reason why a task waits, if no worker has its modules, else an empty string."""
        base = base_requirements(record)
        if not self._is_hopeless(record.function, record.initializer, base):
            return ""
        return self._complaint(record.function, record.initializer, base)

    def _contested(self, function: FunctionEntry, initializer: FunctionEntry | None) -> list[str]:
        if not self.contested_modules:
            return []
        pair = function, initializer
        found = self._contested_of.get(pair)
        if found is None:
            if len(self._contested_of) >= MAX_PAIRS:
                self._contested_of.clear()
            found = [name for name in needed(function, initializer) if name in self.contested_modules]
            self._contested_of[pair] = found
        return found

    def _able(self, base: Requirements) -> list[WorkerSession]:
        """Return the workers that could run it if they had the modules."""
        workers = self._roster.workers.values()
        return [worker for worker in workers if not worker.draining and worker.provides_all(base)]

    def _is_hopeless(
        self, function: FunctionEntry, initializer: FunctionEntry | None, base: Requirements
    ) -> bool:
        names = self._contested(function, initializer)
        if not names:
            return False
        able = self._able(base)
        return bool(able) and all(any(name in worker.missing_modules for name in names) for worker in able)

    def _drop(self, names: Iterable[str], before: float) -> bool:
        """Drop the answers about these modules that were given before that time; return whether there were any."""
        dropped = False
        for worker in self._roster.workers.values():
            had = len(worker.missing_modules)
            for name in names if worker.missing_modules else ():
                if worker.missing_modules.get(name, before) < before:
                    del worker.missing_modules[name]
            if len(worker.missing_modules) < had:
                self._roster.may_have_room(worker)
                self._dispatcher.queue.wake(worker.provides_all)
                dropped = True
        if dropped:
            self._count()
        return dropped

    def _count(self) -> None:
        self.contested_modules = frozenset(
            name for w in self._roster.workers.values() for name in w.missing_modules
        )
        self._contested_of.clear()
        for name in self._failures.keys() - self.contested_modules:
            del self._failures[name]

    def _tasks_with(self, names: set[str]) -> list[TaskRecord]:
        """Return the tasks that require any of these modules.

        All such tasks are examined, because anybody may submit a task whose modules no worker has; usually they are
        few.
        """
        entries = {
            entry
            for entry in self._functions.entries()
            if entry.users
            and (not names.isdisjoint(entry.definition.modules) or initializer_name(entry) in names)
        }
        if not entries:
            return []
        return [r for r in self._tasks.values() if r.function in entries or r.initializer in entries]

    def _sort_again(self, records: list[TaskRecord]) -> None:
        """Queue tasks again with the modules that have become contested among their requirements."""
        for record in records:
            requirements = self.requirements(record)
            if requirements != record.requirements:
                record.require(requirements)
                if record.state == QUEUED:
                    self._dispatcher.queue.push(record)

    def _end_hopeless(self, records: list[TaskRecord], now: float) -> None:
        for record in records:
            if record.state not in (QUEUED, WAITING):
                continue
            function, initializer, base = record.function, record.initializer, base_requirements(record)
            if self._is_hopeless(function, initializer, base):
                outcome = self._outcome(record.id, record.attempt, function, initializer, base)
                self._endings.finish(record, outcome, FAILED, now)

    def _outcome(
        self,
        task_id: TaskId,
        attempt: int,
        function: FunctionEntry,
        initializer: FunctionEntry | None,
        base: Requirements,
    ) -> Outcome:
        names = self._contested(function, initializer)
        for name in names:
            failure = self._failures.get(name)
            if failure is not None:
                return failure._replace(id=task_id, attempt=attempt)
        error = self._complaint(function, initializer, base)
        return Outcome(task_id, attempt, REFUSED, detail={"error": error, "modules": tuple(names)})

    def _complaint(
        self, function: FunctionEntry, initializer: FunctionEntry | None, base: Requirements
    ) -> str:
        names = self._contested(function, initializer)
        able = self._able(base)
        parts = []
        for name in names:
            who = sorted(worker.name for worker in able if name in worker.missing_modules)
            if name in self._failures:
                return f"the initializer failed on {' and '.join(who[:MAX_WORKERS_NAMED])}"
            if who:
                user = function if name in function.definition.modules or initializer is None else initializer
                parts.append(f"{lack(who)} the module {name!r}, which {short_name(user)} needs")
        several = len(parts) > 1
        advice = f"install {'them' if several else 'it'} there, or ship {'them' if several else 'it'} with"
        return f"{', and '.join(parts)}: {advice} Executor(..., ship=[...])"


def moderate(failure: Outcome) -> Outcome:
    """Return the failure in a size that is worth keeping: of a larger one, only the facts."""
    size = payload_size(failure.payload)
    if size + of_outcome(failure) <= MAX_FAILURE_BYTES:
        return failure
    detail = cut(failure.detail or {})
    if failure.payload:
        detail["too_large"] = True
        detail.setdefault("error", f"it raised an exception of {size:,} bytes, which are not kept")
    return failure._replace(payload=b"", detail=detail)


def base_requirements(record: TaskRecord) -> Requirements:
    return required_of(record.amounts, record.function, record.initializer)


def needed(function: FunctionEntry, initializer: FunctionEntry | None) -> tuple[str, ...]:
    """Return the modules that the worker of a call must have, and the initializer that must work there."""
    own = function.definition.modules
    if initializer is None:
        return own
    definition = initializer.definition
    both = dict.fromkeys((*own, *definition.modules))
    for name in definition.ships:
        both.pop(name, None)
    return (*both, initializer_name(initializer))


def initializer_name(initializer: FunctionEntry) -> str:
    return INITIALIZER + initializer.definition.key.hex()


def module_requirements(names: Iterable[str]) -> Requirements:
    return tuple(module_requirement(name) for name in names)


def short_name(function: FunctionEntry) -> str:
    """Return the function's name without the functions inside of which it is defined."""
    return function.definition.name.rpartition("<locals>.")[2]


def lack(workers: list[str]) -> str:
    """Return "worker a lacks" or "workers a and b lack"; of many workers only some are named."""
    if len(workers) == 1:
        return f"worker {workers[0]} lacks"
    if len(workers) > MAX_WORKERS_NAMED:
        more = len(workers) - MAX_WORKERS_NAMED
        return f"workers {', '.join(workers[:MAX_WORKERS_NAMED])} and {more} more lack"
    return f"workers {', '.join(workers[:-1])} and {workers[-1]} lack"
