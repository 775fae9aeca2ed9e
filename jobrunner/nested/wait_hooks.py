"""The hook by which code that waits for a Future tells its context so.

If a task that waits for tasks of its own kept its slot, the slot would be idle, and if every slot waited nothing could
run. So a slot (and a thread of the "threads" backend) installs a hook here, and every wait of this package goes through
`waiting()`: while it lasts, the task yields its slot to another one.

Other waits (`concurrent.futures.wait`, `asyncio.wrap_future`) do not go through this module, nor do those in threads
that a task has started. For them the context watches the calls that its task has submitted: a submitter with unfinished
calls is a `Caller`, and reports its first one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol, TypeAlias


class Awaited(NamedTuple):
    """The purpose of a wait without a time limit, which only the awaited calls or an interrupt can end."""

    calls: list[str]
    """The ids of unfinished calls; there may be more of them if all are needed."""
    every: bool
    """Whether the wait ends when all of the calls have ended; else any one of them ends it."""


AwaitedCalls: TypeAlias = "Callable[[], Awaited | None]"
"""A function that other threads call during the wait, without locks; it returns None if the purpose is unknown."""


class Hook(Protocol):
    """A function that is called in the waiting thread; its context lasts as long as the wait."""

    def __call__(self, awaited: AwaitedCalls | None = None) -> AbstractContextManager[None]: ...


class Until(Protocol):
    """A function that is called in the waiting thread.

    It returns if `ready()` holds, after `timeout` seconds, or sooner.
    """

    def __call__(self, ready: Callable[[], bool], timeout: float | None) -> None: ...


class Caller(Protocol):
    """A submitter of calls for which tasks may wait, to the workers to which this process may belong."""

    def unfinished_calls(self) -> list[str]:
        """Return the ids of its unfinished calls; any thread may call this."""


_local = threading.local()
_depth = 0
_watch: Callable[[Caller], None] | None = None


def install(hook: Hook | None) -> None:
    """Set the hook of the calling thread; None removes it."""
    _local.hook = hook


def set_depth(depth: int) -> None:
    """Set the depth of the calls that the calling thread submits from now on: 1 in a task of a program, and so on."""
    _local.depth = depth


def set_depth_of_process(depth: int) -> None:
    """Set the depth for all threads that have none of their own, including those that a task starts."""
    global _depth
    _depth = depth


def depth() -> int:
    """Return the depth of the calls that this thread submits; it is 0 in a program."""
    return getattr(_local, "depth", _depth)


def watch_callers(watch: Callable[[Caller], None] | None) -> None:
    """Call `watch`, in any thread, with each Caller that gets its first unfinished call; None ends this."""
    global _watch
    _watch = watch


def first_call(caller: Caller) -> None:
    """Report, for a Caller, an unfinished call when there was none."""
    if _watch is not None:
        _watch(caller)


def waiting(awaited: AwaitedCalls | None = None) -> AbstractContextManager[None]:
    """Return the context of a wait, which has no effect outside of tasks.

    `awaited` tells its purpose if it has no limit.
    """
    hook: Hook | None = getattr(_local, "hook", None)
    return hook(awaited) if hook is not None else nullcontext()


def install_until(until: Until | None) -> None:
    """Install, for a context whose scheduler must see the waits of a task, the function that waits in its way."""
    _local.until = until


def wait_until(ready: Callable[[], bool], timeout: float | None = None) -> float | None:
    """Let the context wait in its own way, inside of `waiting` and before the wait itself.

    Returns the rest of `timeout`, in seconds, for the wait itself.
    """
    until: Until | None = getattr(_local, "until", None)
    if until is None:
        return timeout
    started = time.monotonic()
    until(ready, timeout)
    return None if timeout is None else max(0.0, timeout - (time.monotonic() - started))
