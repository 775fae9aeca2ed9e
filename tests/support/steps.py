"""Raises an exception at a chosen step of a thread, or does something: before the n-th line that it runs of some files.

What comes by itself at any line (Ctrl-C, too little memory, an exception that a library raises in another thread)
comes here at each line in turn, and the same one every time.
"""

from __future__ import annotations

import linecache
import sys
import threading
from contextlib import contextmanager


class Killed(BaseException):
    """What ends a thread; nobody expects it."""


class Steps:
    """Counts the lines that threads run of `modules`, and raises `error` once, before line number `at`, or calls `act`.

    Not at `try:`, where nothing is done, nor where a `with` block is left: the interpreter raises nothing there before
    the end of the block has been called.
    """

    def __init__(self, modules, at=0, error=Killed, threads="", act=None, edges=False):
        """`threads`: how the names begin of those where it may be. `edges`: the beginning and the end of a function
        are steps, too."""
        self._files = {module.__file__ for module in modules}
        self._threads = threads
        self._at = at
        self._error = error
        self._act = act
        self._edges = edges
        self.count = 0
        self.place = ""
        """Where it was raised; empty: nowhere, there were fewer lines."""

    def trace(self, frame, event, argument):
        """For `sys.settrace` or `threading.settrace`."""
        if frame.f_code.co_filename not in self._files or self.place:
            return None
        if not threading.current_thread().name.startswith(self._threads):
            return None
        begun: set[int] = set()

        def line(frame, event, argument):
            if self._edges and event == "return":
                self.step(frame, "return")
            if event != "line" or self.place:
                return line
            number = frame.f_lineno
            text = linecache.getline(frame.f_code.co_filename, number).strip()
            leaves = text.startswith("with ") and number in begun
            if text.startswith("with "):
                begun.symmetric_difference_update([number])
            if not leaves and text != "try:":
                self.step(frame, text)
            return line

        if self._edges:
            self.step(frame, "call")
        return line

    def step(self, frame, what):
        """Count it; it may be the chosen one."""
        if self.place:
            return
        self.count += 1
        if self.count == self._at:
            self.place = f"{frame.f_code.co_filename}:{frame.f_lineno}: {frame.f_code.co_name}: {what}"
            if self._act is None:
                raise self._error
            self._act()

    @contextmanager
    def here(self):
        """Count, and raise, in this thread while the block runs."""
        before = sys.gettrace()
        sys.settrace(self.trace)
        try:
            yield self
        finally:
            sys.settrace(before)
