"""Cancelling several tasks, so that an unknown one does not prevent the others from being cancelled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from jobrunner.errors import JobRunnerError


class Canceller(Protocol):
    """The part of `ClusterAdmin` that cancelling needs."""

    def cancel(self, task_id: str) -> dict[str, Any]: ...


def cancel_all(admin: Canceller, task_ids: Iterable[str]) -> list[dict[str, Any]]:
    """Cancel tasks; return one answer per task, in order, with "error" and state "unknown" for an unknown one."""
    answers = []
    for task_id in task_ids:
        try:
            answers.append(admin.cancel(task_id))
        except JobRunnerError as exc:
            # Only "no such task" has this very class. With the subclasses, further requests would fail, too.
            if type(exc) is not JobRunnerError:
                raise
            answers.append({"id": task_id, "cancelled": False, "state": "unknown", "error": str(exc)})
    return answers


def worked(answer: Mapping[str, Any]) -> bool:
    """Return whether the task is cancelled, or its process is being stopped right now."""
    return bool(answer["cancelled"]) or answer["state"] == "cancelling"
