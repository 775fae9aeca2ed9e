"""`__main__` in a process that runs calls of several programs at a time, each in a thread: each thread has its own.

`sys.modules` has one `__main__` for all threads. Here that is a module without contents of its own, which stands for
the one that the calling thread has entered. A thread that has entered none, one that a call has started say, gets what
was entered last.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from jobrunner.system import forks


class _Thread(threading.local):
    module: ModuleType | None = None


_thread = _Thread()
_divided = False
_main: MainOfThread | None = None
_before: ModuleType | None = None
"""What was there before `_main`."""
_last: ModuleType | None = None
_lock = forks.lock()


class MainOfThread(ModuleType):
    """Whatever is done to it is done to the module of the calling thread."""

    def __getattribute__(self, name: str) -> Any:
        return getattr(module_of_thread(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(module_of_thread(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(module_of_thread(), name)

    def __dir__(self) -> Iterable[str]:
        return dir(module_of_thread())

    def __repr__(self) -> str:
        return repr(module_of_thread())


def divide() -> None:
    """From now on each thread of this process has a `__main__` of its own, once a script is entered."""
    global _divided
    _divided = True


def enter(module: ModuleType) -> bool:
    """Make it the one of the calling thread; False where threads have none of their own."""
    global _main, _before, _last
    if not _divided:
        return False
    _thread.module = _last = module
    with _lock:
        if _main is None:
            _before = sys.modules["__main__"]
            _main = MainOfThread("__main__")
        if sys.modules.get("__main__") is not _main:
            sys.modules["__main__"] = _main
    return True


def leave() -> None:
    """Let the calling thread have what this process has had at first."""
    _thread.module = _before


def entered() -> ModuleType | None:
    """What the calling thread has entered, if it has."""
    return _thread.module


def module_of_thread() -> ModuleType:
    """What the calling thread has as `__main__`. Only where one has been entered."""
    module = _thread.module or _last
    assert module is not None
    return module


@contextmanager
def within(module: ModuleType | None) -> Iterator[None]:
    """Let the calling thread have that one meanwhile; None: what it has."""
    before = _thread.module
    if module is not None:
        _thread.module = module
    try:
        yield
    finally:
        _thread.module = before
