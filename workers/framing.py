"""The messages between a worker and one of its slots, and their form on a Unix stream socket.

A message is a small header (a msgpack array of items) and any number of large buffers, which are sent without a
copy and received into memory of their own. On the socket:

    u32 bytes of the header | u32 number of buffers | u64 size of each buffer | header | buffers

A payload in shared memory is a buffer without bytes here: its size is DESCRIPTOR, and its descriptor accompanies the
first byte of the message.

The items, lists that start with one of the numbers below:

    worker -> slot, data       [RUN, functions, to_drop, tasks]; the lists hold (key, name, blob, parts) of
                               FunctionDefs, keys, SlotTasks
    worker -> slot, control    [RECALL, [count of RUN messages sent so far, also the bundle that runs]],
                               [INTERRUPT, number], [DIVIDE, number],
                               [CONNECT, why it cannot connect, or nothing]
    slot -> worker, data       [READY, pid], [OUTCOME, number, status, payload, duration],
                               [PRINTED, number, stream, text], [RETURNED, numbers], [BLOCKED, 0 or 1],
                               [CONNECT, 1], [SPLIT, [number, results, index of the call that runs]],
                               [DIVIDED, [number, index of the first element that is given back, or 0]], [SPOILED, 1],
                               [AWAITS, [number, ids of calls, whether it takes all of them]]

In an item, a payload of several buffers is replaced by their count, and one in shared memory by its label (`detach`,
`attach`).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, TypeAlias

import msgpack

from jobrunner.protocol.wire.payloads import Buffer, Payload, buffers_of
from jobrunner.shared_memory.shared_payload import SharedMemoryError, SharedPayload, checked_label, received

RUN = 0
RECALL = 1
INTERRUPT = 2
READY = 3
OUTCOME = 4
PRINTED = 5
RETURNED = 6
BLOCKED = 7
CONNECT = 8
SPLIT = 9
DIVIDE = 10
DIVIDED = 11
SPOILED = 12
AWAITS = 13

DESCRIPTOR = 1 << 63
MAX_DESCRIPTORS = 200
"""Maximum number of descriptors of one message; Linux allows 253."""

DESCRIPTOR_BYTES = struct.calcsize("i")


class Descriptor:
    """A descriptor that has arrived with a message; it is closed unless somebody takes it."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def take(self) -> int:
        fd, self._fd = self._fd, -1
        return fd

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


Received: TypeAlias = "bytearray | Descriptor"
Message: TypeAlias = "tuple[bytes, list[Received]]"
"""A header and its buffers."""

PREFIX = struct.Struct("<II")
SIZE_BYTES = 8
ARRAY = struct.Struct(">BI")
ARRAY_TYPE = 0xDD
"""The byte with which msgpack starts an array of any length; a header is an array of items."""

MAX_HEADER = 1 << 30
MAX_BUFFERS = 1 << 20
"""Maximum number of buffers, which bounds the memory that a damaged prefix can make the reader allocate."""


class ChannelError(Exception):
    """The received data is not a message, so the other end is broken and of no further use."""


Outgoing: TypeAlias = "Buffer | SharedPayload"
"""The objects that `send` accepts beside a header."""


def pack(item: Any) -> bytes:
    """Pack one item, for `header`; a lone surrogate in a string becomes "?"."""
    packed: bytes = msgpack.packb(item, unicode_errors="replace")
    return packed


def header(packed: bytes, count: int = 1) -> bytes:
    """Return the header of `count` packed items, one after the other."""
    return ARRAY.pack(ARRAY_TYPE, count) + packed


def unpack(header: Buffer) -> list[Any]:
    """Return the items of a header; raise ChannelError if it is not one."""
    try:
        items = msgpack.unpackb(header, strict_map_key=False)
    except (ValueError, msgpack.UnpackException) as exc:
        raise ChannelError(f"not a header: {exc}") from exc
    if not isinstance(items, list):
        raise ChannelError(f"not a header: {items!r:.100}")
    return items


def detach(payload: Payload, buffers: list[Outgoing]) -> bytes | int | tuple[Any, ...]:
    """Return the value that replaces `payload` in an item, and append the payload's buffers to `buffers`."""
    if isinstance(payload, bytes):
        return payload
    if (
        isinstance(payload, SharedPayload)
        and sum(isinstance(buffer, SharedPayload) for buffer in buffers) < MAX_DESCRIPTORS
    ):
        buffers.append(payload)
        return payload.label
    pieces = buffers_of(payload)
    buffers.extend(pieces)
    return len(pieces)


def attach(field: bytes | int | list[Any], buffers: Iterator[Received]) -> Payload:
    """Return the payload that `detach` replaced by `field`, with its buffers from `buffers`; raise ChannelError."""
    if isinstance(field, bytes):
        return field
    if isinstance(field, list):
        return attach_shared(field, next(buffers, None))
    parts = tuple(islice(buffers, field))
    if any(isinstance(part, Descriptor) for part in parts):
        raise ChannelError("a descriptor instead of a buffer")
    return parts  # type: ignore[return-value]  # the check above excludes descriptors


def attach_shared(field: list[Any], descriptor: Received | None) -> Payload:
    try:
        label = checked_label(*field)
        if not isinstance(descriptor, Descriptor):
            raise SharedMemoryError("a payload in shared memory came without its descriptor")
        return received(descriptor.take(), label)
    except (SharedMemoryError, TypeError) as exc:
        raise ChannelError(str(exc)) from exc


def frame(header: bytes, buffers: Sequence[Outgoing] = ()) -> list[memoryview]:
    """Return a message as the pieces to write."""
    if not buffers:
        return [memoryview(PREFIX.pack(len(header), 0) + header)]
    views = [memoryview(b"" if isinstance(b, SharedPayload) else b).cast("B") for b in buffers]
    sizes = (
        DESCRIPTOR if isinstance(buffer, SharedPayload) else view.nbytes
        for buffer, view in zip(buffers, views, strict=True)
    )
    start = PREFIX.pack(len(header), len(views)) + struct.pack(f"<{len(views)}Q", *sizes) + header
    return [memoryview(start), *(view for view in views if view.nbytes)]
