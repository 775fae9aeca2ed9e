"""A `__main__` for each thread, in a process that runs calls of several programs at a time.

`sys.modules` has one `__main__` for all threads. In such a process that is a module without contents, which forwards to
the module that the calling thread has entered. A thread that has entered none, for example one that a call has started,
gets the module that was entered last.
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
"""The module that was `__main__` before `_main`."""
_last: ModuleType | None = None
_lock = forks.lock()


class MainOfThread(ModuleType):
    """A module that forwards every access to the module of the calling thread."""

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
    """Let each thread of this process have its own `__main__`, as soon as a script is entered."""
    global _divided
    _divided = True


def enter(module: ModuleType) -> bool:
    """Make `module` the `__main__` of the calling thread; return False if threads have none of their own."""
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
    """Give the calling thread the `__main__` that this process had at first."""
    _thread.module = _before


def entered() -> ModuleType | None:
    """Return the module that the calling thread has entered, or None."""
    return _thread.module


def module_of_thread() -> ModuleType:
    """Return the `__main__` of the calling thread. Call it only after one has been entered."""
    module = _thread.module or _last
    assert module is not None
    return module


@contextmanager
def within(module: ModuleType | None) -> Iterator[None]:
    """Give the calling thread `module` as its `__main__` for the duration of the block; None changes nothing."""
    before = _thread.module
    if module is not None:
        _thread.module = module
    try:
        yield
    finally:
        _thread.module = before
