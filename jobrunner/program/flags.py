"""What a program's process is to the processes of its calls: options, arguments, sys.path, the seed of string hashes.

A local backend starts its slots as multiprocessing's "spawn" starts its children: with the interpreter's options, the
program's sys.argv and its current folder. What it has configured goes along, too (`configured`), and sys.path and the
key of multiprocessing again whenever they have changed.
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
"""What a program says through the lifeline of its embedded cluster before it releases it in an orderly way."""

LISTENS, FAILED = "listens", "failed"
"""What an embedded cluster says to its program, see `embedded.main`."""

GAVE_UP = 75
"""Exit code of an embedded cluster that has said why it would not do better if it were started again."""

BOARD_BYTES = 2**20
"""Of a Whiteboard."""

MAX_TRIES = 1000
"""Of a reader, to find a text that is not just being written."""

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""Set to 1 in every slot, unless the environment has them: the slots use the cores already."""

STATE = struct.Struct("=QQ")

PROCESS = "multiprocessing.process"
"""The module whose `current_process()` has the key. Programs that have not loaded it have no managers."""

TRACKER_MODULE = "multiprocessing.resource_tracker"
"""Programs that have not loaded it have made no shared memory, and do not know that of others."""


def interpreter_options() -> list[str]:
    """The options that start another interpreter like this one: -O, -W, -X, -b, -s and the like.

    Those of warnings that come out of PYTHONWARNINGS, -X dev or -b are left out, for they come again by themselves.
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
    """sys.argv, as far as it can be the arguments of a process."""
    return [str(word).replace("\0", "") for word in sys.argv]


# --- the seed of string hashes --------------------------------------------------------------------------------------


def hash_seed(secret: bytes = b"") -> int:
    """For all slots of an executor or cluster: what PYTHONHASHSEED says, else random; of a secret always the same."""
    configured = os.environ.get(HASH_SEED, "")
    if not sys.flags.ignore_environment and configured.isdigit() and int(configured) <= MAX_SEED:
        return int(configured)
    return random.Random(secret or None).randint(1, MAX_SEED)


def start_with(
    environment: Mapping[str, str], options: list[str], seed: int | None, method: str | None = None
) -> tuple[list[str], dict[str, str]]:
    """Options and environment that start an interpreter with those and that seed; `settling` does the rest in there.

    With -E or -I it would ignore the seed: it gets an environment without what it is to ignore instead.
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
    """What slots are told of the program, before the first call and whenever it has changed."""

    path: list[str]
    """Its sys.path, without relative entries."""
    authkey: bytes
    """The key with which its managers of multiprocessing let processes in; empty: slots have keys of their own."""
    configuration: str = ""
    """See `configured`: what it was when the slots' owner was made, in the thread that made it. And what the program
    has changed from then on of what a process is started with, until the first call."""


class ProgramPath:
    """Where slots look for modules: `current` is the same list as long as nothing has changed."""

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
    """What a process has of the program that starts it."""

    environment: dict[str, str]
    folder: str | None
    arguments: list[str]

    @classmethod
    def now(cls) -> StartedWith:
        return cls(current_environment(), current_folder(), program_arguments())

    def changes(self, later: StartedWith) -> dict[str, Any]:
        """What a process that was started with this lacks to be as if it had been started later; for `configured`."""
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
    """What slots are told of this program: `current` is the same object as long as nothing has changed."""

    def __init__(self) -> None:
        self._path = ProgramPath()
        self._own_process: Callable[[], Any] | None = None
        """What gives the process of multiprocessing that this one is, once the program has multiprocessing."""
        self._configuration = configuration()
        self._told = Told([], b"", self._configuration)
        self._authkey: bytes | None = None
        self._started_with: StartedWith | None = StartedWith.now()
        """Until the first call."""

    def begin(self) -> None:
        """Note that a call is submitted, and return the changes of the program's settings before the first call.

        The standard library starts its processes at the first call, so they have the settings of that moment.
        """
        before, self._started_with = self._started_with, None
        changes = None if before is None else before.changes(StartedWith.now())
        if changes:
            self._configuration = json.dumps({**json.loads(self._configuration or "{}"), **changes})

    def current(self) -> Told:
        # Each call comes here: what can have changed is looked at in a fraction of a microsecond.
        path = self._path.current()
        process = self._own_process
        if process is None and hasattr(sys.modules.get(PROCESS), "_current_process"):
            # Not while another thread imports it.
            self._own_process = process = sys.modules[PROCESS].current_process
        authkey = None if process is None else process().authkey
        told, configuration = self._told, self._configuration
        if path is not told.path or authkey is not self._authkey or configuration is not told.configuration:
            self._authkey = authkey
            self._told = told = Told(path, b"" if authkey is None else bytes(authkey), configuration)
        return told


