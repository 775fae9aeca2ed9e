"""The two ends of the socket between a worker and one of its slots; `framing` describes its messages.

The slot's end blocks (`BlockingChannel`). The worker's end never does (`BufferedChannel`): it keeps data that the slot
does not read yet, and continues to read meanwhile, so that large arguments in one direction and large results in the
other cannot wait for each other.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Sequence
from itertools import islice

from jobrunner.shared_memory.limits import placed
from jobrunner.shared_memory.shared_payload import SharedPayload
from jobrunner.workers.framing import (
    DESCRIPTOR,
    DESCRIPTOR_BYTES,
    MAX_BUFFERS,
    MAX_DESCRIPTORS,
    MAX_HEADER,
    PREFIX,
    SIZE_BYTES,
    ChannelError,
    Descriptor,
    Message,
    Outgoing,
    Received,
    frame,
)

BUFFERS_PER_CALL = 256
"""Maximum number of buffers per call of sendmsg, because the system allows IOV_MAX, which is at least 1024."""

READ_TURN = 16 * 1024 * 1024
"""Number of bytes after which a BufferedChannel lets others have their turn."""

RETRY_SECONDS = 0.001
"""Time in seconds after which a slot tries again to send if the system has no free descriptors."""

SOCKET_BUFFER = 256 * 1024
"""Size of a socket's buffer in bytes, which Linux provides anyway and macOS only on request."""

NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
"""A flag with which sending to a closed end raises BrokenPipeError, even in a program that SIGPIPE would end."""

MACOS_NO_SIGNAL = 0x1022
"""SO_NOSIGPIPE, which `socket` does not name: the same for a socket as a whole, on systems without the flag."""


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets, for the two ends of a channel."""
    pair = socket.socketpair()
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
        if sys.platform == "darwin":
            end.setsockopt(socket.SOL_SOCKET, MACOS_NO_SIGNAL, 1)
    return pair


class Reader:
    """Assembles messages from pieces of any size, and never reads more than the next step needs.

    So no part of a later message waits in this process while the socket looks empty to a poll.
    """

    def __init__(self, sock: socket.socket, shares: bool = False) -> None:
        self._sock = sock
        self._shares = shares
        self._expect_prefix()

    def _expect_prefix(self) -> None:
        self._descriptors: deque[Descriptor] = deque()
        self._part = b""
        self._need = PREFIX.size
        self._header_bytes = -1  # the size is not known yet
        self._header: bytes | None = None
        self._sizes: tuple[int, ...] = ()
        self._buffers: list[Received] = []

    def read(self) -> Message | None:
        """Return the next message, or None at the end of the stream.

        Raises ChannelError, and BlockingIOError if a non-blocking socket has no more data now.
        """
        while self._header is None:
            while len(self._part) < self._need:
                missing = self._need - len(self._part)
                if self._shares and self._header_bytes < 0:
                    piece = self._receive_with_descriptors(missing)
                else:
                    piece = self._sock.recv(missing)
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

    def _receive_with_descriptors(self, size: int) -> bytes:
        """Receive a part of a prefix, with its descriptors."""
        room = socket.CMSG_SPACE((MAX_DESCRIPTORS + 1) * DESCRIPTOR_BYTES)
        piece, extra, _, _ = self._sock.recvmsg(size, room, socket.MSG_CMSG_CLOEXEC)
        for level, kind, data in extra:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                count = len(data) // DESCRIPTOR_BYTES
                for fd in struct.unpack(f"{count}i", data[: count * DESCRIPTOR_BYTES]):
                    self._descriptors.append(Descriptor(placed(fd)))
        return piece

    def _take_prefix(self) -> None:
        self._header_bytes, count = PREFIX.unpack(self._part)
        if self._header_bytes > MAX_HEADER or count > MAX_BUFFERS:
            raise ChannelError(f"a header of {self._header_bytes} bytes with {count} buffers")
        self._part = b""
        self._need = count * SIZE_BYTES + self._header_bytes

    def _fill_buffers(self) -> bool:
        """Fill the buffers of the message; return False at the end of the stream."""
        for index, size in enumerate(self._sizes):
            if index == len(self._buffers):
                if size == DESCRIPTOR:
                    if not self._descriptors:
                        raise ChannelError("a descriptor is missing")
                    self._buffers.append(self._descriptors.popleft())
                    continue
                try:
                    self._buffers.append(bytearray(size))
                except (MemoryError, OverflowError) as exc:
                    raise ChannelError(f"no memory for a buffer of {size} bytes") from exc
                self._filled = 0
            elif index < len(self._buffers) - 1:
                continue
            buffer = self._buffers[index]
            while self._filled < size and isinstance(buffer, bytearray):
                with memoryview(buffer) as view:
                    count = self._sock.recv_into(view[self._filled :])
                if count == 0:
                    return False
                self._filled += count
        return True


class Unsent:
    """The data that waits to be sent, in order; it is false if there is none."""

    def __init__(self) -> None:
        self._pieces: deque[memoryview] = deque()
        self._taken = 0  # the number of pieces that were ever removed from the front
        self._shared: deque[tuple[int, list[SharedPayload]]] = deque()
        """The payloads whose descriptors are sent with a piece, with the number of pieces before it."""

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def clear(self) -> None:
        self._pieces.clear()
        self._shared.clear()

    def add(self, header: bytes, buffers: Sequence[Outgoing]) -> None:
        shared = [buffer for buffer in buffers if isinstance(buffer, SharedPayload)] if buffers else None
        if shared:
            self._shared.append((self._taken + len(self._pieces), shared))
        self._pieces.extend(frame(header, buffers))

    def send(self, sock: socket.socket) -> None:
        """Let the system take some data; raise OSError, and BlockingIOError if it takes nothing now."""
        count = BUFFERS_PER_CALL
        shared: list[SharedPayload] = []
        for place, payloads in islice(self._shared, 2):
            if place == self._taken:
                shared = payloads
            else:
                count = min(count, place - self._taken)
        batch = list(islice(self._pieces, count))
        sent = send_with_descriptors(sock, batch, shared) if shared else sock.sendmsg(batch, (), NO_SIGNAL)
        if shared:
            self._shared.popleft()
        before = len(self._pieces)
        consume(self._pieces, sent)
        self._taken += before - len(self._pieces)


def send_with_descriptors(sock: socket.socket, batch: list[memoryview], shared: list[SharedPayload]) -> int:
    """Send data with descriptors, like sendmsg; raise BlockingIOError also if the system has no free descriptors."""
    fds: list[int] = []
    try:
        fds += [payload.locked() for payload in shared]
        rights = struct.pack(f"{len(fds)}i", *fds)
        return sock.sendmsg(batch, [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], NO_SIGNAL)
    except OSError as exc:
        if exc.errno in (errno.EMFILE, errno.ENFILE, errno.ETOOMANYREFS):
            raise BlockingIOError(exc.errno, exc.strerror) from exc
        raise
    finally:
        for fd in fds:
            os.close(fd)


class BlockingChannel:
    """The slot's end of a channel; one thread may send while another one receives."""

    def __init__(self, sock: socket.socket, shares: bool = False) -> None:
        sock.setblocking(True)
        self._sock = sock
        self._reader = Reader(sock, shares)

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def send(self, header: bytes, buffers: Sequence[Outgoing] = ()) -> None:
        """Send a message, and return when the system has all of it; raise OSError if the other end is gone."""
        unsent = Unsent()
        unsent.add(header, buffers)
        while unsent:
            try:
                unsent.send(self._sock)
            except BlockingIOError:
                time.sleep(RETRY_SECONDS)

    def receive(self) -> Message | None:
        """Wait for the next message and return it; return None if the other end has closed."""
        try:
            return self._reader.read()
        except ConnectionResetError:  # the other end closed without reading all data
            return None


