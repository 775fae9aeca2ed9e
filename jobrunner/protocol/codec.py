"""A message to a list of frames, and back.

Frame 0 is msgpack: [version, session, seq, ack, type, field, field, ...]. A payload in it is either a bin (small: it
rides inside) or the number of frames that it takes; those follow in order, and are never copied here. Decoding checks
the shape and the types of everything, so that a core may trust what it gets; whatever is off raises ProtocolError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgpack

from jobrunner.config import LONGEST_PEER_TIMEOUT
from jobrunner.errors import ProtocolError
from jobrunner.payloads import Buffer, Payload
from jobrunner.protocol import messages as m

VERSION = 1

INLINE_LIMIT = 16 * 1024
"""Bytes up to which a payload rides inside the message: below, a copy is cheaper than a frame of its own."""

Frames = list[Buffer]


class VersionMismatch(ProtocolError):
    """The peer speaks another version of the protocol."""


class Writer:
    """Collects the frames of large payloads while a message's fields are listed."""

    __slots__ = ("frames",)

    def __init__(self) -> None:
        self.frames: Frames = []

    def payload(self, payload: Payload) -> bytes | int:
        if isinstance(payload, bytes):
            if len(payload) <= INLINE_LIMIT:
                return payload
            self.frames.append(payload)
            return 1
        self.frames.extend(payload)
        return len(payload)


class Reader:
    """Hands out the frames of large payloads, and checks what it is given."""

    __slots__ = ("_frames", "_next")

    def __init__(self, frames: Sequence[Buffer]) -> None:
        self._frames = frames
        self._next = 1

    def payload(self, value: Any) -> Payload:
        if type(value) is bytes:
            return value
        start, count = self._next, integer(value, 1)
        self._next = start + count
        if self._next > len(self._frames):
            raise ProtocolError(f"a payload names {count} frames, which the message does not have")
        return tuple(self._frames[start : start + count])

    def finish(self) -> None:
        if self._next != len(self._frames):
            raise ProtocolError(f"{len(self._frames) - self._next} frames belong to no payload")


# --- checks -------------------------------------------------------------------------------------------------------


def text(value: Any) -> Any:
    if type(value) is not str:
        raise ProtocolError(f"expected a text, got {type(value).__name__}")
    return value


def integer(value: Any, minimum: int = 0) -> int:
    if type(value) is not int or value < minimum:
        raise ProtocolError(f"expected a whole number from {minimum}, got {value!r:.40}")
    return value


def number(value: Any) -> float:
    if type(value) is not float and type(value) is not int:
        raise ProtocolError(f"expected a number, got {type(value).__name__}")
    return value


def timeout(value: Any) -> float:
    if not 0 <= number(value) <= LONGEST_PEER_TIMEOUT:
        raise ProtocolError(f"a peer timeout must be 0 to {LONGEST_PEER_TIMEOUT:g} s, got {value!r:.40}")
    return float(value)


def flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ProtocolError(f"expected true or false, got {type(value).__name__}")
    return value


def key(value: Any) -> bytes:
    if type(value) is not bytes:
        raise ProtocolError(f"expected bytes, got {type(value).__name__}")
    return value


def optional_key(value: Any) -> bytes | None:
    return None if value is None else key(value)


def sequence(value: Any) -> tuple[Any, ...]:
    if type(value) is not tuple:
        raise ProtocolError(f"expected a list, got {type(value).__name__}")
    return value


def mapping(value: Any) -> dict[str, Any]:
    if type(value) is not dict or not all(type(name) is str for name in value):
        raise ProtocolError("expected a map with texts as keys")
    return value


