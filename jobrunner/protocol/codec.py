"""A message to a list of frames, and back.

Frame 0 is msgpack: [version, session, seq, ack, type, field, field, ...]. A payload in it is either a bin (small: it
rides inside) or the number of frames that it takes; those follow in order, and are never copied here. The bytes of a
function are written in the same way. Decoding checks the shape, the types and the limits (see `checks`) of everything,
so that a core may trust what it gets; whatever is off raises ProtocolError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgpack

from jobrunner.config import MAX_NAME_LENGTH
from jobrunner.errors import ProtocolError
from jobrunner.payloads import Buffer, MappedPayload, Payload, buffers_of, payload_size
from jobrunner.protocol import messages as m
from jobrunner.protocol.checks import (
    LARGEST_32,
    MAX_BUFFERS,
    MAX_FRAMES,
    MAX_HEADER_BYTES,
    MAX_HELD,
    MAX_MAP_ENTRIES,
    MAX_SEED,
    amounts,
    argument,
    attempt,
    awaited,
    detail,
    entries,
    flag,
    integer,
    key,
    keys,
    limited,
    modules,
    name,
    name_list,
    needs,
    number,
    parts,
    plain,
    resources,
    retry_on,
    sequence,
    shown,
    slots,
    span,
    task,
    text,
    timeout,
    unbegun,
)

VERSION = 7

INLINE_LIMIT = 16 * 1024
"""Bytes up to which a payload rides inside the message: below, a copy is cheaper than a frame of its own."""

LARGE_HEADER = 16 * 1024 * 1024
"""Bytes of a header beyond which it is written again with the limit below."""

SMALL_INLINE_LIMIT = 512
"""As INLINE_LIMIT, in a message of very many payloads: so no header comes near to MAX_HEADER_BYTES."""

CLAIMS_FROM = 1024
"""Bytes of a header from which on its claims are checked before it is unpacked. Below, even 1,023 nested lists that
all claim to fill the rest of it take no more than 8 MiB, for an instant."""

COUNTED_FROM = 64 * 1024
"""Bytes of a header from which on its lists and maps are counted while it is unpacked: an empty map is one byte there,
and seventy here, and takes long to make."""

BYTES_PER_CONTAINER = 8
"""Of a header, for each list and map in it; real ones have more than twice as many."""

MAX_CONTAINERS = 2**20 + 2**16
"""Lists and maps in a header: a microsecond each. A worker may come back with nearly as many tasks."""

STATUSES = len(m.STATUS_NAMES)

Frames = list[Buffer]
Shared: TypeAlias = "MappedPayload | tuple[bytearray, ...]"
Frame: TypeAlias = "Buffer | Shared"
"""A whole payload, in shared memory or copied from there, is one frame between ends that have agreed on it."""

Share: TypeAlias = "Callable[[MappedPayload], bool]"


class VersionMismatch(ProtocolError):
    """The peer speaks another version of the protocol."""


def plain_frame(frame: Frame) -> Buffer:
    """A frame of a payload that has several, or of what is none."""
    if isinstance(frame, (MappedPayload, tuple)):
        raise ProtocolError("shared memory instead of bytes")
    return frame


class Writer:
    """Collects the frames of large payloads while a message's fields are listed."""

    __slots__ = ("frames", "inline_limit", "share")

    def __init__(self, inline_limit: int, share: Share | None = None) -> None:
        self.frames: list[Frame] = []
        self.inline_limit = inline_limit
        self.share = share

    def payload(self, payload: Payload) -> bytes | int:
        if isinstance(payload, bytes):
            if len(payload) <= self.inline_limit:
                return payload
            self.frames.append(payload)
            return 1
        if isinstance(payload, MappedPayload) and self.share is not None and self.share(payload):
            self.frames.append(payload)
            return 1
        pieces = buffers_of(payload)
        self.frames.extend(pieces)
        return len(pieces)


