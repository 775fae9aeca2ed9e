"""A slot's memory: its limit, and whether the kernel has killed for want of it."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

TASK_MEMORY = "JOBRUNNER_TASK_MEMORY"
"""Environment variable of a slot: its limit in bytes."""

SHARED_IDLE = "JOBRUNNER_SHARED_IDLE"
"""Environment variable of a slot: bytes of shared memory that it may keep idle; 0: it only reads what others share;
without it there is no shared memory."""


def limit_from_environment() -> int | None:
    """The limit of this slot, in bytes."""
    text = os.environ.get(TASK_MEMORY)
    return int(text) if text else None


def shared_idle_from_environment() -> int | None:
    """What the worker allows; not for what this process starts itself."""
    text = os.environ.pop(SHARED_IDLE, None)
    return None if text is None else int(text)


def apply_limit(limit: int) -> None:
    """Have the kernel refuse more memory of its own to this process: allocations fail, in Python with MemoryError.

    RLIMIT_DATA counts what the process could write to (heap, private maps), used or not; unlike RLIMIT_AS it leaves out
    files and libraries that are only mapped. What a task starts has the same limit, each process for itself.
    """
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def explain(exc: MemoryError, limit: int) -> None:
    """Have the exception say which limit it was."""
    text = f"the memory limit of this slot, {size_text(limit)}, was reached"
    if not exc.args:
        exc.args = (text,)
    else:
        exc.add_note(text)


def size_text(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"


def oom_kills() -> int:
    """How often the kernel has killed a process of this one's cgroup for want of memory; 0 where that is unknown."""
    try:
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                events = Path(f"/sys/fs/cgroup{line[3:]}/memory.events").read_text()
                return next(
                    int(words.split()[1]) for words in events.splitlines() if words.startswith("oom_kill ")
                )
    except (OSError, ValueError, StopIteration):
        pass
    return 0
