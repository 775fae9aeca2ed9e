"""Run calls of `concurrent.futures` programs on threads, processes or a cluster of hosts.

    from jobrunner import Executor, as_completed

    with Executor() as ex:
        futures = [ex.submit(f, x) for x in xs]
        for future in as_completed(futures):
            print(future.result())

An `Executor` has the interface of the standard library's executors; see `help(jobrunner.Executor)`. asyncio programs
use `AsyncExecutor`. A running task calls `current_task()` and `current_executor()`. All errors of jobrunner are
subclasses of `JobRunnerError`, see `help(jobrunner.errors)`. The names that programs import from `concurrent.futures`
beside a pool (`wait`, `as_completed`, `TimeoutError`, ...) are here, too.

The names in `__all__` are the public interface. Each is loaded at its first use, so that `import jobrunner` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from jobrunner.version import __version__

if TYPE_CHECKING:
    from concurrent.futures import BrokenExecutor, CancelledError, InvalidStateError, TimeoutError

    from jobrunner.async_executor import AsyncExecutor, AsyncFuture
    from jobrunner.context import Task, current_executor, current_task
    from jobrunner.errors import (
        AuthenticationError,
        ConfigError,
        CoordinatorLostError,
        CrashLimitError,
        DeadlockError,
        DependencyError,
        InitializerError,
        JobRunnerError,
        JournalError,
        NotPicklableError,
        NotSupportedError,
        ProtocolError,
        QuotaError,
        SerializationError,
        TaskLostError,
        TaskTimeoutError,
        WorkerLostError,
    )
    from jobrunner.executor import Executor
    from jobrunner.futures import (
        ALL_COMPLETED,
        FIRST_COMPLETED,
        FIRST_EXCEPTION,
        Future,
        as_completed,
        gather,
        wait,
    )
    from jobrunner.mapping.progress_bar import progress

_MODULES = {
    "concurrent.futures": ("BrokenExecutor", "CancelledError", "InvalidStateError", "TimeoutError"),
    "jobrunner.async_executor": ("AsyncExecutor", "AsyncFuture"),
    "jobrunner.context": ("Task", "current_executor", "current_task"),
    "jobrunner.errors": (
        "AuthenticationError",
        "ConfigError",
        "CoordinatorLostError",
        "CrashLimitError",
        "DeadlockError",
        "DependencyError",
        "InitializerError",
        "JobRunnerError",
        "JournalError",
        "QuotaError",
        "NotPicklableError",
        "NotSupportedError",
        "ProtocolError",
        "SerializationError",
        "TaskLostError",
        "TaskTimeoutError",
        "WorkerLostError",
    ),
    "jobrunner.executor": ("Executor",),
    "jobrunner.futures": (
        "ALL_COMPLETED",
        "FIRST_COMPLETED",
        "FIRST_EXCEPTION",
        "Future",
        "as_completed",
        "gather",
        "wait",
    ),
    "jobrunner.mapping.progress_bar": ("progress",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "ALL_COMPLETED",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "AsyncExecutor",
    "AsyncFuture",
    "AuthenticationError",
    "BrokenExecutor",
    "CancelledError",
    "ConfigError",
    "CoordinatorLostError",
    "CrashLimitError",
    "DeadlockError",
    "DependencyError",
    "Executor",
    "Future",
    "InitializerError",
    "InvalidStateError",
    "JobRunnerError",
    "JournalError",
    "NotPicklableError",
    "NotSupportedError",
    "ProtocolError",
    "QuotaError",
    "SerializationError",
    "Task",
    "TaskLostError",
    "TaskTimeoutError",
    "TimeoutError",
    "WorkerLostError",
    "__version__",
    "as_completed",
    "current_executor",
    "current_task",
    "gather",
    "progress",
    "wait",
]


def __getattr__(name: str) -> Any:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module 'jobrunner' has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