class Reader:
    """Hands out the frames of large payloads, and checks what it is given."""

    __slots__ = ("_frames", "_next")

    def __init__(self, frames: Sequence[Frame]) -> None:
        self._frames = frames
        self._next = 1

    def payload(self, value: Any) -> Payload:
        if type(value) is bytes:
            return value
        start, count = self._next, integer(value, 1)
        self._next = start + count
        if self._next > len(self._frames):
            raise ProtocolError(f"a payload names {count} frames, which the message does not have")
        if count > MAX_BUFFERS:
            raise ProtocolError(f"a payload of {count} frames; at most {MAX_BUFFERS} are allowed")
        pieces = self._frames[start : start + count]
        if count == 1 and isinstance(pieces[0], (MappedPayload, tuple)):
            return pieces[0]
        return tuple([plain_frame(piece) for piece in pieces])

    def finish(self) -> None:
        if self._next != len(self._frames):
            raise ProtocolError(f"{len(self._frames) - self._next} frames belong to no payload")


# --- entries ---------------------------------------------------------------------------------------------------------


def options(value: Any) -> m.TaskOptions:
    if value is None:
        return m.DEFAULT_OPTIONS
    called, priority, retries, limit, wanted, once, classes, on_timeouts, backoff, detach = sequence(value)
    return m.TaskOptions(
        None if called is None else name(called),
        integer(priority, -LARGEST_32 - 1, LARGEST_32),
        integer(retries, 0, LARGEST_32),
        None if limit is None else number(limit),
        resources(wanted),
        flag(once),
        None if classes is None else retry_on(classes),
        flag(on_timeouts),
        None if backoff is None else number(backoff),
        flag(detach),
    )


def write_options(value: m.TaskOptions) -> m.TaskOptions | None:
    return None if value is m.DEFAULT_OPTIONS or value == m.DEFAULT_OPTIONS else value


def write_functions(functions: list[m.FunctionDef], w: Writer) -> list[Any]:
    # Its name is for people; Python sets no limit to that of a class within a class within a class.
    return [(f[0], f[1][:MAX_NAME_LENGTH], w.payload(f[2]), f[3], f[4], f[5], f[6], f[7]) for f in functions]


def read_functions(value: Any, r: Reader) -> list[m.FunctionDef]:
    return [
        m.FunctionDef(
            key(k),
            name(title),
            r.payload(blob),
            name(python),
            () if needed == () else modules(needed),
            () if brought == () else modules(brought),
            () if held == () else parts(held),
            integer(epoch),
        )
        for k, title, blob, python, needed, brought, held, epoch in map(sequence, sequence(value))
    ]


def write_tasks(tasks: list[m.TaskSpec], w: Writer) -> list[Any]:
    payload = w.payload
    return [(t[0], t[1], payload(t[2]), t[3], write_options(t[4]), t[5], t[6], t[7]) for t in tasks]


def read_tasks(value: Any, r: Reader) -> list[m.TaskSpec]:
    # What most calls leave out is looked at here: a call of a function costs more than the rest of its check.
    payload = r.payload
    return [
        m.TaskSpec(
            task(a),
            key(b),
            c if type(c) is bytes else payload(c),
            None if d is None else span(d),
            m.DEFAULT_OPTIONS if e is None else options(e),
            None if f is None else key(f),
            integer(g),
            () if h == () else needs(h),
        )
        for a, b, c, d, e, f, g, h in map(sequence, entries(value))
    ]


def write_assignments(tasks: list[m.Assignment], w: Writer) -> list[Any]:
    payload = w.payload
    return [
        (
            t[0],
            t[1],
            t[2],
            payload(t[3]),
            t[4],
            write_options(t[5]),
            t[6],
            t[7],
            [payload(v) for v in t[8]],
            t[9],
        )
        for t in tasks
    ]


def read_assignments(value: Any, r: Reader) -> list[m.Assignment]:
    payload = r.payload
    return [
        m.Assignment(
            name(a),
            attempt(n),
            key(b),
            c if type(c) is bytes else payload(c),
            None if d is None else span(d),
            m.DEFAULT_OPTIONS if e is None else options(e),
            None if f is None else key(f),
            integer(g),
            () if h == () else tuple(map(payload, sequence(h))),
            unbegun(u, n),
        )
        for a, n, b, c, d, e, f, g, h, u in map(sequence, sequence(value))
    ]


