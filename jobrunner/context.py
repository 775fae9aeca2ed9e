"""Access for a running task to itself and to its cluster: `current_task` and `current_executor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobrunner.nested.task_context import Task as Task
from jobrunner.nested.task_context import current_context
from jobrunner.nested.task_context import current_task as current_task

if TYPE_CHECKING:
    from jobrunner.executor import Executor


def current_executor() -> Executor:
    """Return an Executor for the cluster or pool on which this task runs.

    A task that waits for calls of its own yields its slot meanwhile, so nested calls of any depth cannot block each
    other.

    Raises:
        RuntimeError: The code that calls this is not part of a task.
    """
    context = current_context()
    if context is None or context.task() is None:
        raise RuntimeError("current_executor() was called outside of a task; create an Executor instead")
    from jobrunner.executor import Executor, connect  # here: few tasks ask, and it takes long to import
    from jobrunner.protocol.wire.messages import DEFAULT_OPTIONS

    cluster = context.cluster()
    return connect(cluster, DEFAULT_OPTIONS) if isinstance(cluster, str) else Executor(cluster)
