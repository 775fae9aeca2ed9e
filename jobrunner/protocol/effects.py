"""Events and effects: the communication between the cores and their drivers, apart from the wire messages.

An event tells a core what happened; an effect is an action that the core asks its driver to perform. A core handles an
event in one synchronous step and returns effects; nothing happens inside a core.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from jobrunner.protocol.journal_records import JournalEntry
from jobrunner.protocol.wire.ids import SlotId, TaskId
from jobrunner.protocol.wire.kinds import Kind
from jobrunner.protocol.wire.messages import (
    Envelope,
    FunctionDef,
    FunctionKey,
    Outcome,
    TaskSpec,
)
from jobrunner.protocol.wire.payloads import Payload
from jobrunner.protocol.wire.principals import ANYONE, Principal

Source: TypeAlias = bytes
"""The transport's name for a peer's connection (a ROUTER's routing id); b"" for the coordinator, as a peer sees it."""


# --- what slots are told and tell -------------------------------------------------------------------------------


class SlotTask(NamedTuple):
    """A task on its way into a slot; `number` counts the tasks of that slot, starting at 1."""

    number: int
    id: TaskId
    name: str
    attempt: int
    function: FunctionKey
    payload: Payload
    kind: Kind
    initializer: FunctionKey | None
    depth: int = 0
    values: tuple[Payload, ...] = ()
    retry_on: bytes | None = None


FINAL_ERROR = 9
"""The status of a SlotOutcome with an exception that is not in the task's `retry_on`; else like messages.ERROR."""

INITIALIZER_FAILED = 10
"""The status of a SlotOutcome whose initializer raised, so that the task itself has not begun; else like
messages.ERROR."""

IN_INITIALIZER = -2
"""The element of a SlotExited whose process died in the initializer."""


class SlotOutcome(NamedTuple):
    """The end of a task in its slot; `duration` is in seconds.

    The status is messages.OK, messages.ERROR, FINAL_ERROR or INITIALIZER_FAILED.
    """

    number: int
    status: int
    payload: Payload
    duration: float


@dataclass(slots=True)
class SlotReady:
    """The slot's process is up and waits for tasks."""

    slot: SlotId
    pid: int


@dataclass(slots=True)
class SlotFinished:
    """A slot has finished tasks."""

    slot: SlotId
    outcomes: list[SlotOutcome]


@dataclass(slots=True)
class SlotSplit:
    """The slot has split a bundle.

    `payload` holds the results so far, and `running` the call with which it continues.
    """

    slot: SlotId
    number: int
    payload: bytes
    running: int


@dataclass(slots=True)
class SlotDivided:
    """The slot continues a chunk up to the element `stop`, and has given back the elements from `stop` on.

    If it gives back none, `stop` is 0.
    """

    slot: SlotId
    number: int
    stop: int


@dataclass(slots=True)
class SlotReturned:
    """The slot has given back tasks that it had not started, after a recall; there may be none."""

    slot: SlotId
    numbers: list[int]


@dataclass(slots=True)
class SlotRetracted:
    """Tasks that the slot had not started were taken back from it, after a RetractTasks; there may be none."""

    slot: SlotId
    numbers: list[int]


@dataclass(slots=True)
class SlotPrinted:
    """A task has printed text; `printed` has triples of task number (0: no task), stream and text."""

    slot: SlotId
    printed: list[tuple[int, int, str]]


@dataclass(slots=True)
class SlotBlocked:
    """The slot's task waits for tasks of its own (True), or has stopped waiting (False)."""

    slot: SlotId
    blocked: bool


@dataclass(slots=True)
class SlotAwaits:
    """The slot's task `number` waits for these calls, without a known time limit, see `messages.Wait`."""

    slot: SlotId
    number: int
    calls: list[TaskId]
    every: bool


@dataclass(slots=True)
class SlotExited:
    """The slot's process is gone and reaped.

    `number` is the task that was running, 0 if none, and `element` the absolute index in its chunk, -1 if it has
    none, or IN_INITIALIZER. Exactly one of `exit_code` and `signal` is set; `signal` is a name such as "SIGSEGV".
    """

    slot: SlotId
    pid: int
    exit_code: int | None
    signal: str | None
    peak_memory: int
    stderr: str
    number: int
    element: int
    traceback: str = ""
    """The Python stack of each thread when the process died, as far as it is known."""
    oom_kill: bool = False
    """Whether the kernel's OOM killer has ended a process of this worker."""


@dataclass(slots=True)
class SlotSpoiled:
    """A task has left the slot's process in a state in which it should run no other; its other tasks are given back."""

    slot: SlotId


@dataclass(slots=True)
class SlotNotStarted:
    """There is no process for this slot, because descriptors, processes or memory have run out.

    This may change later.
    """

    slot: SlotId
    error: str


SlotEvent: TypeAlias = (
    "SlotReady | SlotFinished | SlotSplit | SlotDivided | SlotReturned | SlotRetracted | SlotPrinted"
    " | SlotBlocked | SlotAwaits | SlotSpoiled | SlotExited | SlotNotStarted"
)


# --- other events -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Received:
    """A message has arrived from a peer."""

    source: Source
    envelope: Envelope
    who: Principal = ANYONE
    """The sender, as the transport has authenticated it."""


@dataclass(slots=True)
class Unreachable:
    """The transport could not deliver a message to this peer, because its connection is gone, at least for now."""

    source: Source


@dataclass(slots=True)
class Tick:
    """Time has passed; this also ends a turn, after which the batches that grew during it are sent."""


@dataclass(slots=True)
class Rejected:
    """The transport has dropped an undecodable message of this peer."""

    source: Source
    reason: str
    version_mismatch: bool = False
    who: Principal = ANYONE


@dataclass(slots=True)
class HandshakeFailed:
    """The handshake failed: the coordinator refused this end's key (`refused`), or its own key is not the known one."""

    reason: str
    refused: bool


@dataclass(slots=True)
class Revoked:
    """This public key may not connect any more."""

    key: str


@dataclass(slots=True)
class JoinAnswered:
    """The answer to a JoinRequested: the name under which the key is now known, or the reason why it is not."""

    request: JoinRequested
    name: str
    error: str = ""


@dataclass(slots=True)
class DrainRequested:
    """A signal or an operator asks for an orderly end."""


@dataclass(slots=True)
class SubmitRequested:
    """The program submits new calls, with the functions that they name."""

    tasks: list[TaskSpec]
    functions: list[FunctionDef] = field(default_factory=list)


@dataclass(slots=True)
class CancelRequested:
    """The program cancels these tasks, in the order of submission; with `running`, running tasks, too."""

    ids: list[TaskId]
    running: bool
    slots: int = 0
    """The number of slots that the program has to itself, or 0; waiting tasks that a free slot can begin are not
    cancelled."""


@dataclass(slots=True)
class WatchRequested:
    """The program wants to know the outcomes of these tasks, which others may have submitted."""

    ids: list[TaskId]


@dataclass(slots=True)
class ResultReplyRequested:
    """The program answers `RequestResults`, or a part of it, with outcomes and with the tasks that it does not know."""

    outcomes: list[Outcome]
    unknown: list[TaskId] = field(default_factory=list)


@dataclass(slots=True)
class QueryRequested:
    """The program asks the coordinator something."""

    number: int
    kind: str
    argument: str = ""


@dataclass(slots=True)
class JournalWritten:
    """The journal entry of this WriteJournal, and all entries before it, will survive this process."""

    number: int


@dataclass(slots=True)
class JournalFailed:
    """The journal entry of this WriteJournal is not in the journal, for example because the disk is full.

    Later ones may be.
    """

    number: int
    error: str


# --- effects ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Send:
    """Send a message to a peer."""

    destination: Source
    envelope: Envelope


@dataclass(slots=True)
class SpawnSlot:
    """Start the process of a slot."""

    slot: SlotId
    hash_seed: int | None = None
    """The seed of string hashes, which all slots of a cluster share; None: that of the environment."""


@dataclass(slots=True)
class RunTasks:
    """Give tasks to a slot, with the functions that it lacks; `drop_functions` are functions that it may drop."""

    slot: SlotId
    tasks: list[SlotTask]
    functions: list[FunctionDef]
    drop_functions: list[FunctionKey]


@dataclass(slots=True)
class RecallTasks:
    """Make the slot flush finished outcomes and give back the tasks that it has not started."""

    slot: SlotId
    bundle: bool = True
    """Whether the slot is to split the bundle that it runs, too."""


@dataclass(slots=True)
class RetractTasks:
    """Take back tasks, and calls of a running bundle, that a slot has not started; the slot does not answer.

    If one of `chunks` is running, its elements that have not begun are taken back, too. A slot that makes progress is
    left alone.
    """

    slot: SlotId
    chunks: tuple[int, ...] = ()


@dataclass(slots=True)
class DivideChunk:
    """Make the slot give back the elements of this chunk that have not begun, if the chunk is running.

    The slot answers.
    """

    slot: SlotId
    number: int


@dataclass(slots=True)
class InterruptTask:
    """Raise KeyboardInterrupt in this task, if it is running."""

    slot: SlotId
    number: int


@dataclass(slots=True)
class EndSlot:
    """Make an idle slot's process end by itself, so that it does the work that its tasks have left for its end."""

    slot: SlotId


@dataclass(slots=True)
class SignalSlot:
    """Send a signal ("SIGTERM", "SIGKILL") to the slot's process group."""

    slot: SlotId
    signal: str


@dataclass(slots=True)
class ResolveTasks:
    """Resolve, finally, the Futures of these tasks in the client's program."""

    outcomes: list[Outcome]


@dataclass(slots=True)
class InitializerFailed:
    """Tell the client's program that its initializer fails on every worker, so that nothing can run."""

    outcome: Outcome


@dataclass(slots=True)
class RequestResults:
    """Ask the client's program for the results of these tasks, which the coordinator needs again."""

    ids: list[TaskId]


@dataclass(slots=True)
class Accepted:
    """Tell the client's program that these detached tasks will be done, even if the client dies."""

    ids: list[TaskId]


@dataclass(slots=True)
class AnnounceRunning:
    """Mark the Futures of these tasks as running."""

    ids: list[TaskId]


@dataclass(slots=True)
class BundleSplit:
    """Tell the client's program that the calls of a bundle from `start` on are tasks of their own.

    `results` holds the results of the calls before `start`.
    """

    id: TaskId
    results: Payload
    start: int


@dataclass(slots=True)
class ChunkDivided:
    """Tell the client's program that a chunk continues as the task `part`, with its elements up to `stop`.

    The program submits the other elements again.
    """

    id: TaskId
    part: TaskId
    stop: int


@dataclass(slots=True)
class AnswerCancel:
    """Tell the client's program that these tasks could not be cancelled, because they run."""

    refused: list[TaskId]


@dataclass(slots=True)
class AnswerQuery:
    """Give the program the answer to its query."""

    number: int
    data: Any
    error: str


@dataclass(slots=True)
class ShowOutput:
    """Show output in the client's program; `chunks` has quadruples of task id, task name, stream and text."""

    chunks: list[Any]


@dataclass(slots=True)
class Connected:
    """Tell the program that the session is open; `slots` is the size of the cluster."""

    slots: int


@dataclass(slots=True)
class CapacityChanged:
    """Tell the program the number of slots of the cluster."""

    slots: int


@dataclass(slots=True)
class ConnectionLost:
    """Tell the program that the coordinator is silent or gone; the core continues to try."""

    reason: str


@dataclass(slots=True)
class GiveUp:
    """Stop the driver with this error, because the core was refused or its coordinator was away for too long."""

    error: str
    kind: str
    """The name of the error's class in `errors`."""
    advises: bool = False
    """Whether `error` says what to do."""


@dataclass(slots=True)
class Stop:
    """End the driver's loop, because everything is done."""


@dataclass(slots=True)
class WriteJournal:
    """Write an entry to the journal; a JournalWritten or JournalFailed with the same number is the answer."""

    number: int
    entry: JournalEntry


@dataclass(slots=True)
class Disconnect:
    """Close this peer's connection when it has had time to read its last messages.

    Further messages of it are dropped.
    """

    source: Source


@dataclass(slots=True)
class Log:
    """Write a line to the log; `level` is "debug", "info", "warning" or "error"."""

    level: str
    text: str


@dataclass(slots=True)
class JoinRequested:
    """Ask for the admission of a key, for the holder of an invitation; a JoinAnswered is the answer."""

    source: Source
    session: str
    who: Principal
    key: str
    name: str
    role: str


Event: TypeAlias = (
    "Received | Unreachable | Rejected | HandshakeFailed | Revoked | JoinAnswered | Tick | DrainRequested"
    " | SubmitRequested | CancelRequested | QueryRequested | WatchRequested | ResultReplyRequested"
    " | SlotReady | SlotFinished | SlotSplit | SlotDivided | SlotReturned | SlotRetracted | SlotPrinted"
    " | SlotBlocked | SlotAwaits | SlotSpoiled | SlotExited | SlotNotStarted"
    " | JournalWritten | JournalFailed"
)
Effect: TypeAlias = (
    "Send | SpawnSlot | RunTasks | RecallTasks | RetractTasks | DivideChunk | InterruptTask | EndSlot | SignalSlot"
    " | ResolveTasks | BundleSplit | ChunkDivided | AnnounceRunning | AnswerCancel | AnswerQuery | ShowOutput"
    " | Connected | CapacityChanged | ConnectionLost | GiveUp | Stop | Log"
    " | WriteJournal | RequestResults | InitializerFailed | Accepted | JoinRequested | Disconnect"
)
