"""What the tasks of these tests do, and a client as a program of its own.

    python work.py ADDRESS PATH COUNT SECONDS

submits COUNT tasks, each of which notes its number in the file PATH and takes SECONDS; says how far it is, and
at the end "right COUNT" if each result is what it must be.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from concurrent.futures import as_completed
from pathlib import Path


def noted_square(path: str, n: int, seconds: float) -> int:
    """Adds a line to the file, with one system call: a kill leaves the whole line or nothing."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{n}\n".encode())
    os.close(fd)
    time.sleep(seconds)
    return n * n


def fail() -> None:
    raise ValueError("as always")


def executions(path: str) -> Counter[int]:
    """How often each task was started."""
    return Counter(map(int, Path(path).read_text().split()))


def main(address: str, path: str, count: int, seconds: float) -> None:
    from jobrunner import Executor

    with Executor(address) as executor:
        print("connected", flush=True)
        futures = [executor.submit(noted_square, path, n, seconds) for n in range(count)]
        print("submitted", flush=True)
        for done, _ in enumerate(as_completed(futures), 1):
            if done % max(1, count // 20) == 0:
                print(f"done {100 * done // count} %", flush=True)
        wrong = [n for n, future in enumerate(futures) if future.result() != n * n]
        print(f"wrong {wrong}" if wrong else f"right {len(futures)}", flush=True)


if __name__ == "__main__":
    from support import work  # so that its functions are those of a module, for the workers too

    work.main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
