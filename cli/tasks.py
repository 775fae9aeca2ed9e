"""`jobrunner tasks`, `task ID` and `cancel ID`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from jobrunner.cli import common_options as options
from jobrunner.cli.cancelling import cancel_all, worked
from jobrunner.cli.output import Output
from jobrunner.cli.status import connect
from jobrunner.cli.views import CANCELS, TASK, TASKS

DEFAULT_LIMIT = 50
"""Default maximum number of tasks in a list."""


class StateOption(StrEnum):
    """The values of --state."""

    waiting = "waiting"
    queued = "queued"
    assigned = "assigned"
    running = "running"
    cancelling = "cancelling"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"


STATES = ", ".join(StateOption)


def tasks(
    state: Annotated[
        StateOption | None,
        typer.Option("--state", "-s", metavar="STATE", help=f"List only tasks in this state: {STATES}."),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=1, help="Maximum number of tasks to list.")
    ] = DEFAULT_LIMIT,
    address: options.Address = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    timeout: options.Timeout = options.QUERY_TIMEOUT,
) -> None:
    """List tasks with their states, workers and durations."""
    output = Output(json=json, quiet=quiet)
    with connect(address, timeout) as admin:
        found = admin.tasks(state.value if state else None, limit)
    output.show(found, TASKS)
    if len(found) >= limit:
        output.note(
            f"There may be more than these {limit} tasks; use --limit to list more, or --state to select."
        )


def task(
    task_id: Annotated[
        str, typer.Argument(metavar="ID", help="The task's id, as `jobrunner tasks` lists it.")
    ],
    address: options.Address = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    timeout: options.Timeout = options.QUERY_TIMEOUT,
) -> None:
    """Show all that is known about a task, with its history."""
    output = Output(json=json, quiet=quiet)
    with connect(address, timeout) as admin:
        output.show(admin.task(task_id), TASK)


def cancel(
    task_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="The ids of the tasks to cancel.")],
    address: options.Address = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    timeout: options.Timeout = options.QUERY_TIMEOUT,
) -> None:
    """Cancel tasks, including running ones. The exit code is 1 if one of them could not be cancelled."""
    output = Output(json=json, quiet=quiet)
    with connect(address, timeout) as admin:
        answers = cancel_all(admin, task_ids)
    output.show(answers, CANCELS)
    raise typer.Exit(0 if all(map(worked, answers)) else 1)
