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
from jobrunner.backends.core_backend import CoreBackend
from jobrunner.backends.local_wire import LocalWire
from jobrunner.backends.served import serve
from jobrunner.errors import ConfigError, NotSupportedError
from jobrunner.program.flags import this_program
from jobrunner.protocol.effects import GiveUp, Tick
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


class ProcessesBackend(CoreBackend):
    """`max_workers` slots on this host; default: the CPUs that this process may use."""

    name = "processes"

    def __init__(self, settings: BackendSettings) -> None:
        settings.refuse_unknown(self.name)
        self._size = settings.max_workers or settings.config.max_workers or usable_cpus()
        self._folder: str | None = None
        self._no_folder: ConfigError | None = None
        try:
            self._folder = socket_folder()
        except ConfigError as exc:  # most programs need none
            self._no_folder = exc
        self._listens = False
        self._hold = -1
        """A descriptor, which is open while this backend uses its folder."""
        self._max_tasks = settings.max_tasks_per_child
        # In the thread that may have configured it.
        self._program = this_program(settings.start_method, settings.config.interpreter)
        super().__init__(settings)

    @property
    def max_workers(self) -> int:
        return self._size

    @property
    def same_host(self) -> bool:
        return True

    @property
    def processes(self) -> dict[int, SlotHandle]:
        return {pid: SlotHandle(pid, self._wire.pids) for pid in self._wire.pids()}

    def connection(self) -> str:
        """Lets tasks (which get the pickled Executor) connect, through a Unix socket in a folder of this user's."""
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
                serve(self._join_address, self)
                self._driver.post(Tick())
        return self._join_address

    @property
    def _join_address(self) -> str:
        return f"ipc://{self._folder}/{SOCKET}"

    def _let_tasks_in(self) -> str:
        """A call wants to make calls of its own: why it cannot, or nothing. On the I/O thread."""
        try:
            failure = self._wire.listen(self.connection()) or unreachable(self._join_address)
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

    def _make_wire(self) -> Wire:
        self._wire = LocalWire(
            self._size,
            crash_limit=self._config.crash_limit,
            on_give_up=self._slots_failed,
            address=self._join_address,
            on_connect=self._let_tasks_in,
            exit_wait=self._config.exit_wait,
            show=self._show_last_words,
            max_tasks_per_slot=self._max_tasks,
            program=self._program,
        )
        return self._wire

    def kill(self) -> None:
        self._wire.exit_wait = 0.0
        super().kill()

    def _closed(self) -> None:
        if self._listens:
            self._leave_folder()

    @property
    def _peer_timeout(self) -> float:
        return 0.0

    @property
    def _shares(self) -> bool:
        return True

    def _first_call(self) -> None:
        self._program.begin()

    def _check_resources(self) -> None:
        raise NotSupportedError('the "processes" backend has no resources; use "cluster"')

    def _slots_failed(self, effect: GiveUp) -> None:
        self._give_up(effect)
