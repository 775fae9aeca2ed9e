"""The records that a coordinator stores so that accepted work survives its death; the file is elsewhere.

The core decides what is stored (`effects.WriteJournal`). Its driver writes the records in one transaction, and answers
with `JournalWritten` or `JournalFailed`. A detached task is confirmed (`messages.Accepted`) only after it has been
written, and a worker's message is acknowledged only after the outcomes in it that are to be stored have been. Clients
keep the other tasks, too.

A task is stored from its acceptance until it is `gone`, which means that it has ended and nobody can still ask for its
outcome. The outcome of a detached task replaces the task in the journal, until it is forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from jobrunner.protocol.wire.ids import ClientId, TaskId
from jobrunner.protocol.wire.messages import FunctionDef, FunctionKey, Outcome, TaskSpec
from jobrunner.protocol.wire.payloads import payload_size


class Progress(NamedTuple):
    """The counts of a task, which no restart may reset, and its history."""

    attempt: int = 0
    failures: int = 0
    crashes: int = 0
    history: tuple[str, ...] = ()
    unbegun: int = 0
    """The number of attempts that never began."""


class KeptOutcome(NamedTuple):
    """The outcome of a detached task; `age` is in seconds, and 0 when it is written."""

    name: str
    outcome: Outcome
    age: float = 0.0


@dataclass(slots=True)
class JournalEntry:
    """The content of one transaction."""

    functions: list[FunctionDef] = field(default_factory=list)
    """All functions that `accepted` names, with their parts; those that the journal has already need not be written
    again."""
    accepted: list[TaskSpec] = field(default_factory=list)
    progress: list[tuple[TaskId, Progress]] = field(default_factory=list)
    outcomes: dict[TaskId, KeptOutcome] = field(default_factory=dict)
    """The outcomes, each of which replaces its task."""
    gone: dict[TaskId, None] = field(default_factory=dict)
    """The tasks and kept outcomes that nobody needs any more; none of them is in `outcomes`."""
    owners: dict[ClientId, str] = field(default_factory=dict)
    """The public keys that submitted `accepted`; after a blank, the key for which they did so, if it is another
    one."""

    def keep(self, kept: KeptOutcome) -> None:
        self.gone.pop(kept.outcome.id, None)
        self.outcomes[kept.outcome.id] = kept

    def drop(self, task_id: TaskId) -> None:
        self.outcomes.pop(task_id, None)
        self.gone[task_id] = None

    def __bool__(self) -> bool:
        return bool(self.accepted or self.progress or self.outcomes or self.gone)


@dataclass(slots=True)
class JournalState:
    """The content of a journal, with which a coordinator starts; tasks are in the order of their acceptance."""

    functions: dict[FunctionKey, FunctionDef] = field(default_factory=dict)
    """The functions that the tasks name, as `function` or `initializer`, and their parts; there may be others."""
    tasks: dict[TaskId, tuple[TaskSpec, Progress]] = field(default_factory=dict)
    outcomes: dict[TaskId, KeptOutcome] = field(default_factory=dict)
    owners: dict[ClientId, str] = field(default_factory=dict)
    """The keys of the clients of `tasks` and `outcomes`, as in a JournalEntry; there may be others."""

    def copy(self) -> JournalState:
        """Return a copy that does not change with this one."""
        return JournalState(dict(self.functions), dict(self.tasks), dict(self.outcomes), dict(self.owners))

    def needed_functions(self) -> set[FunctionKey]:
        """Return the functions that the tasks name, and their parts."""
        named = {
            key
            for spec, _ in self.tasks.values()
            for key in (spec.body.function, spec.body.initializer)
            if key is not None
        }
        return named.union(*(self.functions[key].parts for key in named if key in self.functions))

    def apply(self, entry: JournalEntry) -> None:
        """Change the state as one more entry demands."""
        self.owners.update(entry.owners)
        for definition in entry.functions:
            self.functions[definition.key] = definition
        for spec in entry.accepted:
            self.tasks[spec.id] = (spec, Progress())
        for task_id, progress in entry.progress:
            known = self.tasks.get(task_id)
            if known is not None:
                self.tasks[task_id] = (known[0], progress)
        for task_id, kept in entry.outcomes.items():
            self.tasks.pop(task_id, None)
            self.outcomes[task_id] = kept
        for task_id in entry.gone:
            self.tasks.pop(task_id, None)
            self.outcomes.pop(task_id, None)


@dataclass(slots=True)
class Owed:
    """The records that could not be written yet, at most one of each task.

    Their number is therefore limited by the content of the journal and by the kept outcomes, however often writing
    fails.
    """

    gone: dict[TaskId, None] = field(default_factory=dict)
    outcomes: dict[TaskId, KeptOutcome] = field(default_factory=dict)
    progress: dict[TaskId, Progress] = field(default_factory=dict)

    def add(self, entry: JournalEntry, state: JournalState) -> None:
        """Take over everything of an entry except its new tasks, which are refused.

        `state` is the journal's content.
        """
        for task_id, progress in entry.progress:
            if task_id in state.tasks and task_id not in self.gone and task_id not in self.outcomes:
                self.progress[task_id] = progress
        for task_id, kept in entry.outcomes.items():
            self._drop(task_id)
            self.outcomes[task_id] = kept
        for task_id in entry.gone:
            self._drop(task_id)
            if task_id in state.tasks or task_id in state.outcomes:
                self.gone[task_id] = None

    def part(self, most_tasks: int, most_bytes: int) -> JournalEntry:
        """Return some of the records as one entry, at least one of them; those that shrink the journal come first."""
        entry = JournalEntry(gone=dict.fromkeys(islice(self.gone, most_tasks)))
        size, left = 0, most_tasks - len(entry.gone)
        for task_id, kept in islice(self.outcomes.items(), left):
            size += payload_size(kept.outcome.payload)
            if size > most_bytes and entry:
                return entry
            entry.outcomes[task_id] = kept
        entry.progress += islice(self.progress.items(), left - len(entry.outcomes))
        return entry

    def written(self, part: JournalEntry) -> None:
        for task_id in (*part.gone, *part.outcomes, *(task_id for task_id, _ in part.progress)):
            self._drop(task_id)

    def _drop(self, task_id: TaskId) -> None:
        self.gone.pop(task_id, None)
        self.outcomes.pop(task_id, None)
        self.progress.pop(task_id, None)

    def __bool__(self) -> bool:
        return bool(self.gone or self.outcomes or self.progress)
