"""`jobrunner join -`: obtain a key for this user, for programs and for the shell."""

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
    help="The source of the invitation line that the coordinator, or `jobrunner keys invite`, printed: - asks for it,"
    " or reads it from standard input, and @FILE reads it from that file (default: JOBRUNNER_INVITATION, which holds"
    " the line or the path of a file). The line itself (jobrunner://HOST:PORT/...) is accepted, too, but other users of"
    " this host can read it there.",
)


class JoinRole(StrEnum):
    """The roles with which `join` can join."""

    client = "client"
    observer = "observer"
    worker = "worker"


def join(
    line: Annotated[str | None, LINE] = None,
    role: Annotated[
        JoinRole,
        typer.Option(
            "--as",
            help="The role of the key: a client submits calls, an observer only sees the status, a worker runs calls.",
        ),
    ] = JoinRole.client,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="The name of the key (default: user and host)."),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            min=0.1,
            help="Maximum wait for the coordinator's answer, in seconds.",
        ),
    ] = PEER_TIMEOUT,
) -> None:
    """Create a key for this user and register it with a cluster. The programs of this user can then use the cluster."""
    from jobrunner.keys import identity, joining
    from jobrunner.keys.invitation import read_line

    source = load(ClientConfig, invitation=line).invitation
    if source is None:
        raise ConfigError(
            "the source of the invitation line is not given; `jobrunner join -` asks for the line"
        )
    joined = joining.join(read_line(source), role.value, name or own_name(), timeout)
    write(
        f"joined {joined.addresses[-1]} as {role.value} {joined.name!r}; the key is in {identity.path_of(joined)}"
    )


def own_name() -> str:
    """Return the default name of a key."""
    try:
        return f"{getpass.getuser()}-{own_host()}"
    except (KeyError, OSError):  # a container's user without a name
        return own_host()
