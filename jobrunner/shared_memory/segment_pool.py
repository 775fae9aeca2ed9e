"""The segments that one process fills: each is taken for a payload, and again for another when nobody reads it."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from jobrunner.protocol.wire.payloads import Buffer
from jobrunner.shared_memory import memory_files as system
from jobrunner.shared_memory.limits import IDLE_SECONDS, SHARE_FROM, most_descriptors, placed
from jobrunner.shared_memory.shared_payload import HEADER, MAGIC, Label, SharedPayload, offsets

PIECE = 16 * 1024 * 1024
"""Number of bytes that are copied at once, so that other threads have their turn in between."""


def can_share() -> bool:
    """Return whether this system has what segments need."""
    return (
        sys.platform == "linux"
        and hasattr(os, "memfd_create")
        and os.path.exists("/proc/self/fd")
        and importlib.util.find_spec("_ctypes") is not None
    )


class Segment:
    """One memfd, used by one thread at a time. The constructor raises OSError."""

    def __init__(self) -> None:
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        self.fd = placed(os.memfd_create("jobrunner-payload", flags))
        try:
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        except OSError:
            os.close(self.fd)
            raise
        self.id = os.urandom(16)
        self.fills = 0
        self.capacity = 0
        self.idle_since = 0.0
        self._address = 0
        self._memory = memoryview(b"")
        """The part of it that is mapped."""

    def is_free(self) -> bool:
        """Return whether nobody holds a lock."""
        free = system.lock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return free and system.lock(self.fd, fcntl.LOCK_UN)

    def fill(self, parts: Sequence[memoryview]) -> Label:
        """Copy the parts into the segment. Raises OSError or MemoryError if there is no memory for them."""
        sizes = tuple(part.nbytes for part in parts)
        starts, end = offsets(sizes)
        self.fills += 1
        if self.capacity > len(self._memory):
            self._map()
        self._write(memoryview(HEADER.pack(MAGIC, self.id, self.fills)), 0)
        for part, start in zip(parts, starts, strict=True):
            for offset in range(0, part.nbytes, PIECE):
                self._write(part[offset : offset + PIECE], start + offset)
        if end > self.capacity:
            os.ftruncate(self.fd, end)  # the last part may be empty
            self.capacity = end
        return Label(self.id, self.fills, sizes)

    def _write(self, piece: memoryview, offset: int) -> None:
        """Write a piece at an offset.

        It is written through the map if its memory is allotted already, which is by far the fastest way. Otherwise it
        is written with a system call, so that the kernel need not clear the memory first. If there is no memory, the
        system call fails with an error, whereas a write through the map would end the process.
        """
        if offset + piece.nbytes <= len(self._memory):
            self._memory[offset : offset + piece.nbytes] = piece
            return
        while piece:
            count = os.pwrite(self.fd, piece, offset)
            piece, offset = piece[count:], offset + count

    def _map(self) -> None:
        """Map the part that has been filled before."""
        self._unmap()
        self._address = system.map_file(self.fd, self.capacity, private=False)
        self._memory = memoryview(system.memory(self._address, self.capacity)).cast("B")

    def _unmap(self) -> None:
        if self._address:
            size, self._memory = len(self._memory), memoryview(b"")
            system.unmap(self._address, size)
            self._address = 0

    def close(self) -> None:
        self._unmap()
        os.close(self.fd)


class SegmentPool:
    """A pool of segments.

    Thread-safe. It keeps at most `most_idle` bytes of segments without a payload, for a short time, see `trim`.

    In a process that was forked from its own it provides nothing.
    """

    def __init__(self, most_idle: int, share_from: int = SHARE_FROM) -> None:
        self._most_idle = most_idle
        self._share_from = share_from
        self._most_segments = most_descriptors()
        self._pid = os.getpid()
        # The lock is reentrant, because the garbage collector may call a finalizer of the program in a thread that
        # holds it. A payload that the finalizer stores is not shared, and one that it releases is taken back later.
        self._lock: Any = threading.RLock()
        self._idle: list[Segment] = []
        """The idle segments; those that were idle longest come first."""
        self._returned: deque[Segment] = deque()
        """Segments that any thread has released; no lock may be taken there, because the garbage collector may do it.
        """
        self._filled = 0
        self._closed = False

    def store(self, parts: Sequence[Buffer]) -> SharedPayload | None:
        """Return the payload of these parts, or None if it is small or cannot be shared for any reason."""
        views = [memoryview(part).cast("B") for part in parts]
        size = sum(view.nbytes for view in views)
        if size < self._share_from or os.getpid() != self._pid:
            return None
        segment = self._take(size)
        if segment is None:
            return None
        payload = None
        try:
            label = segment.fill(views)
            payload = SharedPayload(segment.fd, label, self._give_back, segment)
        except (OSError, ValueError, MemoryError):
            return None
        finally:
            if payload is None:  # also after Ctrl-C
                with self._lock:
                    self._filled -= 1
                segment.close()
        return payload

    @property
    def in_use(self) -> bool:
        """Whether `trim` may have something to do, now or later."""
        return bool(self._idle or self._returned or self._filled)

    def trim(self, seconds: float = IDLE_SECONDS) -> None:
        """Release segments that were idle for this number of seconds."""
        with self._lock:
            self._collect()
            before = time.monotonic() - seconds
            while self._idle and self._idle[0].idle_since <= before:
                self._idle.pop(0).close()

    def close(self) -> None:
        """Close the pool. Existing payloads stay complete, and their segments are not kept after them."""
        with self._lock:
            self._closed = True
            self._collect()

    def counts(self) -> tuple[int, int]:
        """Return the numbers of segments with a payload of this process and without one."""
        with self._lock:
            self._collect()
            return self._filled, len(self._idle)

    def _take(self, size: int) -> Segment | None:
        if self._lock._is_owned():
            return None
        with self._lock:
            self._collect()
            if self._closed or self._filled >= self._most_segments:
                return None
            # A much larger one is not taken, because a small payload would keep it from others; a slightly smaller one
            # grows.
            fitting = [s for s in self._idle if size <= 2 * s.capacity and s.capacity <= 2 * size]
            fitting.sort(key=lambda s: (s.capacity < size, abs(s.capacity - size)))
            segment = next((s for s in fitting if s.is_free()), None)
            try:
                if segment is None:
                    segment = Segment()
                else:
                    self._idle.remove(segment)
            except OSError:
                return None
            self._filled += 1
            return segment

    def _give_back(self, segment: Segment) -> None:
        segment.idle_since = time.monotonic()
        self._returned.append(segment)
        may_collect = (self._closed or not self._most_idle) and not self._lock._is_owned()
        if may_collect and self._lock.acquire(blocking=False):
            try:
                self._collect()
            finally:
                self._lock.release()

    def _collect(self) -> None:
        """Take back returned segments, and keep as many as permitted; the caller holds the lock."""
        while self._returned:
            segment = self._returned.popleft()
            self._filled -= 1
            self._idle.append(segment)
        most = 0 if self._closed else self._most_idle
        size = sum(segment.capacity for segment in self._idle)
        while self._idle and (size > most or len(self._idle) > self._most_segments):
            segment = self._idle.pop(0)
            size -= segment.capacity
            segment.close()
