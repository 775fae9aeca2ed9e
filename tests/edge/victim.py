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
from functools import partial
from types import FrameType
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from edge import calls, pauses
from edge.plan import ENDS, EXITS, Plan, plan_of
from edge.steps import ANY, STEP_SECONDS, Child, ChildExit, Run, steps_of, wrong

import jobrunner

_acquire: Any = vars(concurrent.futures._base)["_AcquireFutures"]
ACQUIRES = _acquire.__enter__.__code__, _acquire.__exit__.__code__

PACKAGE = os.path.dirname(os.path.abspath(jobrunner.__file__))
WORKERS = os.path.join(os.path.dirname(PACKAGE), "workers")

END_SECONDS = 30.0
"""In which everything must have ended."""

EXPECTED = (
    concurrent.futures.BrokenExecutor,
    concurrent.futures.CancelledError,
    calls.Expected,
    jobrunner.JobRunnerError,
)
"""What a call may end with. RuntimeError is what is raised after `shutdown`."""

REFUSED = ("shutdown", "can't start new thread")
"""Words of RuntimeErrors that are no fault: see EXPECTED; and what is raised for want of memory."""


class Terminated(SystemExit):
    """What the program's handler of SIGTERM raises."""


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
            if self._line >= self._left[-1] and not _is_spared(frame):
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
            if self._left == 0 and not _is_spared(frame):
                raise MemoryError("none is left")
            self._left = self._left or 1
        return self._trace


def _is_spared(frame: FrameType) -> bool:
    """Whether the line may be the end of a `with`, where the interpreter takes no signals, but this would come between
    the block and its end; or begins a `try`, where nothing is done that could raise anything.

    Or whether the standard library's `wait` is about to take or release the locks of several Futures: what comes there
    leaves it with some of them, whoever has made the Futures.
    """
    caller = frame.f_back
    if caller is not None and caller.f_code in ACQUIRES:
        return True
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    return line.lstrip().startswith(("with ", "async with ", "try:"))


def go(run: Run, number: int) -> None:
    """The steps of one thread."""
    rng = random.Random(f"{run.plan.seed} {number}")
    steps = steps_of(run, rng)
    for step in run.main_steps if number == 0 else range(run.plan.steps):
        try:
            if number == 0:
                run.come_to(step)
            rng.choice(steps)()
        except KeyboardInterrupt:
            if run.plan.on_signal == ENDS:
                raise
            continue  # as in a notebook
        except SystemExit as exc:
            if (
                isinstance(exc, (ChildExit, Terminated)) or "callbacks" not in run.plan.faults
            ):  # those of a call that is cancelled are called here
                raise
        except EXPECTED:
            continue
        except concurrent.futures.TimeoutError as exc:
            wrong(f"something took longer than {STEP_SECONDS} s: {exc}")
        except RuntimeError as exc:
            if not any(word in str(exc) for word in REFUSED):
                raise
        except OSError:
            if not is_short(run.plan):
                raise
        except (MemoryError, ImportError):
            if run.plan.memory is None and run.plan.engine is None:
                raise
            run.out_of_memory += 1
            run.hoard.let_go()


def is_short(plan: Plan) -> bool:
    """Whether the system may refuse something."""
    return bool(plan.descriptors is not None or plan.folder is not None or plan.memory or plan.disk)


def go_in_thread(run: Run, number: int) -> None:
    try:
        go(run, number)
    except (Child, ChildExit):
        os._exit(0)
    except KeyboardInterrupt:
        if run.plan.on_signal != ENDS:  # else it is one out of a callback
            raise
    except BaseException as exc:
        wrong(f"thread {number}: {exc!r}")
        raise


def end(run: Run) -> None:
    ending = run.plan.ending
    while ending in ("shutdown", "cancel"):
        try:
            run.pool.shutdown(cancel_futures=ending == "cancel")
            run.ended = True
            return
        except KeyboardInterrupt:
            if run.plan.on_signal == ENDS:
                raise
            continue  # once more, as a person at a notebook would
        except SystemExit as exc:
            if isinstance(exc, Terminated) or "callbacks" not in run.plan.faults:
                raise
            continue  # a callback of what is cancelled, which is called here
        except MemoryError:
            if run.plan.memory is None:
                raise
            run.out_of_memory += 1
            run.hoard.let_go()


def persist(*parts: Callable[[], None]) -> None:
    """Do them in turn. One that KeyboardInterrupt ends is begun again."""
    left = list(parts)
    while left:
        try:
            while left:
                try:
                    left[0]()
                    del left[0]
                except KeyboardInterrupt:
                    continue
        except KeyboardInterrupt:  # a second one, between two lines of the above
            continue


def do_not_disturb() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def look(run: Run, threads: set[threading.Thread], descriptors: int) -> None:
    """Whether everything that was promised has happened."""
    for future, value in run.futures:
        try:
            result = future.result(timeout=STEP_SECONDS)
        except concurrent.futures.TimeoutError:
            wrong(f"{future} is not done")
        except EXPECTED:
            pass
        except (MemoryError, ImportError):  # the latter of a library that could not be mapped
            if run.plan.memory is None and run.plan.engine is None:
                raise
            run.out_of_memory += 1
        except RuntimeError as exc:  # on threads, of which none could be started
            if run.plan.memory is None or not any(word in str(exc) for word in REFUSED):
                raise
            run.out_of_memory += 1
        except OSError:
            if not is_short(run.plan):
                raise
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


def exit_on_signal(number: int, frame: FrameType | None) -> None:
    raise Terminated(128 + number)


def say_begun() -> None:
    """From now on signals may come."""
    if "EDGE_BEGUN" in os.environ:
        os.write(int(os.environ.pop("EDGE_BEGUN")), str(os.getpid()).encode())


def main(plan: Plan) -> None:
    faulthandler.enable()  # SIGABRT prints where each thread stands
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in what a shell has started in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
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
    if plan.on_signal == EXITS:
        signal.signal(signal.SIGTERM, exit_on_signal)
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
        parts = (say_begun, partial(go, run, 0), partial(end, run), do_not_disturb)
        if plan.on_signal == ENDS:
            for part in parts:
                part()
        else:
            persist(*parts)
    finally:
        interrupts.stop()
        run.end_shortages()
    for thread in others:
        thread.join(2 * END_SECONDS)
        if thread.is_alive():
            wrong(f"{thread.name} of the program does not end")
    look(run, threads, descriptors)
    reap(run)
    if plan.memory is not None:
        print("out of memory:", run.out_of_memory, flush=True)
    if plan.pauses is not None:
        print("paused:", pauses.installed.paused, flush=True)
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
