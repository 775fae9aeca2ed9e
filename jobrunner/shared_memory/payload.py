"""A payload that lies in a segment: what stands for it in messages, and how its bytes are had."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jobrunner.shared_memory.limits import placed

MAGIC = b"jobrunSM"
HEADER = struct.Struct("<8s16sQ")
ALIGNMENT = 64
PART_START = 64
"""Offset of the first part in a segment."""

MOST_PARTS = 1 << 20
MOST_BYTES = 1 << 60


class SharedMemoryError(Exception):
    """What was given is not a segment that holds this payload."""


class Label(NamedTuple):
    """Which fill of which segment, and the bytes of each part. Whoever has the descriptor too has the payload."""

    segment: bytes
    fill: int
    sizes: tuple[int, ...]

    @property
    def size(self) -> int:
        return sum(self.sizes)


def checked_label(segment: object, fill: object, sizes: object) -> Label:
    """The label that another process has sent. Raises SharedMemoryError."""
    if (
        not isinstance(segment, bytes)
        or len(segment) != 16
        or type(fill) is not int
        or not isinstance(sizes, (list, tuple))
        or not 1 <= len(sizes) <= MOST_PARTS
        or any(type(size) is not int or not 0 <= size <= MOST_BYTES for size in sizes)
    ):
        raise SharedMemoryError("not the label of a payload")
    return Label(segment, fill, tuple(sizes))


def offsets(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where each part begins, and where the last one ends."""
    starts = []
    end = PART_START
    for size in sizes:
        start = -(-end // ALIGNMENT) * ALIGNMENT
        starts.append(start)
        end = start + size
    return starts, end


class SharedPayload:
    """See the module; immutable. The memory stays as it is until this object, and all that `views` gave, are gone."""

    __slots__ = ("__weakref__", "_fd", "_finalizer", "label", "size")

    def __init__(self, fd: int, label: Label, release: Callable[..., object], *arguments: object) -> None:
        """`release(*arguments)` is called when this object is gone: from any thread, and at any time."""
        self._fd = fd
        self.label = label
        self.size = label.size
        """Bytes of all parts."""
        self._finalizer = weakref.finalize(self, release, *arguments)
        self._finalizer.atexit = False

    def close(self) -> None:
        """Be gone at once: nobody will ask for it any more. What `views` gave stays whole."""
        self._fd = -1
        self._finalizer()

    def fileno(self) -> int:
        return self._fd

    def locked(self) -> int:
        """A new descriptor, whose lock keeps the memory as it is until its last copy is closed. Raises OSError."""
        return locked(f"/proc/self/fd/{self._fd}")

    def views(self) -> tuple[memoryview | bytearray, ...]:
        """The parts, writable: what is written there is nobody else's. Raises SharedMemoryError, MemoryError."""
        from jobrunner.shared_memory.attachments import attachments

        return attachments.views(self)


def locked(path: str) -> int:
    """Open a segment, with a lock. Raises OSError, BlockingIOError while it is filled."""
    fd = placed(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def received(fd: int, label: Label) -> SharedPayload:
    """The payload whose locked descriptor has come from elsewhere; owns it. Raises SharedMemoryError."""
    try:
        check(fd, label)
    except (OSError, SharedMemoryError) as exc:
        os.close(fd)
        raise SharedMemoryError(f"not the memory of this payload: {exc}") from exc
    return SharedPayload(fd, label, os.close, fd)


def opened(path: str, label: Label) -> SharedPayload:
    """As `received`, by a path below /proc. Raises SharedMemoryError."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise SharedMemoryError(f"{path} is no memory")
        fd = locked(path)
    except OSError as exc:
        raise SharedMemoryError(f"cannot open {path}: {exc}") from exc
    return received(fd, label)


def check(fd: int, label: Label) -> None:
    """Raises SharedMemoryError or OSError unless it is a segment that holds this payload, and cannot shrink."""
    if not stat.S_ISREG(os.fstat(fd).st_mode) or not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
        raise SharedMemoryError("it is no segment")
    if os.fstat(fd).st_size < offsets(label.sizes)[1]:
        raise SharedMemoryError("it is too small")
    if os.pread(fd, HEADER.size, 0) != HEADER.pack(MAGIC, label.segment, label.fill):
        raise SharedMemoryError("it holds another one")
