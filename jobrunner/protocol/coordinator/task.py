"""The life of a task: its states, the moves between them, and the coordinator's record of it.

The law: a task moves only along the table below, and reaches exactly one of the three terminal states. The handler of a
message must therefore first check whether the message still applies (its attempt, its worker). A move that is not in
the table is a bug, and raises an error with the task's history.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from jobrunner.protocol.coordinator.resources import Requirements, requirements_of
from jobrunner.protocol.journal_records import Progress
from jobrunner.protocol.wire.details import brief
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.wire.kinds import Bundle
from jobrunner.protocol.wire.messages import CallBody, Outcome, TaskOptions, Wait
from jobrunner.protocol.wire.payloads import Payload, kept_size

if TYPE_CHECKING:
    from jobrunner.protocol.coordinator.function_table import FunctionEntry
    from jobrunner.protocol.coordinator.peers import ClientSession, WorkerSession
    from jobrunner.protocol.wire.ids import ClientId


class TaskState(IntEnum):
    """The states of a task."""

    WAITING = 0
    """The task may not run yet: it depends on others, waits for its retry, or a worker may already have it."""
    QUEUED = 1
    ASSIGNED = 2
    """A worker has the task, and may or may not have started it."""
    RUNNING = 3
    """The task was started and has been running for long enough to be announced."""
    CANCELLING = 4
    """The worker was asked to stop the task; the slot is not free before that is confirmed."""
    SUCCEEDED = 5
    FAILED = 6
    CANCELLED = 7

    __hash__ = (
        int.__hash__
    )  # an enum's own hash is a Python function, and states are looked up for each message

    @property
    def label(self) -> str:
        """The name of the state, as users see it."""
        return self.name.lower()


class WaitReason(IntEnum):
    """The condition for which a WAITING task waits."""

    NOTHING = 0
    """The task does not wait, because it is in another state."""
    DEPENDENCIES = 1
    """The task waits for the results of other tasks."""
    BACKOFF = 2
    """The task waits for the time of its next attempt, because the last one failed."""
    JOURNAL = 3
    """The task may run only once, and waits for the time at which its beginning is written to the journal again."""
    REATTACHMENT = 4
    """The task waits for a worker of an earlier coordinator that may come back with it."""
    MAY_HAVE_RUN = 5
    """The task waits like REATTACHMENT, but fails if no worker has it then: it may run only once, and may have begun.
    """


WAITING, QUEUED, ASSIGNED, RUNNING, CANCELLING, SUCCEEDED, FAILED, CANCELLED = TaskState

STATE_NAMES = tuple(state.label for state in TaskState)
TERMINAL = frozenset((SUCCEEDED, FAILED, CANCELLED))
ACTIVE = frozenset((ASSIGNED, RUNNING, CANCELLING))
"""The states in which a worker has the task."""

TRANSITIONS: dict[TaskState, frozenset[TaskState]] = {
    # ASSIGNED: a worker turns out to have it; FAILED: a dependency failed, or it may not run (again)
    WAITING: frozenset((QUEUED, ASSIGNED, FAILED, CANCELLED)),
    QUEUED: frozenset((ASSIGNED, FAILED, CANCELLED)),  # FAILED: it could not be written to the journal
    ASSIGNED: frozenset((RUNNING, CANCELLING, QUEUED, WAITING, SUCCEEDED, FAILED, CANCELLED)),
    RUNNING: frozenset((CANCELLING, QUEUED, WAITING, SUCCEEDED, FAILED, CANCELLED)),
    CANCELLING: frozenset((QUEUED, WAITING, SUCCEEDED, FAILED, CANCELLED)),  # back, if the wish was withdrawn
    SUCCEEDED: frozenset(),
    FAILED: frozenset(),
    CANCELLED: frozenset(),
}


class IllegalTransition(AssertionError):
    """The error of a move that the table does not allow, which is a bug in jobrunner."""


MAX_HISTORY_LINES = 40
"""Maximum number of lines of one task's history; lines in the middle are omitted.

The history is written to the journal with each attempt.
"""

MAX_HISTORY_LINE_LENGTH = 2000
"""Maximum number of characters of one line."""

MAX_HISTORY_LENGTH = 10_000
"""Maximum number of characters of one task's history, because a client may have very many tasks with long errors."""

DEPENDENCY_BYTES = 500
"""Approximate size in bytes of a call's dependency at the coordinator."""