def write_outcomes(outcomes: list[m.Outcome], w: Writer) -> list[Any]:
    payload = w.payload
    return [(o[0], o[1], o[2], payload(o[3]), o[4], o[5]) for o in outcomes]


def read_outcomes(value: Any, r: Reader) -> list[m.Outcome]:
    payload = r.payload
    return [
        m.Outcome(
            name(a),
            integer(n, 0, LARGEST_32),
            status(s),
            p if type(p) is bytes else payload(p),
            number(t),
            None if d is None else detail(d),
        )
        for a, n, s, p, t, d in map(sequence, sequence(value))
    ]


def status(value: Any) -> int:
    if type(value) is not int or not 0 <= value < STATUSES:
        raise ProtocolError(f"there is no status {shown(value)}")
    return value


def write_refusal(refusal: m.Refused) -> tuple[str, ...]:
    """Its kind only where there is one to tell: other versions do without."""
    return (refusal.error,) if refusal.kind == m.REFUSAL_KINDS[0] else (refusal.error, refusal.kind)


def refusal_kind(rest: Sequence[Any]) -> str:
    """Of a refusal, which other versions may send without."""
    return rest[0] if rest and rest[0] in m.REFUSAL_KINDS else m.REFUSAL_KINDS[0]


def read_held(value: Any) -> list[m.Held]:
    held = limited(value, MAX_HELD, "a worker with {} tasks")
    return [m.Held(name(a), attempt(n), flag(r), unbegun(u, n)) for a, n, r, u in map(sequence, held)]


def read_chunks(value: Any) -> list[m.OutputChunk]:
    return [
        m.OutputChunk(name(a), name(title), integer(stream, m.STDOUT, m.STDERR), text(words))
        for a, title, stream, words in map(sequence, sequence(value))
    ]


def read_waits(value: Any) -> list[m.Wait]:
    return [
        m.Wait(name(a), awaited(calls), flag(every)) for a, calls, every in map(sequence, sequence(value))
    ]


def read_requests(value: Any) -> list[m.CancelRequest]:
    return [m.CancelRequest(name(a), flag(running)) for a, running in map(sequence, entries(value))]


def read_returned(value: Any) -> list[tuple[Any, int]]:
    return [(name(a), attempt(n)) for a, n in map(sequence, sequence(value))]


# --- messages -----------------------------------------------------------------------------------------------------

Write = Callable[[Any, Writer], Sequence[Any]]
Read = Callable[[Sequence[Any], Reader], m.Message]

