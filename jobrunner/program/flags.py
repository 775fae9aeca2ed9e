"""The start of the processes of calls: interpreter options, arguments, sys.path and the seed of string hashes.

A local backend starts its slots as multiprocessing's "spawn" starts its children: with the interpreter's options, the
program's sys.argv and its current folder. The program's settings are sent along, too (`configuration`). sys.path and
the key of multiprocessing are sent again whenever they have changed.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jobrunner.program.configuration import configuration
from jobrunner.program.interpreter import find_interpreter
from jobrunner.program.takeover import FLAGS, HASH_SEED, KEPT, START_METHOD
from jobrunner.system.host import current_environment, current_folder, module_path

MAX_SEED = 2**32 - 1

ORDERLY = b"e"
"""The byte that a program sends through the lifeline of its embedded cluster before it releases it in an orderly way.
"""

LISTENS, FAILED = "listens", "failed"
"""The messages of an embedded cluster to its program, see `embedded.main`."""

GAVE_UP = 75
"""Exit code of an embedded cluster that has reported why another start would not help."""

BOARD_BYTES = 2**20
"""Size of a Whiteboard in bytes."""

MAX_TRIES = 1000
"""Maximum number of attempts of a reader to find a text that is not just being written."""

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""Variables that are set to 1 in every slot if they are not set, because the slots use all cores already."""

STATE = struct.Struct("=QQ")

PROCESS = "multiprocessing.process"
"""The module whose `current_process()` has the key. Programs that have not loaded it have no managers."""

TRACKER_MODULE = "multiprocessing.resource_tracker"
"""The module of the resource tracker. Programs that have not loaded it have no shared memory of multiprocessing."""


def interpreter_options() -> list[str]:
    """Return the options that start another interpreter like this one: -O, -W, -X, -b, -s and the like.

    Options for warnings that follow from PYTHONWARNINGS, -X dev or -b are omitted, because they follow there, too.
    """
    given: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    options = []
    rest = iter(given)
    for option in rest:
        if option == "-X":
            next(rest)
        elif not option.startswith(("-W", "-X")):
            options.append(option)
    warnings = list(sys.warnoptions)
    if sys.flags.bytes_warning and warnings and warnings[-1].endswith("::BytesWarning"):
        del warnings[-1]
    if sys.flags.dev_mode and warnings[:1] == ["default"]:
        del warnings[0]
    inherited = [] if sys.flags.ignore_environment else os.environ.get("PYTHONWARNINGS", "").split(",")
    if warnings[: len(inherited)] == inherited:
        del warnings[: len(inherited)]
    options += [f"-W{word}" for word in warnings]
    for name, value in sys._xoptions.items():
        options += ["-X", name if value is True else f"{name}={value}"]
    return options


def program_arguments() -> list[str]:
    """Return the part of sys.argv that can be arguments of a process."""
    return [str(word).replace("\0", "") for word in sys.argv]


# --- the seed of string hashes --------------------------------------------------------------------------------------


def hash_seed(secret: bytes = b"") -> int:
    """Return the seed for all slots: that of PYTHONHASHSEED, else one from `secret`, else a random one."""
    configured = os.environ.get(HASH_SEED, "")
    if not sys.flags.ignore_environment and configured.isdigit() and int(configured) <= MAX_SEED:
        return int(configured)
    return random.Random(secret or None).randint(1, MAX_SEED)


def start_with(
    environment: Mapping[str, str], options: list[str], seed: int | None, method: str | None = None
) -> tuple[list[str], dict[str, str]]:
    """Return the options and environment that start an interpreter with these options and this seed.

    With -E or -I it would ignore the seed, so it gets an environment without the variables that it should ignore
    instead. `takeover.settle` restores the rest there.
    """
    given = dict(environment)
    if method is not None:
        given[START_METHOD] = method
    if seed is None:
        return options, given
    flags: list[str] = []
    ignored = [HASH_SEED]
    if sys.flags.ignore_environment:
        ignored += [name for name in given if name.startswith("PYTHON")]
        options = [option for option in options if option not in ("-E", "-I", "-s", "-P")]
        options += ["-s"] * bool(sys.flags.no_user_site) + ["-P"] * bool(
            getattr(sys.flags, "safe_path", False)
        )
        flags = ["ignore_environment"] + ["isolated"] * bool(sys.flags.isolated)
    for name in ignored:
        if name in given:
            given[KEPT + name] = given.pop(name)
    given[HASH_SEED] = str(seed)
    given[FLAGS] = " ".join(flags)
    return options, given


# --- what may change while the program runs ---------------------------------------------------------------------------


class Told(NamedTuple):
    """The facts about the program that slots are told before the first call and whenever they have changed."""

    path: list[str]
    """The program's sys.path, without relative entries."""
    authkey: bytes
    """The key of its multiprocessing managers; empty if slots have keys of their own."""
    configuration: str = ""
    """The settings, see `configuration`, at the creation of the slots' owner and in its thread; and later changes,
    until the first call, of what a process is started with."""


class ProgramPath:
    """The module path for slots; `current` returns the same list as long as nothing has changed."""

    def __init__(self) -> None:
        self._start = current_folder()
        self._seen: list[str] = []
        self._folder: str | None = None
        self._is_relative = False
        self._path: list[str] | None = None

    def current(self) -> list[str]:
        known = self._path is not None and sys.path == self._seen
        if known and self._path and (not self._is_relative or current_folder() == self._folder):
            return self._path
        self._seen, self._folder = list(sys.path), current_folder()
        self._is_relative = any(not os.path.isabs(entry) for entry in self._seen if isinstance(entry, str))
        path = module_path(self._start)
        if path != self._path:
            self._path = path
        return self._path


