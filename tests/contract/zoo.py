"""A zoo: functions and objects that misbehave at each stage of a call, for tests of every backend.

Importable by child processes too (put this folder on sys.path and `import zoo`), so it needs the standard
library only. Each specimen says at which stage it fails.
"""

from __future__ import annotations

import atexit
import ctypes
import faulthandler
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from typing import Any

# --- tame functions ---------------------------------------------------------------------------------------


def nothing() -> None:
    pass


def echo(value: Any = None) -> Any:
    return value


def add(left: int, right: int = 0) -> int:
    return left + right


def fork_and_note(path: str, number: int, forks: int = -1) -> int:
    """Writes down the number; the call with the number `forks` returns in a process that it forks, too."""
    append_line(path, str(number))
    if number == forks and os.fork() == 0:
        return -1
    return number


def take_stdout(takes: bool, text: str = "") -> None:
    """Prints, and then perhaps leaves sys.stdout changed."""
    if text:
        print(text)
    if takes:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def zeros(count: int) -> bytes:
    return bytes(count)


_shared = [1, 2, 3]


def shared_list() -> list[int]:
    """The same object each time."""
    return _shared


def task_id(_: Any = None) -> str:
    import jobrunner

    task = jobrunner.current_task()
    assert task is not None
    return task.id


def pid(_: Any = None) -> int:
    return os.getpid()


def size_and_echo(value: Any) -> tuple[int, Any]:
    return len(value), value


def append_line(path: str, line: str) -> None:
    """Leaves a trace of having run, one line per time."""
    with open(path, "a") as file:
        file.write(line + "\n")


def environment(name: str) -> str | None:
    return os.environ.get(name)


def modules() -> list[str]:
    return sorted(sys.modules)


# --- functions that wait: for a file to appear, never for time --------------------------------------------


def wait_for(path: str, value: Any = None) -> Any:
    """Runs until the file exists (a minute at most), and can be interrupted."""
    deadline = time.monotonic() + 60
    while not os.path.exists(path):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} never appeared")
        time.sleep(0.002)
    return value


def wait_if(path: str | None, value: Any = None) -> Any:
    """Returns at once, unless there is a path to wait for."""
    return value if path is None else wait_for(path, value)


def announce_and_wait(started: str, path: str, value: Any = None) -> Any:
    """Creates the file `started`, then waits for `path`."""
    append_line(started, str(os.getpid()))
    return wait_for(path, value)


def announce_and_hold_gil(started: str) -> None:
    """Creates the file, then never gives another thread of this process a turn."""
    append_line(started, str(os.getpid()))
    ctypes.PyDLL(None).sleep(60)


def keep_gil_if(folder: str | None, value: Any = None) -> Any:
    """Returns at once, unless there is a folder: then no other thread of this process gets a turn until somebody opens
    the FIFO "gate" in it. Before that, it leaves the file "started" there."""
    if folder is not None:
        append_line(f"{folder}/started", str(os.getpid()))
        libc = ctypes.PyDLL(None)
        libc.close(libc.open(os.fsencode(f"{folder}/gate"), os.O_RDONLY))
    return value


def announce_and_swallow_interrupts(started: str, path: str) -> str:
    try:
        announce_and_wait(started, path)
    except KeyboardInterrupt:
        return "swallowed"
    return "not interrupted"


def spawn_and_hold_gil(started: str) -> None:
    """Starts a process of its own first; its pid is the second line of the file."""
    grandchild = subprocess.Popen(["sleep", "60"])
    append_line(started, f"{os.getpid()}\n{grandchild.pid}")
    ctypes.PyDLL(None).sleep(60)


# --- functions that raise ---------------------------------------------------------------------------------


def divide(left: float, right: float) -> float:
    return left / right


def exit_with(code: Any) -> None:
    sys.exit(code)


def raise_keyboard_interrupt() -> None:
    raise KeyboardInterrupt("from the task")


def raise_chained() -> None:
    try:
        raise KeyError("first")
    except KeyError as exc:
        raise ValueError("second") from exc


def fail_below(value: int, limit: int) -> int:
    if value < limit:
        raise ValueError(f"{value} is below {limit}")
    return value


class PlainError(Exception):
    pass


def raise_plain(value: Any = None) -> None:
    raise PlainError(value)


