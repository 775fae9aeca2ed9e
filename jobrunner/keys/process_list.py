"""Keep a secret out of the process list: everybody on a host may read the arguments of every process there."""

from __future__ import annotations

import os

FIRST_FIELD = 45
"""Of those of /proc/PID/stat behind the command's name: where the arguments begin; then their end, and the same of the
environment."""


def hide(secret: str) -> bool:
    """Overwrite `secret` in the arguments and the environment of this process, as others are shown them.

    Python's own copies, `sys.argv` and `os.environ`, stay as they are. False where that is not possible: not on Linux.
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
