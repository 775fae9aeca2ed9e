"""`jobrunner demo`: compare the speed of the backends on this host."""

from __future__ import annotations

from typing import Annotated

import typer

from jobrunner.cli import common_options as options
from jobrunner.cli.output import Output
from jobrunner.errors import JobRunnerError

DEFAULT_SCALE = 6.0
"""Default divisor of the original numbers of factors, with which the demo takes 10 to 15 s on two cores."""

EXAMPLES = options.examples(
    "jobrunner demo",
    "jobrunner demo --full --workers 8",
    "jobrunner demo --address tcp://10.0.0.5:7077 --no-builtin",
)


def demo(
    full: Annotated[
        bool, typer.Option("--full", help="Use the original numbers, which takes some minutes.")
    ] = False,
    scale: Annotated[
        float | None,
        typer.Option(
            "--scale",
            metavar="DIVISOR",
            min=0.01,
            help=f"Divide the original numbers by this divisor (default: {DEFAULT_SCALE:g}).",
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option("--workers", "-w", metavar="N", min=1, help="Number of workers of each local backend."),
    ] = 4,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            "-a",
            metavar="ADDRESS",
            help="Use the cluster at this address, tcp://HOST:PORT (default: a cluster that is started for the demo; "
            "environment: JOBRUNNER_ADDRESS).",
        ),
    ] = None,
    builtin: Annotated[bool, typer.Option("--builtin/--no-builtin", help="Run the built-in map.")] = True,
    threads: Annotated[bool, typer.Option("--threads/--no-threads", help="Run on threads.")] = True,
    processes: Annotated[bool, typer.Option("--processes/--no-processes", help="Run on processes.")] = True,
    cluster: Annotated[
        bool,
        typer.Option(
            "--cluster/--no-cluster", help="Run on the configured cluster, else on one started for the demo."
        ),
    ] = True,
    json: options.Json = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print only the results, one per line.")
    ] = False,
) -> None:
    """Compare the backends: compute pi eight times on each.

    The demo prints the time of each backend, and its speed relative to the built-in map. The exit code is 1 if the
    results are not equal to the last bit.
    """
    if full and scale is not None:
        raise typer.BadParameter("--full and --scale exclude each other; give one of them")
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
        raise JobRunnerError(
            f"the results of these backends differ from those of {runs[0].name}: {', '.join(found['differing'])}"
        )
