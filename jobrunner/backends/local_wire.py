"""A wire to a whole cluster inside this process: the coordinator's core, the worker's core, and real slots."""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from jobrunner.config import MAX_WINDOW
from jobrunner.nested.task_context import TASK_ADDRESS
from jobrunner.program.flags import Program, hash_seed
from jobrunner.protocol.coordinator.core import CoordinatorCore
from jobrunner.protocol.coordinator.settings import CoordinatorSettings
from jobrunner.protocol.deadlines import earliest
from jobrunner.protocol.effects import Event, GiveUp, Log, Received, Send, Source
from jobrunner.protocol.session import COORDINATOR
from jobrunner.protocol.turn import run_turn
from jobrunner.protocol.wire.ids import random_token
from jobrunner.protocol.wire.messages import STDERR
from jobrunner.system.host import own_host
from jobrunner.transport.driver import milliseconds
from jobrunner.version import __version__
from jobrunner.workers.in_process_worker import IN_PROCESS, Alarm, InProcessWorker, Text

if TYPE_CHECKING:
    from jobrunner.transport.sockets import RouterWire

CLIENT: Source = b"client"


def log_error(effect: Log) -> None:
    logging.getLogger("jobrunner.worker").error(effect.text)


class LocalWire:
    """The wire to a cluster in this process, which the client's driver uses like any other wire.

    Only the I/O thread creates and uses it.
    """

    def __init__(
        self,
        slots: int,
        *,
        crash_limit: int,
        on_give_up: Callable[[GiveUp], None],
        address: str,
        on_connect: Callable[[], str],
        exit_wait: float,
        show: Callable[[list[Text]], None],
        program: Program,
        max_tasks_per_slot: int | None = None,
    ) -> None:
        self._coordinator: CoordinatorCore | None = CoordinatorCore(
            CoordinatorSettings(
                id=random_token(),
                version=__version__,
                address="(in this process)",
                host=own_host(),
                pid=os.getpid(),
                crash_limit=crash_limit,
                # The payloads are the client's own objects, so a window would save no memory.
                max_payload=MAX_WINDOW,
                window_bytes=MAX_WINDOW,
                hash_seed=hash_seed(),
            ),
            time.monotonic(),
        )
        self._alarm: Alarm | None = Alarm(self._coordinator)
        self._worker = InProcessWorker(
            slots,
            {TASK_ADDRESS: address},
            on_give_up=on_give_up,
            on_connect=on_connect,
            on_error=log_error,
            program=program,
            exit_wait=exit_wait,
            max_tasks_per_slot=max_tasks_per_slot,
        )
        self.exit_wait = exit_wait
        """Maximum time in seconds that `close` gives the slots to end; any thread may set it to 0 for no wait."""
        self._show = show
        self._to_coordinator: list[Event] = []
        self._to_client: list[Event] = []
        self._poll = select.poll()
        self._slots_ready = False
        self._router: RouterWire | None = None
        self.listen_at: str | None = None
        """The address at which other processes are to be let in; any thread may set it.

        They can connect before the next turn ends.
        """
        self.register(self._worker.fileno())

    def pids(self) -> list[int]:
        """Return the process ids of the slots; any thread may call this."""
        return self._worker.pids()

    @property
    def listening(self) -> bool:
        """Whether other processes can connect; only the I/O thread may ask."""
        return self._router is not None

    # --- the interface of a wire ---

    def register(self, fd: int) -> None:
        self._poll.register(fd, select.POLLIN)

    def next_deadline(self) -> float | None:
        if self._to_client:
            return 0.0
        if self._router is not None and self._router.pending():
            return 0.0
        assert self._alarm is not None
        times = (self._alarm.next_deadline(), self._worker.next_deadline())
        return earliest(times)

    def wait(self, timeout: float | None) -> set[int]:
        ready = {fd for fd, _ in self._poll.poll(milliseconds(timeout))}
        self._slots_ready = self._worker.fileno() in ready
        return ready

    def receive(self, now: float) -> list[Event]:
        if self._slots_ready:
            self._worker.poll()
        if self._router is not None:
            self._to_coordinator += self._router.receive(now)
        elif self.listen_at is not None:
            failure = self.listen(self.listen_at)
            if failure:
                self._show([(STDERR, f"{failure}\n")])
        self._run_until_idle(now)
        received, self._to_client = self._to_client, []
        return received

    def send(self, effect: Send) -> Event | None:
        self._to_coordinator.append(Received(CLIENT, effect.envelope))
        self._run_until_idle(time.monotonic())  # at once, so that slots begin before this turn is over
        return None

    def close(self, *, orderly: bool = False) -> None:
        if orderly and self.exit_wait:
            self._worker.end(self.exit_wait, self._show)
        else:
            self._worker.close()
        if self._router is not None:
            self._router.close()
        # The core remembers results, and a program may keep its executor for a long time after this.
        self._coordinator = None
        self._alarm = None

    def listen(self, address: str) -> str:
        """Let other processes connect to that address; called on the I/O thread.

        Return the reason why that is impossible, or an empty string.
        """
        self.listen_at = None
        if self._router is not None:
            return ""
        try:
            from jobrunner.transport.sockets import RouterWire  # here, because few pools need ZeroMQ

            router = RouterWire(address)
        except Exception as exc:
            # Any error affects the calls that want to connect, and not the pool.
            return f"calls cannot make calls of their own: {exc}"
        self._router = router
        self.register(router.fileno())
        return ""

    # --- the cluster inside ---

    def _run_until_idle(self, now: float) -> None:
        """Run turns of both cores until neither has anything to do."""
        assert self._alarm is not None
        busy = True
        while busy:
            busy = self._worker.has_work(now)
            if busy:
                self._to_coordinator += self._worker.turn(now)
            if self._to_coordinator or self._alarm.rings(now):
                self._turn_coordinator(now)
                busy = True

    def _turn_coordinator(self, now: float) -> None:
        assert self._coordinator is not None
        assert self._alarm is not None
        events, self._to_coordinator = self._to_coordinator, []
        effects = run_turn(self._coordinator, events, now)
        self._alarm.reset()
        for effect in effects:
            if type(effect) is Send:
                self._deliver(effect)

    def _deliver(self, effect: Send) -> None:
        """Deliver a message of the coordinator to its destination."""
        if effect.destination == IN_PROCESS:
            self._worker.post(effect.envelope)
        elif effect.destination == CLIENT:
            self._to_client.append(Received(COORDINATOR, effect.envelope))
        else:
            assert self._router is not None
            failed = self._router.send(effect)
            if failed is not None:
                self._to_coordinator.append(failed)