# The type's number on the wire is its place here: add at the end, and raise VERSION for any other change.
TABLE: list[tuple[type[m.Message], Write, Read]] = [
    (
        m.ClientHello,
        lambda x, w: (
            x.client,
            x.version,
            x.python,
            x.host,
            x.pid,
            x.peer_timeout,
            x.show_output,
            x.serial,
            x.within,
        ),
        lambda f, r: m.ClientHello(
            name(f[0]),
            name(f[1]),
            name(f[2]),
            name(f[3]),
            integer(f[4]),
            timeout(f[5]),
            flag(f[6]),
            integer(f[7]),
            None if f[8] is None else name(f[8]),
        ),
    ),
    (
        m.WorkerHello,
        lambda x, w: (
            x.worker,
            x.version,
            x.python,
            x.name,
            x.host,
            x.pid,
            x.peer_timeout,
            x.slots,
            dict(x.resources),
            x.held,
            x.serial,
        ),
        lambda f, r: m.WorkerHello(
            name(f[0]),
            name(f[1]),
            name(f[2]),
            name(f[3]),
            name(f[4]),
            integer(f[5]),
            timeout(f[6]),
            slots(f[7]),
            amounts(f[8]),
            read_held(f[9]),
            integer(f[10]),
        ),
    ),
    (
        m.Welcome,
        lambda x, w: (
            x.coordinator,
            x.version,
            x.slots,
            x.window_tasks,
            x.window_bytes,
            x.session,
            x.max_payload,
            x.hash_seed,
        ),
        lambda f, r: m.Welcome(
            name(f[0]),
            name(f[1]),
            integer(f[2]),
            integer(f[3], 1),
            integer(f[4], 1),
            name(f[5]),
            integer(f[6], 1),
            None if f[7] is None else integer(f[7], 0, MAX_SEED),
        ),
    ),
    (
        m.Submit,
        lambda x, w: (write_tasks(x.tasks, w), write_functions(x.functions, w), x.forget),
        lambda f, r: m.Submit(read_tasks(f[0], r), read_functions(f[1], r), keys(f[2])),
    ),
    (m.Reconciled, lambda x, w: (), lambda f, r: m.Reconciled()),
    (m.Cancel, lambda x, w: (x.requests,), lambda f, r: m.Cancel(read_requests(f[0]))),
    (m.CancelRefused, lambda x, w: (x.ids,), lambda f, r: m.CancelRefused(name_list(f[0]))),
    (
        m.Query,
        lambda x, w: (x.number, x.kind, x.argument),
        lambda f, r: m.Query(integer(f[0]), name(f[1]), argument(f[2])),
    ),
    (
        m.Reply,
        lambda x, w: (x.number, x.data, x.error),
        lambda f, r: m.Reply(integer(f[0]), plain(f[1]), text(f[2])),
    ),
    (
        m.Assign,
        lambda x, w: (write_assignments(x.tasks, w), write_functions(x.functions, w), x.owner),
        lambda f, r: m.Assign(read_assignments(f[0], r), read_functions(f[1], r), name(f[2])),
    ),
    (m.Forget, lambda x, w: (x.functions,), lambda f, r: m.Forget(keys(f[0]))),
    (
        m.Outcomes,
        lambda x, w: (write_outcomes(x.outcomes, w),),
        lambda f, r: m.Outcomes(read_outcomes(f[0], r)),
    ),
    (m.Running, lambda x, w: (x.ids,), lambda f, r: m.Running(name_list(f[0]))),
    (
        m.Returned,
        lambda x, w: (x.tasks, x.lacks, x.begun),
        lambda f, r: m.Returned(read_returned(f[0]), name_list(f[1]), flag(f[2])),
    ),
    (m.Capacity, lambda x, w: (x.slots,), lambda f, r: m.Capacity(integer(f[0]))),
    (m.Output, lambda x, w: (x.chunks,), lambda f, r: m.Output(read_chunks(f[0]))),
    (m.Drain, lambda x, w: (), lambda f, r: m.Drain()),
    (m.Goodbye, lambda x, w: (x.reason,), lambda f, r: m.Goodbye(text(f[0]))),
    (m.Heartbeat, lambda x, w: (), lambda f, r: m.Heartbeat()),
    (m.Reset, lambda x, w: (), lambda f, r: m.Reset()),
    (m.Refused, lambda x, w: write_refusal(x), lambda f, r: m.Refused(text(f[0]), refusal_kind(f[1:]))),
    (m.Watch, lambda x, w: (x.ids,), lambda f, r: m.Watch(name_list(entries(f[0])))),
    (m.Accepted, lambda x, w: (x.ids,), lambda f, r: m.Accepted(name_list(f[0]))),
    (m.Recall, lambda x, w: (x.ids,), lambda f, r: m.Recall(name_list(f[0]))),
    (
        m.Supply,
        lambda x, w: (write_outcomes(x.outcomes, w), x.unknown),
        lambda f, r: m.Supply(read_outcomes(entries(f[0]), r), name_list(entries(f[1]))),
    ),
    (
        m.Join,
        lambda x, w: (x.key, x.name, x.role),
        lambda f, r: m.Join(name(f[0]), name(f[1]), name(f[2])),
    ),
    (m.Joined, lambda x, w: (x.name,), lambda f, r: m.Joined(name(f[0]))),
    (m.Divide, lambda x, w: (x.ids,), lambda f, r: m.Divide(name_list(f[0]))),
    (m.Stuck, lambda x, w: (x.why,), lambda f, r: m.Stuck(text(f[0]))),
    (m.Waits, lambda x, w: (x.waits,), lambda f, r: m.Waits(read_waits(f[0]))),
]  # fmt: skip
REFUSED = next(number for number, row in enumerate(TABLE) if row[0] is m.Refused)
"""This type keeps its number and shape in every version, so that a refusal can be read by the refused."""

