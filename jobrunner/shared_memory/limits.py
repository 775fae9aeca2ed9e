"""How much of this host's memory, and how many of this process's descriptors, sharing may take."""

from __future__ import annotations

import fcntl
import os
import resource

SHARE_FROM = 512 * 1024
"""Bytes of a payload from which it goes through shared memory; below, a socket is as quick."""

MAX_IDLE_BYTES = 1280 * 1024 * 1024
"""Bytes of segments, or of maps, that one process keeps for the next payload, on a host with plenty of memory."""

IDLE_SECONDS = 5.0
"""After this time without use they are released."""

PART_OF_MEMORY = 16
"""What is kept idle is at most this part of the memory that there is."""

MAX_DESCRIPTORS = 256
PART_OF_DESCRIPTORS = 8
"""A pool's segments, a process's maps, and the payloads that it was sent: each of the three takes at most so many, and
this part of those that are allowed."""

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def most_idle(processes: int = 1) -> int:
    """Bytes that each of so many processes may keep idle."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in CGROUP_LIMITS:
        try:
            with open(path) as file:  # pathlib takes a while to import, and slots start fast
                memory = min(memory, int(file.read()))
        except (OSError, ValueError):  # there is none, or it is "max"
            pass
    return min(MAX_IDLE_BYTES, memory // PART_OF_MEMORY // processes)


def most_descriptors() -> int:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return MAX_DESCRIPTORS
    return min(MAX_DESCRIPTORS, limit // PART_OF_DESCRIPTORS)


class Place:
    """Where descriptors are put."""

    lowest = 0


def keep_out_of_the_way() -> None:
    """In a slot: put descriptors where a task that closes or replaces low ones does not hit them."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    Place.lowest = 1000 if limit == resource.RLIM_INFINITY else min(1000, limit // 2)


def placed(fd: int) -> int:
    """`fd`, moved to its place, if there is room."""
    if fd >= Place.lowest:
        return fd
    try:
        moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, Place.lowest)
    except OSError:
        return fd
    os.close(fd)
    return moved
