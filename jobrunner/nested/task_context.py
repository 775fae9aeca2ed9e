"""The context in which code of a task runs: one for all threads of a slot's process, one for each thread of "threads".

It costs a task nothing unless it asks; what a task may ask is in `context`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

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

    def cluster(self) -> str | Any:
        """Where the task's own calls go: the address of a coordinator, or a Backend of this process."""


_local = threading.local()
_process: Context | None = None


def install_in_thread(context: Context | None) -> None:
    """Set the context of the calling thread."""
    _local.context = context


def install_in_process(context: Context | None) -> None:
    """Set the context of all threads that have none of their own."""
    global _process
    _process = context


def current_context() -> Context | None:
    """The context of the calling thread, else that of its process; None where no task runs."""
    return getattr(_local, "context", None) or _process


def current_task() -> Task | None:
    """The task that this code is a part of; None outside of tasks."""
    context = current_context()
    return None if context is None else context.task()
