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
    help="Run calls on this host, or take a host out of the cluster.",
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
                "-: ask for the line that the coordinator printed, or read it from standard input; @FILE: it is in that"
                " file; once joined, the coordinator's tcp://HOST:PORT",
            ),
        ),
    ] = None,
    slots: Annotated[int | None, typer.Option("--slots", "-s", metavar="N", help=_help("slots"))] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", metavar="NAME", help=_help("name", "this worker's name in lists; default: the host's")
        ),
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
            help="Talk to a coordinator that has no keys: whoever answers at that address can run any code here "
            "(environment: JOBRUNNER_INSECURE).",
        ),
    ] = False,
    log_level: options.WorkerLogLevel = None,
) -> None:
    """Start a worker in the foreground. It waits for its coordinator, so either may be started first.

    With the line that the coordinator printed at its start this host gets a key of its own; from then on the address
    alone will do. Give - and paste it, name a file (@FILE), or set JOBRUNNER_INVITATION to it or to a file: what stands
    in a command can be read by everybody on the host. On the coordinator's own host nothing is needed.

    Ctrl-C or SIGTERM: running tasks finish, the others go to other workers, then it leaves. A second Ctrl-C:
    it leaves at once.
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
    """Let a worker finish what it runs, give back the rest, and leave."""
    output = Output(json=json, quiet=quiet)
    with connect(address, timeout) as admin:
        output.show({"name": name, **admin.drain(name)}, DRAIN)
