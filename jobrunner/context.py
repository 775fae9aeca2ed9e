"""What a task can find out about itself: `current_task` and `current_executor`.

Code of tasks runs in a *context*: a slot's process has one for all its threads, a thread of the "threads" backend has
its own. It costs a task nothing unless it asks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from jobrunner.executor import Executor

TASK_ADDRESS = "JOBRUNNER_TASK_ADDRESS"
"""Environment variable of a slot: where its coordinator is."""

TASK_WORKER = "JOBRUNNER_TASK_WORKER"
"""Environment variable of a slot: the name of its worker."""


SLOT_FOLDER = "JOBRUNNER_SLOT_FOLDER"
"""Environment variable of a slot that starts: the path of a folder that it may make, and that its worker removes."""

slot_folder: str | None = None
"""That path, in a slot."""


@dataclass(frozen=True)
class Task:
    """The task that asks. Inside `map` it is a chunk, which runs several calls one after the other."""

    id: str
    name: str
    attempt: int
    """From 1. Id and attempt together name one execution: a key for what must not happen twice."""
    worker: str
    _asked: Callable[[], bool] = field(repr=False, compare=False, default=lambda: False)

    @property
    def cancel_requested(self) -> bool:
        """Whether it was to be stopped, by `cancel` or its time limit, and has caught the KeyboardInterrupt."""
        return self._asked()


class Context(Protocol):
    """Where tasks run."""

    def task(self) -> Task | None: ...
    def executor(self) -> Executor: ...


_local = threading.local()
_process: Context | None = None


def install_in_thread(context: Context | None) -> None:
    """Set the context of the calling thread."""
    _local.context = context


def install_in_process(context: Context | None) -> None:
    """Set the context of all threads that have none of their own."""
    global _process
    _process = context


def current_task() -> Task | None:
    """The task that this code is a part of; None outside of tasks."""
    context: Context | None = getattr(_local, "context", None) or _process
    return None if context is None else context.task()


def current_executor() -> Executor:
    """An Executor for the very cluster (or pool) that this task runs on; its calls are this task's own.

    A task that waits for calls of its own yields its slot meanwhile, so that calls of calls, however deep, do not lock
    each other out. Raises RuntimeError outside of tasks.
    """
    context: Context | None = getattr(_local, "context", None) or _process
    if context is None or context.task() is None:
        raise RuntimeError(
            "current_executor() is for tasks, and this code is in none: make an Executor instead"
        )
    return context.executor()
