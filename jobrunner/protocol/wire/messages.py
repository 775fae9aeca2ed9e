"""Every message that crosses the wire, and the entries that they carry in batches.

A message is a plain record; `codec` turns it into frames and back. Senders, receivers and messages:

    client -> coordinator       ClientHello, Submit, Cancel, ResubmissionComplete, Watch, ResultReply, Query, Goodbye
    worker -> coordinator       WorkerHello, Outcomes, Running, TasksReturned, CancelRefused, Capacity, Stuck, Waits,
                                Output, Drain, Goodbye
    coordinator -> client       Welcome, Outcomes, Running, CancelRefused, Capacity, Output, Accepted, ResultRequest,
                                Reply, Cancel, Goodbye
    coordinator -> worker       Welcome, Assign, DropFunctions, Cancel, Divide, Drain, Goodbye
    beside these                Heartbeat (anyone), Reset and Refused (coordinator), Join and its answer Joined

Messages and entries are declared only here. The code that packs, unpacks and checks them is derived from their fields,
in their order, and from the types and limits of the fields (see `checks`). A new field is one line here, and
raises `codec.VERSION`. A new message is a class, and a place at the end of `Message`.

A payload is opaque to all parts that route it. A small payload is `bytes` and travels inside the message. A large one
is a tuple of buffers, each of which is a frame of its own and is sent without a copy. Entries are NamedTuples, in the
order of the wire; an entry in an entry, the CallBody of a task, is written as if its fields were the other's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Annotated, Any, NamedTuple, TypeAlias

from jobrunner.config import MAX_PAYLOAD
from jobrunner.protocol.wire.checks import (
    LARGEST_32,
    MAX_ARGUMENT_LENGTH,
    MAX_AWAITED,
    MAX_DEPENDENCIES,
    MAX_HELD,
    MAX_KEY_LENGTH,
    MAX_MODULES,
    MAX_PARTS,
    MAX_RESOURCES,
    MAX_RETRY_ON_BYTES,
    MAX_SEED,
    MAX_TASK_LENGTH,
    Amount,
    AtMost,
    Attempt,
    Below,
    Between,
    Count,
    Cut,
    Different,
    Entries,
    LeftOut,
    Length,
    Name,
    PeerTimeout,
    Positive,
    Seconds,
    Slots,
    Text,
    checked_detail,
    checked_kind,
    plain,
)
from jobrunner.protocol.wire.ids import ClientId, TaskId, WorkerId
from jobrunner.protocol.wire.kinds import SINGLE_CALL, Kind
from jobrunner.protocol.wire.outcome_detail import OutcomeDetail
from jobrunner.protocol.wire.payloads import Payload, payload_size

FunctionKey: TypeAlias = Annotated[bytes, Length(MAX_KEY_LENGTH, "a function's key has {} bytes")]
Modules: TypeAlias = Annotated[tuple[Name, ...], AtMost(MAX_MODULES, "a function names {} modules")]
Detail: TypeAlias = Annotated[OutcomeDetail, checked_detail]
"""Facts about an outcome beside its payload, in msgpack types only."""


class Status(IntEnum):
    """The end of an attempt. The outcomes OK and ERROR carry a payload, the others only a detail."""

    OK = 0
    ERROR = 1
    """The user's function, or the unpickling of its arguments, raised an exception, which is in the payload."""
    CRASHED = 2
    """The slot's process died."""
    TIMED_OUT = 3
    CANCELLED = 4
    LOST = 5
    """The worker was lost, or the task is unknown; only the coordinator sends this status."""
    UNMET = 6
    """The task was not run, because a task on which it depends did not succeed; the payload is that of the other
    task."""
    REFUSED = 7
    """The coordinator refuses the task: it cannot write it to the journal, the owner's quota is used up, or no worker
    fits."""
    SPLIT = 8
    """The slot has split the bundle, see `bundles`, and the payload holds the results so far; or the slot has divided
    the chunk, see `chunks`, and there is no payload, because the part that continues reports all elements that have
    begun."""

    __hash__ = int.__hash__  # that of enums is a function in Python

    @property
    def label(self) -> str:
        """The status as users see it."""
        return LABELS[self]


