"""The program of one run of the edge: it uses an executor as its plan says, and looks at what is left.

    python tests/edge/victim.py SEED [BACKEND [FAULT]]

Started by `runner`, which gives it a folder for temporary files and looks at what it leaves behind. What it finds wrong
is printed, a line each, behind "wrong:"; the last line is "ended".
"""

from __future__ import annotations

import concurrent.futures
import faulthandler
import gc
import linecache
import os
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from edge import calls
from edge.plan import Plan, plan_of

import jobrunner

PACKAGE = os.path.dirname(os.path.abspath(jobrunner.__file__))
WORKERS = os.path.join(os.path.dirname(PACKAGE), "workers")

STEP_SECONDS = 20.0
"""After which a wait of the program ends by itself: nothing of what it waits for takes a second."""

END_SECONDS = 30.0
"""In which everything must have ended."""

EXPECTED = (
    concurrent.futures.BrokenExecutor,
    concurrent.futures.CancelledError,
    calls.Expected,
    jobrunner.JobRunnerError,
)
"""What a call may end with. RuntimeError is what is raised after `shutdown`."""

_said = threading.Lock()


def wrong(text: str) -> None:
    with _said:
        print("wrong:", text, flush=True)


class Interrupts:
    """Raises KeyboardInterrupt in the thread that made it, at chosen ones of its lines in the project's code."""

    def __init__(self, lines: tuple[int, ...]) -> None:
        self._left = list(reversed(lines))
        self._line = 0
        self.raised: list[str] = []

    def start(self) -> None:
        if self._left:
            sys.settrace(self._trace)

    def stop(self) -> None:
        sys.settrace(None)
        self._left.clear()

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith((PACKAGE, WORKERS)):
            return None
        if event == "line" and self._left:
            self._line += 1
            if self._line >= self._left[-1] and not _leaves_block(frame):
                self._left.pop()
                self.raised.append(f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}")
                raise KeyboardInterrupt
        return self._trace


class EngineFails:
    """Raises in the thread of the executor that is opened next, at a chosen one of its lines in the project's code."""

    def __init__(self, line: int) -> None:
        self._left = line
        threading.settrace(self._trace)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not threading.current_thread().name.startswith(("jobrunner-processes", "jobrunner-cluster")):
            return None
        if not frame.f_code.co_filename.startswith((PACKAGE, WORKERS)):
            return None
        if event == "line":
            self._left -= 1
            if self._left == 0 and not _leaves_block(frame):
                raise MemoryError("none is left")
            self._left = self._left or 1
        return self._trace


def _leaves_block(frame: FrameType) -> bool:
    """Whether the line may be the end of a `with`, where the interpreter takes no signals, but this would come between
    the block and its end."""
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    return line.lstrip().startswith(("with ", "async with "))


class Run:
    """What the threads of the program share."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.pool = jobrunner.Executor(plan.backend, max_workers=plan.workers)
        self.lock = threading.Lock()
        self.futures: list[tuple[concurrent.futures.Future[Any], Any]] = []
        """With the value that each is to have; ANY where somebody else may have given it another."""
        self.children: list[tuple[int, bool]] = []
        """Process ids, and whether they live on."""
        self.ended = False

    def note(self, future: concurrent.futures.Future[Any], value: Any) -> None:
        with self.lock:
            self.futures.append((future, value))

    def some(self, rng: random.Random) -> list[concurrent.futures.Future[Any]]:
        with self.lock:
            return [future for future, _ in rng.sample(self.futures, min(5, len(self.futures)))]


ANY = object()


def steps_of(run: Run, rng: random.Random) -> list[Callable[[], None]]:
    """What the program may do; what the plan's faults add to that comes twice."""
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
        future = pool.submit(calls.nap, 30)
        run.note(future, 30)
        time.sleep(rng.choice((0.0, 0.02)))
        if run.plan.backend != "threads":
            future.cancel(running=True)
        else:
            future.cancel()
            run.futures.remove((future, 30))

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

    def settle() -> None:
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

    usual = [submit, submit_many, submit_slow, submit_failing, submit_large, map_whole, map_part]
    usual += [cancel, wait, as_completed, depend]
    if run.plan.backend != "threads":
        usual.append(stop)
    for name, step in {"callbacks": call_back, "settles": settle, "kills": kill, "forks": fork}.items():
        if name in faults:
            usual += [step] * 4
    return usual


def fork_one(run: Run, rng: random.Random) -> None:
    """A child that exits in one of the ways in which children do, or lives on until it is told to end."""
    way = rng.choice(("exit", "_exit", "return", "live"))
    child = os.fork()
    if child == 0:
        sys.settrace(None)
        if way == "_exit":
            os._exit(0)
        while way == "live":
            signal.pause()
        raise Child if way == "return" else ChildExit
    with run.lock:
        run.children.append((child, way == "live"))


class Child(BaseException):
    """Goes up to the top of the program in a forked child, which then ends as the program would."""


class ChildExit(SystemExit):
    """`sys.exit()` in a forked child."""