def call_size(payload: Payload, options: TaskOptions, depends_on: tuple[TaskId, ...]) -> int:
    """Return the size in bytes of a call's parts that its client determines."""
    size = kept_size(payload)
    if options.retry_on:
        size += len(options.retry_on)
    if options.resources:
        size += DEPENDENCY_BYTES * len(options.resources)
    if depends_on:
        size += DEPENDENCY_BYTES * len(depends_on)
    return size


def required_of(
    amounts: Requirements, function: FunctionEntry, initializer: FunctionEntry | None
) -> Requirements:
    """Return what the worker of a call must provide, without modules."""
    required = amounts + function.requirements if function.requirements else amounts
    if initializer is not None and initializer.requirements:
        required += tuple(each for each in initializer.requirements if each not in required)
    return required


class Interest:
    """The tasks and clients that want to know how a task ends, beside its own client."""

    __slots__ = ("asked", "dependents", "since", "watchers")

    def __init__(self, now: float) -> None:
        self.dependents: dict[TaskRecord, None] = {}
        """The unfinished tasks that depend on it."""
        self.watchers: dict[ClientId, None] = {}
        """The watching clients, which are connected."""
        self.since = now
        self.asked: dict[ClientId, None] = {}
        """The clients that were asked for its result and have not answered that they do not know it."""


