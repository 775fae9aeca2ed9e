"""The limits of shared memory: the part of this host's memory and of this process's descriptors that it may use."""

from __future__ import annotations

import fcntl
import os
import resource

SHARE_FROM = 512 * 1024
"""Minimum size in bytes of a payload in shared memory, because a socket is as fast for smaller ones."""

MAX_IDLE_BYTES = 1280 * 1024 * 1024
"""Maximum size in bytes of segments, or of maps, that one process keeps for the next payload, on a host with much
memory."""

IDLE_SECONDS = 5.0
"""Time in seconds without use after which they are released."""

PART_OF_MEMORY = 16
"""The size that is kept idle is at most the host's memory divided by this number."""

MAX_DESCRIPTORS = 256
PART_OF_DESCRIPTORS = 8
"""A pool's segments, a process's maps, and received payloads each take at most a fixed number of descriptors, and at
most the limit of descriptors divided by this number."""

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def most_idle(processes: int = 1) -> int:
    """Return the number of bytes that each of so many processes may keep idle."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in CGROUP_LIMITS:
        try:
            with open(path) as file:  # pathlib takes a while to import, and slots start fast
                memory = min(memory, int(file.read()))
        except (OSError, ValueError):  # there is no such file, or it contains "max"
            pass
    return min(MAX_IDLE_BYTES, memory // PART_OF_MEMORY // processes)


def most_descriptors() -> int:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return MAX_DESCRIPTORS
    return min(MAX_DESCRIPTORS, limit // PART_OF_DESCRIPTORS)


class Place:
    """The numbers from which descriptors are placed."""

    lowest = 0


def keep_out_of_the_way() -> None:
    """Place descriptors of a slot where a task that closes or replaces low ones does not affect them."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    Place.lowest = 1000 if limit == resource.RLIM_INFINITY else min(1000, limit // 2)


def placed(fd: int) -> int:
    """Return `fd`, moved to its place if there is room."""
    if fd >= Place.lowest:
        return fd
    try:
        moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, Place.lowest)
    except OSError:
        return fd
    os.close(fd)
    return moved
