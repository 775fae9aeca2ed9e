"""The printing of tasks' output, which a stuck terminal does not hold up.

The I/O thread hands text to a thread of its own and waits for it, so that a task's output precedes its result; but only
while that thread makes progress. When the reader of our stdout has stopped (a pager, a full pipe), text is collected up
to a limit, and text beyond that is dropped and counted.
"""

from __future__ import annotations

import sys
import threading
from collections import deque

from jobrunner.protocol.wire.messages import STDOUT

PATIENCE = 0.5
"""Time in seconds for which the I/O thread waits for text to be written before the reader counts as stuck."""

LIMIT = 1000
"""Maximum number of pieces of text that wait for a stuck reader."""


class Printer:
    """A printer for one thread, which calls `start`, then `show` any number of times, then `close`."""

    def __init__(self) -> None:
        self._texts: deque[tuple[int, str]] = deque()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="jobrunner-printer", daemon=True)
        self._closed = False
        self._stuck = False
        self._dropped = 0

    def start(self) -> None:
        """Start the thread now, and not with the first text, because Python 3.12 starts no thread while it ends."""
        self._thread.start()

    def show(self, texts: list[tuple[int, str]]) -> None:
        """Print pairs of stream and text, to sys.stdout and sys.stderr as they are at the time of writing."""
        with self._changed:
            room = LIMIT - len(self._texts)
            self._texts.extend(texts[:room])
            self._dropped += max(0, len(texts) - room)
            self._changed.notify_all()
            if not self._stuck:
                self._stuck = not self._changed.wait_for(lambda: not self._texts, PATIENCE)

    def close(self) -> None:
        """Write the remaining text, unless the reader is stuck."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.ident is not None:  # otherwise it could not be started
            self._thread.join(PATIENCE)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._texts or self._closed)
                if not self._texts:
                    return
                stream, text = self._texts[0]
                dropped, self._dropped = self._dropped, 0
            write(stream, text)
            if dropped:
                write(2, f"[{dropped} pieces of output were dropped: nobody read them]\n")
            with self._changed:
                self._texts.popleft()
                self._stuck = False
                self._changed.notify_all()


def write(stream: int, text: str) -> None:
    target = sys.stdout if stream == STDOUT else sys.stderr
    try:
        target.write(text)
        target.flush()
    except BaseException:
        pass  # it is closed, or raises whatever the program has put there, so the program's own print would fail, too
