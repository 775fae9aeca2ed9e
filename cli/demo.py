"""`jobrunner demo`: see at once what each backend brings on this host."""

from __future__ import annotations

from typing import Annotated

import typer

from jobrunner.cli import common_options as options
from jobrunner.cli.output import Output
from jobrunner.errors import JobRunnerError

DEFAULT_SCALE = 6.0
"""Divides the original numbers of factors, so that the demo takes 10 to 15 s on two cores."""

EXAMPLES = options.examples(
    "jobrunner demo",
    "jobrunner demo --full --workers 8",
    "jobrunner demo --address tcp://10.0.0.5:7077 --no-builtin",
)


def demo(
    full: Annotated[bool, typer.Option("--full", help="The original numbers: some minutes.")] = False,
    scale: Annotated[
        float | None,
        typer.Option(
            "--scale",
            metavar="DIVISOR",
            min=0.01,
            help=f"Divide the original numbers by this (default: {DEFAULT_SCALE:g}).",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", "-w", metavar="N", min=1, help="Workers of each local backend.")
    ] = 4,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            "-a",
            metavar="ADDRESS",
            help="Use this cluster, tcp://HOST:PORT (default: one embedded here; "
            "environment: JOBRUNNER_ADDRESS).",
        ),
    ] = None,
    builtin: Annotated[bool, typer.Option("--builtin/--no-builtin", help="Run the built-in map.")] = True,
    threads: Annotated[bool, typer.Option("--threads/--no-threads", help="Run on threads.")] = True,
    processes: Annotated[bool, typer.Option("--processes/--no-processes", help="Run on processes.")] = True,
    cluster: Annotated[
        bool,
        typer.Option(
            "--cluster/--no-cluster", help="Run on the configured cluster, else on one embedded here."
        ),
    ] = True,
    json: options.Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the results, one a line.")] = False,
) -> None:
    """Compare the backends: compute pi eight times on each.

    Prints how long each took, and how much faster than the built-in map that is. Exit code 1 if they do not
    agree to the last bit.
    """
    if full and scale is not None:
        raise typer.BadParameter("--full and --scale exclude each other")
    output = Output(json=json, quiet=quiet)
    from jobrunner.cli import demo_runs, demo_view
    from jobrunner.cli.workload import scaled_numbers

    numbers = scaled_numbers(1.0 if full else scale or DEFAULT_SCALE)
    plans = demo_runs.plans(
        workers,
        options.configured_address(address),
        builtin=builtin,
        threads=threads,
        processes=processes,
        cluster=cluster,
    )
    with demo_view.reporter(silent=not output.for_people) as reporter:
        runs = demo_runs.run_all(plans, numbers, reporter)
    found = demo_runs.document(runs, numbers, workers)
    output.show(found, demo_view.DEMO)
    if not found["equal"]:
        raise JobRunnerError(f"these backends differ from {runs[0].name}: {', '.join(found['differing'])}")
