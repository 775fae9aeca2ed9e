"""Inspect and control a running cluster from a program, as the command line does.

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
"""Default maximum wait for an answer of the coordinator, in seconds, because people at terminals wait for it."""


class ClusterAdmin:
    """A connection to a coordinator for queries and commands, which submits no calls.

    The methods return dicts and lists like those that the commands of `jobrunner` print with `--json`.

    Args:
        address: The coordinator's address. Default: the configured one, else tcp://127.0.0.1:7077.
        timeout: The maximum wait for each answer, in seconds. Default: 5.

    Raises:
        CoordinatorLostError: The coordinator did not answer within `timeout`. Each method raises it, too.
        AuthenticationError: This user has no key for the cluster. A method raises it if the key's role
            does not permit the command.
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
        """Close the connection."""
        self._backend.shutdown(wait=True)

    def status(self) -> dict[str, Any]:
        """Return the state of the cluster: its coordinator, workers and clients, and the number of tasks by state."""
        return dict(self._query("status"))

    def workers(self) -> list[dict[str, Any]]:
        """Return one dict per worker, with its name, host, slots and running tasks."""
        return [dict(worker) for worker in self._query("workers")]

    def tasks(self, state: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """Return the unfinished tasks and the most recently finished ones.

        Args:
            state: The state of the tasks to return, for example "running". Default: all states.
            limit: The maximum number of tasks to return.

        Raises:
            JobRunnerError: There is no such state.
        """
        return [dict(task) for task in self._query("tasks", f"{state or ''} {limit}")]

    def task(self, task_id: str) -> dict[str, Any]:
        """Return all that the coordinator knows of one task; raises JobRunnerError if it does not know the id."""
        return dict(self._query("task", task_id))

    def cancel(self, task_id: str) -> dict[str, Any]:
        """Cancel a task; if it is running, its process receives SIGINT, then SIGTERM, then SIGKILL."""
        return dict(self._query("cancel", task_id))

    def drain(self, worker: str) -> dict[str, Any]:
        """Let a worker finish its running tasks, give the others back, and leave the cluster."""
        return dict(self._query("drain", worker))

    def _query(self, kind: str, argument: str = "") -> Any:
        return self._backend.query(kind, argument, self._timeout)