NUMBERS = {cls: (index, write) for index, (cls, write, _) in enumerate(TABLE)}


def encode(envelope: m.Envelope) -> Frames:
    """The frames of a message: the header, then those of its large payloads."""
    return encode_sharing(envelope, None)  # type: ignore[return-value]  # nothing is shared


def encode_sharing(
    envelope: m.Envelope, share: Share | None, inline_limit: int = INLINE_LIMIT
) -> list[Frame]:
    """As `encode`; but a payload in shared memory is a frame as it is, if `share` says so."""
    message = envelope.message
    kind, write = NUMBERS[type(message)]
    writer = Writer(inline_limit, share)
    head = (VERSION, envelope.session, envelope.seq, envelope.ack, kind, *write(message, writer))
    try:
        header = msgpack.packb(head)
    except UnicodeEncodeError:  # half a surrogate pair, from a file name or from what a task prints
        header = msgpack.packb(head, unicode_errors="surrogatepass")
    if len(header) > LARGE_HEADER and inline_limit > SMALL_INLINE_LIMIT:
        return encode_sharing(envelope, share, SMALL_INLINE_LIMIT)
    return [header, *writer.frames]


def frame_size(frame: Frame) -> int:
    return payload_size(frame if isinstance(frame, (MappedPayload, tuple)) else (frame,))


def check_claims(header: Buffer, largest: int) -> None:
    """Raises an error where the header claims to hold more than it does, or is too large.

    Going through it makes nothing, so that this comes before anything is allocated for what it claims.
    """
    size = len(header)
    if size > largest:
        raise ProtocolError(f"a header of {size} bytes; at most {largest} are allowed")
    walk = msgpack.Unpacker(max_buffer_size=size)
    walk.feed(header)
    walk.skip()


def unpack(header: Buffer) -> Any:
    """What a header holds."""
    left = min(len(header) // BYTES_PER_CONTAINER, MAX_CONTAINERS)

    def counted(container: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise ProtocolError(f"too many lists and maps for a header of {len(header)} bytes")
        return container

    hook = counted if len(header) > COUNTED_FROM else None
    return msgpack.unpackb(
        header,
        use_list=False,
        unicode_errors="surrogatepass",
        max_map_len=MAX_MAP_ENTRIES,
        max_ext_len=0,
        list_hook=hook,
        object_hook=hook,
    )


def decode(frames: Sequence[Frame], largest_header: int = MAX_HEADER_BYTES) -> m.Envelope:
    """The message that these frames hold. Raises ProtocolError for anything that `encode` would not have made, and for
    a header of more bytes."""
    try:
        if len(frames) > MAX_FRAMES:
            raise ProtocolError(f"more than {MAX_FRAMES} frames")
        header = plain_frame(frames[0])
        if len(header) > CLAIMS_FROM:
            check_claims(header, largest_header)
        head = unpack(header)
        if type(head) is not tuple or len(head) < 5:
            raise ProtocolError("not a jobrunner message")
        if head[0] != VERSION and head[4] != REFUSED:
            raise VersionMismatch(
                f"the peer speaks protocol version {shown(head[0])}, this is version {VERSION}"
            )
        reader = Reader(frames)
        kind = integer(head[4])
        if kind >= len(TABLE):
            raise ProtocolError(f"there is no message type {kind}")
        message = TABLE[kind][2](head[5:], reader)
        reader.finish()
        size = len(header) if len(frames) == 1 else sum(map(frame_size, frames))
        return m.Envelope(name(head[1]), integer(head[2]), integer(head[3]), message, size)
    except ProtocolError:
        raise
    except (ValueError, TypeError, IndexError, OverflowError, RecursionError, msgpack.UnpackException) as exc:
        raise ProtocolError(f"malformed message: {str(exc) or type(exc).__name__:.200}") from exc
