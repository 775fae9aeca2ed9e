"""The outbox of a slot: entries are collected on the crash board, sent in batches, and never torn or reordered."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

from jobrunner.system import forks
from jobrunner.workers.channel import BlockingChannel
from jobrunner.workers.crash_board import CrashBoard
from jobrunner.workers.framing import Outgoing, header, pack


class Outbox:
    """The outbox, which takes entries from any thread; `put` keeps them for the next `flush`."""

    def __init__(self, board: CrashBoard, channel: BlockingChannel, wake: int) -> None:
        self._board = board
        self._channel = channel
        self._wake = wake
        self.lock = forks.lock()
        """The lock of everything that leads to the outbox. A destructor that prints may be called anywhere in any
        thread, also while it sends; with separate locks, the locks of the text streams would be acquired in both
        orders."""
        self._waiting: deque[bytes] = deque()
        self._main = threading.get_ident()
        self._postponed = False
        self.busy = False
        """Whether a thread is inside, so that the exception of a signal handler would tear a message."""
        self.forked = False
        """Whether a task has forked this process, so that nothing may be put here, because the board is the slot's."""
        self.armed = False
        """Whether the control thread knows that entries wait here."""

    def postpone_interrupt(self) -> None:
        """Raise this SIGINT again in the main thread when no thread is inside."""
        self._postponed = True

    def put(self, item: list[Any]) -> None:
        """Add an item without buffers."""
        entry = pack(item)
        with self.lock:
            self._waiting.append(entry)
            if self.busy:
                # a destructor prints while one of these methods, which continues afterwards, has been entered already
                return
            self.busy = True
            try:
                self._store_waiting()
            finally:
                self._leave()

    def tell(self, item: list[Any]) -> None:
        """Add an item without buffers, and send all entries that were put."""
        self.put(item)
        self.flush()

    def flush(self) -> None:
        """Send all entries that were put."""
        self._send(b"", ())

    def send(self, item: list[Any], buffers: Sequence[Outgoing]) -> None:
        """Send all entries that were put, then an item with its buffers."""
        self._send(pack(item), buffers)

    def arm(self) -> None:
        """Make the control thread flush soon, in case the main thread does not."""
        if not self.armed:
            self.armed = True
            os.write(self._wake, b"\0")

    def flush_armed(self) -> None:
        """Send the entries for which this was armed; the control thread calls this."""
        # Disarm before the look, because a thread that puts an entry after the look arms again.
        self.armed = False
        if self._board.count:
            self.armed = True
            self.flush()

    def leave_to_parent(self) -> None:
        """Note that this process was forked by a task, and that the board and the channel are the slot's."""
        self.forked = True

    def _send(self, entry: bytes, buffers: Sequence[Outgoing]) -> None:
        with self.lock:
            if self.busy:
                return
            self.busy = True
            try:
                self._send_board()
                if entry:
                    self._send_entry(entry, buffers)
                while self._waiting:
                    self._store_waiting()
                    self._send_board()
            finally:
                self._leave()

    def _leave(self) -> None:
        self.busy = False
        if self._postponed:
            self._postponed = False
            signal.pthread_kill(self._main, signal.SIGINT)

    def _store_waiting(self) -> None:
        while self._waiting:
            entry = self._waiting.popleft()
            if not self._board.add(entry):
                self._send_board()
                if not self._board.add(entry):
                    self._send_entry(entry, ())

    def _send_board(self) -> None:
        count = self._board.count
        if count:
            self._channel.send(header(self._board.outbox(), count))
            self._board.empty(count)

    def _send_entry(self, entry: bytes, buffers: Sequence[Outgoing]) -> None:
        """Send one entry that does not use the crash board."""
        self._channel.send(header(entry), buffers)
        self._board.note_sent(1)
