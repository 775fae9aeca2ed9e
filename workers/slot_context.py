"""The context of the tasks of a slot: what a task may ask about itself, and where its own calls go."""

from __future__ import annotations

import os
import threading

from jobrunner.nested.task_context import TASK_ADDRESS, TASK_WORKER, Task
from jobrunner.system import conditions
from jobrunner.workers.crash_board import CrashBoard
from jobrunner.workers.framing import CONNECT
from jobrunner.workers.interrupts import Interrupts, RunningTask
from jobrunner.workers.outbox import Outbox


class SlotContext:
    """The context of all threads of a slot's process, see `task_context.Context`."""

    def __init__(
        self, board: CrashBoard, outbox: Outbox, running: RunningTask, interrupts: Interrupts
    ) -> None:
        self._board = board
        self._outbox = outbox
        self._running = running
        self._interrupts = interrupts
        self._asking = threading.Lock()
        self._may_connect = False
        """Whether the worker's coordinator listens, as far as is known; under `_asking`."""
        self._answered = conditions.Event()
        self._refusal = ""
        """The reason why this slot may not connect; the control thread sets it."""

    def task(self) -> Task | None:
        number, fields = self._board.number, self._running.fields
        if not number or self._outbox.forked:
            return None
        worker = os.environ.get(TASK_WORKER, "")
        task, bundle = fields[1], self._running.bundle
        if bundle is not None:
            from jobrunner.protocol.wire.ids import (
                call_id,  # imported here, because few slots need it, and the import takes long
            )

            task = call_id(task, bundle.index)
        return Task(task, fields[2], fields[3], worker, lambda: self._interrupts.asked_to_stop == number)

    def cluster(self) -> str:
        self._ask_to_connect()
        return os.environ[TASK_ADDRESS]

    def answer(self, refusal: str) -> None:
        """Take the worker's answer, which is empty if this slot may connect; the control thread calls this."""
        self._refusal = refusal
        self._answered.set()

    def _ask_to_connect(self) -> None:
        """Ask the worker to listen for connections, unless it does already; raise ConfigError if it cannot."""
        with self._asking:
            if self._may_connect:
                return
            self._answered.clear()
            self._outbox.tell([CONNECT, 1])
            self._answered.wait()
            if self._refusal:
                from jobrunner.errors import ConfigError

                raise ConfigError(self._refusal)
            self._may_connect = True