def go(run: Run, number: int) -> None:
    """The steps of one thread."""
    rng = random.Random(f"{run.plan.seed} {number}")
    steps = steps_of(run, rng)
    for _ in range(run.plan.steps):
        try:
            rng.choice(steps)()
        except KeyboardInterrupt:
            continue  # as in a notebook
        except SystemExit as exc:
            if (
                isinstance(exc, ChildExit) or "callbacks" not in run.plan.faults
            ):  # those of a call that is cancelled are called here
                raise
        except EXPECTED:
            continue
        except concurrent.futures.TimeoutError as exc:
            wrong(f"something took longer than {STEP_SECONDS} s: {exc}")
        except RuntimeError as exc:
            if "shutdown" not in str(exc):
                raise
        except OSError:
            if run.plan.descriptors is None and run.plan.folder is None:
                raise


def go_in_thread(run: Run, number: int) -> None:
    try:
        go(run, number)
    except (Child, ChildExit):
        os._exit(0)
    except BaseException as exc:
        wrong(f"thread {number}: {exc!r}")
        raise


def end(run: Run, interrupts: Interrupts) -> None:
    ending = run.plan.ending
    while ending in ("shutdown", "cancel"):
        try:
            run.pool.shutdown(cancel_futures=ending == "cancel")
            run.ended = True
            return
        except KeyboardInterrupt:
            continue  # once more, as a person at a notebook would


def look(run: Run, threads: set[threading.Thread], descriptors: int) -> None:
    """Whether everything that was promised has happened."""
    for future, value in run.futures:
        try:
            result = future.result(timeout=STEP_SECONDS)
        except concurrent.futures.TimeoutError:
            wrong(f"{future} is not done")
        except EXPECTED:
            pass
        except KeyboardInterrupt:
            if "interrupts" not in run.plan.faults:
                raise
        else:
            if value is not ANY and result != value and "settles" not in run.plan.faults:
                wrong(f"a call gave {result!r} instead of {value!r}")
    if not run.ended:
        return
    own = [t for t in threading.enumerate() if t not in threads and t.name.startswith("jobrunner")]
    for thread in own:
        thread.join(STEP_SECONDS)
        if thread.is_alive():
            wrong(f"the thread {thread.name} is left")
    run.futures.clear()
    if run.plan.engine is not None:
        return  # why the thread ended refers to what it had at that moment, which may be a descriptor
    gc.collect()
    deadline = time.monotonic() + 5.0
    while (now := open_descriptors()) > descriptors + len(run.children) and time.monotonic() < deadline:
        time.sleep(0.05)
    if now > descriptors + len(run.children):
        wrong(
            f"{now} descriptors are open, where {descriptors + len(run.children)} were: {listed_descriptors()}"
        )


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) - 1


def listed_descriptors() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            pass
    return sorted(found)


def reap(run: Run) -> None:
    """The children: they must have ended, or end now that they are told to."""
    for child, lives in run.children:
        if lives:
            os.kill(child, signal.SIGTERM)
    deadline = time.monotonic() + STEP_SECONDS
    for child, lives in run.children:
        while True:
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                if status != (signal.SIGTERM if lives else 0):
                    wrong(f"a forked child ended with status {status}")
                break
            if time.monotonic() > deadline:
                wrong("a forked child does not end")
                os.kill(child, signal.SIGABRT)  # it prints where it stands
                os.waitpid(child, 0)
                break
            time.sleep(0.01)


def spoil_folder(kind: str) -> None:
    folder = os.environ["TMPDIR"]
    if kind == "long":
        folder = os.path.join(folder, *("folder" * 8 for _ in range(4)))
        os.makedirs(folder)
    elif kind == "unwritable":
        folder = os.path.join(folder, "a-file")
        open(folder, "w").close()
    else:
        folder = os.path.join(folder, "vanishing")
        os.makedirs(folder)
    os.environ["TMPDIR"] = folder


def main(plan: Plan) -> None:
    faulthandler.enable()  # SIGABRT prints where each thread stands
    if plan.folder is not None:
        spoil_folder(plan.folder)
    # What is opened once in a process is open from here on.
    with jobrunner.Executor(plan.backend, max_workers=1) as first:
        first.submit(calls.quick, 1).result()
        first.submit(len, bytes(100_000)).result()  # large ones are sent in another way
    if plan.descriptors is not None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(plan.descriptors, hard), min(plan.descriptors, hard)))
    gc.collect()
    descriptors, threads = open_descriptors(), set(threading.enumerate())
    if plan.interval is not None:
        sys.setswitchinterval(plan.interval)
    if plan.engine is not None:
        EngineFails(plan.engine)
    try:
        run = Run(plan)
    except MemoryError:
        if plan.engine is None:
            raise
        return
    except OSError:
        if plan.descriptors is None and plan.folder is None:
            raise
        return
    interrupts = Interrupts(plan.interrupts)
    others = [threading.Thread(target=go_in_thread, args=(run, n)) for n in range(1, plan.threads)]
    for thread in others:
        thread.start()
    if plan.folder == "vanishing":
        os.rmdir(os.environ["TMPDIR"]) if not os.listdir(os.environ["TMPDIR"]) else None
    interrupts.start()
    try:
        go(run, 0)
        end(run, interrupts)
    finally:
        interrupts.stop()
    for thread in others:
        thread.join(2 * END_SECONDS)
        if thread.is_alive():
            wrong(f"{thread.name} of the program does not end")
    look(run, threads, descriptors)
    reap(run)
    if plan.ending == "drop":
        del run
        gc.collect()


if __name__ == "__main__":
    given = sys.argv[1:]
    try:
        main(plan_of(int(given[0]), given[1] if given[1:] else None, given[2] if given[2:] else None))
    except Child:
        sys.exit(0)
    print("ended", flush=True)
