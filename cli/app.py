"""The command `jobrunner`, which combines all subcommands and prints errors.

Exit codes: 0 success · 1 failure · 2 wrong usage or a bad setting · 130 Ctrl-C.
A user's mistake, or an unreachable coordinator, leads to one line on standard error and never to a traceback.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from jobrunner.cli import common_options as options
from jobrunner.cli import (
    coordinator,
    demo,
    detached,
    journal,
    keys,
    sim,
    status,
    tasks,
    text,
    version,
    worker,
)
from jobrunner.cli import join as joining
from jobrunner.errors import ConfigError, JobRunnerError
from jobrunner.version import __version__

FAILED = 1
USAGE = 2
INTERRUPTED = 130

COMMANDS = (
    "demo",
    "coordinator",
    "worker",
    "join",
    "keys",
    "status",
    "workers",
    "tasks",
    "task",
    "cancel",
    "submit",
    "result",
    "forget",
    "journal",
    "version",
    "sim",
)


class InOrder(TyperGroup):
    """A command group whose help lists the commands in the order in which a newcomer needs them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=COMMANDS.index)


# Help without boxes: it reads well in pipes, logs and narrow terminals, and looks the same in every typer.
app = typer.Typer(
    name="jobrunner",
    cls=InOrder,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog=options.examples(
        "jobrunner demo                        compares local pools and a small cluster on this host",
        "jobrunner coordinator start           on one host: prints the commands for the others",
        "jobrunner worker start -              on every host that is to run calls",
        "jobrunner status --watch              on any host that has joined",
    ),
)
app.add_typer(coordinator.app, name="coordinator")
app.add_typer(worker.app, name="worker")
app.command(
    epilog=options.examples(
        "jobrunner join -",
        "jobrunner join - --as observer < line",
        "jobrunner join @/run/secrets/line --name build-server",
    )
)(joining.join)
app.add_typer(keys.app, name="keys")
app.command(epilog=options.examples("jobrunner status", "jobrunner status --watch --json"))(status.status)
app.command(epilog=options.examples("jobrunner workers", "jobrunner workers --quiet"))(status.workers)
app.command(epilog=options.examples("jobrunner tasks --state running", "jobrunner tasks -n 1000 --json"))(
    tasks.tasks
)
app.command(epilog=options.examples("jobrunner task 9f3ac2e1b7d0-42"))(tasks.task)
app.command(epilog=options.examples("jobrunner cancel 9f3ac2e1b7d0-42 9f3ac2e1b7d0-43"))(tasks.cancel)
app.command(
    epilog=options.examples(
        "jobrunner submit math:sqrt [2]", "jobrunner submit jobs:train '{\"epochs\": 10}'"
    )
)(detached.submit)
app.command(epilog=options.examples("jobrunner result 9f3ac2e1b7d0-1 --wait"))(detached.result)
app.command(epilog=options.examples("jobrunner forget 9f3ac2e1b7d0-1"))(detached.forget)
app.add_typer(journal.app, name="journal")
app.command(epilog=demo.EXAMPLES)(demo.demo)
app.command()(version.version)
app.command(hidden=True)(sim.sim)


class Settings:
    """The values of the options that precede the subcommand."""

    debug = False


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"jobrunner {__version__}")
        raise typer.Exit


@app.callback()
def before(
    context: typer.Context,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Print the traceback of an error (environment: JOBRUNNER_DEBUG=1)."),
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version and exit."),
    ] = False,
) -> None:
    """Run calls of `concurrent.futures` programs on threads, processes or a cluster of hosts."""
    context.ensure_object(Settings).debug = debug


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `arguments` defaults to those of this process."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    settings = Settings()

    def run() -> None:
        # A bare `jobrunner` asks what the command can do, so it gets the help instead of an error.
        typer.main.get_command(app).main(given or ["--help"], prog_name="jobrunner", obj=settings)

    code = _flush(exit_code(run, settings))
    if arguments is None and code == INTERRUPTED and _threads_left():
        # A thread inside of a call cannot be stopped, and Python would wait for it at exit, which nobody wants after
        # Ctrl-C. Processes have been stopped on the way here.
        os._exit(code)
    return code


def exit_code(run: Callable[[], None], settings: Settings) -> int:
    """Call `run`; turn its exception into an exit code and, for an error, a line on standard error."""
    try:
        run()
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else FAILED if exc.code else 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return FAILED
    except JobRunnerError as exc:
        _report(settings, text.one_line(exc) or type(exc).__name__)
        return USAGE if isinstance(exc, ConfigError) else FAILED
    except Exception as exc:
        what = text.one_line(f"{type(exc).__name__}: {exc}")
        hint = "" if _debugging(settings) else "; `jobrunner --debug ...` prints the traceback"
        _report(settings, f"this is a bug in jobrunner, please report it: {what}{hint}")
        return FAILED
    return 0


def _report(settings: Settings, message: str) -> None:
    """Print one line on standard error, after the traceback if that is wanted; for use in `except`."""
    try:
        if _debugging(settings):
            traceback.print_exc()
        print(f"jobrunner: error: {message}", file=sys.stderr, flush=True)
    except BrokenPipeError:
        pass  # nobody reads it, which the exit code does not need


def _debugging(settings: Settings) -> bool:
    return settings.debug or os.environ.get("JOBRUNNER_DEBUG", "") not in ("", "0")


def _flush(code: int) -> int:
    """Flush standard output, without a traceback if its reader has gone (`| head`); return the exit code."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at exit, and must not fail either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code or FAILED
    return code


def _threads_left() -> bool:
    return any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread())