LABELS = (
    "succeeded",
    "failed",
    "crashed",
    "timed out",
    "cancelled",
    "lost",
    "not run",
    "refused",
    "split",
)
OK, ERROR, CRASHED, TIMED_OUT, CANCELLED, LOST, UNMET, REFUSED, SPLIT = Status

OF_WORKERS = frozenset((OK, ERROR, CRASHED, TIMED_OUT, CANCELLED, SPLIT))
"""The statuses that a worker may send."""

REFUSAL_KINDS = ("ProtocolError", "AuthenticationError")

STDOUT = 1
STDERR = 2


class TaskOptions(NamedTuple):
    """The options of a call; `timeout` is the execution time in seconds, `resources` are pairs of name and amount."""

    name: Name | None = None
    priority: Annotated[int, Between(-LARGEST_32 - 1, LARGEST_32)] = 0
    retries: Annotated[int, Between(0, LARGEST_32)] = 0
    timeout: Seconds | None = None
    resources: Annotated[
        tuple[tuple[Name, Amount], ...], AtMost(MAX_RESOURCES, "a call asks for {} resources")
    ] = ()
    at_most_once: bool = False
    """Whether the call fails instead of running again, if its client has not asked for a retry."""
    retry_on: Annotated[bytes, Length(MAX_RETRY_ON_BYTES, "retry_on has {} bytes")] | None = None
    """The pickled exception classes after which the call may run again, which only slots unpickle; None: all
    classes."""
    retry_timeouts: bool = True
    backoff: Seconds | None = None
    """The seconds before the second attempt, doubled for each further one; None: the default."""
    detach: bool = False
    """Whether the call outlives its client, and its outcome is kept until it is forgotten."""


DEFAULT_OPTIONS = TaskOptions()
Options: TypeAlias = Annotated[TaskOptions, LeftOut(DEFAULT_OPTIONS)]


class FunctionDef(NamedTuple):
    """The bytes of a function, identified by the hash of their content and sent once per connection.

    Objects that several functions may need, for example large globals, can be definitions of their own, the parts of
    these functions. In a list of definitions the parts of a function precede it, unless the receiver has them already.
    """

    key: FunctionKey
    name: Annotated[Name, Cut()]
    blob: Payload
    python: Name = ""
    """The Python version that a function by value requires, major and minor, like "3.11"; else empty."""
    modules: Modules = ()
    """The top-level modules that a worker must be able to import, without those of the standard library."""
    ships: Modules = ()
    """The top-level modules that an initializer ships; no worker lacks them for calls with this initializer, and no
    slot serves both calls with it and calls without it."""
    parts: Annotated[
        tuple[FunctionKey, ...],
        AtMost(MAX_PARTS, "a function has {} parts"),
        Different("a function names one part twice"),
    ] = ()
    """The definitions that must be available where this one is unpickled; they have no parts themselves, and their
    requirements (`python`, `modules`) are among those of this one."""
    epoch: Count = 0
    """The number of times that the program had changed to other versions of its modules, for an initializer; no slot
    serves calls of two epochs, and slots of earlier epochs make way."""


CallKind: TypeAlias = Annotated[Kind, checked_kind, LeftOut(SINGLE_CALL)]


class CallBody(NamedTuple):
    """The content of a task, which the coordinator passes on unchanged.

    The payload holds (args, kwargs), the columns of a chunk of `map`, or the payloads of a bundle's calls.
    `initializer` is the function key of the executor's initializer.
    """

    function: FunctionKey
    payload: Payload
    kind: CallKind = SINGLE_CALL
    options: Options = DEFAULT_OPTIONS
    initializer: FunctionKey | None = None
    depth: Count = 0
    """The depth: 0 for a call of a program, n + 1 for a call of a task of depth n; deeper calls start first, because a
    task waits for them."""


