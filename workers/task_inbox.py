"""The messages that a slot gets over its data socket: tasks, their functions, and what has changed in the program."""

from __future__ import annotations

import importlib
import select
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from jobrunner.program.takeover import take_key
from jobrunner.protocol.wire.payloads import Payload
from jobrunner.workers.channel import BlockingChannel
from jobrunner.workers.framing import RETURNED, attach, unpack
from jobrunner.workers.outbox import Outbox
from jobrunner.workers.slot_functions import SlotFunctions


class ToldProgram:
    """The module path, the key and the configuration of the program, as this process was last told."""

    def __init__(self) -> None:
        self._path = list(sys.path)
        self._configuration = ""

    def hear(self, path: list[str], authkey: bytes, configuration: str) -> None:
        """Take over the program's present module path, key and configuration.

        Entries that calls have added to the module path here stay in front of the program's entries.
        """
        if path != self._path:
            added = [entry for entry in sys.path if entry not in self._path]
            sys.path[:] = [*added, *path]
            self._path = path
            importlib.invalidate_caches()
        if authkey:
            take_key(authkey)
        if configuration != self._configuration:
            from jobrunner.program import (
                configuration as configured,  # imported here, because most programs have configured nothing
            )

            self._configuration = configuration
            configured.configure(configuration)


class TaskInbox:
    """The tasks that have arrived and not begun. The main thread waits for messages, and either thread reads them."""

    def __init__(
        self,
        channel: BlockingChannel,
        outbox: Outbox,
        functions: SlotFunctions,
        hear: Callable[[list[str], bytes, str], None],
    ) -> None:
        self.queue: deque[tuple[list[Any], Payload, list[Payload]]] = deque()
        """Each task's fields, payload and dependency results; a thread that has removed an entry owns it."""
        self._channel = channel
        self._outbox = outbox
        self._functions = functions
        self._hear = hear
        self._poller = select.poll()
        self._poller.register(channel.fileno(), select.POLLIN)
        self._lock = threading.Lock()
        self._received = 0
        """The number of messages so far; under the lock."""

    def wait(self) -> bool:
        """Wait for a message, and handle it unless the control thread did; return False at the end."""
        before = self._received
        self._poller.poll()
        with self._lock:
            return self._receive() if self._received == before else True

    def read_up_to(self, count: int) -> bool:
        """Handle the first `count` messages, as far as that was not done; return False at the end."""
        while True:
            with self._lock:
                if self._received >= count:
                    return True
                if not self._receive():
                    return False

    def give_back(self) -> None:
        """Give back the tasks that have not started; both threads call this."""
        numbers = []
        while self.queue:
            try:
                numbers.append(self.queue.popleft()[0][0])
            except IndexError:  # the other thread took the last item
                break
        self._outbox.tell([RETURNED, numbers])

    def _receive(self) -> bool:
        """Handle one message, with the lock held; return False at the end."""
        message = self._channel.receive()
        if message is None:
            return False
        header, buffers = message
        parts = iter(buffers)
        for _, functions, to_drop, tasks, told in unpack(header):
            if told is not None:
                self._hear(*told)
            for key in to_drop:
                self._functions.drop(key)
            for key, name, blob, keys in functions:
                self._functions.add(key, name, attach(blob, parts), keys)
            for fields in tasks:
                payload = attach(fields[5], parts)
                self.queue.append((fields, payload, [attach(value, parts) for value in fields[9]]))
        self._received += 1
        return True
