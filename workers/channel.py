"""Messages between a worker and one of its slots, over a Unix stream socket.

A message is a header (a msgpack array of items, small) and any number of large buffers, which are sent from
where they lie and received into memory of their own. On the socket:

    u32 bytes of the header | u32 number of buffers | u64 size of each buffer | header | buffers

The slot's end blocks (`BlockingChannel`). The worker's end never does (`BufferedChannel`): it keeps what the
slot does not read yet, and goes on reading meanwhile, so that large arguments one way and large results the
other cannot wait for each other.

The items, lists that start with one of the numbers below:

    worker -> slot, data       [RUN, functions, forget, tasks]; the lists hold FunctionDefs, keys, SlotTasks
    worker -> slot, control    [RECALL, count of RUN messages sent so far], [INTERRUPT, number]
    slot -> worker, data       [READY, pid], [OUTCOME, number, status, payload, duration],
                               [PRINTED, number, stream, text], [RETURNED, numbers], [BLOCKED, 0 or 1],
                               [CONNECT, 1], [SPLIT, [number, results, index of the call that runs]]

In an item, a payload of several buffers is replaced by their count (`detach`, `attach`).
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, TypeAlias

import msgpack

from jobrunner.payloads import Buffer, Payload

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

Message: TypeAlias = "tuple[bytes, list[bytearray]]"
"""A header and its buffers."""

PREFIX = struct.Struct("<II")
SIZE_BYTES = 8
ARRAY = struct.Struct(">BI")
ARRAY_TYPE = 0xDD
"""How msgpack starts an array of any length; a header is one of items."""

MAX_HEADER = 1 << 30
MAX_BUFFERS = 1 << 20
"""Bounds of what a damaged prefix may make the reader allocate."""

BUFFERS_PER_CALL = 256
"""Buffers given to one sendmsg; the system allows IOV_MAX, at least 1024."""

READ_TURN = 16 * 1024 * 1024
"""Bytes after which a BufferedChannel lets others have their turn."""

SOCKET_BUFFER = 256 * 1024
"""Bytes; what Linux gives anyway, and macOS only when asked."""


class ChannelError(Exception):
    """What arrived is not a message: the other end is broken and of no further use."""


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets, for the two ends of a channel."""
    pair = socket.socketpair()
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
    return pair


def pack(item: Any) -> bytes:
    """One item, for `header`. A lone surrogate in a text becomes "?"."""
    packed: bytes = msgpack.packb(item, unicode_errors="replace")
    return packed


def header(packed: bytes, count: int = 1) -> bytes:
    """The header of `count` packed items, one after the other."""
    return ARRAY.pack(ARRAY_TYPE, count) + packed


def unpack(header: Buffer) -> list[Any]:
    """The items of a header. Raises ChannelError."""
    try:
        items = msgpack.unpackb(header, strict_map_key=False)
    except (ValueError, msgpack.UnpackException) as exc:
        raise ChannelError(f"not a header: {exc}") from exc
    if not isinstance(items, list):
        raise ChannelError(f"not a header: {items!r:.100}")
    return items


def detach(payload: Payload, buffers: list[Buffer]) -> bytes | int:
    """What stands for `payload` in an item; its buffers, if it has any, are added to `buffers`."""
    if isinstance(payload, bytes):
        return payload
    buffers.extend(payload)
    return len(payload)


def attach(field: bytes | int, buffers: Iterator[bytearray]) -> Payload:
    """The payload that `detach` replaced by `field`; takes its buffers from `buffers`."""
    if isinstance(field, bytes):
        return field
    return tuple(islice(buffers, field))


def frame(header: bytes, buffers: Sequence[Buffer] = ()) -> list[memoryview]:
    """A message as the pieces to write."""
    if not buffers:
        return [memoryview(PREFIX.pack(len(header), 0) + header)]
    views = [memoryview(buffer).cast("B") for buffer in buffers]
    sizes = struct.pack(f"<{len(views)}Q", *(view.nbytes for view in views))
    start = PREFIX.pack(len(header), len(views)) + sizes + header
    return [memoryview(start), *(view for view in views if view.nbytes)]


