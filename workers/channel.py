"""Messages between a worker and one of its slots, over a Unix stream socket.

A message is a header (one or more msgpack items, small) and any number of large buffers, which are sent from
where they lie and received into memory of their own. On the socket:

    u32 bytes of the header | u32 number of buffers | u64 size of each buffer | header | buffers

The slot's end blocks (`BlockingChannel`). The worker's end never does (`BufferedChannel`): it keeps what the
slot does not read yet, and goes on reading meanwhile, so that large arguments one way and large results the
other cannot wait for each other.

The items, lists that start with one of the numbers below:

    worker -> slot, data       [RUN, functions, forget, tasks]; the lists hold FunctionDefs, keys, SlotTasks
    worker -> slot, control    [RECALL, count of RUN messages sent so far], [INTERRUPT, number]
    slot -> worker, data       [READY, pid], [OUTCOME, number, status, payload, duration],
                               [PRINTED, number, stream, text], [RETURNED, numbers], [BLOCKED, 0 or 1]

In an item, a payload of several buffers is replaced by their count (`detach`, `attach`).
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Iterable, Iterator
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

Message: TypeAlias = "tuple[bytes, list[bytearray]]"
"""A header and its buffers."""

PREFIX = struct.Struct("<II")
SIZE_BYTES = 8
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
    """One item of a header. A lone surrogate in a text becomes "?"."""
    packed: bytes = msgpack.packb(item, unicode_errors="replace")
    return packed


def unpack(header: Buffer) -> Iterator[Any]:
    """The items of a header. Raises ChannelError."""
    unpacker = msgpack.Unpacker(strict_map_key=False, max_buffer_size=0)
    try:
        unpacker.feed(header)
        yield from unpacker
    except (ValueError, msgpack.UnpackException) as exc:
        raise ChannelError(f"not a header: {exc}") from exc


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


def frame(header: bytes, buffers: Iterable[Buffer]) -> list[memoryview]:
    """A message as the pieces to write."""
    views = [memoryview(buffer).cast("B") for buffer in buffers]
    sizes = struct.pack(f"<{len(views)}Q", *(view.nbytes for view in views))
    start = PREFIX.pack(len(header), len(views)) + sizes + header
    return [memoryview(start), *(view for view in views if view.nbytes)]


class Reader:
    """Puts messages together from pieces of any size, reading never more than it needs for the next step.

    So nothing of a later message waits in this process while the socket looks empty to a poll.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._sizes: tuple[int, ...] = ()
        self._header: bytes | None = None
        self._header_bytes = 0
        self._buffers: list[bytearray] = []
        self._in_prefix = True
        self._expect(PREFIX.size)

    def read(self) -> Message | None:
        """The next message; None at the end of the stream.

        Raises ChannelError, and BlockingIOError on a non-blocking socket that has no more for now.
        """
        while True:
            while self._got < len(self._target):
                with memoryview(self._target) as view:
                    count = self.sock.recv_into(view[self._got :])
                if count == 0:
                    return None
                self._got += count
            message = self._step()
            if message is not None:
                return message

    def _expect(self, size: int) -> None:
        self._target = bytearray(size)
        self._got = 0

    def _step(self) -> Message | None:
        """The part that was expected is there: note it, and say what comes next."""
        part = self._target
        if self._in_prefix:
            self._header_bytes, count = PREFIX.unpack(part)
            if self._header_bytes > MAX_HEADER or count > MAX_BUFFERS:
                raise ChannelError(f"a header of {self._header_bytes} bytes with {count} buffers")
            self._in_prefix = False
            self._expect(count * SIZE_BYTES + self._header_bytes)
            return None
        if self._header is None:
            split = len(part) - self._header_bytes
            self._sizes = struct.unpack(f"<{split // SIZE_BYTES}Q", part[:split])
            self._header = bytes(memoryview(part)[split:])
        else:
            self._buffers.append(part)
        if len(self._buffers) < len(self._sizes):
            try:
                self._expect(self._sizes[len(self._buffers)])
            except (MemoryError, OverflowError) as exc:
                raise ChannelError(f"no memory for buffers of {self._sizes} bytes") from exc
            return None
        message = self._header, self._buffers
        self._header, self._buffers, self._in_prefix = None, [], True
        self._expect(PREFIX.size)
        return message


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

    def send(self, header: bytes, buffers: Iterable[Buffer] = ()) -> None:
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

    def send(self, header: bytes, buffers: Iterable[Buffer] = ()) -> None:
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