class TaskSpec(NamedTuple):
    """A task as its client submits it."""

    id: Annotated[TaskId, Length(MAX_TASK_LENGTH, "a call's id has {} characters")]
    body: CallBody
    depends_on: Annotated[tuple[TaskId, ...], AtMost(MAX_DEPENDENCIES, "a call needs {} others")] = ()
    """The tasks whose results are among the arguments; the task waits for them."""


class Assignment(NamedTuple):
    """A task on its way to a worker, with the number of the attempt, which starts at 1 and rises."""

    id: TaskId
    attempt: Attempt
    body: CallBody
    values: tuple[Payload, ...] = ()
    """The results of the tasks on which it depends, in the order of TaskSpec.depends_on."""
    unbegun: Annotated[int, Below("attempt")] = 0
    """The number of earlier attempts that never began."""

    @property
    def begun(self) -> int:
        """The number of attempts that have begun or may have begun, including this one, as people are told."""
        return self.attempt - self.unbegun


class Outcome(NamedTuple):
    """The end of one attempt; `duration` is in seconds, measured in the slot."""

    id: TaskId
    attempt: Annotated[int, Between(0, LARGEST_32)]
    status: Status
    payload: Payload = b""
    duration: Seconds = 0.0
    detail: Detail | None = None


def error_of(outcome: Outcome) -> str:
    """Return the failure of an attempt in words; an exception is in the payload, which only programs can read."""
    told = "raised an exception" if outcome.status == ERROR else outcome.status.label
    return str((outcome.detail or {}).get("error", told))


def quota_exceeded(
    task: TaskId, attempt: int, what: str, size: int, most: int, location: Detail | None = None
) -> Outcome:
    """Return the outcome of a call whose arguments or result are larger than the coordinator accepts."""
    error = (
        f"its {what} {size:,} bytes, and the coordinator takes {most:,} at most (max_payload); pass the path of a file"
        " instead, or split the work into smaller parts"
    )
    detail: Detail = {**(location or {}), "too_large": True, "final": True, "error": error}
    return Outcome(task, attempt, ERROR, detail=detail)


def shipment_exceeded(task: TaskId, definition: FunctionDef, most: int) -> Outcome:
    """Return the outcome of a call whose shipped modules are larger than the coordinator accepts."""
    size = payload_size(definition.blob)
    names = ", ".join(definition.ships[:5]) + (", ..." if len(definition.ships) > 5 else "")
    error = (
        f"the modules shipped with it ({names}) have {size:,} bytes, packed, and the coordinator takes"
        f" {most:,} at most (max_payload); ship less, or install the modules on the workers"
    )
    return Outcome(task, 0, ERROR, detail={"too_large": True, "final": True, "error": error})


class Held(NamedTuple):
    """A task that a reconnecting worker still has."""

    id: TaskId
    attempt: Attempt
    running: bool
    unbegun: Annotated[int, Below("attempt")] = 0
    """The `unbegun` of its Assignment."""


class Wait(NamedTuple):
    """A wait of a task for calls, without a time limit, until all of them have ended (`every`) or any one has."""

    id: TaskId
    calls: Annotated[tuple[TaskId, ...], AtMost(MAX_AWAITED, "a task waits for {} calls")]
    """The awaited calls, or only some of them if the task waits for very many; empty if the task no longer waits."""
    every: bool = True


class OutputChunk(NamedTuple):
    """Text that a task printed; `stream` is STDOUT or STDERR."""

    id: TaskId
    name: Name
    stream: Annotated[int, Between(STDOUT, STDERR)]
    text: Text


class CancelRequest(NamedTuple):
    """A request to cancel a task; `running` asks to stop it even if it has started."""

    id: TaskId
    running: bool


