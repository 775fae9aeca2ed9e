"""A client of the soak: submits all kinds of calls, round after round, and checks every result.

    python soak_client.py ADDRESS SECONDS SEED FOLDER

Its last line is a JSON object: rounds by kind, calls, executions beyond one per call (a kill may cause them), and what
was wrong. A round that hangs is wrong too.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path

from jobrunner import CrashLimitError, Executor

BOUND = 120.0
"""Seconds after which a round counts as hanging."""


def noted_square(path: str, n: int) -> int:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{n}\n".encode())
    os.close(fd)
    return n * n


def square(n: int) -> int:
    return n * n


def backwards(data: bytes) -> bytes:
    return data[::-1]


def fail_at_first(path: str) -> int:
    """Fails twice, and a kill may make it start more often."""
    if len(Path(path).read_text()) < 2:
        with open(path, "a") as file:
            file.write("x")
        raise ValueError("not yet")
    return 7


def fail(n: int) -> None:
    raise ValueError(f"as asked: {n}")


class Rounds:
    """Each kind of round returns how many calls it made; AssertionError says what was wrong."""

    def __init__(self, executor: Executor, folder: Path, rng: random.Random) -> None:
        self.executor = executor
        self.folder = folder
        self.rng = rng
        self.number = 0
        self.repeats = 0

    def path(self) -> Path:
        self.number += 1
        return self.folder / str(self.number)

    def submit(self) -> int:
        path, count = self.path(), 300
        futures = [self.executor.submit(noted_square, str(path), n) for n in range(count)]
        results = [future.result(BOUND) for future in futures]
        started = Counter(map(int, path.read_text().split()))
        path.unlink()
        assert results == [n * n for n in range(count)], "wrong results"
        assert set(started) == set(range(count)), "a result of a call that never ran"
        self.repeats += sum(started.values()) - count
        return count

    def map(self) -> int:
        count = 5000
        assert list(self.executor.map(square, range(count), timeout=BOUND)) == [n * n for n in range(count)]
        return count

    def large(self) -> int:
        data = self.rng.randbytes(1_000_000)
        futures = [self.executor.submit(backwards, data) for _ in range(5)]
        assert all(future.result(BOUND) == data[::-1] for future in futures), "wrong bytes"
        return len(futures)

    def cancel(self) -> int:
        futures = [self.executor.submit(time.sleep, 3600) for _ in range(20)]
        for future in futures:
            future.cancel(running=True)
        pending = wait(futures, BOUND).not_done
        assert not pending, f"{len(pending)} calls were not cancelled"
        assert all(future.cancelled() for future in futures), "a sleeper was not cancelled"
        return len(futures)

    def retry(self) -> int:
        path = self.path()
        path.touch()
        assert self.executor.with_options(retries=3).submit(fail_at_first, str(path)).result(BOUND) == 7
        path.unlink()
        return 1

    def error(self) -> int:
        futures = [self.executor.submit(fail, n) for n in range(20)]
        for n, future in enumerate(futures):
            error = future.exception(BOUND)
            assert isinstance(error, ValueError), repr(error)
            assert str(error) == f"as asked: {n}", repr(error)
        return len(futures)

    def crash(self) -> int:
        error = self.executor.submit(os._exit, 3).exception(BOUND)
        assert isinstance(error, CrashLimitError), repr(error)
        return 1

    def kinds(self) -> list[Callable[[], int]]:
        often = [self.submit, self.submit, self.submit, self.map, self.large, self.error]
        return [*often, self.cancel, self.retry, self.crash]


def main(address: str, seconds: float, seed: int, folder: Path) -> None:
    faulthandler.register(signal.SIGUSR1)  # where it hangs, for the one who started it
    rng = random.Random(seed)
    rounds_of: Counter[str] = Counter()
    calls, wrong = 0, []
    end = time.monotonic() + seconds
    executor = Executor(address)
    rounds = Rounds(executor, folder, rng)
    while time.monotonic() < end and len(wrong) < 10:
        kind = rng.choice(rounds.kinds())
        rounds_of[kind.__name__] += 1
        try:
            calls += kind()
        except Exception as exc:  # all that can go wrong in a round belongs into the report
            wrong.append(f"{kind.__name__}: {type(exc).__name__}: {exc}")
    report = {"rounds": dict(rounds_of), "calls": calls, "repeats": rounds.repeats, "wrong": wrong}
    print(json.dumps(report), flush=True)
    executor.shutdown(wait=not wrong, cancel_futures=bool(wrong))


if __name__ == "__main__":
    import soak_client  # so that its functions are those of a module, for the workers too

    soak_client.main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
