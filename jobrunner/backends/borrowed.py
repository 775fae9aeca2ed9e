"""A backend that another owner shuts down, for an Executor inside of a task.

Shutting down such an Executor concerns only its own calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jobrunner.backends.base import Backend
from jobrunner.fixed.elements import ElementResults
from jobrunner.futures import Future, wait
from jobrunner.protocol.wire.messages import DEFAULT_OPTIONS, TaskOptions


class BorrowedBackend(Backend):
    """A part of another backend: the calls that were submitted through it."""

    name = "cluster"

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._pending: set[Future[Any]] = set()
        self._closed = False

    @property
    def max_workers(self) -> int:
        return self._backend.max_workers

    @property
    def same_host(self) -> bool:
        return self._backend.same_host

    @property
    def unfinished(self) -> int:
        return len(self._pending)

    def connection(self) -> str | None:
        return self._backend.connection()

    def prepare(self, fn: Callable[..., Any]) -> Any:
        return self._backend.prepare(fn)

    def submit(
        self,
        prepared: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: TaskOptions = DEFAULT_OPTIONS,
    ) -> Future[Any]:
        self._check_open()
        return self._own(self._backend.submit(prepared, args, kwargs, options))

    @property
    def copies(self) -> bool:
        return self._backend.copies

    def pack(self, elements: Any) -> Any:
        return self._backend.pack(elements)

    def submit_chunk(
        self, prepared: Any, packed: Any, start: int, stop: int, options: TaskOptions = DEFAULT_OPTIONS
    ) -> Future[ElementResults]:
        self._check_open()
        return self._own(self._backend.submit_chunk(prepared, packed, start, stop, options))

    def future(self, task_id: str) -> Future[Any]:
        self._check_open()
        return self._backend.future(task_id)

    def forget(self, task_id: str) -> None:
        self._backend.forget(task_id)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._closed = True
        if cancel_futures:
            self.cancel_all(list(self._pending))
        if wait and self.can_wait:
            self._wait()

    @property
    def can_wait(self) -> bool:
        return self._backend.can_wait

    def cancel_all(self, futures: Sequence[Future[Any]], *, running: bool = False) -> None:
        self._backend.cancel_all(futures, running=running)

    def kill(self) -> None:
        self._closed = True
        for future in list(self._pending):
            future.cancel(running=True)

    def status(self) -> dict[str, Any]:
        return self._backend.status()

    def _own(self, future: Future[Any]) -> Future[Any]:
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return future

    def _wait(self) -> None:
        wait(list(self._pending))

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
