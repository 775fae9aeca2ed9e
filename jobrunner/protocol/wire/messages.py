"""Every message that crosses the wire, and the entries that they carry in batches.

A message is a plain record; `codec` turns it into frames and back. Who sends what:

    client -> coordinator       ClientHello, Submit, Cancel, ResubmissionComplete, Watch, ResultReply, Query, Goodbye
    worker -> coordinator       WorkerHello, Outcomes, Running, TasksReturned, CancelRefused, Capacity, Stuck, Waits,
                                Output, Drain, Goodbye
    coordinator -> client       Welcome, Outcomes, Running, CancelRefused, Capacity, Output, Accepted, ResultRequest,
                                Reply, Cancel, Goodbye
    coordinator -> worker       Welcome, Assign, DropFunctions, Cancel, Divide, Drain, Goodbye
    beside these                Heartbeat (anyone), Reset and Refused (coordinator), Join and its answer Joined

Messages and entries are declared here and nowhere else: what packs, unpacks and checks them is derived from their
fields, in their order, and from the types and limits of these (see `checks`). So a further field is one line here, and
raises `codec.VERSION`; a further message is a class, and a place at the end of `Message`.

A payload is opaque to everything that routes it: `bytes` when it is small (it then rides inside the message), else a
tuple of buffers (each a frame of its own, sent without a copy). Entries are NamedTuples, in the order of the wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
    checked_span,
    plain,
)
from jobrunner.protocol.wire.ids import ClientId, TaskId, WorkerId
from jobrunner.protocol.wire.payloads import Payload, payload_size

FunctionKey: TypeAlias = Annotated[bytes, Length(MAX_KEY_LENGTH, "a function's key has {} bytes")]
Modules: TypeAlias = Annotated[tuple[Name, ...], AtMost(MAX_MODULES, "a function names {} modules")]
Detail: TypeAlias = Annotated[dict[str, Any], checked_detail]
"""Facts about an outcome beside its payload; msgpack types only. Its keys are listed at `Outcome`."""

# The status of an Outcome. OK and ERROR carry a payload, the others only a detail.
OK = 0
ERROR = 1
"""The user's function (or the unpickling of its arguments) raised; the payload holds the exception."""
CRASHED = 2
"""The slot's process died."""
TIMED_OUT = 3
CANCELLED = 4
LOST = 5
"""The worker is gone, or the task itself is unknown; only the coordinator says so."""
UNMET = 6
"""A task that it needs did not succeed, so it was not run; the payload is that task's."""
REFUSED = 7
"""The coordinator does not take it: it could not write it down, its owner's quota is used up, or it can run nowhere."""
SPLIT = 8
"""A bundle that its slot has split, see `bundles`; the payload holds the results so far. Or a chunk that was
divided, see `chunks`, without a payload: what runs on tells of all that has begun."""
OF_WORKERS = frozenset((OK, ERROR, CRASHED, TIMED_OUT, CANCELLED, SPLIT))
"""What a worker can know of the end of an attempt."""
STATUS_NAMES = (
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

REFUSAL_KINDS = ("ProtocolError", "AuthenticationError")

STDOUT = 1
STDERR = 2


class TaskOptions(NamedTuple):
    """What `with_options` sets. `timeout` is in seconds of execution, `resources` pairs of name and amount."""

    name: Name | None = None
    priority: Annotated[int, Between(-LARGEST_32 - 1, LARGEST_32)] = 0
    retries: Annotated[int, Between(0, LARGEST_32)] = 0
    timeout: Seconds | None = None
    resources: Annotated[
        tuple[tuple[Name, Amount], ...], AtMost(MAX_RESOURCES, "a call asks for {} resources")
    ] = ()
    at_most_once: bool = False
    """It fails where it would otherwise run again without its client's wish."""
    retry_on: Annotated[bytes, Length(MAX_RETRY_ON_BYTES, "retry_on has {} bytes")] | None = None
    """The pickled classes of exceptions after which it may run again; None: all. Opaque to all but slots."""
    retry_timeouts: bool = True
    backoff: Seconds | None = None
    """Seconds before the second attempt, doubled for each further one; None: the usual."""
    detach: bool = False
    """It outlives its client, and its outcome is kept until somebody has it forgotten."""


DEFAULT_OPTIONS = TaskOptions()
Options: TypeAlias = Annotated[TaskOptions, LeftOut(DEFAULT_OPTIONS)]


class FunctionDef(NamedTuple):
    """A function's bytes under the hash of their content; sent once per connection.

    What it needs and other functions may need as well, large globals say, can be definitions of their own: its parts.
    A list of definitions holds the parts of each before it, as far as the receiver does not have them.
    """

    key: FunctionKey
    name: Annotated[Name, Cut()]
    blob: Payload
    python: Name = ""
    """Where it goes by value, the version that it needs: major and minor, "3.11"."""
    modules: Modules = ()
    """Top-level modules that its worker must be able to import; without the standard library's."""
    ships: Modules = ()
    """Of an initializer, the top-level modules that it brings along: to the calls with it no worker lacks these, and
    no slot serves calls with it and others."""
    parts: Annotated[
        tuple[FunctionKey, ...],
        AtMost(MAX_PARTS, "a function has {} parts"),
        Different("a function names one part twice"),
    ] = ()
    """Definitions that must be at hand wherever this one is unpickled. They have no parts themselves, and what they
    need (`python`, `modules`) is among what this one needs."""
    epoch: Count = 0
    """Of an initializer, how often the program had come to other versions of its modules; no slot serves calls of two
    epochs, and slots of earlier ones make way."""


Span: TypeAlias = Annotated[tuple[int, int] | int, checked_span] | None
"""What a task is: None for a plain call; (start, stop) for the elements of a chunk of `map` that are to run, so that a
chunk can be split without unpickling it; the number of its calls for a bundle, see `bundles`."""


def calls_in(span: Span) -> int:
    """How many calls of the user's function a task makes."""
    if span is None:
        return 1
    return span if isinstance(span, int) else span[1] - span[0]


class TaskSpec(NamedTuple):
    """One submitted call, chunk or bundle.

    The payload holds (args, kwargs), the columns of a chunk of `map`, or the payloads of a bundle's calls.
    `initializer` is the function key of the executor's initializer.
    """

    id: Annotated[TaskId, Length(MAX_TASK_LENGTH, "a call's id has {} characters")]
    function: FunctionKey
    payload: Payload
    span: Span = None
    options: Options = DEFAULT_OPTIONS
    initializer: FunctionKey | None = None
    depth: Count = 0
    """0 for a call of a program, n + 1 for one that a task of depth n submits. Deeper ones go first, for a task waits
    for them."""
    depends_on: Annotated[tuple[TaskId, ...], AtMost(MAX_DEPENDENCIES, "a call needs {} others")] = ()
    """Tasks whose results are among its arguments: it waits for them."""


class Assignment(NamedTuple):
    """A TaskSpec on its way to a worker, with the number of the attempt (from 1): no other one of the task has it."""

    id: TaskId
    attempt: Attempt
    function: FunctionKey
    payload: Payload
    span: Span
    options: Options
    initializer: FunctionKey | None
    depth: Count = 0
    values: tuple[Payload, ...] = ()
    """The results of the tasks that it needs, in the order of TaskSpec.depends_on."""
    unbegun: Annotated[int, Below("attempt")] = 0
    """How many of the attempts before this one never began."""

    @property
    def begun(self) -> int:
        """The attempts that have begun, or may have, this one among them: what people are told."""
        return self.attempt - self.unbegun


class Outcome(NamedTuple):
    """How one attempt ended. `duration` is in seconds, measured in the slot.

    Detail keys (all optional): "final" (true: the exception is not in retry_on),
    "too_large" (true, with ERROR and no payload: there is a QuotaError instead),
    "error" the text of the failure, "exit_code", "signal" (its name), "host", "worker",
    "pid", "peak_memory" (bytes), "stderr" (last lines), "traceback" (where it died), "out_of_memory" (true),
    "quota" (true, with REFUSED: its owner has too much here already),
    "python" (true, with REFUSED: no worker has the version of Python that its function needs),
    "modules" (with REFUSED: those that its function needs and no worker can import),
    "no_slot" (true, with REFUSED: it would need one more slot, which can be started nowhere),
    "deadlock" (true, with REFUSED: it needs resources that are held by tasks which wait for it),
    "setup" (true: its initializer failed, with ERROR, or killed its process, so that it has not begun itself; what a
    client gets with that key is about an initializer that fails on every worker),
    "element" (absolute index in the span that was running when the process died),
    "running" (with SPLIT of a bundle: the index of the call that goes on as a task of its own),
    "stop" (with SPLIT of a chunk: the index of the first element that was given back),
    "attempts" (a list of strings, a line per attempt), "limit" (crash limit that was reached),
    "most_calls" (with CRASHED: it has more calls than a slot there makes before it is replaced, this number, so that
    it has not begun; its client cuts it),
    "timeout" (seconds), "unknown" (true: there is no such task here), and where the status is UNMET "need" (the id of
    the task that did not succeed), "need_name", "need_status" and "need_detail" (of its outcome).
    """

    id: TaskId
    attempt: Annotated[int, Between(0, LARGEST_32)]
    status: Annotated[int, Between(0, len(STATUS_NAMES) - 1, "there is no status {}")]
    payload: Payload = b""
    duration: Seconds = 0.0
    detail: Detail | None = None


def quota_exceeded(
    task: TaskId, attempt: int, what: str, size: int, most: int, location: Detail | None = None
) -> Outcome:
    """What becomes of a call whose arguments or result are more than the coordinator takes."""
    error = (
        f"its {what} {size:,} bytes, and the coordinator takes {most:,} at most (max_payload): pass a file's path"
        " instead, or cut the work into smaller parts"
    )
    detail = {**(location or {}), "too_large": True, "final": True, "error": error}
    return Outcome(task, attempt, ERROR, detail=detail)


def shipment_exceeded(task: TaskId, definition: FunctionDef, most: int) -> Outcome:
    """As `quota_exceeded`, because of the modules that the call brings along."""
    size = payload_size(definition.blob)
    names = ", ".join(definition.ships[:5]) + (", ..." if len(definition.ships) > 5 else "")
    error = (
        f"what is shipped with it ({names}) has {size:,} bytes, packed, and the coordinator takes"
        f" {most:,} at most (max_payload): ship less, or install it on the workers"
    )
    return Outcome(task, 0, ERROR, detail={"too_large": True, "final": True, "error": error})


class Held(NamedTuple):
    """A task that a reconnecting worker still has."""

    id: TaskId
    attempt: Attempt
    running: bool
    unbegun: Annotated[int, Below("attempt")] = 0
    """As that of its Assignment."""


class Wait(NamedTuple):
    """A task waits for calls, with no time limit: it goes on when all of them have ended (`every`), or any one."""

    id: TaskId
    calls: Annotated[tuple[TaskId, ...], AtMost(MAX_AWAITED, "a task waits for {} calls")]
    """Empty: it waits no more. Of many, where it needs all, only some are told."""
    every: bool = True


class OutputChunk(NamedTuple):
    """Text that a task printed; `stream` is STDOUT or STDERR."""

    id: TaskId
    name: Name
    stream: Annotated[int, Between(STDOUT, STDERR)]
    text: Text


class CancelRequest(NamedTuple):
    """`running` asks to stop the task even if it has started."""

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
    """Seconds of silence after which the client takes the coordinator for lost; the coordinator waits for a client
    `CLIENT_PATIENCE` times as long. 0: the two are one process."""
    show_output: bool = True
    serial: Count = 0
    """Counts the sessions that this process has asked for: a greeting that comes late tells of what is past."""
    within: TaskId | None = None
    """The task inside of which this client is: its calls are those of that task's owner."""


@dataclass(slots=True)
class WorkerHello:
    """Opens a worker's session, with all that it still holds from an earlier one."""

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
    """As that of a ClientHello."""


@dataclass(slots=True)
class Welcome:
    """The coordinator accepts a session. The window bounds a client's unfinished tasks and their bytes here."""

    coordinator: Name
    version: Name
    slots: Count
    window_tasks: Positive
    window_bytes: Positive
    session: Name
    """The name of the session from now on."""
    max_payload: Positive = MAX_PAYLOAD
    """Bytes of the largest payload that is taken."""
    hash_seed: Annotated[int, Between(0, MAX_SEED)] | None = None
    """For all slots of the cluster, so that a string has one hash in all calls; None: each slot has its own."""


@dataclass(slots=True)
class Submit:
    """New tasks, the functions they need, and the keys of functions that the client will not name again."""

    tasks: Entries[TaskSpec]
    functions: list[FunctionDef] = field(default_factory=list)
    drop_functions: list[FunctionKey] = field(default_factory=list)


@dataclass(slots=True)
class ResubmissionComplete:
    """The client has resubmitted, in this session, all that it still waits for."""


@dataclass(slots=True)
class Watch:
    """Say how these tasks end, whoever has submitted them; an Outcome each is the answer."""

    ids: Entries[TaskId]


@dataclass(slots=True)
class Accepted:
    """To a client: these detached tasks are safe, whatever becomes of it (and with a journal, of the coordinator)."""

    ids: list[TaskId]


@dataclass(slots=True)
class ResultRequest:
    """To a client: tasks of yours need the results of these, which are not known here (any more)."""

    ids: list[TaskId]


@dataclass(slots=True)
class ResultReply:
    """How tasks ended that were recalled. `unknown` are those that the client cannot tell; others come later."""

    outcomes: Entries[Outcome]
    unknown: Entries[TaskId] = field(default_factory=list)


@dataclass(slots=True)
class Cancel:
    """Client to coordinator, and on to the worker. Each request is answered by an Outcome or a CancelRefused."""

    requests: Entries[CancelRequest]


@dataclass(slots=True)
class Divide:
    """To a worker: these chunks take long, and slots are idle; give back the elements that have not begun."""

    ids: list[TaskId]


@dataclass(slots=True)
class CancelRefused:
    """These tasks run already, and nobody asked to stop running ones."""

    ids: list[TaskId]


@dataclass(slots=True)
class Query:
    """A question; `kind` is one of "status", "workers", "tasks", "task", or a command "cancel", "drain", "forget"."""

    number: Count
    kind: Name
    argument: Annotated[str, Length(MAX_ARGUMENT_LENGTH, "a question is about {} characters")] = ""


@dataclass(slots=True)
class Reply:
    """The answer to the Query of that number: msgpack types only. `error` is empty on success."""

    number: Count
    data: Annotated[Any, plain]
    error: Text = ""


@dataclass(slots=True)
class Assign:
    """Tasks for a worker, all of one owner, and the functions that it does not know yet."""

    tasks: list[Assignment]
    functions: list[FunctionDef] = field(default_factory=list)
    owner: Name = ""
    """The public key of those who submitted them; empty: nobody's in particular. No slot serves two owners."""


@dataclass(slots=True)
class DropFunctions:
    """The coordinator will not name these functions again without sending them."""

    functions: list[FunctionKey]


@dataclass(slots=True)
class Outcomes:
    """The outcomes of tasks."""

    outcomes: list[Outcome]


@dataclass(slots=True)
class Running:
    """These tasks have started and take a while (short ones are never announced)."""

    ids: list[TaskId]


@dataclass(slots=True)
class TasksReturned:
    """A worker gives back tasks that it has not started, or that cannot end there since it leaves."""

    tasks: list[tuple[TaskId, Attempt]]
    """Pairs of id and attempt."""
    missing_modules: list[Name] = field(default_factory=list)
    """Modules that these need and that cannot be imported there; each of them needs one at least."""
    begun: bool = False
    """Whether these may have been started."""


@dataclass(slots=True)
class Capacity:
    """How many slots there are now: of the sending worker, or (to a client) of the whole cluster."""

    slots: Count


@dataclass(slots=True)
class Stuck:
    """All tasks of this worker wait for tasks of their own, and it can start no further slot; a Capacity ends that."""

    why: Text


@dataclass(slots=True)
class Waits:
    """From a worker: what tasks of its wait for, as far as that is known and lasts; the last word on each counts."""

    waits: list[Wait]


@dataclass(slots=True)
class Output:
    """The output that tasks have printed."""

    chunks: list[OutputChunk]


@dataclass(slots=True)
class Drain:
    """To a worker: take nothing new, finish what runs, give back the rest, leave. From it: it is doing so."""


@dataclass(slots=True)
class Goodbye:
    """The sender leaves in an orderly way."""

    reason: Text = ""


@dataclass(slots=True)
class Heartbeat:
    """A sign of life, and a bare acknowledgement."""


@dataclass(slots=True)
class Reset:
    """The receiver's session is unknown here; it must open a new one."""


@dataclass(slots=True)
class Refused:
    """The session cannot be opened, or may not go on, and trying again will not help."""

    error: Text
    kind: Name = "ProtocolError"
    """The name of the error, one of REFUSAL_KINDS."""


@dataclass(slots=True)
class Join:
    """From the holder of an invitation: let this public key in from now on, as this role."""

    key: Name
    name: Name
    role: Name


@dataclass(slots=True)
class Joined:
    """The key is known from now on, under this name."""

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
"""The number of a type on the wire is its place here: a further one comes at the end."""


@dataclass(slots=True)
class Envelope:
    """A message with the numbers of its link (see `link`). `seq` is 0 outside the ordered stream."""

    session: str
    seq: int
    ack: int
    message: Message
    size: int = field(default=0, compare=False)
    """Bytes that it came in; 0: it did not come over a wire."""
