"""How the code that waits for a Future tells its context that it is waiting.

A task that waits for tasks of its own would hold its slot idle, and with every slot waiting nothing could run. So a
slot (and a thread of the "threads" backend) installs a hook here, and every wait of this package goes through
`waiting()`: while it lasts, the task yields its slot to another one.

Waits of others (`concurrent.futures.wait`, `asyncio.wrap_future`) do not come through here, nor do those in threads
that a task has started. For them the context keeps an eye on the calls that its task has submitted: whoever has
unfinished ones is a `Caller`, and says when it gets its first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol, TypeAlias


class Awaited(NamedTuple):
    """What a wait without a time limit is for: nothing else ends it, but for an interrupt."""

    calls: list[str]
    """The ids of unfinished calls; there may be more of them, where all are needed."""
    every: bool
    """It takes the end of all of them; else that of any one."""


AwaitedCalls: TypeAlias = "Callable[[], Awaited | None]"
"""Asked from another thread while the wait lasts, without locks; None: that cannot be said."""


class Hook(Protocol):
    """Called in the waiting thread; the context lasts as long as the wait."""

    def __call__(self, awaited: AwaitedCalls | None = None) -> AbstractContextManager[None]: ...


class Until(Protocol):
    """Called in the waiting thread: returns when `ready()` holds, or after `timeout` seconds, or sooner."""

    def __call__(self, ready: Callable[[], bool], timeout: float | None) -> None: ...


class Caller(Protocol):
    """What submits calls that tasks may wait for, to the workers among which this process may be."""

    def unfinished_calls(self) -> list[str]:
        """The ids of its unfinished calls, from any thread."""


_local = threading.local()
_depth = 0
_watch: Callable[[Caller], None] | None = None


def install(hook: Hook | None) -> None:
    """Set the hook of the calling thread; None takes it away."""
    _local.hook = hook


def set_depth(depth: int) -> None:
    """Say how deep the calls are that the calling thread submits from now on: 1 in a task of a program, and so on."""
    _local.depth = depth


def set_depth_of_process(depth: int) -> None:
    """As `set_depth`, for all threads that have none of their own: those that a task starts, too."""
    global _depth
    _depth = depth


def depth() -> int:
    """The depth of calls that this thread submits: 0 in a program of its own."""
    return getattr(_local, "depth", _depth)


def watch_callers(watch: Callable[[Caller], None] | None) -> None:
    """Have `watch` called, in any thread, with each Caller that gets an unfinished call and had none; None: no more."""
    global _watch
    _watch = watch


def first_call(caller: Caller) -> None:
    """For Callers: an unfinished call comes, and there was none."""
    if _watch is not None:
        _watch(caller)


def waiting(awaited: AwaitedCalls | None = None) -> AbstractContextManager[None]:
    """Wraps every wait; does nothing outside a task. `awaited` tells what it is for, if that has no time limit."""
    hook: Hook | None = getattr(_local, "hook", None)
    return hook(awaited) if hook is not None else nullcontext()


def install_until(until: Until | None) -> None:
    """For contexts whose scheduler sees that a task waits only where the task waits for what the scheduler knows."""
    _local.until = until


def wait_until(ready: Callable[[], bool], timeout: float | None = None) -> float | None:
    """Inside of `waiting`, before the wait itself: lets the context wait in its own way, until it pleases to return.

    What is left of `timeout`, in seconds, for the wait itself.
    """
    until: Until | None = getattr(_local, "until", None)
    if until is None:
        return timeout
    started = time.monotonic()
    until(ready, timeout)
    return None if timeout is None else max(0.0, timeout - (time.monotonic() - started))
