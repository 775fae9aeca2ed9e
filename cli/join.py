"""`jobrunner join -`: a key of this user's own, for programs and for the shell."""

from __future__ import annotations

import getpass
from enum import StrEnum
from typing import Annotated

import typer

from jobrunner.cli.output import write
from jobrunner.config import PEER_TIMEOUT, ClientConfig, load
from jobrunner.errors import ConfigError
from jobrunner.system.host import own_host

LINE = typer.Argument(
    metavar="[-]",
    help="Where the line is that the coordinator printed at its start, or `jobrunner keys invite`: - asks for it, or"
    " reads it from standard input; @FILE names a file. Default: JOBRUNNER_INVITATION, the line or a file. The line"
    " itself (jobrunner://HOST:PORT/...) is for hosts of your own: others there may see it.",
)


class JoinRole(StrEnum):
    client = "client"
    observer = "observer"
    worker = "worker"


def join(
    line: Annotated[str | None, LINE] = None,
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
    from jobrunner.keys import identity, joining
    from jobrunner.keys.invitation import read_line

    source = load(ClientConfig, invitation=line).invitation
    if source is None:
        raise ConfigError("say where the line to join with is: `jobrunner join -` asks for it")
    joined = joining.join(read_line(source), role.value, name or own_name(), timeout)
    write(
        f"joined {joined.addresses[-1]} as {role.value} {joined.name!r}; the key is in {identity.path_of(joined)}"
    )


def own_name() -> str:
    """What a key is called by default."""
    try:
        return f"{getpass.getuser()}-{own_host()}"
    except (KeyError, OSError):  # a container's user without a name
        return own_host()
