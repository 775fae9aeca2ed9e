"""The output of a call in an engine's worker, which is kept for the call's client.

Several calls may run in one process, each in a thread of its own, so `sys.stdout` and `sys.stderr` are replaced once by
streams that determine which call is writing. Output of C code and child processes goes to the descriptors, and is not
captured.
"""

from __future__ import annotations

import io
import sys
import threading
from types import TracebackType
from typing import Any, cast

from jobrunner.protocol.wire.messages import STDERR, STDOUT

LIMIT = 1_000_000
"""Maximum number of characters of one call's output that are kept, because they travel with its outcome."""


class Capture:
    """A context manager that captures output; `texts` returns it afterwards."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._pieces: list[tuple[int, str]] = []
        self._size = 0

    def __enter__(self) -> None:
        if self._wanted:
            _replace_streams()
            _local.capture = self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        _local.capture = None

    def add(self, number: int, text: str) -> None:
        room = LIMIT - self._size
        self._size += len(text)
        if room > 0:
            self._pieces.append((number, text[:room]))

    def texts(self) -> list[tuple[int, str]]:
        """Return pairs of stream and text; adjacent texts of one stream are joined."""
        texts: list[tuple[int, str]] = []
        for number, text in self._pieces:
            if texts and texts[-1][0] == number:
                texts[-1] = (number, texts[-1][1] + text)
            else:
                texts.append((number, text))
        if self._size > LIMIT:
            texts.append((STDERR, f"\n[{self._size - LIMIT} more characters were printed, and dropped]\n"))
        return texts


class _Local(threading.local):
    capture: Capture | None = None


_local = _Local()


class _Stream(io.TextIOBase):
    """A stream that writes to the call's capture, or else to the stream that was there before."""

    def __init__(self, number: int, before: Any) -> None:
        self._number = number
        self._before = before

    def write(self, text: str) -> int:
        capture = _local.capture
        if capture is None:
            return cast(int, self._before.write(text))
        capture.add(self._number, text)
        return len(text)

    def flush(self) -> None:
        if _local.capture is None:
            self._before.flush()

    def close(self) -> None:
        """Do nothing, because a call that closes its stdout must not close it for others."""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return cast(int, self._before.fileno())

    def isatty(self) -> bool:
        return False


def _replace_streams() -> None:
    if not isinstance(sys.stdout, _Stream):
        sys.stdout = _Stream(STDOUT, sys.stdout)
    if not isinstance(sys.stderr, _Stream):
        sys.stderr = _Stream(STDERR, sys.stderr)