class BufferedChannel:
    """The worker's end of a channel, which never blocks and keeps the data that could not be sent yet."""

    def __init__(self, sock: socket.socket, shares: bool = False) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._reader = Reader(sock, shares)
        self._unsent = Unsent()
        self._ends = False
        self.closed = False
        """Whether the other end is gone, so that nothing more arrives and sent data is lost."""

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def pending(self) -> bool:
        """Whether data waits to be sent; call `flush` when the socket accepts more."""
        return bool(self._unsent)

    def close(self) -> None:
        self.closed = True
        self._unsent.clear()
        self._sock.close()

    def send(self, header: bytes, buffers: Sequence[Outgoing] = ()) -> None:
        """Send as much as the system accepts now, and keep the rest."""
        if self.closed:
            return
        waiting = bool(self._unsent)
        self._unsent.add(header, buffers)
        if not waiting:
            self.flush()

    def end(self) -> None:
        """End the sending direction: the other end reads the sent data and then the end; its messages still arrive."""
        self._ends = True
        if not self._unsent and not self.closed:
            self.flush()

    def flush(self) -> None:
        """Send as much of the waiting data as the system accepts now."""
        try:
            while self._unsent:
                self._unsent.send(self._sock)
            if self._ends:
                self._sock.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:
            # The other end is gone. Data that it sent before can still be read, so only that direction decides about
            # `closed`.
            self._unsent.clear()

    def receive(self) -> list[Message]:
        """Return the messages that have arrived, as many as fit into a turn; raise ChannelError."""
        messages: list[Message] = []
        size = 0
        while size < READ_TURN:
            try:
                message = self._reader.read()
            except BlockingIOError:
                break
            except ChannelError:
                self.closed = True  # the data after an invalid message has no known beginning
                raise
            except OSError:
                message = None
            if message is None:
                self.closed = True
                break
            messages.append(message)
            size += len(message[0]) + sum(len(part) for part in message[1] if isinstance(part, bytearray))
        return messages


def consume(pieces: deque[memoryview], count: int) -> None:
    """Remove `count` bytes, which were written, from the beginning of `pieces`."""
    while pieces and count >= pieces[0].nbytes:
        count -= pieces.popleft().nbytes
    if count:
        pieces[0] = pieces[0][count:]
