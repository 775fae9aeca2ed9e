"""One connection per cluster and process, for the Executors that arrive in tasks.

A pickled Executor becomes a connection to the same cluster. Tasks that get one come by the thousand, so they share the
connection of their process; it ends with the process. Shutting down such an Executor concerns its own calls alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from jobrunner.backends.base import Backend, BackendSettings, ElementResult
from jobrunner.backends.cluster import ClusterBackend
from jobrunner.config import ClientConfig, load
from jobrunner.futures import Future, wait
from jobrunner.protocol.messages import DEFAULT_OPTIONS, TaskOptions

_lock = threading.Lock()
_connections: dict[str, ClusterBackend] = {}


def connection_to(address: str) -> ClusterBackend:
    """This process's connection; a new one where there is none, or where the last one failed.

    Raises CoordinatorLostError when nobody answers in time.
    """
    with _lock:
        present = _connections.get(address)
        if present is None or not present.usable:
            settings = BackendSettings(load(ClientConfig), address=address)
            present = _connections[address] = ClusterBackend(settings)
        return present


class SharedBackend(Backend):
    """A part of a shared connection: the calls that were submitted through it."""

    name = "cluster"

    def __init__(self, address: str) -> None:
        self._backend = connection_to(address)
        self._pending: set[Future[Any]] = set()
        self._closed = False

    @property
    def max_workers(self) -> int:
        return self._backend.max_workers

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

    def pack(self, elements: Sequence[tuple[Any, ...]]) -> Any:
        return self._backend.pack(elements)

    def submit_chunk(
        self, prepared: Any, packed: Any, start: int, stop: int, options: TaskOptions = DEFAULT_OPTIONS
    ) -> Future[list[ElementResult]]:
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
        if wait:
            self._wait()

    def cancel_all(self, futures: Sequence[Future[Any]]) -> None:
        self._backend.cancel_all(futures)

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
