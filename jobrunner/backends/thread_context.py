"""The context of code that runs in a thread of the "threads" backend."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from jobrunner.backends.base import Backend
from jobrunner.backends.borrowed import BorrowedBackend
from jobrunner.backends.thread_calls import Runner
from jobrunner.backends.thread_nests import Nest
from jobrunner.futures import Future
from jobrunner.nested import task_context


class ThreadContext(threading.local):
    """The call that runs in the present thread of the pool, see `task_context.Context`.

    Other threads have the values of the class.
    """

    future: Future[Any] | None = None
    attempt = 1
    runner: Runner | None = None
    _nest: Nest | None = None
    _set_still: Callable[[Runner, bool], None]
    _add_nested: Callable[[Nest, Future[Any]], None]

    def enter(
        self,
        runner: Runner,
        set_still: Callable[[Runner, bool], None],
        add_nested: Callable[[Nest, Future[Any]], None],
    ) -> None:
        """Note that this thread is a runner from now on, and reports its calls to the pool by these functions."""
        self._set_still = set_still
        self._add_nested = add_nested
        self.runner = runner

    def leave(self) -> None:
        """Note that this thread is not a runner any more; it need not have been one."""
        self.runner = None
        self.__dict__.pop("_set_still", None)
        self.__dict__.pop("_add_nested", None)

    def begin(self, future: Future[Any]) -> None:
        self.future, self.attempt = future, 1

    def again(self) -> None:
        self.attempt += 1

    def end(self) -> None:
        self.future = None
        if self._nest is not None:
            self._nest.end()
            self._nest = None

    def nest(self) -> Nest | None:
        """Return the nest of the call that this thread runs, or None if it runs no call."""
        runner = self.runner
        if self._nest is None and self.future is not None and runner is not None:
            self._nest = Nest(partial(self._set_still, runner))
        return self._nest

    def task(self) -> task_context.Task | None:
        future = self.future
        return None if future is None else task_context.Task(future.id, future.name, self.attempt, "threads")

    def cluster(self) -> Backend:
        assert self.runner is not None, "only threads of the pool have this context installed"
        return NestedThreads(self.runner.owner, self.nest(), self, self._add_nested)


class NestedThreads(BorrowedBackend):
    """The pool as one call sees it, which may also use it in threads of its own."""

    name = "threads"

    def __init__(
        self,
        backend: Backend,
        nest: Nest | None,
        context: ThreadContext,
        add_nested: Callable[[Nest, Future[Any]], None],
    ) -> None:
        super().__init__(backend)
        self._nest = nest
        self._context = context
        self._add_nested = add_nested

    @property
    def can_wait(self) -> bool:
        return True  # while a call waits for its own calls, another runner takes its place

    def _own(self, future: Future[Any]) -> Future[Any]:
        if self._nest is not None and self._nest is not self._context.nest():
            self._add_nested(self._nest, future)
        return super()._own(future)
