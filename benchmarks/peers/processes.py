"""All processes of one measurement: found by a mark in their environment, so that none escapes in a session of its own.

Needs /proc (Linux). Nothing but what carries the mark is ever counted or killed.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

MARK = "BENCHMARK_MARK"
"""The environment variable; its value is different in each measurement."""

PAGE = os.sysconf("SC_PAGE_SIZE")


def marked(value: str) -> Iterator[int]:
    """The pids of processes that carry the mark, but not this one."""
    sought = f"{MARK}={value}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if sought in (entry / "environ").read_bytes().split(b"\0"):
                yield int(entry.name)
        except OSError:
            continue  # it has ended, or is somebody else's


def kill_marked(value: str, patience: float = 10.0) -> int:
    """Kill until there is none; how many there were."""
    killed: set[int] = set()
    deadline = time.monotonic() + patience
    while found := list(marked(value)):
        for pid in found:
            killed.add(pid)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return len(killed)


def resident(pid: int | None = None) -> int:
    """Resident bytes of a process; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid or os.getpid()}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def resident_elsewhere() -> int:
    """Resident bytes of all other processes of this measurement."""
    return sum(resident(pid) for pid in marked(os.environ[MARK]))
