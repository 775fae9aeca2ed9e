"""Look into a running cluster, and steer it: what the command line does, for programs.

with ClusterAdmin("tcp://10.0.0.5:7077") as admin:
    print(admin.status()["busy"])
"""

from __future__ import annotations

import dataclasses
from types import TracebackType
from typing import Any

from jobrunner.backends.base import BackendSettings
from jobrunner.backends.cluster import ClusterBackend
from jobrunner.config import DEFAULT_PORT, ClientConfig, load

DEFAULT_ADDRESS = f"tcp://127.0.0.1:{DEFAULT_PORT}"

DEFAULT_TIMEOUT = 5.0
"""Seconds that a person at a terminal is made to wait for a coordinator that does not answer."""


class ClusterAdmin:
    """A connection that asks and commands, and submits nothing.

    `address` defaults to the configured one, else to this host's usual port. `timeout` bounds each wait, in seconds.
    Raises CoordinatorLostError when the coordinator does not answer in time.
    """

    def __init__(self, address: str | None = None, timeout: float | None = None) -> None:
        self._timeout = DEFAULT_TIMEOUT if timeout is None else timeout
        config = load(ClientConfig, address=address, connect_timeout=self._timeout, show_output=False)
        config = dataclasses.replace(config, reconnect_timeout=self._timeout)
        settings = BackendSettings(config, address=config.address or DEFAULT_ADDRESS)
        self._backend = ClusterBackend(settings)

    def __enter__(self) -> ClusterAdmin:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._backend.shutdown(wait=True)

    def status(self) -> dict[str, Any]:
        """Cluster, workers, clients, tasks by state."""
        return dict(self._query("status"))

    def workers(self) -> list[dict[str, Any]]:
        return [dict(worker) for worker in self._query("workers")]

    def tasks(self, state: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """Unfinished tasks and the latest finished ones. Raises JobRunnerError for an unknown state."""
        return [dict(task) for task in self._query("tasks", f"{state or ''} {limit}")]

    def task(self, task_id: str) -> dict[str, Any]:
        """Raises JobRunnerError for an unknown id."""
        return dict(self._query("task", task_id))

    def cancel(self, task_id: str) -> dict[str, Any]:
        """Cancel a task, a running one too: its process is asked, then told, then made to stop."""
        return dict(self._query("cancel", task_id))

    def drain(self, worker: str) -> dict[str, Any]:
        """Let a worker finish what it runs and leave."""
        return dict(self._query("drain", worker))

    def _query(self, kind: str, argument: str = "") -> Any:
        return self._backend.query(kind, argument, self._timeout)
