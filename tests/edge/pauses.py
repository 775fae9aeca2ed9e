"""Locks, conditions, events and queues of jobrunner and `concurrent.futures` that switch threads around what they do.

A *place* is a line that uses one of them, and whether it is before or after. The seed decides at which places threads
are switched, and for how long others have the turn there. So a thread is held up again and again at a point where a
usual run lets it pass in nanoseconds, and the others meet what it has left half done.
"""

from __future__ import annotations

import queue
import random
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

MODULES = ("jobrunner", "concurrent.futures")
"""Whose locks these are."""

NOT_THESE = ("jobrunner.script",)
"""What pickles the program's locks tells them by their types."""

SECONDS = (0.0, 0.0, 0.0, 0.0002, 0.001, 0.004)
"""Of one pause. 0 gives the turn away."""

PAUSES_OF_PLACE = 200
"""So that a place in a loop does not take minutes."""


class Places:
    """Where to pause: `share` of the places."""

    def __init__(self, seed: str, share: float) -> None:
        self._seed = seed
        self._share = share
        self._known: dict[tuple[str, int, str], list[float]] = {}
        self.paused = 0

    def pass_by(self, frame: FrameType, what: str) -> None:
        try:
            place = (frame.f_code.co_filename, frame.f_lineno, what)
            known = self._known.get(place)
            if known is None:
                known = self._known[place] = self._decide(place)
            if known:
                self.paused += 1
                time.sleep(known.pop())
        except MemoryError:  # a real lock that has been taken raises nothing any more
            pass

    def _decide(self, place: tuple[str, int, str]) -> list[float]:
        name = place[0].rpartition("/")[2]
        rng = random.Random(f"{self._seed} {name} {place[1:]}")
        return [rng.choice(SECONDS)] * PAUSES_OF_PLACE if rng.random() < self._share else []


installed: Places
"""Those of this process, where it was started so."""


def of_caller(frame: FrameType) -> FrameType:
    """The one that uses the lock, not the methods of `threading` that are between."""
    while frame.f_back is not None and frame.f_globals.get("__name__") in ("threading", __name__):
        frame = frame.f_back
    return frame


def install(seed: str, share: float) -> Places:
    """Have modules that make such objects from now on make ours."""
    places = Places(seed, share)

    def before(what: str) -> None:
        places.pass_by(of_caller(sys._getframe(1)), f"before {what}")

    def after(what: str) -> None:
        places.pass_by(of_caller(sys._getframe(1)), f"after {what}")

    real_lock, real_rlock = threading.Lock, threading.RLock

    class Lock:
        def __init__(self) -> None:
            self._lock: Any = real_lock()

        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
            before("acquire")
            taken: bool = self._lock.acquire(blocking, timeout)
            after("acquire")
            return taken

        def release(self) -> None:
            before("release")
            self._lock.release()
            after("release")

        def locked(self) -> bool:
            return bool(self._lock.locked())

        def __enter__(self) -> bool:
            return self.acquire()

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            self.release()

        def _at_fork_reinit(self) -> None:
            self._lock._at_fork_reinit()

    class RLock(Lock):
        def __init__(self) -> None:
            self._lock = real_rlock()

        def _is_owned(self) -> bool:
            return bool(self._lock._is_owned())

        def _release_save(self) -> Any:
            before("wait")
            return self._lock._release_save()

        def _acquire_restore(self, state: Any) -> None:
            self._lock._acquire_restore(state)
            after("wait")

        def _recursion_count(self) -> int:
            return int(self._lock._recursion_count())

    class Condition(threading.Condition):
        def __init__(self, lock: Any = None) -> None:
            super().__init__(RLock() if lock is None else lock)

        def notify(self, n: int = 1) -> None:
            before("notify")
            super().notify(n)

    class Event(threading.Event):
        def set(self) -> None:
            before("set")
            super().set()
            after("set")

        def wait(self, timeout: float | None = None) -> bool:
            before("wait")
            happened = super().wait(timeout)
            after("wait")
            return happened

    class SimpleQueue(queue.SimpleQueue[Any]):
        def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
            before("put")
            super().put(item, block, timeout)
            after("put")

        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            before("get")
            return super().get(block, timeout)

    def class_for_ours(real: type[Any], ours: type[Any]) -> type[Any]:
        """A class, since our modules also derive from it: such a class is as it would be without this."""

        class Either(real):  # type: ignore[misc]
            def __new__(cls, *arguments: Any, **named: Any) -> Any:
                if cls is not Either:
                    return super().__new__(cls)
                return (ours if is_ours() else real)(*arguments, **named)

        def is_ours() -> bool:
            name = sys._getframe(2).f_globals.get("__name__", "")
            return name.startswith(MODULES) and not name.startswith(NOT_THESE)

        return Either

    def made_for_ours(real: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
        def make(*arguments: Any, **named: Any) -> Any:
            name = sys._getframe(1).f_globals.get("__name__", "")
            is_ours = name.startswith(MODULES) and not name.startswith(NOT_THESE)
            return (ours if is_ours else real)(*arguments, **named)

        return make

    module: Any = threading
    for real, ours in (
        (real_lock, Lock),
        (real_rlock, RLock),
    ):
        setattr(module, ours.__name__, made_for_ours(real, ours))
    for real_class, our_class in ((threading.Condition, Condition), (threading.Event, Event)):
        setattr(module, our_class.__name__, class_for_ours(real_class, our_class))
    module = queue
    module.SimpleQueue = made_for_ours(queue.SimpleQueue, SimpleQueue)
    return places
