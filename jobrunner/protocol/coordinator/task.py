"""The life of a task: its states, which of them may follow which, and the coordinator's record of it.

The law: a task moves only along the table below, and reaches exactly one of the three terminal states. Whatever
handles a message must therefore ask first whether the message still applies (its attempt, its worker), and a move
that the table does not list is a bug: it raises, with the task's history.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from jobrunner.protocol.coordinator.resources import Requirements, requirements_of
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
    """Not to be run yet: it needs other tasks, waits for the time of its retry, or some worker may have it already."""
    QUEUED = 1
    ASSIGNED = 2
    """With a worker, which may or may not have started it."""
    RUNNING = 3
    """Started, and long enough under way for its worker to say so."""
    CANCELLING = 4
    """Its worker was asked to stop it; the slot is not free before that is confirmed."""
    SUCCEEDED = 5
    FAILED = 6
    CANCELLED = 7

    __hash__ = (
        int.__hash__
    )  # an enum's own is a function in Python, and states are looked up for each message

    @property
    def label(self) -> str:
        """The name of the state, as users see it."""
        return self.name.lower()


class WaitReason(IntEnum):
    """What a WAITING task waits for."""

    NOTHING = 0
    """It does not wait: it is in another state."""
    DEPENDENCIES = 1
    """The results of other tasks."""
    BACKOFF = 2
    """The time of its next attempt, since the last one failed."""
    JOURNAL = 3
    """The time at which it is tried again to write down that it begins, since it runs at most once."""
    REATTACHMENT = 4
    """A worker that has it from an earlier coordinator may come back until then."""
    MAY_HAVE_RUN = 5
    """As REATTACHMENT; but if no worker has it by then, it fails, since it runs at most once and may have begun."""


WAITING, QUEUED, ASSIGNED, RUNNING, CANCELLING, SUCCEEDED, FAILED, CANCELLED = TaskState

STATE_NAMES = tuple(state.label for state in TaskState)
TERMINAL = frozenset((SUCCEEDED, FAILED, CANCELLED))
ACTIVE = frozenset((ASSIGNED, RUNNING, CANCELLING))
"""States in which a worker has the task."""

TRANSITIONS: dict[TaskState, frozenset[TaskState]] = {
    # ASSIGNED: a worker turns out to have it; FAILED: what it needs did not succeed, or it may not run (again)
    WAITING: frozenset((QUEUED, ASSIGNED, FAILED, CANCELLED)),
    QUEUED: frozenset((ASSIGNED, FAILED, CANCELLED)),  # FAILED: it could not be written down
    ASSIGNED: frozenset((RUNNING, CANCELLING, QUEUED, WAITING, SUCCEEDED, FAILED, CANCELLED)),
    RUNNING: frozenset((CANCELLING, QUEUED, WAITING, SUCCEEDED, FAILED, CANCELLED)),
    CANCELLING: frozenset((QUEUED, WAITING, SUCCEEDED, FAILED, CANCELLED)),  # back, if the wish was withdrawn
    SUCCEEDED: frozenset(),
    FAILED: frozenset(),
    CANCELLED: frozenset(),
}


class IllegalTransition(AssertionError):
    """A core tried a move that the table does not allow: a bug in jobrunner."""


MAX_HISTORY_LINES = 40
"""Of one task's history; of more, those in the middle are left out. The history is written to the journal with each
attempt."""

MAX_HISTORY_LINE_LENGTH = 2000
"""Of one line."""

MAX_HISTORY_LENGTH = 10_000
"""Characters of one task's history: a client may have very many tasks, each of which fails at length."""

DEPENDENCY_BYTES = 500
"""What a call takes here for each call whose result it needs, about."""


def call_size(payload: Payload, options: TaskOptions, depends_on: tuple[TaskId, ...]) -> int:
    """Bytes of a call that its client determines."""
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
    """What the worker of a call must provide, beside the modules."""
    required = amounts + function.requirements if function.requirements else amounts
    if initializer is not None and initializer.requirements:
        required += tuple(each for each in initializer.requirements if each not in required)
    return required


