"""`jobrunner status` and `jobrunner workers`: what the cluster is and does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from jobrunner.cli import common_options as options
from jobrunner.cli.output import Output
from jobrunner.cli.views import STATUS, WORKERS

if TYPE_CHECKING:
    from jobrunner.admin import ClusterAdmin

WATCH_TIMEOUT = 2.0
"""Seconds without an answer after which --watch says so; it goes on asking."""


def connect(address: str | None, timeout: float) -> ClusterAdmin:
    """The cluster that the options mean. Imported here: only commands that talk to a cluster load ZeroMQ."""
    found = options.cluster_address(address)  # first: a mistake in it shows at once
    from jobrunner.admin import ClusterAdmin

    return ClusterAdmin(found, timeout)


def status(
    address: options.Address = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show it again and again, until Ctrl-C.")
    ] = False,
    interval: Annotated[
        float, typer.Option("--interval", metavar="SECONDS", min=0.1, help="With --watch: how often.")
    ] = 1.0,
    json: options.Json = False,
    quiet: options.Quiet = False,
    timeout: options.Timeout = options.QUERY_TIMEOUT,
) -> None:
    """Show the cluster: its coordinator, workers, and tasks by state."""
    output = Output(json=json, quiet=quiet)
    if watch:
        from jobrunner.cli.watch import watch as run_watch

        if quiet:
            raise typer.BadParameter("--watch and --quiet exclude each other")
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
    """List the workers: where each runs, and how busy it is."""
    output = Output(json=json, quiet=quiet)
    with connect(address, timeout) as admin:
        output.show(admin.workers(), WORKERS)
