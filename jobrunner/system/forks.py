"""Forks while other threads start processes or hold locks.

A process that is forked while another thread starts one inherits things that were meant for that one: the other end of
its sockets, and the pipe by which `subprocess` learns that it has begun, which then never ends. So no thread forks at
that time.

A lock that another thread holds at a fork would be held in the new process for ever, because that thread does not exist
there.
"""

from __future__ import annotations

import os
import signal
import threading
import weakref
from functools import cache
from typing import Any

no_forks = threading.RLock()
"""A lock for which `os.fork`, which multiprocessing uses too, waits. `subprocess` does not wait for it."""

os.register_at_fork(
    before=no_forks.acquire, after_in_parent=no_forks.release, after_in_child=no_forks.release
)

_locks: weakref.WeakSet[Any] = weakref.WeakSet()


def lock() -> threading.RLock:
    """Return a lock that is free in a forked process, unless the forking thread itself holds it.

    The lock is reentrant, because only such a lock knows its owner. Data that it guards may be incomplete in the new
    process, which must be harmless, or the data must be created anew there.
    """
    made = threading.RLock()
    _locks.add(made)
    return made


def _free_locks() -> None:
    for one in _locks:
        if not one._is_owned():
            one._at_fork_reinit()


os.register_at_fork(after_in_child=_free_locks)


@cache
def let_sigterm_end_children() -> None:
    """Let SIGTERM end processes that this one forks from now on at once, unless another handler has been set.

    For a process whose handler is its host's and not the program's: a child would inherit it, and a handler in Python
    misses a signal that comes while the child begins or is about to wait. `multiprocessing.Pool` sends its children
    only one SIGTERM, and waits for their end without limit.
    """
    inherited = signal.getsignal(signal.SIGTERM)
    masks = threading.local()

    def hold_back() -> None:
        masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def go_on() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.before)

    def begin() -> None:
        if signal.getsignal(signal.SIGTERM) is inherited:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        go_on()

    os.register_at_fork(before=hold_back, after_in_parent=go_on, after_in_child=begin)