@dataclass(slots=True)
class ClientHello:
    """Opens a client's session. An observer asks for status and submits nothing."""

    client: ClientId
    version: Name
    python: Name
    host: Name
    pid: Count
    peer_timeout: PeerTimeout
    """The silence in seconds after which the client considers the coordinator lost; the coordinator waits for a client
    `CLIENT_PATIENCE` times as long. 0 means that the two are in one process."""
    show_output: bool = True
    serial: Count = 0
    """The number of sessions that this process has requested, by which a late greeting is recognised as outdated."""
    within: TaskId | None = None
    """The task that contains this client; the owner of that task owns the client's calls."""


@dataclass(slots=True)
class WorkerHello:
    """Opens a worker's session, and lists the tasks that the worker still holds from an earlier one."""

    worker: WorkerId
    version: Name
    python: Name
    name: Name
    host: Name
    pid: Count
    peer_timeout: PeerTimeout
    slots: Slots
    resources: Mapping[Name, Amount]
    held: Annotated[list[Held], AtMost(MAX_HELD, "a worker with {} tasks")] = field(default_factory=list)
    serial: Count = 0
    """The number of sessions that this process has requested, as in ClientHello."""


@dataclass(slots=True)
class Welcome:
    """Accepts a session; the window limits a client's unfinished tasks, and their bytes, at the coordinator."""

    coordinator: Name
    version: Name
    slots: Count
    window_tasks: Positive
    window_bytes: Positive
    session: Name
    """The name of the session from now on."""
    max_payload: Positive = MAX_PAYLOAD
    """The maximum size of a payload in bytes."""
    hash_seed: Annotated[int, Between(0, MAX_SEED)] | None = None
    """The seed for all slots of the cluster, so that a string has one hash in all calls; None: each slot has its
    own."""


@dataclass(slots=True)
class Submit:
    """Submits new tasks with their functions, and names the functions that the client will not use again."""

    tasks: Entries[TaskSpec]
    functions: list[FunctionDef] = field(default_factory=list)
    drop_functions: list[FunctionKey] = field(default_factory=list)


@dataclass(slots=True)
class ResubmissionComplete:
    """Tells that the client has resubmitted, in this session, all tasks for which it still waits."""


@dataclass(slots=True)
class Watch:
    """Asks for the outcomes of tasks, which any client may have submitted; each is answered by an Outcome."""

    ids: Entries[TaskId]


@dataclass(slots=True)
class Accepted:
    """Tells a client that detached tasks survive the client and, with a journal, the coordinator."""

    ids: list[TaskId]


@dataclass(slots=True)
class ResultRequest:
    """Asks a client for results on which its tasks depend, and which the coordinator does not know (any more)."""

    ids: list[TaskId]


@dataclass(slots=True)
class ResultReply:
    """Answers a ResultRequest.

    `unknown` are the tasks that the client does not know, and other outcomes follow later.
    """

    outcomes: Entries[Outcome]
    unknown: Entries[TaskId] = field(default_factory=list)


@dataclass(slots=True)
class Cancel:
    """Asks the coordinator, and then the worker, to cancel tasks; each is answered by an Outcome or a CancelRefused."""

    requests: Entries[CancelRequest]


@dataclass(slots=True)
class Divide:
    """Asks a worker to give back the elements of slow chunks that have not begun, because slots are idle."""

    ids: list[TaskId]


@dataclass(slots=True)
class CancelRefused:
    """Tells that tasks were not cancelled, because they run already and the request did not include running tasks."""

    ids: list[TaskId]


@dataclass(slots=True)
class Query:
    """Asks a question ("status", "workers", "tasks" or "task") or gives a command ("cancel", "drain" or "forget")."""

    number: Count
    kind: Name
    argument: Annotated[str, Length(MAX_ARGUMENT_LENGTH, "a question is about {} characters")] = ""


@dataclass(slots=True)
class Reply:
    """Answers the Query with this number, in msgpack types only; `error` is empty on success."""

    number: Count
    data: Annotated[Any, plain]
    error: Text = ""