def span(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    start, stop = sequence(value)
    if integer(stop, 1) <= integer(start):
        raise ProtocolError(f"a span from {start} to {stop} is empty")
    return start, stop


def texts(value: Any) -> list[Any]:
    return [text(item) for item in sequence(value)]


def names(value: Any) -> tuple[Any, ...]:
    return tuple(map(text, value)) if value else sequence(value)


def keys(value: Any) -> list[bytes]:
    return [key(item) for item in sequence(value)]


def options(value: Any) -> m.TaskOptions:
    if value is None:
        return m.DEFAULT_OPTIONS
    name, priority, retries, limit, resources, once, retry_on, on_timeouts, backoff, detach = sequence(value)
    if name is not None:
        text(name)
    if type(priority) is not int:
        raise ProtocolError("a priority must be a whole number")
    if limit is not None:
        number(limit)
    amounts = tuple((text(what), number(amount)) for what, amount in map(sequence, sequence(resources)))
    if backoff is not None:
        number(backoff)
    return m.TaskOptions(
        name,
        priority,
        integer(retries),
        limit,
        amounts,
        flag(once),
        optional_key(retry_on),
        flag(on_timeouts),
        backoff,
        flag(detach),
    )


# --- entries ------------------------------------------------------------------------------------------------------


def write_options(value: m.TaskOptions) -> m.TaskOptions | None:
    return None if value is m.DEFAULT_OPTIONS or value == m.DEFAULT_OPTIONS else value


def read_functions(value: Any) -> list[m.FunctionDef]:
    return [
        m.FunctionDef(key(name), text(title), key(blob))
        for name, title, blob in map(sequence, sequence(value))
    ]


def write_tasks(tasks: list[m.TaskSpec], w: Writer) -> list[Any]:
    payload = w.payload
    return [(t[0], t[1], payload(t[2]), t[3], write_options(t[4]), t[5], t[6], t[7]) for t in tasks]


def read_tasks(value: Any, r: Reader) -> list[m.TaskSpec]:
    payload = r.payload
    return [
        m.TaskSpec(text(a), key(b), payload(c), span(d), options(e), optional_key(f), integer(g), names(h))
        for a, b, c, d, e, f, g, h in map(sequence, sequence(value))
    ]


def write_assignments(tasks: list[m.Assignment], w: Writer) -> list[Any]:
    payload = w.payload
    return [
        (t[0], t[1], t[2], payload(t[3]), t[4], write_options(t[5]), t[6], t[7], [payload(v) for v in t[8]])
        for t in tasks
    ]


def read_assignments(value: Any, r: Reader) -> list[m.Assignment]:
    payload = r.payload
    return [
        m.Assignment(
            text(a),
            integer(n, 1),
            key(b),
            payload(c),
            span(d),
            options(e),
            optional_key(f),
            integer(g),
            tuple(map(payload, sequence(h))),
        )
        for a, n, b, c, d, e, f, g, h in map(sequence, sequence(value))
    ]


def write_outcomes(outcomes: list[m.Outcome], w: Writer) -> list[Any]:
    payload = w.payload
    return [(o[0], o[1], o[2], payload(o[3]), o[4], o[5]) for o in outcomes]


def read_outcomes(value: Any, r: Reader) -> list[m.Outcome]:
    payload = r.payload
    return [
        m.Outcome(text(a), integer(n), status(s), payload(p), number(t), None if d is None else mapping(d))
        for a, n, s, p, t, d in map(sequence, sequence(value))
    ]


def status(value: Any) -> int:
    if integer(value) >= len(m.STATUS_NAMES):
        raise ProtocolError(f"there is no status {value}")
    return value  # type: ignore[no-any-return]


def write_refusal(refusal: m.Refused) -> tuple[str, ...]:
    """Its kind only where there is one to tell: other versions do without."""
    return (refusal.error,) if refusal.kind == m.REFUSAL_KINDS[0] else (refusal.error, refusal.kind)


def refusal_kind(rest: Sequence[Any]) -> str:
    """Of a refusal, which other versions may send without."""
    return rest[0] if rest and rest[0] in m.REFUSAL_KINDS else m.REFUSAL_KINDS[0]


def read_held(value: Any) -> list[m.Held]:
    return [m.Held(text(a), integer(n, 1), flag(r)) for a, n, r in map(sequence, sequence(value))]


def read_chunks(value: Any) -> list[m.OutputChunk]:
    return [
        m.OutputChunk(text(a), text(name), integer(stream, 1), text(words))
        for a, name, stream, words in map(sequence, sequence(value))
    ]


def read_requests(value: Any) -> list[m.CancelRequest]:
    return [m.CancelRequest(text(a), flag(running)) for a, running in map(sequence, sequence(value))]


def read_returned(value: Any) -> list[tuple[Any, int]]:
    return [(text(a), integer(n, 1)) for a, n in map(sequence, sequence(value))]


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
        ),
        lambda f, r: m.ClientHello(
            text(f[0]),
            text(f[1]),
            text(f[2]),
            text(f[3]),
            integer(f[4]),
            timeout(f[5]),
            flag(f[6]),
            integer(f[7]),
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
            text(f[0]),
            text(f[1]),
            text(f[2]),
            text(f[3]),
            text(f[4]),
            integer(f[5]),
            timeout(f[6]),
            integer(f[7], 1),
            {name: number(amount) for name, amount in mapping(f[8]).items()},
            read_held(f[9]),
            integer(f[10]),
        ),
    ),
    (
        m.Welcome,
        lambda x, w: (x.coordinator, x.version, x.slots, x.window_tasks, x.window_bytes, x.session),
        lambda f, r: m.Welcome(
            text(f[0]), text(f[1]), integer(f[2]), integer(f[3], 1), integer(f[4], 1), text(f[5])
        ),
    ),
    (
        m.Submit,
        lambda x, w: (write_tasks(x.tasks, w), x.functions, x.forget),
        lambda f, r: m.Submit(read_tasks(f[0], r), read_functions(f[1]), keys(f[2])),
    ),
    (m.Reconciled, lambda x, w: (), lambda f, r: m.Reconciled()),
    (m.Cancel, lambda x, w: (x.requests,), lambda f, r: m.Cancel(read_requests(f[0]))),
    (m.CancelRefused, lambda x, w: (x.ids,), lambda f, r: m.CancelRefused(texts(f[0]))),
    (
        m.Query,
        lambda x, w: (x.number, x.kind, x.argument),
        lambda f, r: m.Query(integer(f[0]), text(f[1]), text(f[2])),
    ),
    (
        m.Reply,
        lambda x, w: (x.number, x.data, x.error),
        lambda f, r: m.Reply(integer(f[0]), f[1], text(f[2])),
    ),
    (
        m.Assign,
        lambda x, w: (write_assignments(x.tasks, w), x.functions),
        lambda f, r: m.Assign(read_assignments(f[0], r), read_functions(f[1])),
    ),
    (m.Forget, lambda x, w: (x.functions,), lambda f, r: m.Forget(keys(f[0]))),
    (
        m.Outcomes,
        lambda x, w: (write_outcomes(x.outcomes, w),),
        lambda f, r: m.Outcomes(read_outcomes(f[0], r)),
    ),
    (m.Running, lambda x, w: (x.ids,), lambda f, r: m.Running(texts(f[0]))),
    (m.Returned, lambda x, w: (x.tasks,), lambda f, r: m.Returned(read_returned(f[0]))),
    (m.Capacity, lambda x, w: (x.slots,), lambda f, r: m.Capacity(integer(f[0]))),
    (m.Output, lambda x, w: (x.chunks,), lambda f, r: m.Output(read_chunks(f[0]))),
    (m.Drain, lambda x, w: (), lambda f, r: m.Drain()),
    (m.Goodbye, lambda x, w: (x.reason,), lambda f, r: m.Goodbye(text(f[0]))),
    (m.Heartbeat, lambda x, w: (), lambda f, r: m.Heartbeat()),
    (m.Reset, lambda x, w: (), lambda f, r: m.Reset()),
    (m.Refused, lambda x, w: write_refusal(x), lambda f, r: m.Refused(text(f[0]), refusal_kind(f[1:]))),
    (m.Watch, lambda x, w: (x.ids,), lambda f, r: m.Watch(texts(f[0]))),
    (m.Accepted, lambda x, w: (x.ids,), lambda f, r: m.Accepted(texts(f[0]))),
    (m.Recall, lambda x, w: (x.ids,), lambda f, r: m.Recall(texts(f[0]))),
    (
        m.Supply,
        lambda x, w: (write_outcomes(x.outcomes, w), x.unknown),
        lambda f, r: m.Supply(read_outcomes(f[0], r), texts(f[1])),
    ),
    (
        m.Join,
        lambda x, w: (x.key, x.name, x.role),
        lambda f, r: m.Join(text(f[0]), text(f[1]), text(f[2])),
    ),
    (m.Joined, lambda x, w: (x.name,), lambda f, r: m.Joined(text(f[0]))),
]  # fmt: skip
REFUSED = next(number for number, row in enumerate(TABLE) if row[0] is m.Refused)
"""This type keeps its number and shape in every version, so that a refusal can be read by the refused."""

