"""A worker inside of another process: its core and its slots, for a coordinator's core on the same thread.

Messages are passed as objects; nothing is encoded, and nothing blocks. The owner calls `turn` after `poll` and `post`,
and passes the returned messages to the coordinator.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from jobrunner.nested.task_context import TASK_WORKER
from jobrunner.program.flags import Program
from jobrunner.protocol.effects import (
    Event,
    GiveUp,
    Log,
    Received,
    Send,
    SlotEvent,
    SlotPrinted,
    Source,
)
from jobrunner.protocol.session import COORDINATOR
from jobrunner.protocol.turn import Core, run_turn
from jobrunner.protocol.wire.ids import WorkerId, random_token
from jobrunner.protocol.wire.messages import Envelope
from jobrunner.protocol.worker.core import WorkerCore
from jobrunner.protocol.worker.settings import WorkerSettings
from jobrunner.shared_memory.limits import most_idle
from jobrunner.shared_memory.segment_pool import can_share
from jobrunner.system.host import own_host, python_version
from jobrunner.version import __version__
from jobrunner.workers.slot_effects import slot_effects
from jobrunner.workers.slot_pool import SlotPool

IN_PROCESS: Source = b"inside"
"""The coordinator's name for this connection; the names of connections of a `DealerWire` are longer."""

NAME = "local"

Text: TypeAlias = "tuple[int, str]"
"""A stream and a text."""


class Alarm:
    """The time of a core's next deadline, which is remembered because its computation takes a while."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._known = False
        self._deadline: float | None = None

    def reset(self) -> None:
        """Forget the time, because the core has had an event."""
        self._known = False

    def next_deadline(self) -> float | None:
        if not self._known:
            self._deadline, self._known = self._core.next_deadline(), True
        return self._deadline

    def rings(self, now: float) -> bool:
        deadline = self.next_deadline()
        return deadline is not None and deadline <= now


class InProcessWorker:
    """A worker's core and slots in the process of a coordinator; `on_give_up` is called when no slot can be started.

    `on_connect` is called when a call wants to make calls of its own, and returns the reason if that is impossible.
    `on_error` receives texts that the program's user should know although work goes on.
    """

    def __init__(
        self,
        slots: int,
        environment: Mapping[str, str],
        *,
        on_give_up: Callable[[GiveUp], None],
        on_connect: Callable[[], str],
        on_error: Callable[[Log], None],
        program: Program,
        exit_wait: float,
        max_tasks_per_slot: int | None = None,
    ) -> None:
        settings = WorkerSettings(
            id=WorkerId(random_token()),
            name=NAME,
            version=__version__,
            python=python_version(),
            host=own_host(),
            pid=os.getpid(),
            slots=slots,
            peer_timeout=0.0,
            exit_wait=exit_wait,
            max_tasks_per_slot=max_tasks_per_slot,
        )
        self._core = WorkerCore(settings, random.Random(), time.monotonic())
        self._alarm = Alarm(self._core)
        shared_idle = most_idle(slots) if can_share() else None
        self._pool = SlotPool(
            environment={**environment, TASK_WORKER: NAME},
            shared_idle=shared_idle,
            program=program,
            on_connect=on_connect,
        )
        self._perform: dict[type, Callable[[Any], None]] = {
            **slot_effects(self._pool),
            GiveUp: on_give_up,
            Log: self._log,
        }
        self._on_error = on_error
        self._inbox: list[Event] = []

    def _log(self, effect: Log) -> None:
        if effect.level == "error":  # other texts are about sessions, which have no meaning for a user here
            self._on_error(effect)

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when `poll` has something to do."""
        return self._pool.fileno()

    def pids(self) -> list[int]:
        """Return the process ids of the slots; any thread may call this."""
        return self._pool.pids()

    def has_work(self, now: float) -> bool:
        """Return whether `turn` has something to do."""
        return bool(self._inbox) or self._alarm.rings(now)

    def next_deadline(self) -> float | None:
        """Return the time of the next deadline; 0 means at once."""
        return 0.0 if self._inbox else self._alarm.next_deadline()

    def post(self, envelope: Envelope) -> None:
        """Pass a message of the coordinator to the core."""
        self._inbox.append(Received(COORDINATOR, envelope))

    def poll(self) -> None:
        """Read the events of the slots."""
        self._inbox += self._pool.poll()

    def turn(self, now: float) -> list[Event]:
        """Handle all events, and return the messages for the coordinator."""
        events, self._inbox = self._inbox, []
        effects = run_turn(self._core, events, now)
        self._alarm.reset()
        said: list[Event] = []
        for effect in effects:
            if type(effect) is Send:
                said.append(Received(IN_PROCESS, effect.envelope))
            elif type(effect) in self._perform:
                self._perform[type(effect)](effect)
        return said

    def close(self) -> None:
        """Kill the slots."""
        self._pool.close()

    def end(self, seconds: float, show: Callable[[list[Text]], None]) -> None:
        """Make the slots end by themselves within `seconds`; `show` receives the text that they print meanwhile."""

        def tell(events: list[SlotEvent]) -> None:
            texts = [
                (stream, text)
                for event in events
                if isinstance(event, SlotPrinted)
                for _, stream, text in event.printed
            ]
            if texts:
                show(texts)

        self._pool.end_all(seconds, tell)
