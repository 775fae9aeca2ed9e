"""The entries that must be in the journal before messages about them leave, and everything that waits for that.

All that a turn must keep becomes one `JournalEntry`, which is written before any message of that turn leaves. Three
things wait until the entry is known to be written: acknowledgements of outcomes that must be kept, the message that a
detached task was accepted, and the assignment of an at-most-once call. Otherwise a later coordinator could lose the
outcome or the task, or run the call again.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from jobrunner.protocol.coordinator.function_table import FunctionTable
from jobrunner.protocol.coordinator.task import TaskRecord
from jobrunner.protocol.effects import JournalFailed, JournalWritten, WriteJournal
from jobrunner.protocol.journal_records import JournalEntry, KeptOutcome, Progress
from jobrunner.protocol.link import Link
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import ClientId, TaskId


class Begin(NamedTuple):
    """An attempt of an at-most-once call."""

    record: TaskRecord
    attempt: int


class Unanswered(NamedTuple):
    """An entry on its way into the journal."""

    number: int
    entry: JournalEntry
    links: list[Link]
    """The links that wait for it before they acknowledge messages."""
    begins: list[Begin]
    """The attempts that wait for it before they are assigned."""


class JournalGate:
    """The entry of this turn, and the entries on their way. Without a journal nothing ever waits."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self.fails = False
        """True if the last entry could not be written."""
        self._entry = JournalEntry()
        self._written = 0
        """Number of entries given to the journal, which is also the number of the last one."""
        self._unanswered: deque[Unanswered] = deque()
        self._waiting_links: list[Link] = []
        self._unwritten: set[TaskId] = set()
        """The detached tasks that the journal does not have yet."""
        self._withheld: dict[TaskRecord, None] = {}
        """The at-most-once calls that are bound to a worker which has not heard of them."""
        self._begins: list[Begin] = []
        """The attempts that begin with the entry of this turn."""
        self._written_begins: list[Begin] = []

    @property
    def idle(self) -> bool:
        """Whether every entry that was given to the journal has been answered."""
        return not self._unanswered

    # --- the entry of this turn; none of these is called without a journal ---

    def note_accepted(self, spec: m.TaskSpec) -> None:
        self._entry.accepted.append(spec)
        if spec.body.options.detach:
            self._unwritten.add(spec.id)

    def note_owner(self, client: ClientId, owner: str) -> None:
        self._entry.owners[client] = owner

    def note_may_have_run(self, task_id: TaskId) -> None:
        """Note that a task may have run, because a later coordinator must know that, too."""
        self._entry.progress.append((task_id, Progress(1, 0, 0, ())))

    def note_progress(self, record: TaskRecord) -> None:
        history = tuple(record.history or ())
        progress = Progress(record.attempt, record.failures, record.crashes, history, record.unbegun)
        self._entry.progress.append((record.id, progress))

    def note_outcome(self, name: str, outcome: m.Outcome) -> None:
        """Note an outcome that is kept until somebody asks for it."""
        self._entry.keep(KeptOutcome(name, outcome))

    def note_gone(self, task_id: TaskId) -> None:
        self._entry.drop(task_id)

    def note_nothing_of(self, task_id: TaskId) -> None:
        """Note that the journal has nothing to drop, because the task never got there."""
        self._entry.gone.pop(task_id, None)

    @property
    def outcomes_noted(self) -> int:
        """The number of outcomes in the entry of this turn."""
        return len(self._entry.outcomes)

    def restored(self) -> None:
        """Drop all notes so far, because they came from the journal itself."""
        self._entry = JournalEntry()
        self._unwritten.clear()

    # --- what waits ---

    def hold_acknowledgement(self, link: Link) -> None:
        """Acknowledge the worker's message, an outcome that must be kept, only when this turn's entry is written."""
        link.hold(self._written + 1)
        self._waiting_links.append(link)

    def is_unwritten(self, task_id: TaskId) -> bool:
        """Return whether this detached task is not in the journal yet."""
        return task_id in self._unwritten

    def withhold(self, record: TaskRecord) -> None:
        """Withhold the present attempt of a task from its worker until the journal has it."""
        self.note_progress(record)
        self._withheld[record] = None
        self._begins.append(Begin(record, record.attempt))

    def withholds(self, record: TaskRecord) -> bool:
        return record in self._withheld

    def let_go(self, record: TaskRecord) -> None:
        """Note that a withheld task was sent, or is not bound to its worker any more."""
        self._withheld.pop(record, None)

    def still_withheld(self, begins: list[Begin]) -> list[TaskRecord]:
        """Return the tasks of those that have neither ended nor begun another attempt."""
        return [
            record for record, attempt in begins if record in self._withheld and record.attempt == attempt
        ]

    def take_written(self) -> list[TaskRecord]:
        """Return the calls whose beginning is written, so that they can be sent at the end of this turn.

        They are not sent earlier, so that nothing is cancelled or lost between this and the assignment.
        """
        begins, self._written_begins = self._written_begins, []
        return self.still_withheld(begins)

    # --- writing ---

    def take_entry(self, functions: FunctionTable) -> WriteJournal | None:
        """Return all that this turn must keep as one entry, with the functions that its tasks name."""
        entry = self._entry
        if not entry:
            return None
        self._entry = JournalEntry()
        named: dict[m.FunctionKey, None] = {}
        for spec in entry.accepted:
            named[spec.body.function] = None
            if spec.body.initializer is not None:
                named[spec.body.initializer] = None
        definitions: dict[m.FunctionKey, m.FunctionDef] = {}
        for key in named:
            function = functions.get(key)
            if function is not None:  # otherwise all tasks that name it have ended within this turn
                definitions.update(
                    (each.definition.key, each.definition) for each in (*function.parts, function)
                )
        entry.functions += definitions.values()
        self._written += 1
        self._unanswered.append(Unanswered(self._written, entry, self._waiting_links, self._begins))
        self._waiting_links, self._begins = [], []
        return WriteJournal(self._written, entry)

    def answered(self, event: JournalWritten | JournalFailed, now: float) -> Unanswered:
        """Note that the oldest entry was written, or could not be; return what waited for it."""
        answered = self._unanswered.popleft()
        assert answered.number == event.number
        for link in answered.links:
            link.release(event.number, now)
        self.fails = isinstance(event, JournalFailed)
        self._unwritten.difference_update(
            [spec.id for spec in answered.entry.accepted if spec.body.options.detach]
        )
        if not self.fails:
            self._written_begins += answered.begins
        return answered

    def check_invariants(self, active: frozenset[int]) -> None:
        for record in self._withheld:
            assert record.state in active, f"{record.id} is held back"
