"""`jobrunner submit`, `result ID` and `forget ID`: calls that outlive the command that submitted them."""

from __future__ import annotations

import importlib
import json as json_module
import os
import sys
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobrunner.calls.serialization import describe
from jobrunner.cli import common_options as options
from jobrunner.cli.output import write
from jobrunner.cli.status import connect
from jobrunner.errors import (
    AuthenticationError,
    ConfigError,
    CoordinatorLostError,
    JobRunnerError,
    JournalError,
    ProtocolError,
)

if TYPE_CHECKING:
    from jobrunner.executor import Executor

NOT_TAKEN = (AuthenticationError, CoordinatorLostError, JournalError, ProtocolError)
"""The errors of calls that the cluster has not accepted."""

NOT_DONE = 3
"""Exit code of `result` if the call is not done yet."""


def submit(
    function: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:FUNCTION", help="The function; the workers must be able to import its module."
        ),
    ],
    arguments: Annotated[
        str,
        typer.Argument(
            metavar="[JSON]",
            help="The arguments as JSON: a list of positional ones or an object of named ones, such as '[3, \"x\"]'.",
        ),
    ] = "[]",
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="The call's name in lists and errors.")
    ] = None,
    priority: Annotated[
        int | None,
        typer.Option("--priority", metavar="N", help="Calls with a higher number start first (default: 0)."),
    ] = None,
    retries: Annotated[
        int | None,
        typer.Option(
            "--retries",
            metavar="N",
            help="Maximum number of further attempts if the function raises (default: 0).",
        ),
    ] = None,
    limit: Annotated[
        float | None,
        typer.Option(
            "--limit", metavar="SECONDS", help="Maximum execution time, in seconds (default: no limit)."
        ),
    ] = None,
    address: options.Address = None,
) -> None:
    """Submit a detached call and print its id when it is accepted. The call outlives this command."""
    fn = find_function(function)
    args, kwargs = parse_arguments(arguments)
    with executor_at(address) as executor:
        view = executor.with_options(
            name=name, priority=priority, retries=retries, timeout=limit, detach=True
        )
        future = view.submit(fn, *args, **kwargs)
        if not future.id:
            raise future.exception() or JobRunnerError("the call could not be submitted")
        executor.shutdown()  # waits until it is accepted, not until it is done
        if isinstance(future.exception(), NOT_TAKEN):
            raise future.exception() or JobRunnerError("the cluster refused the call")
    write(future.id)


def result(
    task_id: Annotated[str, typer.Argument(metavar="ID", help="The id that `jobrunner submit` printed.")],
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait until the call is done.")] = False,
    address: options.Address = None,
) -> None:
    """Print the result of a call as JSON. If JSON cannot express it, its Python representation is printed.

    The exit code is 1 if the call failed, and its error is on standard error. The exit code is 3 if the call is not
    done yet.
    """
    _check_done(task_id, address, wait=wait)
    with executor_at(address) as executor:
        try:
            value = executor.future(task_id).result()
        except CancelledError:
            raise JobRunnerError(f"call {task_id} was cancelled") from None
        except JobRunnerError:
            raise
        except Exception as exc:
            typer.echo(str(exc.__cause__ or "").strip(), err=True)  # the traceback, from where it was raised
            raise JobRunnerError(f"call {task_id} raised {describe(exc)}") from exc
    try:
        write(json_module.dumps(value))
    except (TypeError, ValueError):
        write(repr(value))


def forget(
    task_ids: Annotated[
        list[str], typer.Argument(metavar="ID...", help="The ids that `jobrunner submit` printed.")
    ],
    address: options.Address = None,
) -> None:
    """Delete the outcomes of detached calls from the cluster. Calls that are not done yet are not affected."""
    with executor_at(address) as executor:
        for task_id in task_ids:
            executor.forget(task_id)


def executor_at(address: str | None) -> Executor:
    """Return an Executor for the cluster that the options name."""
    from jobrunner.executor import Executor

    return Executor(
        "cluster",
        address=options.cluster_address(address),
        show_output=False,
        connect_timeout=options.QUERY_TIMEOUT,
    )


def find_function(text: str) -> Callable[..., Any]:
    """Return the function that "package.module:function" names; raise ConfigError if there is none."""
    module, colon, path = text.partition(":")
    if not (module and colon and path):
        raise ConfigError(f"{text!r} does not name a function: write MODULE:FUNCTION, as in math:sqrt")
    sys.path.insert(0, os.getcwd())  # as with `python -m`
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as exc:
        raise ConfigError(f"cannot import {text}: {describe(exc)}") from exc
    finally:
        sys.path.remove(os.getcwd())
    if not callable(found):
        raise ConfigError(f"{text} is not a function; it is {found!r:.80}")
    return found  # type: ignore[no-any-return]


def parse_arguments(text: str) -> tuple[list[Any], dict[str, Any]]:
    """Return positional and named arguments from JSON; raise ConfigError if it is not valid JSON."""
    try:
        value = json_module.loads(text)
    except ValueError as exc:
        raise ConfigError(
            f"the arguments are not JSON ({exc}): write a list or an object, as in '[3, \"x\"]'"
        ) from exc
    if isinstance(value, dict):
        return [], value
    return (value, {}) if isinstance(value, list) else ([value], {})


def _check_done(task_id: str, address: str | None, *, wait: bool) -> None:
    """Raise JobRunnerError if the call was cancelled; exit with NOT_DONE if it is not done and `wait` is false."""
    with connect(address, options.QUERY_TIMEOUT) as admin:
        try:
            state = admin.task(task_id)["state"]
        except JobRunnerError as exc:
            if type(exc) is not JobRunnerError:
                raise
            return  # it was done long ago or is unknown, as the request for the outcome shows
    if state == "cancelled":  # there is an outcome to ask for only if the call was detached
        raise JobRunnerError(f"call {task_id} was cancelled")
    if not wait and state not in ("succeeded", "failed"):
        typer.echo(
            f"call {task_id} is not done yet, its state is {state}; use --wait to wait for it", err=True
        )
        raise typer.Exit(NOT_DONE)
