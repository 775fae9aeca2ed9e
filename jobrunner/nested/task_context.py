"""The context in which code of a task runs: one for all threads of a slot's process, one for each thread of "threads".

A context costs a task nothing unless the task asks for it. `jobrunner.context` has the public functions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

TASK_ADDRESS = "JOBRUNNER_TASK_ADDRESS"
"""Environment variable of a slot: the address of its coordinator."""

TASK_WORKER = "JOBRUNNER_TASK_WORKER"
"""Environment variable of a slot: the name of its worker."""


SLOT_FOLDER = "JOBRUNNER_SLOT_FOLDER"
"""Environment variable of a starting slot: the path of a folder that it may create and that its worker removes."""

slot_folder: str | None = None
"""The value of SLOT_FOLDER in a slot; None elsewhere."""


@dataclass(frozen=True)
class Task:
    """A running task, as `current_task()` returns it.

    Inside `map` the task is a chunk, which runs several calls one after the other.
    """

    id: str
    """The task id, which is `Future.id` for a call of `submit`."""
    name: str
    """The name of the call: the option `name`, or else the function's qualified name."""
    attempt: int
    """The number of this attempt, starting at 1; `id` and `attempt` together identify one execution."""
    worker: str
    """The name of the worker that runs the task."""
    _asked: Callable[[], bool] = field(repr=False, compare=False, default=lambda: False)

    @property
    def cancel_requested(self) -> bool:
        """Whether the task must stop: it was cancelled or exceeded its time limit, and caught KeyboardInterrupt."""
        return self._asked()


class Context(Protocol):
    """The environment in which tasks run."""

    def task(self) -> Task | None: ...

    def cluster(self) -> str | Any:
        """Return the destination of the task's own calls: a coordinator's address, or a Backend of this process."""


_local = threading.local()
_process: Context | None = None


def install_in_thread(context: Context | None) -> None:
    """Set the context of the calling thread."""
    _local.context = context


def install_in_process(context: Context | None) -> None:
    """Set the context of all threads that have no context of their own."""
    global _process
    _process = context


def current_context() -> Context | None:
    """Return the context of the calling thread, else that of its process; None if no task runs here."""
    return getattr(_local, "context", None) or _process


def current_task() -> Task | None:
    """Return the Task that the calling code is part of, or None outside of tasks."""
    context = current_context()
    return None if context is None else context.task()
