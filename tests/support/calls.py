"""What the tasks of these tests do."""

from __future__ import annotations

import atexit
import ctypes
import faulthandler
import os
import resource
import sys
import time
import uuid
from pathlib import Path

import jobrunner


def square(x: int) -> int:
    return x * x


def square_elsewhere(x: int) -> int:
    """By a call that this one makes."""
    return jobrunner.current_executor().submit(square, x).result()


def slow_square(x: int) -> int:
    time.sleep(0.002)
    return x * x


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def own_pid() -> int:
    return os.getpid()


def worker_pid() -> int:
    return os.getppid()


def note(path: str, text: str) -> None:
    """One line at the end of a file; short ones are written at once."""
    with open(path, "a") as file:
        file.write(text + "\n")


def note_and_nap(path: str, text: str, seconds: float) -> str:
    note(path, text)
    time.sleep(seconds)
    return text


def fail_first(path: str, times: int) -> int:
    """Fails as often as asked, and then says how often it was called."""
    note(path, "call")
    calls = len(Path(path).read_text().splitlines())
    if calls <= times:
        raise ValueError(f"call {calls}")
    return calls


def wait_for_file(path: str) -> str:
    """Runs until the file is there, at most a minute."""
    for _ in range(6000):
        if os.path.exists(path):
            return path
        time.sleep(0.01)
    raise TimeoutError(path)


def die(code: int) -> None:
    os._exit(code)


def append_and_wait(trace: str, path: str) -> str:
    """Leaves a line of having run, then waits for a file."""
    with open(trace, "a") as file:
        file.write("ran\n")
    return wait_for_file(path)


def attempt_after(trace: str, path: str) -> int:
    """As `append_and_wait`; which attempt that was."""
    append_and_wait(trace, path)
    task = jobrunner.current_task()
    assert task is not None
    return task.attempt


def take_memory(megabytes: int) -> int:
    return len(bytearray(megabytes << 20)) >> 20


def leave_memory(megabytes: int) -> None:
    """Have this process get so much more, and nothing beyond that."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def die_without_memory(megabytes: int) -> None:
    """As C code does where an allocation fails that it cannot do without."""
    held = b"x" * (megabytes << 20)
    os.abort() if held else None


def crash_deep_down(depth: int) -> None:
    if depth:
        crash_deep_down(depth - 1)
    print("a last word", file=sys.stderr)
    faulthandler._sigsegv()  # type: ignore[attr-defined]


def hold_gil(seconds: int) -> int:
    """Gives no other thread of its process a turn."""
    ctypes.PyDLL(None).sleep(seconds)
    return seconds


def set_secret(value: str) -> int:
    """Leaves something behind in its process, as a library does that keeps a token in the environment."""
    os.environ["JOBRUNNER_TEST_SECRET"] = value
    return os.getpid()


def seen_secret() -> str | None:
    return os.environ.get("JOBRUNNER_TEST_SECRET")


def seen_secret_inside() -> str | None:
    return jobrunner.current_executor().submit(seen_secret).result()


def note_at_exit(path: str, word: str) -> None:
    """Leaves a file, and a line, for the end of its process."""

    def note() -> None:
        Path(path).write_text(word)
        print(word)

    atexit.register(note)


def hash_and_worker(folder: str) -> tuple[int, str]:
    """Waits for three others, each in a slot of its own."""
    Path(folder, uuid.uuid4().hex).touch()
    while len(list(Path(folder).iterdir())) < 4:
        time.sleep(0.01)
    task = jobrunner.current_task()
    assert task is not None
    return hash("a"), task.worker


def fail_on(worker: str) -> None:
    """An initializer that works on all other workers."""
    if os.environ["JOBRUNNER_TASK_WORKER"] == worker:
        raise OSError("no licence")


def die_on(worker: str) -> None:
    """As `fail_on`, by the death of its process."""
    if os.environ["JOBRUNNER_TASK_WORKER"] == worker:
        os._exit(3)


def where_and_own_pid(_: object = None) -> tuple[str, int]:
    return os.environ["JOBRUNNER_TASK_WORKER"], os.getpid()
