"""What the program of the edge does with its executor, step by step."""

from __future__ import annotations

import concurrent.futures
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edge import calls
from edge.plan import Plan
from edge.shortages import Hoard, shortages_of

import jobrunner

STEP_SECONDS = 20.0
"""After which a wait of the program ends by itself: nothing of what it waits for takes as long."""

LONG_SECONDS = 10.0
"""What is to be stopped takes so long where that does not come about: an interrupt may come first."""

SIZES = (20_000, 700_000, 4_000_000, 20_000_000, 40_000_000)
"""Bytes of what is large: in a message, in shared memory, and more than there is when memory is short."""

_said = threading.Lock()


def wrong(text: str) -> None:
    with _said:
        print("wrong:", text, flush=True)


class Run:
    """What the threads of the program share."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.pool = jobrunner.Executor(plan.backend, max_workers=plan.workers)
        self.lock = threading.Lock()
        self.hoard = Hoard()
        self.shortages = shortages_of(plan)
        self.main_steps = iter(range(plan.steps))
        """The program's first thread goes on with them after each KeyboardInterrupt."""
        self.out_of_memory = 0
        """How often something that the program did has raised MemoryError."""
        self.futures: list[tuple[concurrent.futures.Future[Any], Any]] = []
        """With the value that each is to have; ANY where somebody else may have given it another."""
        self.children: list[tuple[int, bool]] = []
        """Process ids, and whether they live on."""
        self.ended = False

    def note(self, future: concurrent.futures.Future[Any], value: Any) -> None:
        with self.lock:
            self.futures.append((future, value))

    def come_to(self, step: int) -> None:
        """What is short from this step on, and what no longer is."""
        for shortage, means in self.shortages:
            if step == shortage.start:
                means.start()
            elif step == shortage.stop:
                self.hoard.release()
                means.stop()

    def end_shortages(self) -> None:
        self.hoard.release()
        for _, means in self.shortages:
            means.stop()

    def some(self, rng: random.Random) -> list[concurrent.futures.Future[Any]]:
        with self.lock:
            return [future for future, _ in rng.sample(self.futures, min(5, len(self.futures)))]


ANY = object()


@dataclass(frozen=True)
class Zeros:
    """Equals so many bytes of zeros: the program itself need not have memory for them."""

    size: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, bytes) and len(other) == self.size and not other.strip(b"\0")


