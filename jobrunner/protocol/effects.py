"""What the cores and their drivers say to each other, beside the wire messages.

An event tells a core what happened; an effect is what the core asks its driver to do. A core handles an event in one
synchronous step and returns effects; nothing happens inside a core.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from jobrunner.protocol.journal_records import JournalEntry
from jobrunner.protocol.wire.ids import SlotId, TaskId
from jobrunner.protocol.wire.messages import (
    Envelope,
    FunctionDef,
    FunctionKey,
    Outcome,
    Span,
    TaskSpec,
)
from jobrunner.protocol.wire.payloads import Payload
from jobrunner.protocol.wire.principals import ANYONE, Principal

Source: TypeAlias = bytes
"""The transport's name of a peer's connection (a ROUTER's routing id); b"" for the coordinator, seen from a peer."""


# --- what slots are told and tell -------------------------------------------------------------------------------


class SlotTask(NamedTuple):
    """A task on its way into a slot. `number` counts the tasks of that slot; 0 is never used."""

    number: int
    id: TaskId
    name: str
    attempt: int
    function: FunctionKey
    payload: Payload
    span: Span
    initializer: FunctionKey | None
    depth: int = 0
    values: tuple[Payload, ...] = ()
    retry_on: bytes | None = None


FINAL_ERROR = 9
"""A SlotOutcome's status: as messages.ERROR, with an exception that is not in the task's `retry_on`."""

INITIALIZER_FAILED = 10
"""As messages.ERROR, where the initializer raised: the task itself has not begun."""

IN_INITIALIZER = -2
"""As the element of a SlotExited: the process died in the initializer."""


class SlotOutcome(NamedTuple):
    """How a task ended in its slot: status is messages.OK, messages.ERROR, FINAL_ERROR or INITIALIZER_FAILED.

    `duration` is in seconds.
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
    """The slot has split a bundle: the results so far, and the index of the call that it goes on with."""

    slot: SlotId
    number: int
    payload: bytes
    running: int


@dataclass(slots=True)
class SlotDivided:
    """The slot goes on with the elements of a chunk up to `stop`, and has given back those from there on.

    Where it gives back none, `stop` is 0.
    """

    slot: SlotId
    number: int
    stop: int


@dataclass(slots=True)
class SlotReturned:
    """Tasks that the slot had not started, given back after a recall (maybe none)."""

    slot: SlotId
    numbers: list[int]


@dataclass(slots=True)
class SlotRetracted:
    """Tasks that the slot had not started, taken back from it after a RetractTasks (maybe none)."""

    slot: SlotId
    numbers: list[int]


@dataclass(slots=True)
class SlotPrinted:
    """Text from a task: triples of number (0: no task), stream and text."""

    slot: SlotId
    printed: list[tuple[int, int, str]]


@dataclass(slots=True)
class SlotBlocked:
    """The slot's task waits for tasks of its own (True), or has stopped waiting (False)."""

    slot: SlotId
    blocked: bool


@dataclass(slots=True)
class SlotAwaits:
    """For how long nobody knows, the slot's task `number` waits for these calls, see `messages.Wait`."""

    slot: SlotId
    number: int
    calls: list[TaskId]
    every: bool


@dataclass(slots=True)
class SlotExited:
    """The slot's process is gone and reaped.

    `number` is the task that was running, 0 if none, and `element` the absolute index within its span, -1 if it has
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
    """Where each thread was when it died, as far as Python could still tell."""
    oom_kill: bool = False
    """The kernel says that it has killed a process of this worker for want of memory."""


@dataclass(slots=True)
class SlotSpoiled:
    """A task has left the slot's process in a state in which it should run no other; what it had is given back."""

    slot: SlotId


@dataclass(slots=True)
class SlotNotStarted:
    """Descriptors, processes or memory have run out, so there is no process for this slot; later there may be."""

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
    """The transport could not deliver to this peer: its connection is gone, for now at least."""

    source: Source


@dataclass(slots=True)
class Tick:
    """Time has passed; also the end of a turn, after which batches that grew during it are sent."""


@dataclass(slots=True)
class Rejected:
    """The transport dropped something undecodable from this peer."""

    source: Source
    reason: str
    version_mismatch: bool = False
    who: Principal = ANYONE


@dataclass(slots=True)
class HandshakeFailed:
    """The coordinator did not take this end's key (`refused`), or is not the one whose key is known here."""

    reason: str
    refused: bool


@dataclass(slots=True)
class Revoked:
    """This public key may not connect any more."""

    key: str


@dataclass(slots=True)
class JoinAnswered:
    """The answer to a JoinRequested: the name under which the key is known now, or why it is not."""

    source: Source
    session: str
    name: str
    error: str = ""


@dataclass(slots=True)
class DrainRequested:
    """Finish in an orderly way: a signal or an operator asked for it."""


@dataclass(slots=True)
class SubmitRequested:
    """New calls of this client's program, with the functions that they name."""

    tasks: list[TaskSpec]
    functions: list[FunctionDef] = field(default_factory=list)


@dataclass(slots=True)
class CancelRequested:
    """Cancel these tasks, in the order of submission; `running`: also those that run."""

    ids: list[TaskId]
    running: bool
    slots: int = 0
    """How many slots the program has to itself, if it has: tasks that wait and that a free one can begin stay."""


@dataclass(slots=True)
class WatchRequested:
    """The program wants to know how these tasks end, which others may have submitted."""

    ids: list[TaskId]


@dataclass(slots=True)
class ResultReplyRequested:
    """The program's answer to `RequestResults`, or a part of it: outcomes, and what it cannot tell."""

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
    """The entry of that WriteJournal, and all before it, will survive this process."""

    number: int


@dataclass(slots=True)
class JournalFailed:
    """The entry of that WriteJournal is not in the journal (a full disk, say); later ones may be."""

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
    """Give tasks to a slot, with the functions it lacks; `drop_functions` are functions it may drop."""

    slot: SlotId
    tasks: list[SlotTask]
    functions: list[FunctionDef]
    drop_functions: list[FunctionKey]


@dataclass(slots=True)
class RecallTasks:
    """Have the slot flush finished outcomes and give back what it has not started."""

    slot: SlotId
    bundle: bool = True
    """Have it split the bundle that it runs, too."""


@dataclass(slots=True)
class RetractTasks:
    """Take back what the slot has not started, also of a bundle that it runs, without its help: it does not answer.

    If one of `chunks` is the task that runs, what has not begun of it too. Nothing happens to a slot that moves.
    """

    slot: SlotId
    chunks: tuple[int, ...] = ()


@dataclass(slots=True)
class DivideChunk:
    """Have the slot give back what it has not begun of this chunk, if it is the task that runs; it answers."""

    slot: SlotId
    number: int


@dataclass(slots=True)
class InterruptTask:
    """Raise KeyboardInterrupt in this task, if it is the one that runs."""

    slot: SlotId
    number: int


@dataclass(slots=True)
class EndSlot:
    """Have an idle slot's process end by itself, so that it does what its tasks have left for its end."""

    slot: SlotId


@dataclass(slots=True)
class SignalSlot:
    """Send a signal ("SIGTERM", "SIGKILL") to the slot's process group."""

    slot: SlotId
    signal: str


@dataclass(slots=True)
class ResolveTasks:
    """To the client's program: these tasks are done, once and for all."""

    outcomes: list[Outcome]


@dataclass(slots=True)
class InitializerFailed:
    """To the client's program: its initializer fails on every worker, as this outcome tells, so nothing can run."""

    outcome: Outcome


@dataclass(slots=True)
class RequestResults:
    """To the client's program: the coordinator needs the results of these again."""

    ids: list[TaskId]


@dataclass(slots=True)
class Accepted:
    """To the client's program: these detached tasks will be done, whatever becomes of the client."""

    ids: list[TaskId]


@dataclass(slots=True)
class AnnounceRunning:
    """Mark the Futures of these tasks as running."""

    ids: list[TaskId]


@dataclass(slots=True)
class BundleSplit:
    """The calls of a bundle are tasks of their own from index `start` on; `results` tells of those before it."""

    id: TaskId
    results: Payload
    start: int


@dataclass(slots=True)
class ChunkDivided:
    """A chunk goes on as the task `part`, with its elements up to `stop`; the others are to be submitted again."""

    id: TaskId
    part: TaskId
    stop: int


@dataclass(slots=True)
class AnswerCancel:
    """To the client's program: these tasks could not be cancelled; they run."""

    refused: list[TaskId]


@dataclass(slots=True)
class AnswerQuery:
    """Give the program the answer to its query."""

    number: int
    data: Any
    error: str


@dataclass(slots=True)
class ShowOutput:
    """To the client's program: quadruples of task id, task name, stream and text."""

    chunks: list[Any]


@dataclass(slots=True)
class Connected:
    """The session is open; `slots` is the size of the cluster."""

    slots: int


@dataclass(slots=True)
class CapacityChanged:
    """Tell the program the number of slots of the cluster."""

    slots: int


@dataclass(slots=True)
class ConnectionLost:
    """The coordinator is silent or gone; the core goes on trying."""

    reason: str


@dataclass(slots=True)
class GiveUp:
    """The core can do no more (refused, or away for too long); the driver must stop, with this error."""

    error: str
    kind: str
    """The name of the class in `errors`."""


@dataclass(slots=True)
class Stop:
    """All is done; the driver's loop may end."""


@dataclass(slots=True)
class WriteJournal:
    """Keep this; a JournalWritten or a JournalFailed with the same number answers it."""

    number: int
    entry: JournalEntry


@dataclass(slots=True)
class Disconnect:
    """Close this peer's connection, once it has had time to take what it was told; whatever it sends is dropped."""

    source: Source


@dataclass(slots=True)
class Log:
    """A line for the log; `level` is "debug", "info", "warning" or "error"."""

    level: str
    text: str


@dataclass(slots=True)
class JoinRequested:
    """Who holds an invitation wants a key of its own to be known; JoinAnswered is the answer."""

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
