"""System calls beyond Python's own modules.

They provide memory maps that call a hook at their end and need no descriptor each, and calls that do not release the
interpreter. The latter matters, because such a call takes about a microsecond, but a thread that releases the
interpreter for that long may wait 5 ms until it has it again.

ctypes is imported when the first of these is called. A Python without it raises ImportError there.
"""

from __future__ import annotations

import functools
import mmap
import os
from typing import Any

MADV_POPULATE_READ = 22

PRESENT_OR_SWAPPED = 0xC0
OF_THE_FILE = 0x20
CLEAN = bytes(byte for byte in range(256) if not byte & PRESENT_OR_SWAPPED or byte & OF_THE_FILE)
"""Highest bytes of those entries in /proc/self/pagemap that mean a page without changes."""


@functools.cache
def library() -> Any:
    """Return the C library, whose functions are called with the interpreter held."""
    import ctypes

    libc = ctypes.PyDLL(None, use_errno=True)
    number, size, pointer = ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p
    libc.open.argtypes = [ctypes.c_char_p, number]
    libc.close.argtypes = [number]
    libc.flock.argtypes = [number, number]
    libc.pread.argtypes = [number, pointer, size, ctypes.c_long]
    libc.pread.restype = ctypes.c_ssize_t
    libc.mmap.argtypes = [pointer, size, number, number, number, ctypes.c_long]
    libc.mmap.restype = pointer
    libc.munmap.argtypes = [pointer, size]
    return libc


def failure() -> OSError:
    """Return the error of the call that has just failed."""
    import ctypes

    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def open_file(path: str) -> int:
    """Return a descriptor for reading. Raises OSError."""
    fd: int = library().open(path.encode(), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        raise failure()
    return fd


def close_file(fd: int) -> None:
    library().close(fd)


def lock(fd: int, operation: int) -> bool:
    """Lock a file like fcntl.flock with LOCK_NB; return whether that has succeeded."""
    return bool(library().flock(fd, operation) == 0)


def map_file(fd: int, size: int, *, private: bool) -> int:
    """Return the address of a writable map. Raises OSError."""
    import ctypes

    protection = mmap.PROT_READ | mmap.PROT_WRITE
    kind = mmap.MAP_PRIVATE if private else mmap.MAP_SHARED
    address: int | None = library().mmap(None, size, protection, kind, fd, 0)
    if address is None or address == ctypes.c_void_p(-1).value:
        raise failure()
    return address


def unmap(address: int, size: int) -> None:
    library().munmap(address, size)


@functools.cache
def patient_madvise() -> Any:
    """Return a madvise that releases the interpreter, because it may take a while."""
    import ctypes

    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return madvise


def populate(address: int, size: int) -> None:
    """Set up all pages at once if the kernel can; otherwise each is set up at its first access, in twice the time."""
    patient_madvise()(address, size, MADV_POPULATE_READ)


def memory(address: int, size: int) -> Any:
    """Return an object that has this memory as its buffer and that supports weak references."""
    import ctypes

    return (ctypes.c_ubyte * size).from_address(address)


def read(address: int, size: int) -> bytes:
    import ctypes

    return ctypes.string_at(address, size)


def untouched(address: int, size: int) -> bool:
    """Return whether no page of a private map was changed; False if that is unknown."""
    import ctypes

    first, last = address // mmap.PAGESIZE, (address + size - 1) // mmap.PAGESIZE
    entries = ctypes.create_string_buffer((last - first + 1) * 8)
    try:
        fd = open_file("/proc/self/pagemap")
    except OSError:
        return False
    count = library().pread(fd, entries, len(entries), first * 8)
    close_file(fd)
    return bool(count == len(entries)) and not entries.raw[7::8].translate(None, CLEAN)
