"""`jobrunner coordinator start`."""

from __future__ import annotations

from typing import Annotated

import typer

from jobrunner.cli import common_options as options
from jobrunner.config import CoordinatorConfig, load

app = typer.Typer(
    help="Run a coordinator, which sends calls to workers.",
    rich_markup_mode=None,
    no_args_is_help=True,
)


def _help(name: str, text: str | None = None) -> str:
    return options.help_of(CoordinatorConfig, name, text)


@app.callback()
def group() -> None:
    """Run a coordinator, which sends calls to workers."""


@app.command(
    epilog=options.examples(
        "jobrunner coordinator start",
        "jobrunner coordinator start --port 8000",
        "jobrunner coordinator start --host 0.0.0.0",
    )
)
def start(
    host: Annotated[str | None, typer.Option("--host", metavar="HOST", help=_help("host"))] = None,
    port: Annotated[
        int | None, typer.Option("--port", "-p", metavar="PORT", max=65535, help=_help("port"))
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="Listen without keys: everybody who reaches the port can run any code on every worker, and on the "
            "hosts of programs that use this cluster. For a non-loopback --host, JOBRUNNER_ALLOW_INSECURE_NETWORK=1 "
            "must also be set (environment: JOBRUNNER_INSECURE).",
        ),
    ] = False,
    keys: Annotated[str | None, typer.Option("--keys", metavar="FOLDER", help=_help("keys"))] = None,
    invitation_time: Annotated[
        float | None, typer.Option("--invitation-time", metavar="SECONDS", help=_help("invitation_time"))
    ] = None,
    invitation_uses: Annotated[
        int | None, typer.Option("--invitation-uses", metavar="N", help=_help("invitation_uses"))
    ] = None,
    client_grace: Annotated[
        float | None, typer.Option("--client-grace", metavar="SECONDS", help=_help("client_grace"))
    ] = None,
    crash_limit: Annotated[
        int | None, typer.Option("--crash-limit", metavar="N", help=_help("crash_limit"))
    ] = None,
    drain_timeout: Annotated[
        float | None, typer.Option("--drain-timeout", metavar="SECONDS", help=_help("drain_timeout"))
    ] = None,
    journal: Annotated[str | None, typer.Option("--journal", metavar="PATH", help=_help("journal"))] = None,
    no_journal: Annotated[bool, typer.Option("--no-journal", help=_help("no_journal"))] = False,
    keep_detached: Annotated[
        float | None, typer.Option("--keep-detached", metavar="SECONDS", help=_help("keep_detached"))
    ] = None,
    log_level: options.CoordinatorLogLevel = None,
) -> None:
    """Start a coordinator in the foreground.

    At its start it prints an invitation line for workers and one for programs, with which other hosts join the cluster.

    Ctrl-C or SIGTERM makes it wait until running tasks have finished, and exit. A second Ctrl-C makes it exit at once.
    """
    config = load(
        CoordinatorConfig,
        host=host,
        port=port,
        keys=keys,
        invitation_time=invitation_time,
        invitation_uses=invitation_uses,
        insecure=insecure or None,  # a flag that is not given must not override the environment
        client_grace=client_grace,
        crash_limit=crash_limit,
        drain_timeout=drain_timeout,
        journal=journal,
        no_journal=no_journal or None,
        keep_detached=keep_detached,
        log_level=log_level.value if log_level else None,
    )
    from jobrunner.coordinator import daemon as coordinator

    raise typer.Exit(coordinator.run(config))
