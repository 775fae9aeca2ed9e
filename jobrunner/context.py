"""What a task can find out about itself: `current_task` and `current_executor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobrunner.nested.task_context import Task as Task
from jobrunner.nested.task_context import current_context
from jobrunner.nested.task_context import current_task as current_task

if TYPE_CHECKING:
    from jobrunner.executor import Executor


def current_executor() -> Executor:
    """An Executor for the very cluster (or pool) that this task runs on; its calls are this task's own.

    A task that waits for calls of its own yields its slot meanwhile, so that calls of calls, however deep, do not lock
    each other out. Raises RuntimeError outside of tasks.
    """
    context = current_context()
    if context is None or context.task() is None:
        raise RuntimeError(
            "current_executor() is for tasks, and this code is in none: make an Executor instead"
        )
    from jobrunner.executor import Executor, connect  # here: few tasks ask, and it takes long to import
    from jobrunner.protocol.wire.messages import DEFAULT_OPTIONS

    cluster = context.cluster()
    return connect(cluster, DEFAULT_OPTIONS) if isinstance(cluster, str) else Executor(cluster)
