"""The memory of a slot: its limit, and the number of times that the kernel's OOM killer has ended a process."""

from __future__ import annotations

import os
import resource
import sys

TASK_MEMORY = "JOBRUNNER_TASK_MEMORY"
"""Environment variable of a slot: its memory limit in bytes."""

SHARED_IDLE = "JOBRUNNER_SHARED_IDLE"
"""Environment variable of a slot: the bytes of shared memory that it may keep idle. With 0 it only reads memory that
others share; without the variable there is no shared memory."""


def limit_from_environment() -> int | None:
    """Return the memory limit of this slot in bytes, or None."""
    text = os.environ.get(TASK_MEMORY)
    return int(text) if text else None


def shared_idle_from_environment() -> int | None:
    """Return the worker's limit of idle shared memory, and remove it from the environment of child processes."""
    text = os.environ.pop(SHARED_IDLE, None)
    return None if text is None else int(text)


def apply_limit(limit: int) -> None:
    """Make the kernel refuse more memory to this process, so that allocations fail, in Python with MemoryError.

    RLIMIT_DATA counts memory to which the process could write (heap, private maps), used or not. Unlike RLIMIT_AS, it
    does not count files and libraries that are only mapped. Each process that a task starts has the same limit for
    itself.
    """
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def explain(exc: MemoryError, limit: int) -> None:
    """Add the limit to the text of the exception."""
    text = f"the memory limit of this slot, {size_text(limit)}, was reached"
    if not exc.args:
        exc.args = (text,)
    else:
        exc.add_note(text)


def size_text(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"


def oom_kills() -> int:
    """Return how often the kernel's OOM killer has ended a process of this cgroup; 0 if that is unknown."""
    from pathlib import Path  # imported here, because only the worker needs it, and slots must start fast

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