@dataclass(frozen=True)
class Program:
    """What slots are given of the process whose calls they run; `told` is asked before each call."""

    arguments: list[str]
    folder: str | None
    told: Callable[[], Told]
    start_method: str | None = None
    """Of multiprocessing, where the program has chosen one."""
    tracker: Callable[[], int | None] = lambda: None
    """The descriptor that leads to its resource tracker; asked when a slot starts."""
    interpreter: str = field(default_factory=lambda: sys.executable)
    """What their processes run in, see `interpreter`."""
    begin: Callable[[], None] = lambda: None
    """To be called before each call that comes while there is none; the first one counts."""


def this_program(method: str | None = None, interpreter: str | None = None) -> Program:
    """`method`: how calls are to find multiprocessing to start processes, where that is not as it is here.

    `interpreter`: the configured one. Raises ConfigError where there is none to start.
    """
    ensure_running = getattr(sys.modules.get(TRACKER_MODULE), "ensure_running", None)
    if ensure_running is not None:
        ensure_running()  # now, since it changes the signal mask of its thread
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
    """What the program has set for multiprocessing."""
    get_start_method = getattr(sys.modules.get("multiprocessing"), "get_start_method", None)
    chosen: str | None = None if get_start_method is None else get_start_method(allow_none=True)
    return chosen


def tracker() -> int | None:
    """The descriptor that leads to the resource tracker of multiprocessing, where this process has one."""
    # Another thread may just import it.
    its = getattr(sys.modules.get(TRACKER_MODULE), "_resource_tracker", None)
    descriptor: int | None = None if its is None else its._fd
    return descriptor


def no_program(interpreter: str | None = None) -> Program:
    """For the slots of a worker that serves programs of other processes and hosts. Raises ConfigError as above."""
    told = Told(module_path(), b"")
    return Program([""], current_folder(), lambda: told, interpreter=find_interpreter(interpreter))


class Whiteboard:
    """A text that one process writes, again and again, and another reads; in memory that both have mapped.

    To find out that it has not changed takes no system call. A count tells: it is odd while the text is written.
    """

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, BOARD_BYTES)
        self._read = 0

    def write(self, text: str) -> bool:
        """False where it is too long, which leaves what there is."""
        data = text.encode()
        if len(data) > BOARD_BYTES - STATE.size:
            return False
        count, _ = STATE.unpack_from(self._memory)
        STATE.pack_into(self._memory, 0, count + 1, 0)
        self._memory[STATE.size : STATE.size + len(data)] = data
        STATE.pack_into(self._memory, 0, count + 2, len(data))
        return True

    def read(self) -> str | None:
        """The text, if it has changed since it was last read."""
        for _ in range(MAX_TRIES):
            count, size = STATE.unpack_from(self._memory)
            if count == self._read:
                return None
            data = self._memory[STATE.size : STATE.size + size]
            if count % 2 == 0 and STATE.unpack_from(self._memory)[0] == count:
                self._read = count
                return data.decode()
        return None  # its writer has died, or sleeps

    def close(self) -> None:
        self._memory.close()