class StartedWith(NamedTuple):
    """The properties that a process takes over from the program that starts it."""

    environment: dict[str, str]
    folder: str | None
    arguments: list[str]

    @classmethod
    def now(cls) -> StartedWith:
        return cls(current_environment(), current_folder(), program_arguments())

    def changes(self, later: StartedWith) -> dict[str, Any]:
        """Return the changes that make a process which was started with this equal to one started later."""
        found: dict[str, Any] = {}
        before, after = self.environment, later.environment
        if before != after:
            gone = {name: "1" if name in THREAD_VARIABLES else None for name in before.keys() - after.keys()}
            found["environment"] = gone | {
                name: value for name, value in after.items() if before.get(name) != value
            }
        if self.folder != later.folder and later.folder is not None:
            found["folder"] = later.folder
        if self.arguments != later.arguments:
            found["arguments"] = later.arguments
        return found


class Telling:
    """The facts for slots about this program; `current` returns the same object as long as nothing has changed."""

    def __init__(self) -> None:
        self._path = ProgramPath()
        self._own_process: Callable[[], Any] | None = None
        """The function that returns this process as multiprocessing knows it, once the program has imported that."""
        self._configuration = configuration()
        self._told = Told([], b"", self._configuration)
        self._authkey: bytes | None = None
        self._started_with: StartedWith | None = StartedWith.now()
        """The properties at the start; None after the first call."""

    def begin(self) -> None:
        """Note that a call is submitted, and return the changes of the program's settings before the first call.

        The standard library starts its processes at the first call, so they have the settings of that moment.
        """
        before, self._started_with = self._started_with, None
        changes = None if before is None else before.changes(StartedWith.now())
        if changes:
            self._configuration = json.dumps({**json.loads(self._configuration or "{}"), **changes})

    def current(self) -> Told:
        # This is called for each call, so it checks for changes in a fraction of a microsecond.
        path = self._path.current()
        process = self._own_process
        if process is None and hasattr(sys.modules.get(PROCESS), "_current_process"):
            # The module is incomplete while another thread imports it.
            self._own_process = process = sys.modules[PROCESS].current_process
        authkey = None if process is None else process().authkey
        told, configuration = self._told, self._configuration
        if path is not told.path or authkey is not self._authkey or configuration is not told.configuration:
            self._authkey = authkey
            self._told = told = Told(path, b"" if authkey is None else bytes(authkey), configuration)
        return told


@dataclass(frozen=True)
class Program:
    """The properties of the program that slots are given; `told` is called before each call."""

    arguments: list[str]
    folder: str | None
    told: Callable[[], Told]
    start_method: str | None = None
    """The start method of multiprocessing, if the program has chosen one."""
    tracker: Callable[[], int | None] = lambda: None
    """A function that returns the descriptor of the program's resource tracker; called when a slot starts."""
    interpreter: str = field(default_factory=lambda: sys.executable)
    """The interpreter of the slots' processes, see `interpreter`."""
    begin: Callable[[], None] = lambda: None
    """A function to call before each call that begins while there are no others; only its first call has an effect."""


def this_program(method: str | None = None, interpreter: str | None = None) -> Program:
    """Return the description of this program. Raises ConfigError if there is no interpreter to start.

    `method` is the start method of multiprocessing for calls, if it differs from that of this process. `interpreter` is
    the configured one.
    """
    ensure_running = getattr(sys.modules.get(TRACKER_MODULE), "ensure_running", None)
    if ensure_running is not None:
        ensure_running()  # it is started in this thread, because it changes the thread's signal mask
    telling = Telling()
    return Program(
        program_arguments(),
        current_folder(),
        telling.current,
        method or start_method(),
        tracker,
        find_interpreter(interpreter),
        telling.begin,
    )


def start_method() -> str | None:
    """Return the start method that the program has set for multiprocessing."""
    get_start_method = getattr(sys.modules.get("multiprocessing"), "get_start_method", None)
    chosen: str | None = None if get_start_method is None else get_start_method(allow_none=True)
    return chosen


def tracker() -> int | None:
    """Return the descriptor of multiprocessing's resource tracker, if this process has one."""
    # The module is incomplete while another thread imports it.
    its = getattr(sys.modules.get(TRACKER_MODULE), "_resource_tracker", None)
    descriptor: int | None = None if its is None else its._fd
    return descriptor


def no_program(interpreter: str | None = None) -> Program:
    """Return the description for the slots of a worker that serves programs of other processes and hosts.

    Raises ConfigError if there is no interpreter to start.
    """
    told = Told(module_path(), b"")
    return Program([""], current_folder(), lambda: told, interpreter=find_interpreter(interpreter))


class Whiteboard:
    """A text that one process writes repeatedly and another reads, in memory that both have mapped.

    A check for changes needs no system call, because it compares a count, which is odd while the text is written.
    """

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, BOARD_BYTES)
        self._read = 0

    def write(self, text: str) -> bool:
        """Write the text; return False, and change nothing, if it is too long."""
        data = text.encode()
        if len(data) > BOARD_BYTES - STATE.size:
            return False
        count, _ = STATE.unpack_from(self._memory)
        STATE.pack_into(self._memory, 0, count + 1, 0)
        self._memory[STATE.size : STATE.size + len(data)] = data
        STATE.pack_into(self._memory, 0, count + 2, len(data))
        return True

    def read(self) -> str | None:
        """Return the text if it has changed since it was last read, else None."""
        for _ in range(MAX_TRIES):
            count, size = STATE.unpack_from(self._memory)
            if count == self._read:
                return None
            data = self._memory[STATE.size : STATE.size + size]
            if count % 2 == 0 and STATE.unpack_from(self._memory)[0] == count:
                self._read = count
                return data.decode()
        return None  # the writer has died, or sleeps

    def close(self) -> None:
        self._memory.close()
