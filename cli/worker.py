"""`jobrunner worker start` and `jobrunner worker drain`."""

from __future__ import annotations

from typing import Annotated

import typer

from jobrunner.cli import common_options as options
from jobrunner.cli.output import Output
from jobrunner.cli.status import connect
from jobrunner.cli.views import DRAIN
from jobrunner.config import WorkerConfig, load
from jobrunner.system.host import own_host

app = typer.Typer(
    help="Start a worker on this host, or remove one from the cluster.",
    rich_markup_mode=None,
    no_args_is_help=True,
)


def _help(name: str, text: str | None = None) -> str:
    return options.help_of(WorkerConfig, name, text)


@app.command(
    epilog=options.examples(
        "jobrunner worker start",
        "jobrunner worker start - --slots 8",
        "jobrunner worker start @/run/secrets/line",
        "jobrunner worker start 10.0.0.5:7077 --name left --resources gpu=2,licence=1",
    )
)
def start(
    join: Annotated[
        str | None,
        typer.Argument(
            metavar="JOIN",
            help=_help(
                "address",
                "the source of the invitation line that the coordinator printed: - asks for it, or reads it from"
                " standard input, and @FILE reads it from that file; a host that has joined gives tcp://HOST:PORT"
                " instead",
            ),
        ),
    ] = None,
    slots: Annotated[int | None, typer.Option("--slots", "-s", metavar="N", help=_help("slots"))] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help=_help("name")),
    ] = None,
    resources: Annotated[
        str | None, typer.Option("--resources", "-r", metavar="NAME=AMOUNT,...", help=_help("resources"))
    ] = None,
    drain_timeout: Annotated[
        float | None, typer.Option("--drain-timeout", metavar="SECONDS", help=_help("drain_timeout"))
    ] = None,
    stop_grace: Annotated[
        float | None, typer.Option("--stop-grace", metavar="SECONDS", help=_help("stop_grace"))
    ] = None,
    slot_memory: Annotated[
        str | None, typer.Option("--slot-memory", metavar="SIZE", help=_help("slot_memory"))
    ] = None,
    max_tasks_per_slot: Annotated[
        int | None,
        typer.Option("--max-tasks-per-slot", metavar="N", help=_help("max_tasks_per_slot")),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="Connect without keys: any coordinator that answers at the address can run any code here "
            "(environment: JOBRUNNER_INSECURE).",
        ),
    ] = False,
    log_level: options.WorkerLogLevel = None,
) -> None:
    """Start a worker in the foreground. It waits for its coordinator, so either may be started first.

    At the first start, this host needs the invitation line that the coordinator printed, and obtains a key of its
    own. From then on the address is sufficient. Give - and paste the line, give @FILE, or set JOBRUNNER_INVITATION
    to the line or to a file, because every user of a host can read the arguments of a command. The coordinator's own
    host needs neither line nor address.

    Ctrl-C or SIGTERM makes the worker finish its running tasks, give the others back, and exit. A second Ctrl-C makes
    it exit at once.
    """
    from jobrunner.keys.invitation import forget_line, names_a_line, read_line

    identity = None
    source = join if join is not None else load(WorkerConfig).invitation
    if source is not None and (join is None or names_a_line(join)):
        from jobrunner.keys import joining
        from jobrunner.keys.identity import path_of

        joined = joining.join(read_line(source), "worker", name or own_host())
        join, identity = joined.addresses[-1], str(path_of(joined))
    forget_line()
    config = load(
        WorkerConfig,
        address=join,
        identity=identity,
        insecure=insecure or None,
        slots=slots,
        name=name,
        resources=resources,
        drain_timeout=drain_timeout,
        stop_grace=stop_grace,
        slot_memory=slot_memory,
        max_tasks_per_slot=max_tasks_per_slot,
        log_level=log_level.value if log_level else None,
    )
    config = options.with_full_address(config)
    from jobrunner.workers import daemon

    raise typer.Exit(daemon.run(config))


@app.command(epilog=options.examples("jobrunner worker drain node7"))
def drain(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The worker, as `jobrunner workers` lists it.")],
    address: options.Address = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    timeout: options.Timeout = options.QUERY_TIMEOUT,
) -> None:
    """Remove a worker from the cluster. It finishes its running tasks and gives the others back."""
    output = Output(json=json, quiet=quiet)
    with connect(address, timeout) as admin:
        output.show({"name": name, **admin.drain(name)}, DRAIN)
