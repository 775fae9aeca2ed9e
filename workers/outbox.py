"""What a slot has to say: collected on the board, sent in batches, never torn and never out of order.

Also the text streams that replace sys.stdout and sys.stderr in a slot, which write into it.
"""

from __future__ import annotations

import io
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from jobrunner.workers.board import Board
from jobrunner.workers.channel import BlockingChannel
from jobrunner.workers.framing import PRINTED, Outgoing, header, pack

LONGEST_PART = 16 * 1024
"""Characters of one PRINTED item; also of a line that is not waited for any longer."""


class Outbox:
    """Entries from any thread. `put` keeps them for the next `flush`."""

    def __init__(self, board: Board, channel: BlockingChannel, wake: int) -> None:
        self._board = board
        self._channel = channel
        self._wake = wake
        self.lock = threading.RLock()
        """One for all that leads here. A destructor that prints may be called anywhere in any thread, also
        while it sends: with a lock of their own, the text streams would be locked in both orders."""
        self._waiting: deque[bytes] = deque()
        self._main = threading.get_ident()
        self._postponed = False
        self.busy = False
        """Whether some thread is inside; an exception out of a signal handler would tear a message then."""
        self.armed = False
        """Whether the attendant knows that something waits here."""

    def postpone_interrupt(self) -> None:
        """Raise this SIGINT again in the main thread as soon as nobody is inside."""
        self._postponed = True

    def put(self, item: list[Any]) -> None:
        """Add an item without buffers."""
        entry = pack(item)
        with self.lock:
            self._waiting.append(entry)
            if self.busy:
                return  # a destructor that prints, called from inside one of these methods, which goes on
            self.busy = True
            try:
                self._store_waiting()
            finally:
                self._leave()

    def flush(self) -> None:
        """Send all that was put."""
        self._send(b"", ())

    def send(self, item: list[Any], buffers: Sequence[Outgoing]) -> None:
        """Send all that was put, then an item with its buffers."""
        self._send(pack(item), buffers)

    def arm(self) -> None:
        """Have the attendant flush before long, in case the main thread does not come to it."""
        if not self.armed:
            self.armed = True
            os.write(self._wake, b"\0")

    def _send(self, entry: bytes, buffers: Sequence[Outgoing]) -> None:
        with self.lock:
            if self.busy:
                return
            self.busy = True
            try:
                self._send_board()
                if entry:
                    self._channel.send(header(entry), buffers)
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
                    self._channel.send(header(entry))

    def _send_board(self) -> None:
        count = self._board.count
        if count:
            self._channel.send(header(self._board.outbox(), count))
            self._board.empty()


class SlotWriter(io.TextIOBase):
    """sys.stdout or sys.stderr of a slot: whole lines, with the number of the task that wrote them.

    Lines of stderr are sent at once, since they may be the last words; those of stdout within milliseconds.
    """

    def __init__(self, stream: int, outbox: Outbox, current: Callable[[], int]) -> None:
        self._stream = stream
        self._outbox = outbox
        self._current = current
        self._partial = ""
        self.buffer: BinaryIO = open(stream, "wb", buffering=0, closefd=False)  # noqa: SIM115
        """For those who write bytes: they go through the pipe of that descriptor."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "replace"

    def fileno(self) -> int:
        return self._stream

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def close(self) -> None:
        """Does nothing: the next task needs it again."""

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        with self._outbox.lock:
            whole = text.rfind("\n") + 1
            if whole:
                # Taken before it is emitted, and without making an object in between that the garbage
                # collector counts: a destructor that prints comes in here again.
                ended, rest = text[:whole], text[whole:]
                lines, self._partial = self._partial + ended, rest
                self._emit(lines)
            else:
                self._partial += text
            if len(self._partial) >= LONGEST_PART:
                self.flush_partial()
        return len(text)

    def flush(self) -> None:
        self.flush_partial()

    def flush_partial(self) -> None:
        """Let go of a line that has not ended."""
        if self._partial:
            with self._outbox.lock:
                text, self._partial = self._partial, ""
                self._emit(text)

    def _emit(self, text: str) -> None:
        number = self._current()
        for start in range(0, len(text), LONGEST_PART):
            self._outbox.put([PRINTED, number, self._stream, text[start : start + LONGEST_PART]])
        if self._stream == 2:
            self._outbox.flush()
        else:
            self._outbox.arm()
