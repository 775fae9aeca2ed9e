"""Protection of a secret from the process list, where every user of a host can read the arguments of every process."""

from __future__ import annotations

import os

FIRST_FIELD = 45
"""The index of the field of /proc/PID/stat, after the command's name, with the beginning of the arguments; their end
and the same fields of the environment follow."""


def hide(secret: str) -> bool:
    """Overwrite `secret` in the arguments and the environment of this process, as others see them.

    Python's own copies, `sys.argv` and `os.environ`, do not change. Returns False if this is impossible, on systems
    other than Linux.
    """
    text = os.fsencode(secret)
    try:
        with open("/proc/self/stat", "rb") as file:
            places = file.read().rpartition(b")")[2].split()[FIRST_FIELD : FIRST_FIELD + 4]
        begin, end, environment, environment_end = map(int, places)
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            for first, last in ((begin, end), (environment, environment_end)):
                memory.seek(first)
                shown = memory.read(last - first)
                at = shown.find(text)
                while at >= 0:
                    memory.seek(first + at)
                    memory.write(b"*" * len(text))
                    at = shown.find(text, at + 1)
        with open("/proc/self/cmdline", "rb") as file:
            return text not in file.read()
    except (OSError, ValueError):
        return False
