"""The standard library's two executors, as this project stands in for them in the interpreter's own tests.

They take what the standard constructors take, in the same order, and hand it to `Executor`. Programs that those tests
start import this module too, see `run.py`, so it does nothing but that.
"""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable
from typing import Any

from jobrunner import Executor

BACKEND = "JOBRUNNER_STANDS_IN"
"""The environment variable that says which backend the ProcessPoolExecutor is."""


class ThreadPoolExecutor(Executor):
    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        given = {"thread_name_prefix": thread_name_prefix} if thread_name_prefix else {}
        super().__init__(
            "threads", max_workers=max_workers, initializer=initializer, initargs=initargs, **given
        )


class ProcessPoolExecutor(Executor):
    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: Any = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
    ) -> None:
        given = {"mp_context": mp_context, "max_tasks_per_child": max_tasks_per_child}
        super().__init__(
            os.environ.get(BACKEND, "processes"),
            max_workers=max_workers,
            initializer=initializer,
            initargs=initargs,
            **{name: value for name, value in given.items() if value is not None},
        )


def stand_in() -> None:
    """Put them where `from concurrent.futures import ...` finds them."""
    concurrent.futures.ThreadPoolExecutor = ThreadPoolExecutor  # type: ignore[assignment, misc]
    concurrent.futures.ProcessPoolExecutor = ProcessPoolExecutor  # type: ignore[assignment, misc]
