"""The maps through which this process reads segments, which are kept for the next payload in the same segment."""

from __future__ import annotations

import fcntl
import os
import threading
import time
import weakref
from typing import Any

from jobrunner.shared_memory import memory_files as system
from jobrunner.shared_memory.limits import IDLE_SECONDS, most_descriptors
from jobrunner.shared_memory.shared_payload import (
    HEADER,
    MAGIC,
    Label,
    SharedMemoryError,
    SharedPayload,
    copies,
    offsets,
)


class Attachment:
    """A private map. Its lock is that of `fd`; if that is -1, the lock lasts as long as the map."""

    __slots__ = ("address", "fd", "forks", "idle_since", "length", "segment")

    def __init__(self, fd: int, segment: bytes) -> None:
        """Map a segment; on an error, close `fd` and raise OSError."""
        self.fd = fd
        self.segment = segment
        self.forks = 0
        self.idle_since = 0.0
        try:
            self.length = os.fstat(fd).st_size
            self.address = system.map_file(fd, self.length, private=True)
        except (OSError, ImportError):
            os.close(fd)
            raise

    def holds(self, label: Label) -> bool:
        """Return whether the segment is locked now and contains this payload."""
        if not system.lock(self.fd, fcntl.LOCK_SH | fcntl.LOCK_NB):
            return False
        header = system.read(self.address, HEADER.size)
        return (
            header == HEADER.pack(MAGIC, label.segment, label.fill) and offsets(label.sizes)[1] <= self.length
        )

    def forget_descriptor(self) -> None:
        system.close_file(self.fd)
        self.fd = -1

    def close(self) -> None:
        system.unmap(self.address, self.length)
        if self.fd >= 0:
            self.forget_descriptor()


class Attachments:
    """The maps of this process. Thread-safe. It keeps idle maps only while it has users, who call `trim`."""

    def __init__(self) -> None:
        self.most_idle = 0
        """Maximum size of idle maps in bytes."""
        self.populate = False
        """Whether to set up all pages of a new map at once, for a process that will surely read all of it."""
        self._users = 0
        self._lock = threading.Lock()
        self._idle: dict[bytes, Attachment] = {}
        """The idle maps by segment; those that were idle longest come first."""
        self._live: set[Attachment] = set()
        self._forks = 0
        self._most = most_descriptors()
        os.register_at_fork(after_in_parent=self._forked, after_in_child=self._in_child)

    def views(self, payload: SharedPayload) -> tuple[memoryview | bytearray, ...]:
        """Return the parts of a payload, like SharedPayload.views."""
        starts, _ = offsets(payload.label.sizes)
        try:
            attachment = self._attach(payload)
        except (OSError, ImportError):  # there is no free descriptor, no room for a map, or no ctypes
            return copies(payload.fileno(), payload.label)
        attachment.forks = self._forks
        memory: Any = system.memory(attachment.address, attachment.length)
        self._live.add(attachment)
        weakref.finalize(memory, self._release, attachment).atexit = False
        view = memoryview(memory).cast("B")
        return tuple(
            view[start : start + size] for start, size in zip(starts, payload.label.sizes, strict=True)
        )

    @property
    def in_use(self) -> bool:
        """Whether `trim` may have something to do, now or later."""
        return bool(self._idle or self._live)

    def add_user(self, most_idle: int) -> None:
        """Add a user, who calls `trim` from now on until `remove_user`."""
        with self._lock:
            self._users += 1
            self.most_idle = most_idle

    def remove_user(self) -> None:
        with self._lock:
            self._users -= 1
        self.trim(0.0)  # most of it belonged to this user

    def trim(self, seconds: float = IDLE_SECONDS) -> None:
        """Release maps that were idle for this number of seconds."""
        before = time.monotonic() - seconds
        with self._lock:
            old = [a for a in self._idle.values() if a.idle_since <= before]
            for attachment in old:
                del self._idle[attachment.segment]
        for attachment in old:
            attachment.close()

    def counts(self) -> tuple[int, int]:
        """Return the numbers of maps in use and of idle ones."""
        return len(self._live), len(self._idle)

    def _attach(self, payload: SharedPayload) -> Attachment:
        """Return an attachment to the segment of a payload. Raises OSError."""
        label = payload.label
        with self._lock:
            known = self._idle.pop(label.segment, None)
        if known is not None:
            if known.holds(label):
                return known
            known.close()
        attachment = Attachment(payload.locked(), label.segment)
        if not attachment.holds(label):
            attachment.close()
            raise SharedMemoryError("this memory now holds another payload")
        if self.populate:
            system.populate(attachment.address, attachment.length)
        if len(self._live) >= self._most:
            attachment.forget_descriptor()  # so that descriptors do not run out; the map has the lock
        return attachment

    def _release(self, attachment: Attachment) -> None:
        """Note that nobody reads the attachment any more.

        Any thread may call this at any point, and so may the garbage collector inside of another method. It therefore
        never waits for the lock.
        """
        self._live.discard(attachment)
        worth_keeping = (
            self._users > 0
            and attachment.fd >= 0
            # otherwise a child may have the map, and share the lock with us
            and attachment.forks == self._forks
            and attachment.length <= self.most_idle
            and system.untouched(attachment.address, attachment.length)
        )
        if not worth_keeping or not self._lock.acquire(blocking=False):
            attachment.close()
            return
        try:
            self._keep(attachment)
        finally:
            self._lock.release()

    def _keep(self, attachment: Attachment) -> None:
        system.lock(attachment.fd, fcntl.LOCK_UN)
        attachment.idle_since = time.monotonic()
        replaced = self._idle.pop(attachment.segment, None)
        self._idle[attachment.segment] = attachment
        size = sum(a.length for a in self._idle.values())
        dropped = [] if replaced is None else [replaced]
        while size > self.most_idle or len(self._idle) > self._most:
            oldest = self._idle.pop(next(iter(self._idle)))
            size -= oldest.length
            dropped.append(oldest)
        for other in dropped:
            other.close()

    def _forked(self) -> None:
        self._forks += 1

    def _in_child(self) -> None:
        """Forget idle maps in a child, which shares them and their locks with its parent."""
        self._forks += 1
        self._lock = threading.Lock()
        self._idle = {}
        self._users = 0


attachments = Attachments()