def steps_of(run: Run, rng: random.Random) -> list[Callable[[], None]]:
    """What the program may do, with what the plan's faults add to that."""
    pool, faults = run.pool, run.plan.faults

    def submit() -> None:
        number = rng.randrange(1000)
        run.note(pool.submit(calls.quick, number), number + 1)

    def submit_many() -> None:
        for number in range(rng.randint(2, 60)):
            run.note(pool.submit(calls.quick, number), number + 1)

    def submit_slow() -> None:
        run.note(pool.submit(calls.nap, 0.05), 0.05)

    def submit_failing() -> None:
        run.note(pool.submit(calls.fail), ANY)

    def submit_large() -> None:
        size = rng.choice((100_000, 1_000_000))
        run.note(pool.submit(len, bytes(size)), size)

    def map_whole() -> None:
        count, size = rng.randint(0, 300), rng.choice((1, 7, 64, None))
        values = list(pool.map(calls.quick, range(count), chunksize=size, timeout=STEP_SECONDS))
        if values != list(range(1, count + 1)):
            wrong(f"map gave {values}")

    def map_part() -> None:
        results = pool.map(calls.quick, range(rng.randint(1, 300)), buffersize=rng.choice((None, 16)))
        for _ in range(rng.randint(0, 20)):
            next(results, None)

    def cancel() -> None:
        for future in run.some(rng):
            future.cancel()

    def stop() -> None:
        future = pool.submit(calls.nap, LONG_SECONDS)
        run.note(future, LONG_SECONDS)
        time.sleep(rng.choice((0.0, 0.02)))
        if run.plan.backend != "threads":
            future.cancel(running=True)
        else:
            future.cancel()
            run.futures.remove((future, LONG_SECONDS))

    def wait() -> None:
        futures = run.some(rng)
        _, left = concurrent.futures.wait(futures, timeout=STEP_SECONDS)
        if left:
            wrong(f"{len(left)} of {len(futures)} Futures were not done: {left}")

    def as_completed() -> None:
        for future in concurrent.futures.as_completed(run.some(rng), timeout=STEP_SECONDS):
            future.done()

    def depend() -> None:
        futures = run.some(rng)
        if futures:
            run.note(pool.submit(calls.quiet, futures[0]), ANY)

    def call_back() -> None:
        kind = rng.choice((ValueError, SystemExit, KeyboardInterrupt))

        def raising(_: object) -> None:
            raise kind("from a callback")

        for future in run.some(rng):
            try:
                future.add_done_callback(raising)
            except (SystemExit, KeyboardInterrupt):
                pass  # it was done, and called at once, in this thread

    def resolve() -> None:
        future = pool.submit(calls.nap, 0.01)
        run.note(future, ANY)
        try:
            future.set_result("the program's own")
        except concurrent.futures.InvalidStateError:
            pass

    def kill() -> None:
        run.note(pool.submit(calls.die), ANY)

    def fork() -> None:
        fork_one(run, rng)

    def make_large() -> None:
        size = rng.choice(SIZES)
        run.note(pool.submit(calls.make, size), Zeros(size))

    def take_large() -> None:
        size = rng.choice(SIZES)
        run.note(pool.submit(len, bytes(size)), size)

    def map_large() -> None:
        size = rng.choice(SIZES[:3])
        for length in pool.map(len, (bytes(size) for _ in range(5)), timeout=STEP_SECONDS):
            if length != size:
                wrong(f"map gave {length} instead of {size}")

    def exhaust() -> None:
        run.note(pool.submit(calls.exhaust), ANY)

    def hoard() -> None:
        run.hoard.take()

    def release() -> None:
        run.hoard.release()

    def open_another() -> None:
        with jobrunner.Executor(run.plan.backend, max_workers=1, ship=shipped(run.plan)) as other:
            number = rng.randrange(1000)
            run.note(other.submit(calls.quick, number), number + 1)

    usual = [submit, submit_many, submit_slow, submit_failing, submit_large, map_whole, map_part]
    usual += [cancel, wait, as_completed, depend]
    if run.plan.backend != "threads":
        usual.append(stop)
    more = {
        "callbacks": [call_back] * 4,
        "settles": [resolve] * 4,
        "kills": [kill] * 4,
        "forks": [fork] * 4,
        "memory": [make_large, take_large, map_large, exhaust, hoard, release],
        "disk": [make_large, take_large, map_large, open_another],
        "signals": [open_another],
        "locks": [open_another],
    }
    for name, steps in more.items():
        if name in faults:
            usual += steps
    return usual


def shipped(plan: Plan) -> list[str]:
    """Files that go along with calls, and are written to the folder for temporary files there."""
    return [calls.__file__] if plan.disk is not None else []


def fork_one(run: Run, rng: random.Random) -> None:
    """A child that exits in one of the ways in which children do, or lives on until it is told to end."""
    way = rng.choice(("exit", "_exit", "return", "live"))
    program = os.getpid()
    # What is sent to the whole group is for the program.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        child = os.fork()
        if child == 0:
            sys.settrace(None)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if child == 0:
        if way == "_exit":
            os._exit(0)
        while way == "live":
            time.sleep(0.05)
            if os.getppid() != program:  # which has been killed
                os._exit(0)
        raise Child if way == "return" else ChildExit
    with run.lock:
        run.children.append((child, way == "live"))


class Child(BaseException):
    """Goes up to the top of the program in a forked child, which then ends as the program would."""


class ChildExit(SystemExit):
    """`sys.exit()` in a forked child."""
