"""The conversion of a message to a list of frames, and back.

Frame 0 is msgpack: [version, session, seq, ack, type, field, field, ...]. A small payload is a bin inside of it. A
large payload is represented there by the number of its frames; these follow in order, and are never copied here. The
bytes of a function are written in the same way.

Decoding checks the shape, the types and the limits of everything, so that a core may trust the message; any violation
raises ProtocolError. The fields and their limits are declared in `messages`, and `codec_functions` derives the
functions that pack and unpack each type. This module has what all types have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, get_args

import msgpack

from jobrunner.errors import ProtocolError
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.checks import (
    MAX_BUFFERS,
    MAX_FRAMES,
    MAX_HEADER_BYTES,
    MAX_MAP_ENTRIES,
    integer,
    name,
    shown,
    text,
)
from jobrunner.protocol.wire.codec_functions import message_reader, message_writer
from jobrunner.protocol.wire.payloads import Buffer, MappedPayload, Payload, buffers_of, payload_size

VERSION = 8

INLINE_LIMIT = 16 * 1024
"""Maximum size in bytes of a payload inside the message, because a copy of it is cheaper than a frame of its own."""

LARGE_HEADER = 16 * 1024 * 1024
"""Size in bytes of a header beyond which it is written again with SMALL_INLINE_LIMIT."""

SMALL_INLINE_LIMIT = 512
"""Maximum size in bytes of a payload inside a message of very many payloads, so that no header comes near
MAX_HEADER_BYTES."""

CLAIMS_FROM = 1024
"""Size in bytes of a header from which on its claims are checked before it is unpacked. In a smaller one, even 1,023
nested lists that all claim to fill the rest of it take no more than 8 MiB, for an instant."""

COUNTED_FROM = 64 * 1024
"""Size in bytes of a header from which on its lists and maps are counted while it is unpacked, because an empty map
has one byte on the wire and seventy in memory, and takes long to create."""

BYTES_PER_CONTAINER = 8
"""Minimum number of bytes of a header per list and map in it; regular headers have more than twice as many."""

MAX_CONTAINERS = 2**20 + 2**16
"""Maximum number of lists and maps in a header, which take a microsecond each; a worker may reconnect with nearly as
many tasks."""

Frames = list[Buffer]
Shared: TypeAlias = "MappedPayload | tuple[bytearray, ...]"
Frame: TypeAlias = "Buffer | Shared"
"""A frame; a whole payload in shared memory, or copied from there, is one frame between ends that have agreed on
it."""

Share: TypeAlias = "Callable[[MappedPayload], bool]"


class VersionMismatch(ProtocolError):
    """The peer uses another version of the protocol."""


def plain_frame(frame: Frame) -> Buffer:
    """Return the bytes of a frame, which must not be in shared memory."""
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
    """Hands out the frames of large payloads, and checks their numbers."""

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


# --- messages -----------------------------------------------------------------------------------------------------

Write: TypeAlias = "Callable[[m.Envelope, Writer], tuple[Any, ...]]"
Read: TypeAlias = "Callable[[tuple[Any, ...], Reader], m.Message]"

KINDS: tuple[type[m.Message], ...] = get_args(m.Message)
NUMBERS = {kind: number for number, kind in enumerate(KINDS)}
"""The number of each message type on the wire."""

REFUSED = NUMBERS[m.Refused]
"""The number of this type, which keeps its number and shape in every version, so that every peer can read a
refusal."""


def write_refused(envelope: m.Envelope, writer: Writer) -> tuple[Any, ...]:
    """Return the fields of a refusal; the kind is included only if it is known, because other versions omit it."""
    message = envelope.message
    assert isinstance(message, m.Refused)
    head = (VERSION, envelope.session, envelope.seq, envelope.ack, REFUSED, message.error)
    return head if message.kind == m.REFUSAL_KINDS[0] else (*head, message.kind)


def read_refused(head: tuple[Any, ...], reader: Reader) -> m.Refused:
    """Return a refusal from its fields, of which other versions may send fewer, unknown or more ones."""
    kind = head[6] if len(head) > 6 and head[6] in m.REFUSAL_KINDS else m.REFUSAL_KINDS[0]
    return m.Refused(text(head[5]), kind)


class Writers(dict[type[m.Message], Write]):
    """The functions that pack messages, by type; each is created when the first message of the type is sent."""

    def __missing__(self, kind: type[m.Message]) -> Write:
        write = self[kind] = message_writer(kind, VERSION, NUMBERS[kind])
        return write


class Readers(dict[int, Read]):
    """The functions that unpack and check messages, by number; each is created when the first such message arrives."""

    def __missing__(self, number: int) -> Read:
        read = self[number] = message_reader(KINDS[number])
        return read


WRITERS = Writers({m.Refused: write_refused})
READERS = Readers({REFUSED: read_refused})


def encode(envelope: m.Envelope) -> Frames:
    """Return the frames of a message: the header, followed by the frames of its large payloads."""
    return encode_sharing(envelope, None)  # type: ignore[return-value]  # nothing is shared


def encode_sharing(
    envelope: m.Envelope, share: Share | None, inline_limit: int = INLINE_LIMIT
) -> list[Frame]:
    """Return the frames of a message, like `encode`, with payloads in shared memory as frames if `share` permits."""
    writer = Writer(inline_limit, share)
    head = WRITERS[type(envelope.message)](envelope, writer)
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
    """Raise an error if the header claims to contain more than it does, or is too large.

    This check creates no objects, so it comes before any memory is allocated for the claims.
    """
    size = len(header)
    if size > largest:
        raise ProtocolError(f"a header of {size} bytes; at most {largest} are allowed")
    walk = msgpack.Unpacker(max_buffer_size=size)
    walk.feed(header)
    walk.skip()


def unpack(header: Buffer) -> Any:
    """Return the content of a header."""
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
    """Return the message that these frames hold.

    Raises ProtocolError for anything that `encode` would not have made, and for a header that is too large.
    """
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
        number = integer(head[4])
        if number >= len(KINDS):
            raise ProtocolError(f"there is no message type {number}")
        message = READERS[number](head, reader)
        reader.finish()
        size = len(header) if len(frames) == 1 else sum(map(frame_size, frames))
        return m.Envelope(name(head[1]), integer(head[2]), integer(head[3]), message, size)
    except ProtocolError:
        raise
    except (ValueError, TypeError, IndexError, OverflowError, RecursionError, msgpack.UnpackException) as exc:
        raise ProtocolError(f"malformed message: {str(exc) or type(exc).__name__:.200}") from exc
