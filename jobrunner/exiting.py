"""Work that is finished before the interpreter ends."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable

_at_exit: list[Callable[[], None]] = []


def finish_before_exit(finish: Callable[[], None], give_up: Callable[[], None]) -> None:
    """Call a bound method when the interpreter exits, while threads can still be started; waits belong there.

    `give_up`, a method of the same object, is called instead when Ctrl-C ends the program: nobody waits for the
    work then. The object is not kept alive by this. What was registered last is called first, and the standard pools
    register when they are imported, so they still take work then. `atexit` comes too late for both. Does
    nothing when the exit has begun.
    """
    finish_reference, give_up_reference = weakref.WeakMethod(finish), weakref.WeakMethod(give_up)

    def at_exit() -> None:
        method = give_up_reference() if ended_by_ctrl_c() else finish_reference()
        if method is not None:
            method()

    _at_exit.append(at_exit)
    try:  # private, and what the standard pools use themselves
        threading._register_atexit(at_exit)  # type: ignore[attr-defined]
    except RuntimeError:
        pass


def finish_now() -> None:
    """Do it: for programs at whose end something that the work needs is gone before the interpreter exits."""
    while _at_exit:
        _at_exit.pop()()


def ended_by_ctrl_c() -> bool:
    """Whether an uncaught KeyboardInterrupt ends the program. In a REPL, which goes on after one, it never does."""
    uncaught = getattr(sys, "last_type", None)
    return uncaught is not None and issubclass(uncaught, KeyboardInterrupt) and not hasattr(sys, "ps1")
