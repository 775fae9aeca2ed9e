"""The "processes" backend: the slots of a worker daemon, driven in this process without a network.

The coordinator's and the worker's cores run on the same I/O thread as the client's, and hand each other their
messages as objects; nothing is encoded and no process is between the caller and the slots. So local pools retry,
cancel, time out and recover exactly as a cluster does.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable

from jobrunner.backends.base import BackendSettings
from jobrunner.backends.connection import Connection, Text
from jobrunner.backends.core_backend import CoreBackend
from jobrunner.backends.local_wire import LocalWire
from jobrunner.backends.served import serve
from jobrunner.errors import ConfigError, NotSupportedError
from jobrunner.nested.wait_hooks import Caller
from jobrunner.program.flags import this_program
from jobrunner.protocol.effects import GiveUp, Tick
from jobrunner.system import forks
from jobrunner.system.folders import (
    SOCKET,
    hold_folder,
    leave_folder,
    make_folder,
    socket_folder,
    unreachable,
)
from jobrunner.system.host import usable_cpus
from jobrunner.transport.driver import Wire


class SlotHandle:
    """What `multiprocessing.Process` has of a slot's process, for who looks for the pool's children."""

    def __init__(self, pid: int, living: Callable[[], list[int]]) -> None:
        self.pid = pid
        self._living = living

    def is_alive(self) -> bool:
        return self.pid in self._living()

    def terminate(self) -> None:
        """SIGTERM; its call fails or runs again, and another process takes its place."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """As `terminate`, with SIGKILL."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class LocalConnection(Connection):
    """A coordinator and slots in this process, see LocalWire, which others can join through a Unix socket.

    The socket is made when the first of them is expected. `let_in(address)` is called then, with the address at which
    they join.
    """

    same_host = True

    def __init__(self, settings: BackendSettings, let_in: Callable[[str], None]) -> None:
        super().__init__("processes", 0.0)
        self._settings = settings
        self._let_in = let_in
        self._size = settings.max_workers or settings.config.max_workers or usable_cpus()
        self._lock = forks.lock()
        self._folder: str | None = None
        self._no_folder: ConfigError | None = None
        try:
            self._folder = socket_folder()
        except ConfigError as exc:  # most programs need none
            self._no_folder = exc
        self._listens = False
        self._hold = -1
        """A descriptor, which is open while this backend uses its folder."""
        # In the thread that may have configured it.
        self._program = this_program(settings.start_method, settings.config.interpreter)
        self._wire: LocalWire

    def make_wire(
        self, give_up: Callable[[GiveUp], None], show_last_words: Callable[[list[Text]], None]
    ) -> Wire:
        self._wire = LocalWire(
            self._size,
            crash_limit=self._settings.config.crash_limit,
            on_give_up=give_up,
            address=self._join_address,
            on_connect=self._let_tasks_in,
            exit_wait=self._settings.config.exit_wait,
            show=show_last_words,
            max_tasks_per_slot=self._settings.max_tasks_per_child,
            program=self._program,
        )
        return self._wire

    @property
    def max_workers(self) -> int:
        return self._size

    def pids(self) -> list[int]:
        """Return the process ids of the slots; any thread may call this."""
        return self._wire.pids()

    def listen(self) -> str:
        """Have others let in, and return the address at which they join; any thread may call this."""
        with self._lock:
            if not self._listens:
                if self._folder is None:
                    raise ConfigError(str(self._no_folder)) from self._no_folder
                make_folder(self._folder)
                try:
                    self._hold = hold_folder(self._folder)
                except OSError as exc:
                    self._leave_folder()
                    raise ConfigError(
                        f"cannot use the folder {self._folder} for sockets: {exc.strerror}"
                    ) from exc
                self._listens = True
                self._wire.listen_at = self._join_address
                self._let_in(self._join_address)
        return self._join_address

    @property
    def _join_address(self) -> str:
        return f"ipc://{self._folder}/{SOCKET}"

    def _let_tasks_in(self) -> str:
        """A call wants to make calls of its own: why it cannot, or nothing. On the I/O thread."""
        try:
            failure = self._wire.listen(self.listen()) or unreachable(self._join_address)
        except ConfigError as exc:
            return f"calls cannot make calls of their own: {exc}"
        # The next one that asks finds another state of things, maybe.
        if failure and not self._wire.listening:
            with self._lock:
                self._listens = False
                self._leave_folder()
        return failure

    def _leave_folder(self) -> None:
        leave_folder(str(self._folder))
        if self._hold >= 0:
            os.close(self._hold)
            self._hold = -1

    def first_call(self, caller: Caller) -> None:
        self._program.begin()

    def check_resources(self) -> None:
        raise NotSupportedError('the "processes" backend has no resources; use "cluster"')

    def end_at_once(self) -> None:
        self._wire.exit_wait = 0.0

    def close(self) -> None:
        if self._listens:
            self._leave_folder()


class ProcessesBackend(CoreBackend):
    """`max_workers` slots on this host; default: the CPUs that this process may use."""

    name = "processes"

    def __init__(self, settings: BackendSettings) -> None:
        settings.refuse_unknown(self.name)
        self._local = LocalConnection(settings, self._let_in)
        super().__init__(settings, self._local)

    @property
    def processes(self) -> dict[int, SlotHandle]:
        return {pid: SlotHandle(pid, self._local.pids) for pid in self._local.pids()}

    def connection(self) -> str:
        """Lets tasks (which get the pickled Executor) connect, through a Unix socket in a folder of this user's."""
        return self._local.listen()

    def _let_in(self, address: str) -> None:
        serve(address, self)
        self._thread.post(Tick())
