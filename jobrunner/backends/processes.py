"""The "processes" backend, which drives the slots of a worker daemon in this process, without a network.

The cores of the coordinator and the worker run on the same I/O thread as the client's core, and exchange their messages
as objects. Nothing is encoded, and no process is between the caller and the slots. So local pools retry, cancel, time
out and recover exactly as a cluster does.
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
    """A part of the interface of `multiprocessing.Process` for the process of a slot.

    It is for libraries that look at the child processes of a pool.
    """

    def __init__(self, pid: int, living: Callable[[], list[int]]) -> None:
        self.pid = pid
        self._living = living

    def is_alive(self) -> bool:
        return self.pid in self._living()

    def terminate(self) -> None:
        """Send SIGTERM to the process; its call fails or runs again, and another process replaces it."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the process; otherwise the same as `terminate`."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class LocalConnection(Connection):
    """The connection to a coordinator and slots in this process, see LocalWire.

    Other processes can join through a Unix socket, which is created when the first of them is expected. Then
    `let_in(address)` is called with the address at which they join.
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
        except ConfigError as exc:  # most programs need no folder, so the error is raised when one is needed
            self._no_folder = exc
        self._listens = False
        self._hold = -1
        """A file descriptor that is open while this backend uses its folder, or -1."""
        # This is called here, in the thread that may have configured the start method and the interpreter.
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
        """Have other processes let in, and return the address at which they join; any thread may call this.

        Raises ConfigError if there is no usable folder for the socket.
        """
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
        """Let a call submit calls of its own; called on the I/O thread.

        Return the reason why that is impossible, or an empty string.
        """
        try:
            failure = self._wire.listen(self.listen()) or unreachable(self._join_address)
        except ConfigError as exc:
            return f"calls cannot make calls of their own: {exc}"
        # The state of the system may be different when the next call asks.
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
    """The backend with `max_workers` slots on this host; the default is the number of CPUs this process may use."""

    name = "processes"

    def __init__(self, settings: BackendSettings) -> None:
        settings.refuse_unknown(self.name)
        self._local = LocalConnection(settings, self._let_in)
        super().__init__(settings, self._local)

    @property
    def processes(self) -> dict[int, SlotHandle]:
        return {pid: SlotHandle(pid, self._local.pids) for pid in self._local.pids()}

    def connection(self) -> str:
        """Return the address at which tasks that have the pickled Executor connect.

        It is that of a Unix socket in a folder of this user.
        """
        return self._local.listen()

    def _let_in(self, address: str) -> None:
        serve(address, self)
        self._thread.post(Tick())
