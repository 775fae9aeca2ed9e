"""A payload in a segment: its representation in messages, and the access to its bytes."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jobrunner.protocol.wire.payloads import MappedPayload
from jobrunner.shared_memory import memory_files as system
from jobrunner.shared_memory.limits import most_descriptors, placed

MAGIC = b"jobrunSM"
HEADER = struct.Struct("<8s16sQ")
ALIGNMENT = 64
PART_START = 64
"""Offset of the first part in a segment."""

MAX_PARTS = 1 << 20
MAX_BYTES = 1 << 60


class SharedMemoryError(Exception):
    """The error that given data is not a segment with this payload."""


class Label(NamedTuple):
    """The identity of a payload: the segment, its fill, and the size of each part.

    The descriptor gives access to it.
    """

    segment: bytes
    fill: int
    sizes: tuple[int, ...]

    @property
    def size(self) -> int:
        return sum(self.sizes)


def checked_label(segment: object, fill: object, sizes: object) -> Label:
    """Return the label that another process has sent. Raises SharedMemoryError."""
    if (
        not isinstance(segment, bytes)
        or len(segment) != 16
        or type(fill) is not int
        or not isinstance(sizes, (list, tuple))
        or not 1 <= len(sizes) <= MAX_PARTS
        or any(type(size) is not int or not 0 <= size <= MAX_BYTES for size in sizes)
    ):
        raise SharedMemoryError("not the label of a payload")
    return Label(segment, fill, tuple(sizes))


def offsets(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Return the offset of each part, and the end of the last one."""
    starts = []
    end = PART_START
    for size in sizes:
        start = -(-end // ALIGNMENT) * ALIGNMENT
        starts.append(start)
        end = start + size
    return starts, end


class SharedPayload(MappedPayload):
    """A payload in a segment; immutable.

    The memory does not change until this object and all results of `views` are gone.
    """

    __slots__ = ("__weakref__", "_fd", "_finalizer", "label", "size")

    def __init__(self, fd: int, label: Label, release: Callable[..., object], *arguments: object) -> None:
        """Create the payload; any thread calls `release(*arguments)` at any time when this object is gone."""
        self._fd = fd
        self.label = label
        self.size = label.size
        """Size of all parts in bytes."""
        self._finalizer = weakref.finalize(self, release, *arguments)
        self._finalizer.atexit = False

    def close(self) -> None:
        """Release the payload at once, because nobody will ask for it any more. Results of `views` stay valid."""
        self._fd = -1
        self._finalizer()

    def fileno(self) -> int:
        return self._fd

    def locked(self) -> int:
        """Return a new descriptor, whose lock keeps the memory unchanged until its last copy is closed.

        Raises OSError.
        """
        return locked(f"/proc/self/fd/{self._fd}")

    def views(self) -> tuple[memoryview | bytearray, ...]:
        """Return the parts, which are writable and belong to the caller alone.

        Raises SharedMemoryError, MemoryError.
        """
        from jobrunner.shared_memory.attachments import attachments

        return attachments.views(self)


def locked(path: str) -> int:
    """Open a segment and lock it. Raises OSError, and BlockingIOError while it is filled."""
    fd = placed(system.open_file(path))
    if not system.lock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB):
        os.close(fd)
        raise BlockingIOError(f"{path} is being filled")
    return fd


_received: set[int] = set()
"""Descriptors of payloads that have come from other processes."""


def received(fd: int, label: Label) -> SharedPayload | tuple[bytearray, ...]:
    """Return the payload of a locked descriptor from another process, which it owns from now on.

    Returns a copy if there are very many such payloads. Raises SharedMemoryError, MemoryError.
    """
    try:
        check(fd, label)
        if len(_received) >= most_descriptors():
            parts = copies(fd, label)
            os.close(fd)
            return parts
    except (OSError, MemoryError, SharedMemoryError) as exc:
        os.close(fd)
        raise SharedMemoryError(f"the memory of this payload cannot be used: {exc}") from exc
    _received.add(fd)
    return SharedPayload(fd, label, close_received, fd)


def close_received(fd: int) -> None:
    _received.discard(fd)  # this comes first, because the number may be another descriptor's afterwards
    system.close_file(fd)


def copies(fd: int, label: Label) -> tuple[bytearray, ...]:
    """Return copies of the parts. Raises OSError, MemoryError, SharedMemoryError."""
    starts, _ = offsets(label.sizes)
    return tuple(read_part(fd, start, size) for start, size in zip(starts, label.sizes, strict=True))


def read_part(fd: int, start: int, size: int) -> bytearray:
    part = bytearray(size)
    view = memoryview(part)
    while view:
        count = os.preadv(fd, [view], start)
        if not count:
            raise SharedMemoryError("this memory is shorter than its payload")
        view, start = view[count:], start + count
    return part


def opened(path: str, label: Label) -> SharedPayload | tuple[bytearray, ...]:
    """Return the payload of a path below /proc, like `received`. Raises SharedMemoryError."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise SharedMemoryError(f"{path} is not shared memory")
        fd = locked(path)
    except OSError as exc:
        raise SharedMemoryError(f"cannot open {path}: {exc}") from exc
    return received(fd, label)


def check(fd: int, label: Label) -> None:
    """Raise SharedMemoryError or OSError unless it is a segment with this payload that cannot shrink."""
    if not stat.S_ISREG(os.fstat(fd).st_mode) or not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
        raise SharedMemoryError("it is not a segment")
    if os.fstat(fd).st_size < offsets(label.sizes)[1]:
        raise SharedMemoryError("it is too small")
    if os.pread(fd, HEADER.size, 0) != HEADER.pack(MAGIC, label.segment, label.fill):
        raise SharedMemoryError("it holds another payload")