class Interest:
    """Who wants to know how a task ends, beside its own client."""

    __slots__ = ("asked", "dependents", "since", "watchers")

    def __init__(self, now: float) -> None:
        self.dependents: dict[TaskRecord, None] = {}
        """Unfinished tasks that need its result."""
        self.watchers: dict[ClientId, None] = {}
        """Clients that are here."""
        self.since = now
        self.asked: dict[ClientId, None] = {}
        """Clients that were asked for its result and have not said that they cannot tell."""


class TaskRecord:
    """What the coordinator knows of one task. A hundred thousand of these must be cheap."""

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
        """What its worker is given; when it has ended, only what is told of it."""
        self.function = function
        self.weight = body.kind.calls if isinstance(body.kind, Bundle) else 1
        """What it counts for in all numbers that are shown: a bundle is as many calls."""
        self.amounts = requirements_of(body.options.resources)
        """What it takes of its worker's resources."""
        self.requirements = required_of(self.amounts, function, initializer)
        """What its worker must have."""
        self.initializer = initializer
        self.state: TaskState = QUEUED
        self.worker: WorkerSession | None = None
        self.attempt = 0
        """The number of the last assignment: a worker's word counts only with the present one."""
        self.sent_in = 0
        """The number of the message, in its worker's present session, with which that was assigned; 0: in none."""
        self.unbegun = 0
        """How many of these are known never to have begun."""
        self.asked = 0
        """The last attempt, of a chunk, that was asked to give back what it has not begun; see `division`."""
        self.suspected = 0
        """The last attempt that was counted as a crash because its worker was lost."""
        self.ended = 0
        """The last attempt that is known to have ended or never to have begun: no worker can still have it."""
        self.failures = 0
        """Attempts that ended because the user's function raised or ran out of time."""
        self.crashes = 0
        """Attempts that ended because the process or the worker died."""
        self.cancel_asked = False
        self.estimate = 0.0
        """Seconds that this attempt was expected to take when it was assigned."""
        self.submitted = now
        self.since = now
        """When it entered its present state."""
        self.outcome: Outcome | None = None
        self.history: list[str] | None = None
        self.wait_reason = WaitReason.NOTHING
        self.timer = 0
        """The number by which the Dispatcher knows until when it waits; 0: it waits for no time."""
        self.depends_on: tuple[TaskId, ...] = ()
        self.dependency_results: dict[TaskId, Payload] | None = None
        """The results of the tasks that it needs, as far as they are known."""
        self.found = 0
        """How many of these, the first ones, are known not to be sought any more."""
        self.unresolved_count = 0
        """How many of these are not known yet."""
        self.failed_dependency: Outcome | None = None
        """What it ends with, since a task that it needs did not succeed."""
        self.interest: Interest | None = None
        self.claimed = False
        """A worker had its present attempt before this coordinator knew the task."""
        self.wait: Wait | None = None
        """What it waits for, at its worker; see `deadlocks`."""

    @property
    def name(self) -> str:
        return self.body.options.name or self.function.definition.name

    @property
    def begun(self) -> int:
        """The attempts that have begun, or may have, the present one among them: what people are told."""
        return self.attempt - self.unbegun

    def not_begun(self) -> None:
        """The present attempt is over, and was none: nothing of it has run anywhere."""
        self.ended = self.attempt
        self.unbegun += 1

    @property
    def size(self) -> int:
        """Bytes that its owner is charged with."""
        return call_size(self.body.payload, self.body.options, self.depends_on)

    @property
    def elements(self) -> int:
        """Calls in it: 1, or those of a chunk or a bundle."""
        return self.body.kind.calls

    def move(self, state: TaskState, now: float) -> None:
        """Enter `state`. Raises IllegalTransition for a move that the table does not list."""
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
        """Note what it waits for, in its state WAITING, and the number of the timer that ends the wait."""
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
