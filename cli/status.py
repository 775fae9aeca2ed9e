"""`jobrunner status` and `jobrunner workers`: the state of the cluster and of its workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from jobrunner.cli import common_options as options
from jobrunner.cli.output import Output
from jobrunner.cli.views import STATUS, WORKERS

if TYPE_CHECKING:
    from jobrunner.admin import ClusterAdmin

WATCH_TIMEOUT = 2.0
"""Time without an answer, in seconds, after which --watch reports that; it continues to ask."""


def connect(address: str | None, timeout: float) -> ClusterAdmin:
    """Connect to the cluster that the options name; ZeroMQ is imported here, for the commands that need it."""
    # this comes first, so that a mistake in the address shows at once
    found = options.cluster_address(address)
    from jobrunner.admin import ClusterAdmin

    return ClusterAdmin(found, timeout)


def status(
    address: options.Address = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Repeat until Ctrl-C.")] = False,
    interval: Annotated[
        float,
        typer.Option(
            "--interval",
            metavar="SECONDS",
            min=0.1,
            help="Time between two repetitions of --watch, in seconds.",
        ),
    ] = 1.0,
    json: options.Json = False,
    quiet: options.Quiet = False,
    timeout: options.Timeout = options.QUERY_TIMEOUT,
) -> None:
    """Show the coordinator, the workers, and tasks by state."""
    output = Output(json=json, quiet=quiet)
    if watch:
        from jobrunner.cli.watch import watch as run_watch

        if quiet:
            raise typer.BadParameter("--watch and --quiet exclude each other; give one of them")
        found = options.cluster_address(address)
        run_watch(lambda: connect(found, min(timeout, WATCH_TIMEOUT)), output, interval)
        return
    with connect(address, timeout) as admin:
        output.show(admin.status(), STATUS)


def workers(
    address: options.Address = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    timeout: options.Timeout = options.QUERY_TIMEOUT,
) -> None:
    """List the workers with their hosts, slots and running tasks."""
    output = Output(json=json, quiet=quiet)
    with connect(address, timeout) as admin:
        output.show(admin.workers(), WORKERS)
