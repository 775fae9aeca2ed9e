"""Memory that a slot shares with its worker, for all that the worker must know after the slot has died.

The slot notes each step here before it performs the step, and collects its small outcomes and prints here (the outbox)
before it sends them. So when its process dies, at any point, the worker still learns which task and which element of a
chunk was running, and loses neither a finished outcome nor a printed line. The worker can also read the memory of a
living slot whose code prevents all its other threads from running; `gate` describes how the worker takes back tasks
from such a slot.

    i64 number of the running task, 0 if none     | i64 index of the running element, -1 if none,
                                                  | -2 in the initializer
    i64 number of the task that started last      | i64 entries in the outbox, i64 their bytes
    i64 entries that were sent, ever              | i64 PLAIN, BUNDLE or CHUNK, of the running task
    i64 number of the task that is ending         | i64 the gate, i64 number, i64 element, i64 number: see `gate`
    outbox                                        | results of the running bundle's calls so far
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from collections.abc import Callable
from typing import ClassVar, NamedTuple, TypeAlias

OUTBOX_BYTES = 256 * 1024

RESULTS_BYTES = 256 * 1024
"""Maximum size in bytes of the results of a bundle, with a RESULT for each."""

NUMBER, ELEMENT, LAST, COUNT, USED, SENT, KIND, ENDING, GATE, KEPT, KEPT_ELEMENT, UNTIL = range(12)
_FIELDS_BYTES = 96
_RESULTS = _FIELDS_BYTES + OUTBOX_BYTES

PLAIN, BUNDLE, CHUNK = range(3)

Fields: TypeAlias = "memoryview[int]"

RESULT = struct.Struct("<dQ?")
"""The header of the result (or exception) of a finished call of a bundle: its seconds, its size in bytes, and whether
the call has failed."""


class State(NamedTuple):
    """All fields that a slot writes on its own, except the texts; they do not change if nothing happens in the slot."""

    number: int
    element: int
    last: int
    entries: int
    entry_bytes: int
    sent: int
    kind: int
    ending: int


MAP_FAILED = 2 ** (8 * struct.calcsize("P")) - 1


class CrashBoard:
    """The shared memory of a slot and its worker: one process writes, the other reads, and fields change atomically."""

    SIZE: ClassVar[int] = _RESULTS + RESULTS_BYTES

    def __init__(self, fd: int, *, alone: bool = False) -> None:
        """Create a board.

        With `alone` it is the only one in its process, and may keep a descriptor, which is faster.
        """
        self._file: mmap.mmap | None = None
        if alone:
            self._file = mmap.mmap(fd, self.SIZE)
            self._memory, self._unmap = memoryview(self._file), self._file.close
        else:
            self._memory, self._unmap = mapped_without_descriptor(fd, self.SIZE)
        self.fields = self._memory[:_FIELDS_BYTES].cast("q")
        """The numeric fields: at ELEMENT the absolute index of the current element of a chunk or bundle, and the
        fields of `gate`; other fields have methods."""

    def close(self) -> None:
        self.fields.release()
        self._memory.release()
        self._unmap()

    def start(self, number: int, kind: int = PLAIN) -> None:
        """Note that task `number` starts."""
        fields = self.fields
        fields[ELEMENT] = -1
        fields[KIND] = kind
        fields[LAST] = number
        fields[NUMBER] = number

    def finish(self) -> None:
        """Note that the outcome of the running task is in the outbox, or was sent."""
        self.fields[NUMBER] = 0

    @property
    def number(self) -> int:
        return self.fields[NUMBER]

    @property
    def last(self) -> int:
        return self.fields[LAST]

    @property
    def element(self) -> int:
        return self.fields[ELEMENT]

    @property
    def count(self) -> int:
        """The number of entries in the outbox."""
        return self.fields[COUNT]

    @property
    def sent(self) -> int:
        """The number of entries sent so far, which precede the first entry in the outbox."""
        return self.fields[SENT]

    def state(self) -> State:
        return State(*self.fields[: len(State._fields)])

    def add(self, entry: bytes) -> bool:
        """Put an entry into the outbox; return False if there is no room for it."""
        fields = self.fields
        used = fields[USED]
        end = used + len(entry)
        if end > OUTBOX_BYTES:
            return False
        self._memory[_FIELDS_BYTES + used : _FIELDS_BYTES + end] = entry
        fields[USED] = end
        fields[COUNT] += 1  # this comes last, because from here on the entry counts even if this process dies
        return True

    def outbox(self) -> bytes:
        """Return all entries of the outbox, one after the other."""
        return bytes(self._memory[_FIELDS_BYTES : _FIELDS_BYTES + min(self.fields[USED], OUTBOX_BYTES)])

    def empty(self, count: int) -> None:
        """Note that this number of entries, which are all entries of the outbox, have been sent."""
        self.fields[COUNT] = 0
        self.fields[USED] = 0
        self.note_sent(count)  # last; until then the worker sees that it has received more than was sent

    def note_sent(self, count: int) -> None:
        self.fields[SENT] += count

    def results_writer(self) -> Callable[[bytes], int]:
        """Return the writer for the results of a bundle that begins, one after the other, each behind its RESULT.

        It raises ValueError if there is no room. Only the slot calls this.
        """
        assert self._file is not None
        self._file.seek(_RESULTS)
        return self._file.write

    def results(self, count: int) -> list[tuple[bytes, float, bool]]:
        """Return the first `count` results of the running bundle.

        Each has its duration in seconds, and whether it is an exception. Raises ValueError if there are fewer.
        """
        found = []
        place = _RESULTS
        for _ in range(count):
            if place + RESULT.size > self.SIZE:
                raise ValueError("results that are not there")
            seconds, size, failed = RESULT.unpack_from(self._memory, place)
            place += RESULT.size
            payload = bytes(self._memory[place : place + size])
            if len(payload) < size:
                raise ValueError("results that are not there")
            found.append((payload, seconds, failed))
            place += size
        return found


def mapped_without_descriptor(fd: int, size: int) -> tuple[memoryview, Callable[[], None]]:
    """Return the memory of a file, and a function that releases it once nobody uses it.

    An mmap keeps a copy of the descriptor, which a pool of many slots cannot spare.
    """
    if sys.version_info >= (3, 13):
        memory = mmap.mmap(fd, size, trackfd=False)
        return memoryview(memory), memory.close
    import ctypes  # imported here, because slots do not need it and must start fast

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