class TaskRecord:
    """The coordinator's record of one task. It must be small, because there may be a hundred thousand."""

    __slots__ = (
        "amounts",
        "asked",
        "attempt",
        "body",
        "cancel_asked",
        "claimed",
        "client",
        "crashes",
        "dependency_results",
        "depends_on",
        "ended",
        "estimate",
        "failed_dependency",
        "failures",
        "found",
        "function",
        "history",
        "id",
        "initializer",
        "interest",
        "outcome",
        "requirements",
        "sent_in",
        "since",
        "state",
        "submitted",
        "suspected",
        "timer",
        "unbegun",
        "unresolved_count",
        "wait",
        "wait_reason",
        "weight",
        "worker",
    )

    def __init__(
        self,
        task_id: TaskId,
        client: ClientSession,
        body: CallBody,
        function: FunctionEntry,
        initializer: FunctionEntry | None,
        now: float,
    ) -> None:
        self.id = task_id
        self.client = client
        self.body = body
        """The body that its worker is given; after its end, a brief description."""
        self.function = function
        self.weight = body.kind.calls if isinstance(body.kind, Bundle) else 1
        """The number of calls for which the task counts in all displayed numbers; a bundle counts as its calls."""
        self.amounts = requirements_of(body.options.resources)
        """The resources that it takes from its worker."""
        self.requirements = required_of(self.amounts, function, initializer)
        """The requirements that its worker must meet."""
        self.initializer = initializer
        self.state: TaskState = QUEUED
        self.worker: WorkerSession | None = None
        """The worker of the last assignment, which has the task only in one of the states ACTIVE."""
        self.attempt = 0
        """The number of the last assignment; a worker's report counts only for the present one."""
        self.sent_in = 0
        """The number of the message, in its worker's present session, that assigned it; 0 if there is none."""
        self.unbegun = 0
        """The number of attempts that are known never to have begun."""
        self.asked = 0
        """The last attempt of a chunk that was asked to give back elements that have not begun, see `division`."""
        self.suspected = 0
        """The last attempt that was counted as a crash because its worker was lost."""
        self.ended = 0
        """The last attempt that is known to have ended or never to have begun, so that no worker has it any more."""
        self.failures = 0
        """The number of attempts that ended because the user's function raised an error or ran out of time."""
        self.crashes = 0
        """The number of attempts that ended because the process or the worker died."""
        self.cancel_asked = False
        self.estimate = 0.0
        """The expected duration of this attempt in seconds, at the time of its assignment."""
        self.submitted = now
        self.since = now
        """The time when it entered its present state."""
        self.outcome: Outcome | None = None
        self.history: list[str] | None = None
        self.wait_reason = WaitReason.NOTHING
        self.timer = 0
        """The number of the timer that ends its wait in the Dispatcher; 0 if it waits for no time."""
        self.depends_on: tuple[TaskId, ...] = ()
        self.dependency_results: dict[TaskId, Payload] | None = None
        """The results of the tasks on which it depends, as far as they are known."""
        self.found = 0
        """The number of dependencies, from the first on, that nobody looks for any more."""
        self.unresolved_count = 0
        """The number of dependencies whose results are not known yet."""
        self.failed_dependency: Outcome | None = None
        """The outcome with which it ends because a dependency failed."""
        self.interest: Interest | None = None
        self.claimed = False
        """True if a worker had its present attempt before this coordinator knew the task."""
        self.wait: Wait | None = None
        """The calls for which it waits at its worker, see `deadlocks`."""

    @property
    def name(self) -> str:
        return self.body.options.name or self.function.definition.name

    @property
    def begun(self) -> int:
        """The number of attempts that have begun or may have, including the present one, as users see it."""
        return self.attempt - self.unbegun

    def not_begun(self) -> None:
        """Note that the present attempt has ended without having begun anywhere."""
        self.ended = self.attempt
        self.unbegun += 1

    def restore(self, progress: Progress) -> None:
        """Continue the counts of an earlier coordinator.

        A journal has the attempts of a task when they have ended; those of one that runs at most once, when they begin.
        """
        self.attempt, self.failures, self.crashes, _, self.unbegun = progress
        self.history = list(progress.history) or None
        self.ended = 0 if self.body.options.at_most_once else progress.attempt

    def continue_from(self, chunk: TaskRecord) -> None:
        """Continue the counts of a chunk of which this task is the part that runs on."""
        self.crashes = max(self.crashes, chunk.crashes)
        self.history = chunk.history

    def ask_to_cancel(self) -> None:
        self.cancel_asked = True

    def keep(self) -> None:
        """Withdraw the wish to cancel it."""
        self.cancel_asked = False

    def require(self, requirements: Requirements) -> None:
        self.requirements = requirements

    def need(self, depends_on: tuple[TaskId, ...]) -> None:
        """Note the tasks whose results it needs, none of which is known yet."""
        self.depends_on, self.dependency_results = depends_on, {}

    def note_sent(self, number: int) -> None:
        """Note the number of the message with its present attempt; 0: it is in none of this session."""
        self.sent_in = number

    def keep_no_outcome(self) -> None:
        """Take a detached task for one that is not, because it was not accepted."""
        self.body = self.body._replace(options=self.body.options._replace(detach=False))

    def take_interest(self) -> Interest | None:
        """Remove and return those who want to know how it ends."""
        interest, self.interest = self.interest, None
        return interest

    def finish(self, outcome: Outcome) -> None:
        self.outcome = outcome

    def drop_payload(self) -> None:
        """Remove the result, because nobody gets it from here any more; a brief description remains."""
        outcome = self.outcome
        if outcome is None:
            return
        detail = None if outcome.detail is None else brief(outcome.detail)
        if outcome.payload or detail != outcome.detail:
            self.outcome = outcome._replace(payload=b"", detail=detail)

    def drop_body(self) -> None:
        """Remove the body of an ended task, which no account counts any more and which may be megabytes."""
        function, _, kind, options, initializer, depth = self.body
        if options.retry_on or options.resources:
            options = TaskOptions(options.name, options.priority, options.retries)
            self.amounts = ()
        self.body = CallBody(function, b"", kind, options, initializer, depth)
        self.depends_on = self.requirements = ()

    @property
    def size(self) -> int:
        """The size in bytes that its owner is charged."""
        return call_size(self.body.payload, self.body.options, self.depends_on)

    @property
    def elements(self) -> int:
        """The number of calls in it: 1, or those of a chunk or a bundle."""
        return self.body.kind.calls

    def move(self, state: TaskState, now: float) -> None:
        """Enter `state`. Raises IllegalTransition for a move that is not in the table."""
        if state not in TRANSITIONS[self.state]:
            raise IllegalTransition(
                f"task {self.id} cannot go from {self.state.label} to {state.label}; "
                f"attempt {self.attempt}, history: {self.history or 'none'}"
            )
        self.state = state
        self.since = now
        self.wait_reason = WaitReason.NOTHING
        self.timer = 0

    def wait_for(self, reason: WaitReason, timer: int = 0) -> None:
        """Note the reason for which it waits in the state WAITING, and the number of the timer that ends the wait."""
        self.wait_reason = reason
        self.timer = timer

    def record_event(self, line: str) -> None:
        """Add a line to the history that errors and `jobrunner task` show."""
        if self.history is None:
            self.history = []
        self.history.append(
            line if len(line) <= MAX_HISTORY_LINE_LENGTH else line[:MAX_HISTORY_LINE_LENGTH] + "..."
        )
        while len(self.history) > MAX_HISTORY_LINES or sum(map(len, self.history)) > MAX_HISTORY_LENGTH:
            del self.history[len(self.history) // 2]
