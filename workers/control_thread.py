"""The control thread of a slot, which obeys the worker while the main thread runs a task."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable

from jobrunner.workers.bundle import split_and_tell
from jobrunner.workers.channel import BlockingChannel
from jobrunner.workers.framing import CONNECT, DIVIDE, DIVIDED, INTERRUPT, RECALL, unpack
from jobrunner.workers.interrupts import RunningTask
from jobrunner.workers.lifetime_ties import die, die_with_parent, fail
from jobrunner.workers.outbox import Outbox
from jobrunner.workers.task_inbox import TaskInbox
from jobrunner.workers.yielding import Yielding

INTERVAL = 0.02
"""Interval in seconds at which the control thread sends the entries of the outbox while a task runs on."""


class ControlThread:
    """The control thread; it sleeps until a message comes, somebody writes to `wake`'s pipe, or a look is due.

    `interrupt` interrupts the task of a number, `answer` takes the worker's answer to CONNECT, and `look_after` looks
    after shared memory and returns the seconds until the next time.
    """

    def __init__(
        self,
        channel: BlockingChannel,
        wake: int,
        outbox: Outbox,
        *,
        running: RunningTask,
        inbox: TaskInbox,
        yielding: Yielding,
        interrupt: Callable[[int], None],
        answer: Callable[[str], None],
        look_after: Callable[[], float | None],
    ) -> None:
        self._channel = channel
        self._wake = wake
        self._outbox = outbox
        self._running = running
        self._inbox = inbox
        self._yielding = yielding
        self._interrupt = interrupt
        self._answer = answer
        self._look_after = look_after

    def start(self, parent: int) -> None:
        """Start the thread; `parent` is the process id of the worker, whose end is the end of this process."""
        threading.Thread(target=self._run, args=(parent,), name="jobrunner-control", daemon=True).start()

    def _run(self, parent: int) -> None:
        try:
            die_with_parent(parent)
            self._loop()
        except BaseException:
            fail()

    def _loop(self) -> None:
        poller = select.poll()
        poller.register(self._channel.fileno(), select.POLLIN)
        poller.register(self._wake, select.POLLIN)
        while True:
            times = [self._look_after(), *self._yielding.look(self._running.number)]
            if self._outbox.armed:
                times.append(INTERVAL)
            seconds = min((time for time in times if time is not None), default=None)
            for fd, _ in poller.poll(None if seconds is None else seconds * 1000):
                if fd == self._wake:
                    os.read(self._wake, 64)
                else:
                    self._obey()
            if self._outbox.armed:
                self._outbox.flush_armed()

    def _obey(self) -> None:
        message = self._channel.receive()
        if message is None:
            die()
        for kind, argument in unpack(message[0]):
            if kind == RECALL:
                self._recall(*argument)
            elif kind == DIVIDE:
                self._divide(argument)
            elif kind == CONNECT:
                self._answer(argument)
            elif kind == INTERRUPT:
                self._interrupt(argument)

    def _divide(self, number: int) -> None:
        """Give back the elements of a chunk that have not begun, if the chunk is running; answer in any case."""

        def tell(stop: int) -> None:
            self._outbox.tell([DIVIDED, [number, stop]])

        chunk = self._running.chunk
        if chunk is None or chunk.number != number or not chunk.give_back(tell):
            tell(0)

    def _recall(self, count: int, split: bool) -> None:
        """Give back the tasks that have not started among those of the first `count` RUN messages.

        With `split`, give back the calls of the running bundle, too.
        """
        if not self._inbox.read_up_to(count):
            die()
        self._inbox.give_back()
        bundle = self._running.bundle
        if split and bundle is not None:
            split_and_tell(bundle, self._outbox)
