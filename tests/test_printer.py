"""What calls print, where the program's own streams raise."""

from __future__ import annotations

import io
import sys

import pytest

from jobrunner.display.printer import Printer
from jobrunner.protocol.wire.messages import STDOUT


class Failing(io.StringIO):
    """Its first write raises."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.error: type[BaseException] | None = error

    def write(self, text: str) -> int:
        error, self.error = self.error, None
        if error is not None:
            raise error("the program's own")
        return super().write(text)


@pytest.mark.parametrize("error", [OSError, RuntimeError, MemoryError, SystemExit, KeyboardInterrupt])
def test_a_stream_that_raises_costs_that_text_and_no_more(monkeypatch, error):
    stream = Failing(error)
    monkeypatch.setattr(sys, "stdout", stream)
    printer = Printer()
    printer.start()
    printer.show([(STDOUT, "one\n")])
    printer.show([(STDOUT, "two\n"), (STDOUT, "three\n")])
    printer.close()
    assert not printer._thread.is_alive()
    assert stream.getvalue() == "two\nthree\n"
