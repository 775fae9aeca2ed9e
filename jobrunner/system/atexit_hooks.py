"""Work that is finished before the interpreter ends, and steps that are all taken whatever one of them raises."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import weakref
from collections.abc import Callable

STANDARD_POOLS = ("concurrent.futures.thread", "concurrent.futures.process")
"""Modules that register, when they are imported, the functions that end their pools at the exit."""

_numbers = itertools.count()
_registered: dict[
    int, tuple[weakref.WeakMethod[Callable[[], None]], weakref.WeakMethod[Callable[[], None]]]
] = {}
"""The methods to call, in the order of their registration: at a usual end, and if Ctrl-C ends the program."""

_hooked_behind: set[str] = set()
"""The STANDARD_POOLS that were registered when our hook last was; with "" once our hook is registered at all."""

if hasattr(os, "register_at_fork"):  # work that was begun in another process is not finished in this one
    os.register_at_fork(after_in_child=_registered.clear)


def finish_before_exit(finish: Callable[[], None], give_up: Callable[[], None]) -> None:
    """Call a bound method when the interpreter exits, while threads can still be started; waits belong there.

    `give_up`, a method of the same object, is called instead when Ctrl-C ends the program, because nobody waits for the
    work then. The object is not kept alive by this. The last registered method is called first, and before the standard
    pools end, so that these still take work. `atexit` comes too late for both. This has no effect when the exit has
    begun, or in a process that was forked from this one, which has no threads to do the work.
    """
    number = next(_numbers)
    _registered[number] = (
        weakref.WeakMethod(finish, lambda _: _registered.pop(number, None) and None),
        weakref.WeakMethod(give_up),
    )
    behind = {"", *(name for name in STANDARD_POOLS if name in sys.modules)}
    if behind <= _hooked_behind:
        return
    try:  # this function is private, and the standard pools use it themselves
        threading._register_atexit(finish_now)  # type: ignore[attr-defined]
    except RuntimeError:
        return
    _hooked_behind.update(behind)


def finish_now() -> None:
    """Finish the work now, for programs at whose end something that it needs is gone before the interpreter exits."""
    while _registered:
        try:
            finish, give_up = _registered.popitem()[1]
        except KeyError:  # it was the last one, and its object has just gone
            return
        method = give_up() if ended_by_ctrl_c() else finish()
        if method is not None:
            method()


def ended_by_ctrl_c() -> bool:
    """Return whether an uncaught KeyboardInterrupt ends the program, which it never does in a REPL."""
    uncaught = getattr(sys, "last_type", None)
    return uncaught is not None and issubclass(uncaught, KeyboardInterrupt) and not hasattr(sys, "ps1")


def do_all(*steps: Callable[[], object]) -> None:
    """Take each of these steps in turn, whatever others raise; one that raises is tried once more.

    After the last step, the exception of the first one that failed twice is raised.
    """
    failures: list[BaseException] = []
    for step in steps:
        try:
            step()
        except BaseException:
            try:
                step()
            except BaseException as exc:
                failures.append(exc)
    try:
        for failure in failures:
            raise failure
    finally:
        del failures  # the exceptions know this frame, which would know them
