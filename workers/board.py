"""Memory that a slot shares with its worker, for what the worker must know after the slot has died.

The slot writes here what it is doing before it does it, and collects its small outcomes and prints here
(the outbox) before it sends them. So when its process dies, at whatever point, the worker still learns which
task and which element of a chunk was running, and loses neither a finished outcome nor a printed line.

    i64 number of the running task, 0 if none     | i64 index of the running element, -1 if none,
                                                  | -2 in the initializer
    i64 number of the task that started last      | i64 entries in the outbox, i64 their bytes | outbox
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from collections.abc import Callable
from typing import ClassVar

OUTBOX_BYTES = 256 * 1024

_NUMBER, ELEMENT, _LAST, _COUNT, _USED = range(5)
_FIELDS_BYTES = 40


MAP_FAILED = 2 ** (8 * struct.calcsize("P")) - 1


class Board:
    """One process writes, the other reads; each field changes in one piece."""

    SIZE: ClassVar[int] = _FIELDS_BYTES + OUTBOX_BYTES

    def __init__(self, fd: int, *, alone: bool = False) -> None:
        """`alone`: the only one in its process, so that it need not do without a descriptor, which takes a moment."""
        self._memory, self._unmap = (
            mapped(fd, self.SIZE) if alone else mapped_without_descriptor(fd, self.SIZE)
        )
        self.fields = self._memory[:_FIELDS_BYTES].cast("q")
        """At ELEMENT the index of the element that a chunk has come to (an absolute one). Others have methods."""

    def close(self) -> None:
        self.fields.release()
        self._memory.release()
        self._unmap()

    def start(self, number: int) -> None:
        """Task `number` starts."""
        fields = self.fields
        fields[ELEMENT] = -1
        fields[_LAST] = number
        fields[_NUMBER] = number

    def finish(self) -> None:
        """The outcome of the running task is in the outbox, or sent."""
        self.fields[_NUMBER] = 0

    @property
    def number(self) -> int:
        return self.fields[_NUMBER]

    @property
    def last(self) -> int:
        return self.fields[_LAST]

    @property
    def element(self) -> int:
        return self.fields[ELEMENT]

    @property
    def count(self) -> int:
        """Entries in the outbox."""
        return self.fields[_COUNT]

    def add(self, entry: bytes) -> bool:
        """Put an entry into the outbox; False if it has no room for it."""
        fields = self.fields
        used = fields[_USED]
        end = used + len(entry)
        if end > OUTBOX_BYTES:
            return False
        self._memory[_FIELDS_BYTES + used : _FIELDS_BYTES + end] = entry
        fields[_USED] = end
        fields[_COUNT] += 1  # last: from here on it counts, should this process die
        return True

    def outbox(self) -> bytes:
        """All entries, one after the other."""
        return bytes(self._memory[_FIELDS_BYTES : _FIELDS_BYTES + min(self.fields[_USED], OUTBOX_BYTES)])

    def empty(self) -> None:
        """The entries have been sent."""
        self.fields[_COUNT] = 0
        self.fields[_USED] = 0


def create_board_file() -> int:
    """A descriptor of zeroed memory for a Board, without a name in any folder."""
    if sys.platform == "linux":
        fd = os.memfd_create("jobrunner-board", os.MFD_CLOEXEC)
    else:
        import tempfile  # here: it takes long to load, and Linux does without

        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    try:
        os.ftruncate(fd, Board.SIZE)
    except OSError:  # files may not be so large
        os.close(fd)
        raise
    return fd


def mapped(fd: int, size: int) -> tuple[memoryview, Callable[[], None]]:
    """Memory of that file, and what lets go of it once nobody uses it. Python keeps a copy of the descriptor."""
    memory = mmap.mmap(fd, size)
    return memoryview(memory), memory.close


def mapped_without_descriptor(fd: int, size: int) -> tuple[memoryview, Callable[[], None]]:
    """As `mapped`; a pool of many slots cannot spare that copy."""
    if sys.version_info >= (3, 13):
        memory = mmap.mmap(fd, size, trackfd=False)
        return memoryview(memory), memory.close
    import ctypes  # here: slots, which start fast, do without

    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    address = libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0)
    if address in (None, MAP_FAILED):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    memory = (ctypes.c_char * size).from_address(address)
    return memoryview(memory).cast("B"), lambda: libc.munmap(address, size)