@dataclass(slots=True)
class Assign:
    """Gives a worker tasks of one owner, and the functions that the worker does not know yet."""

    tasks: list[Assignment]
    functions: list[FunctionDef] = field(default_factory=list)
    owner: Name = ""
    """The public key that submitted the tasks, or empty if there are no keys; no slot serves two owners."""


@dataclass(slots=True)
class DropFunctions:
    """Tells a worker to delete functions, which the coordinator will not name again without sending them."""

    functions: list[FunctionKey]


@dataclass(slots=True)
class Outcomes:
    """Reports the outcomes of tasks."""

    outcomes: list[Outcome]


@dataclass(slots=True)
class Running:
    """Tells that tasks are running and take a while; short tasks are never announced."""

    ids: list[TaskId]


@dataclass(slots=True)
class TasksReturned:
    """Returns tasks that the worker has not started, or that cannot end there because the worker leaves."""

    tasks: list[tuple[TaskId, Attempt]]
    """Pairs of id and attempt."""
    missing_modules: list[Name] = field(default_factory=list)
    """The required modules that the worker cannot import; each of the tasks requires at least one of them."""
    begun: bool = False
    """Whether the tasks may have been started."""


@dataclass(slots=True)
class Capacity:
    """Tells the present number of slots of the sending worker or, to a client, of the whole cluster."""

    slots: Count


@dataclass(slots=True)
class Stuck:
    """Tells that all tasks of the worker wait for tasks of their own and no slot can be started.

    A Capacity ends this.
    """

    why: Text


@dataclass(slots=True)
class Waits:
    """Tells what tasks of the worker wait for, as far as it is known and lasts; the last report on each task counts."""

    waits: list[Wait]


@dataclass(slots=True)
class Output:
    """Transports output that tasks have printed."""

    chunks: list[OutputChunk]


@dataclass(slots=True)
class Drain:
    """Tells a worker to finish running tasks, give the others back, and leave; from a worker, that it does so."""


@dataclass(slots=True)
class Goodbye:
    """Tells that the sender leaves in an orderly way."""

    reason: Text = ""


@dataclass(slots=True)
class Heartbeat:
    """Shows that the sender is alive, and carries an acknowledgement."""


@dataclass(slots=True)
class Reset:
    """Tells the receiver that its session is unknown and that it must open a new one."""


@dataclass(slots=True)
class Refused:
    """Tells that the session cannot be opened, or must not continue, and that another attempt would not help."""

    error: Text
    kind: Name = "ProtocolError"
    """The name of the error, one of REFUSAL_KINDS."""


@dataclass(slots=True)
class Join:
    """Asks, for the holder of an invitation, to admit this public key in this role from now on."""

    key: Name
    name: Name
    role: Name


@dataclass(slots=True)
class Joined:
    """Tells that the key is known from now on, under this name."""

    name: Name


Message: TypeAlias = (
    ClientHello
    | WorkerHello
    | Welcome
    | Submit
    | ResubmissionComplete
    | Cancel
    | CancelRefused
    | Query
    | Reply
    | Assign
    | DropFunctions
    | Outcomes
    | Running
    | TasksReturned
    | Capacity
    | Output
    | Drain
    | Goodbye
    | Heartbeat
    | Reset
    | Refused
    | Watch
    | Accepted
    | ResultRequest
    | ResultReply
    | Join
    | Joined
    | Divide
    | Stuck
    | Waits
)
"""All messages; the number of a type on the wire is its place here, so a new one comes at the end."""


@dataclass(slots=True)
class Envelope:
    """A message with the numbers of its link (see `link`); `seq` is 0 outside of the ordered stream."""

    session: str
    seq: int
    ack: int
    message: Message
    size: int = field(default=0, compare=False)
    """The size in bytes in which the message arrived; 0 if it did not come over a wire."""