NUMBERS = {cls: (index, write) for index, (cls, write, _) in enumerate(TABLE)}


def encode(envelope: m.Envelope) -> Frames:
    """The frames of a message: the header, then those of its large payloads."""
    message = envelope.message
    kind, write = NUMBERS[type(message)]
    writer = Writer()
    head = (VERSION, envelope.session, envelope.seq, envelope.ack, kind, *write(message, writer))
    try:
        return [msgpack.packb(head), *writer.frames]
    except UnicodeEncodeError:  # half a surrogate pair, from a file name or from what a task prints
        return [msgpack.packb(head, unicode_errors="surrogatepass"), *writer.frames]


def decode(frames: Sequence[Buffer]) -> m.Envelope:
    """The message that these frames hold. Raises ProtocolError for anything that `encode` would not have made."""
    try:
        head = msgpack.unpackb(frames[0], use_list=False, unicode_errors="surrogatepass")
        if type(head) is not tuple or len(head) < 5:
            raise ProtocolError("not a jobrunner message")
        if head[0] != VERSION and head[4] != REFUSED:
            raise VersionMismatch(
                f"the peer speaks protocol version {head[0]!r:.20}, this is version {VERSION}"
            )
        reader = Reader(frames)
        kind = integer(head[4])
        if kind >= len(TABLE):
            raise ProtocolError(f"there is no message type {kind}")
        message = TABLE[kind][2](head[5:], reader)
        reader.finish()
        return m.Envelope(text(head[1]), integer(head[2]), integer(head[3]), message)
    except ProtocolError:
        raise
    except (ValueError, TypeError, IndexError, OverflowError, RecursionError, msgpack.UnpackException) as exc:
        raise ProtocolError(f"malformed message: {exc}") from exc
