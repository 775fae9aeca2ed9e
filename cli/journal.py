"""`jobrunner journal check`."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from jobrunner.cli import common_options as options
from jobrunner.cli.output import write
from jobrunner.config import CoordinatorConfig, load
from jobrunner.errors import ConfigError

app = typer.Typer(help="Inspect the journal of a coordinator.", rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def group() -> None:
    """Inspect the journal of a coordinator."""


@app.command(
    epilog=options.examples("jobrunner journal check", "jobrunner journal check /var/lib/jobs.journal --json")
)
def check(
    path: Annotated[
        str | None,
        typer.Argument(metavar="[PATH]", help="The journal (default: that of the configured port)."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Read a journal without changing it, and report its state.

    The coordinator of the journal may be running. The exit code is 1 if the journal is damaged.
    """
    from jobrunner.coordinator.journal.store import default_journal, examine

    config = load(CoordinatorConfig, journal=path)
    found = Path(config.journal) if config.journal else default_journal(config.port)
    if not found.exists():
        raise ConfigError(
            f"there is no journal at {found}; a coordinator prints the path of its journal at its start, so use"
            " `jobrunner journal check PATH`"
        )
    report: dict[str, Any] = examine(found)
    if json:
        write(json_module.dumps(report, indent=2))
    else:
        for name, value in report.items():
            write(f"{name.replace('_', ' '):<16} {'none' if value == '' else value}")
    raise typer.Exit(1 if report["damage"] else 0)
