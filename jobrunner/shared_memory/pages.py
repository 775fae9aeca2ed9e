"""Maps of files, as Python's own `mmap` does not give them: without a descriptor each, and with a hook at their end.

ctypes is imported when the first map is made; a Python without it raises ImportError there.
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
"""Highest bytes of the entries in /proc/self/pagemap that stand for a page which was not written to."""


@functools.cache
def library() -> Any:
    """The C library, through ctypes. Raises OSError where it cannot be had."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc


def map_private(fd: int, size: int) -> int:
    """The address of a private, writable map. Raises OSError."""
    import ctypes

    protection = mmap.PROT_READ | mmap.PROT_WRITE
    address: int | None = library().mmap(None, size, protection, mmap.MAP_PRIVATE, fd, 0)
    if address is None or address == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return address


def unmap(address: int, size: int) -> None:
    library().munmap(address, size)


def populate(address: int, size: int) -> None:
    """Set up all pages at once, where the kernel can; else each is when it is first read, for twice the time."""
    library().madvise(address, size, MADV_POPULATE_READ)


def memory(address: int, size: int) -> Any:
    """An object that has this memory for a buffer, and can be referred to weakly."""
    import ctypes

    return (ctypes.c_ubyte * size).from_address(address)


def untouched(address: int, size: int) -> bool:
    """Whether no page of a private map was written to; False where that is not known."""
    first, last = address // mmap.PAGESIZE, (address + size - 1) // mmap.PAGESIZE
    wanted = (last - first + 1) * 8
    try:
        fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        try:
            entries = os.pread(fd, wanted, first * 8)
        finally:
            os.close(fd)
    except OSError:
        return False
    return len(entries) == wanted and not entries[7::8].translate(None, CLEAN)