class Reader:
    """Puts messages together from pieces of any size, reading never more than it needs for the next step.

    So nothing of a later message waits in this process while the socket looks empty to a poll.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._expect_prefix()

    def _expect_prefix(self) -> None:
        self._part = b""
        self._need = PREFIX.size
        self._header_bytes = -1  # not known yet
        self._header: bytes | None = None
        self._sizes: tuple[int, ...] = ()
        self._buffers: list[bytearray] = []

    def read(self) -> Message | None:
        """The next message; None at the end of the stream.

        Raises ChannelError, and BlockingIOError on a non-blocking socket that has no more for now.
        """
        while self._header is None:
            while len(self._part) < self._need:
                piece = self._sock.recv(self._need - len(self._part))
                if not piece:
                    return None
                self._part = self._part + piece if self._part else piece
            if self._header_bytes < 0:
                self._take_prefix()
            else:
                split = self._need - self._header_bytes
                self._sizes = struct.unpack(f"<{split // SIZE_BYTES}Q", self._part[:split]) if split else ()
                self._header = self._part[split:]
        if self._sizes and not self._fill_buffers():
            return None
        message = self._header, self._buffers
        self._expect_prefix()
        return message

    def _take_prefix(self) -> None:
        self._header_bytes, count = PREFIX.unpack(self._part)
        if self._header_bytes > MAX_HEADER or count > MAX_BUFFERS:
            raise ChannelError(f"a header of {self._header_bytes} bytes with {count} buffers")
        self._part = b""
        self._need = count * SIZE_BYTES + self._header_bytes

    def _fill_buffers(self) -> bool:
        """False at the end of the stream."""
        for index, size in enumerate(self._sizes):
            if index == len(self._buffers):
                try:
                    self._buffers.append(bytearray(size))
                except (MemoryError, OverflowError) as exc:
                    raise ChannelError(f"no memory for a buffer of {size} bytes") from exc
                self._filled = 0
            elif index < len(self._buffers) - 1:
                continue
            while self._filled < size:
                with memoryview(self._buffers[index]) as view:
                    count = self._sock.recv_into(view[self._filled :])
                if count == 0:
                    return False
                self._filled += count
        return True


class BlockingChannel:
    """A slot's end. One thread may send while another receives; no two may do the same."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._sock = sock
        self._reader = Reader(sock)

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def send(self, header: bytes, buffers: Sequence[Buffer] = ()) -> None:
        """Returns when all of it is in the system's hands. Raises OSError when the other end is gone."""
        pieces = deque(frame(header, buffers))
        while pieces:
            consume(pieces, self._sock.sendmsg(list(islice(pieces, BUFFERS_PER_CALL))))

    def receive(self) -> Message | None:
        """The next message, waiting for it; None when the other end has closed."""
        try:
            return self._reader.read()
        except ConnectionResetError:  # it closed without reading what we sent
            return None


class BufferedChannel:
    """The worker's end: never blocks, and keeps what could not be sent yet."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._reader = Reader(sock)
        self._unsent: deque[memoryview] = deque()
        self.closed = False
        """Whether the other end is gone: nothing more arrives, and what is sent goes nowhere."""

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def pending(self) -> bool:
        """Whether something waits to be sent; call `flush` when the socket takes more."""
        return bool(self._unsent)

    def close(self) -> None:
        self.closed = True
        self._unsent.clear()
        self._sock.close()

    def send(self, header: bytes, buffers: Sequence[Buffer] = ()) -> None:
        """Send now what the system takes, and keep the rest."""
        if self.closed:
            return
        waiting = bool(self._unsent)
        self._unsent.extend(frame(header, buffers))
        if not waiting:
            self.flush()

    def flush(self) -> None:
        """Send of the rest what the system takes."""
        try:
            while self._unsent:
                consume(self._unsent, self._sock.sendmsg(list(islice(self._unsent, BUFFERS_PER_CALL))))
        except BlockingIOError:
            pass
        except OSError:
            # It is gone. What it sent before can still be read, so only that end decides that we are closed.
            self._unsent.clear()

    def receive(self) -> list[Message]:
        """The messages that have arrived, as many as fit in a turn. Raises ChannelError."""
        messages: list[Message] = []
        size = 0
        while size < READ_TURN:
            try:
                message = self._reader.read()
            except BlockingIOError:
                break
            except ChannelError:
                self.closed = True  # whatever follows makes no sense either
                raise
            except OSError:
                message = None
            if message is None:
                self.closed = True
                break
            messages.append(message)
            size += len(message[0]) + sum(map(len, message[1]))
        return messages


def consume(pieces: deque[memoryview], count: int) -> None:
    """Take `count` bytes that were written off the front of `pieces`."""
    while pieces and count >= pieces[0].nbytes:
        count -= pieces.popleft().nbytes
    if count:
        pieces[0] = pieces[0][count:]