class TwoArgumentsError(Exception):
    """Fails when it is unpickled: pickle calls it with one argument."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


class UnpicklableError(Exception):
    """Fails when it is pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class StrFailsError(Exception):
    """Pickles, but cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text for you")


def raise_two_arguments() -> None:
    raise TwoArgumentsError(7, "seven")


def raise_unpicklable() -> None:
    raise UnpicklableError("holds a lock")


def raise_str_fails() -> None:
    raise StrFailsError("hidden")


# --- functions that kill their process --------------------------------------------------------------------


def exit_hard(code: int = 3) -> None:
    os._exit(code)


def kill_self(name: str = "SIGKILL") -> None:
    os.kill(os.getpid(), signal.Signals[name])


def segfault() -> None:
    faulthandler._sigsegv()  # type: ignore[attr-defined]


def exit_hard_if(value: Any, bad: Any) -> Any:
    if value == bad:
        os._exit(3)
    return value


def print_and_exit_hard(text: str) -> None:
    print(text)
    os._exit(3)


def touch_memory(count: int) -> int:
    return len(bytearray(os.urandom(1024)) * (count // 1024))


# --- functions that meddle with the process ---------------------------------------------------------------


def close_streams() -> str:
    sys.stdout.close()
    sys.stderr.close()
    sys.stdin.close()
    return "closed"


def close_low_descriptors() -> str:
    os.closerange(3, 200)
    return "closed"


def replace_sigint() -> str:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout = None  # type: ignore[assignment]
    return "replaced"


def fork_and_wait() -> int:
    """Forks; the new process prints and leaves by itself."""
    child = os.fork()
    if child == 0:
        print("printed by a forked process", flush=True)
        os._exit(5)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fork_and_print_to_what_is_held(lines: int) -> int:
    """Both processes print to the streams that the call has found, as handlers of `logging` hold them."""
    streams = sys.stdout, sys.stderr
    print("held back, ", end="")
    child = os.fork()
    code = 1
    try:
        for number in range(lines):
            for stream in streams:
                print("parent" if child else "child", number, file=stream)
        code = 0
    finally:
        if child == 0:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fork_and_return_twice() -> str:
    """Forks, and both processes return from here."""
    child = os.fork()
    if child == 0:
        return "child"
    return f"parent of {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}"


def run_forked_pool() -> int:
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(add, (20, 22))


# --- functions that print ---------------------------------------------------------------------------------


def print_lines(*lines: str) -> None:
    for line in lines:
        print(line)


def print_error(text: str) -> None:
    print(text, file=sys.stderr)


def print_then_wait(line: str, path: str) -> None:
    print(line)
    wait_for(path)


def write_descriptor(descriptor: int, raw: bytes) -> None:
    os.write(descriptor, raw)


# --- results and arguments --------------------------------------------------------------------------------


class FailsOnPickle:
    """Fails when it is pickled."""

    def __reduce__(self) -> Any:
        raise RuntimeError("will not be pickled")


def _refuse(_: Any) -> Any:
    raise RuntimeError("will not be unpickled")


class FailsOnUnpickle:
    """Pickles well, and fails when it is unpickled."""

    def __reduce__(self) -> Any:
        return _refuse, (None,)


class KillsOnUnpickle:
    """Pickles well, and kills the process that unpickles it."""

    def __reduce__(self) -> Any:
        return os._exit, (9,)


class ExitsOnPickle:
    """Raises SystemExit when it is pickled."""

    def __reduce__(self) -> Any:
        raise SystemExit("leaving in the middle of a pickle")


class KillsOnPickle:
    """Kills the process that pickles it."""

    def __reduce__(self) -> Any:
        os._exit(9)


class Box:
    """An object with something in it."""

    def __init__(self, content: Any) -> None:
        self.content = content

    def __eq__(self, other: object) -> bool:
        return type(other).__name__ == "Box" and vars(other) == vars(self)

    __hash__ = None  # type: ignore[assignment]

    def filled_with(self, content: Any) -> Box:
        self.content = content
        return self


class Counter:
    """Callable; the calls of an instance show in its next result."""

    def __init__(self, start: int) -> None:
        self.count = start

    def __call__(self) -> int:
        self.count += 1
        return self.count

    def next(self) -> int:
        return self()


def make(name: str) -> Any:
    """An instance of one of the classes above, as a result."""
    return globals()[name]()


def make_lock() -> Any:
    return threading.Lock()


def make_lock_if(value: Any, bad: Any) -> Any:
    return threading.Lock() if value == bad else value


# --- initializers -----------------------------------------------------------------------------------------

_initialized: list[Any] = []


def initialize(value: Any) -> None:
    _initialized.append(value)


def initialized() -> list[Any]:
    return list(_initialized)


def fail_to_initialize(text: str) -> None:
    raise OSError(text)


def wait_inside_a_hook(started: str, path: str) -> str:
    """Waits as something that waits for a Future does."""
    from jobrunner.nested import wait_hooks as blocking

    with blocking.waiting(), blocking.waiting():
        append_line(started, "")
        wait_for(path)
    return "waited"


def note_at_exit(path: str, seconds: float) -> None:
    """Leaves a line for the end of its process."""

    def note() -> None:
        time.sleep(seconds)
        append_line(path, "exit")

    atexit.register(note)


class Thing:
    """Can be referred to weakly."""

    def nothing(self) -> None:
        pass


things: weakref.WeakSet[Any] = weakref.WeakSet()


def make_thing(_: Any = None) -> Thing:
    return Thing()


def type_of(value: Any, *_: Any) -> str:
    return type(value).__name__


def note_thing(thing: Thing) -> None:
    things.add(thing)


def noted_thing() -> Thing:
    """A result that its process refers to weakly."""
    thing = Thing()
    note_thing(thing)
    return thing


def things_alive() -> int:
    gc.collect()
    return len(things)


class Node:
    def __init__(self, graph):
        self.graph = graph
        self.label = None


class Graph:
    """Its methods look for the very objects that it holds."""

    def __init__(self, size):
        self.nodes = [Node(self) for _ in range(size)]
        self.rows = [[x] for x in range(size)]

    def place(self, node, *_):
        assert node.graph is self
        return self.nodes.index(node)

    def labels(self, node, *_):
        """That of the node, and of all that have one."""
        return self.nodes[self.nodes.index(node)].label, [one.label for one in self.nodes if one.label]

    def row(self, row, *_):
        return next(place for place, one in enumerate(self.rows) if one is row)

    def remove(self, node):
        self.nodes.remove(node)
        return len(self.nodes)

    def __call__(self, pair):
        node, (same,) = pair
        assert node is same
        return self.place(node)
