"""sys.stdout and sys.stderr of a slot: the text streams of the standard library, above a sink that knows the task.

The bytes that a TextIOWrapper writes come to a `Sink`, which cuts them into whole lines and puts them into the outbox
with the number of the task that wrote them. So whatever a program does with a text stream (`reconfigure`, `detach`,
bytes for its `buffer`) it can do here.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Callable
from typing import Any, BinaryIO, TextIO

from jobrunner.workers.framing import PRINTED
from jobrunner.workers.outbox import Outbox

MAX_PART_BYTES = 16 * 1024
"""Maximum number of characters of one PRINTED item, and of bytes of a line that is held back."""


class Sink(io.BufferedIOBase):
    """The `buffer` of a slot's stream, which holds back an unfinished line until it is flushed.

    Lines of stderr are sent at once, because they may be the last output; those of stdout are sent within
    milliseconds.
    """

    def __init__(self, stream: int, outbox: Outbox, current: Callable[[], int], encoding: str) -> None:
        self._stream = stream
        self._outbox = outbox
        self._current = current
        self.partial = b""
        """The beginning of a line, which is held back."""
        self._raw: BinaryIO | None = None
        self.name = "<stdout>" if stream == 1 else "<stderr>"
        self.mode = "wb"
        self.write_through = False
        """Whether to hold nothing back."""
        self.gone = False
        """Whether it was closed, or given away by `detach`, so that the next task needs another one."""
        self.set_encoding(encoding)

    def set_encoding(self, encoding: str) -> None:
        """Set the encoding of the bytes from now on."""
        self._encoding = encoding
        self._is_utf8 = codecs.lookup(encoding).name == "utf-8"
        self._has_lines = "\n".encode(encoding) == b"\n"

    @property
    def raw(self) -> BinaryIO:
        """The descriptor itself; output that is written to it arrives, too, but not in order with the rest."""
        if self._raw is None:
            self._raw = open(self._stream, "wb", buffering=0, closefd=False)  # noqa: SIM115
        return self._raw

    def fileno(self) -> int:
        return self._stream

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return os.isatty(self._stream)

    def write(self, data: Any) -> int:
        if self.closed:
            raise ValueError("write to closed file")
        if isinstance(data, str):
            raise TypeError("a bytes-like object is required, not 'str'")
        written = bytes(data)
        with self._outbox.lock:
            whole = written.rfind(b"\n") + 1 if self._has_lines else len(written)
            if whole:
                # The line is removed before it is emitted, and no object that the garbage collector counts is
                # created in between, because a destructor that prints enters this method again.
                ended, rest = written[:whole], written[whole:]
                lines, self.partial = self.partial + ended, rest
                self._emit(lines.decode(self._encoding, "replace"))
            else:
                self.partial += written
            if self.partial and (self.write_through or len(self.partial) >= MAX_PART_BYTES):
                self.flush()
        return len(written)

    def flush(self) -> None:
        """Release an unfinished line, except for the first bytes of an unfinished character."""
        if self.partial:
            with self._outbox.lock:
                data, self.partial = self.partial, b""
                if self._is_utf8:
                    text, used = codecs.utf_8_decode(data, "replace", False)
                    if used < len(data):
                        self.partial = data[used:] + self.partial
                else:
                    text = data.decode(self._encoding, "replace")
                self._emit(text)

    def close(self) -> None:
        self.gone = True
        super().close()

    def end(self) -> None:
        """Release everything, because the task is over."""
        self.flush()
        if self.partial:
            with self._outbox.lock:
                data, self.partial = self.partial, b""
                self._emit(data.decode(self._encoding, "replace"))

    def forget(self) -> None:
        """Drop the unfinished line in a process that a task has forked, because the slot will print it."""
        self.partial = b""

    def _emit(self, text: str) -> None:
        if self._outbox.forked:
            left = memoryview(text.encode(self._encoding))
            while left:
                left = left[os.write(self._stream, left) :]
            return
        number = self._current()
        for start in range(0, len(text), MAX_PART_BYTES):
            self._outbox.put([PRINTED, number, self._stream, text[start : start + MAX_PART_BYTES]])
        if self._stream == 2:
            self._outbox.flush()
        else:
            self._outbox.arm()


class _HoldingSink(io.BufferedIOBase):
    """A sink as its TextIOWrapper sees it, whose flush after each line releases only whole lines."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.write = sink.write  # type: ignore[method-assign]
        self.fileno = sink.fileno  # type: ignore[method-assign]
        self.isatty = sink.isatty  # type: ignore[method-assign]
        self.name = sink.name
        self.owns = True
        """Whether the end of this object is the end of the sink."""

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        super().close()
        if self.owns:
            self.sink.close()


class SlotWriter(io.TextIOWrapper):
    """One of the two streams; it has the encoding of `like`, the stream that it replaces.

    It passes on all text at once, so that text and bytes keep their order; unfinished lines wait in the sink.
    """

    mode = "w"

    def __init__(
        self, stream: int, outbox: Outbox, current: Callable[[], int], like: TextIO | None = None
    ) -> None:
        encoding = getattr(like, "encoding", None) or "utf-8"
        errors = getattr(like, "errors", None) or ("strict" if stream == 1 else "backslashreplace")
        self.sink = Sink(stream, outbox, current, encoding)
        super().__init__(
            _HoldingSink(self.sink),
            encoding,
            errors,
            newline="\n",
            line_buffering=True,
            write_through=True,
        )

    @property
    def buffer(self) -> BinaryIO:
        held: Any = super().buffer
        found: BinaryIO = held and held.sink  # None after `detach`
        return found

    @property
    def write_through(self) -> bool:
        return self.sink.write_through

    def flush(self) -> None:
        super().flush()
        self.sink.flush()

    def reconfigure(self, *, write_through: bool | None = None, **changes: Any) -> None:
        super().reconfigure(**changes)
        if write_through is not None:
            self.sink.write_through = bool(write_through)
        self.sink.set_encoding(self.encoding)

    def detach(self) -> BinaryIO:
        held = super().detach()
        assert isinstance(held, _HoldingSink)
        held.owns, self.sink.gone = False, True
        return self.sink  # type: ignore[return-value]


def flush_quietly(stream: Any) -> None:
    """Flush an object that a task has assigned to one of the streams, which may be anything, and ignore its errors."""
    try:
        stream.flush()
    except BaseException:
        pass


class SlotStreams:
    """The two streams of a slot; tasks may assign others to `sys`, and get these again before the next task."""

    def __init__(self, outbox: Outbox, current: Callable[[], int]) -> None:
        self._outbox = outbox
        self._current = current
        self.renew()

    def renew(self) -> None:
        """Create a new pair, because a task has closed or detached one of them."""
        self.stdout = SlotWriter(1, self._outbox, self._current, sys.__stdout__)
        self.stderr = SlotWriter(2, self._outbox, self._current, sys.__stderr__)

    def end_task(self) -> None:
        """Release all that the task has written, also to streams of its own."""
        if sys.stdout is not self.stdout:
            flush_quietly(sys.stdout)
        if sys.stderr is not self.stderr:
            flush_quietly(sys.stderr)
        for sink in (self.stdout.sink, self.stderr.sink):
            if sink.partial:
                sink.end()

    def leave_to_parent(self) -> None:
        """Give a process that a task has forked the streams of the interpreter, unless the task prints elsewhere."""
        if sys.stdout is self.stdout:
            sys.stdout = sys.__stdout__
        if sys.stderr is self.stderr:
            sys.stderr = sys.__stderr__
        self.stdout.sink.forget()
        self.stderr.sink.forget()
