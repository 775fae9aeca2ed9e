"""`jobrunner join LINE`: a key of this user's own, for programs and for the shell."""

from __future__ import annotations

import getpass
from enum import Enum
from typing import Annotated

import typer

from jobrunner.cli.output import write
from jobrunner.config import PEER_TIMEOUT
from jobrunner.host import own_host

LINE = typer.Argument(
    metavar="LINE",
    help="What the coordinator printed at its start, or `jobrunner keys invite`: jobrunner://HOST:PORT/...",
)


class JoinRole(str, Enum):
    client = "client"
    observer = "observer"
    worker = "worker"


def join(
    line: Annotated[str, LINE],
    role: Annotated[
        JoinRole,
        typer.Option("--as", help="What for: to submit calls, to see the status only, or to run calls."),
    ] = JoinRole.client,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="How the key is called; default: user and host."),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout", metavar="SECONDS", min=0.1, help="Longest wait for the coordinator's answer."
        ),
    ] = PEER_TIMEOUT,
) -> None:
    """Make a key for this user and have the cluster know it. Programs here can use the cluster from then on."""
    from jobrunner import identity, joining

    joined = joining.join(line, role.value, name or own_name(), timeout)
    write(
        f"joined {joined.addresses[-1]} as {role.value} {joined.name!r}; the key is in {identity.path_of(joined)}"
    )


def own_name() -> str:
    """What a key is called by default."""
    try:
        return f"{getpass.getuser()}-{own_host()}"
    except (KeyError, OSError):  # a container's user without a name
        return own_host()
