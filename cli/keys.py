"""`jobrunner keys ...`: who may connect to this host's coordinator. On its host, as its user."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobrunner.cli import common_options as options
from jobrunner.cli.output import Output, write
from jobrunner.cli.views import KEYS
from jobrunner.errors import ConfigError
from jobrunner.system.host import own_host

if TYPE_CHECKING:
    from jobrunner.keys.keyring import Keyring

app = typer.Typer(
    help="Say who may connect to this host's coordinator.", rich_markup_mode=None, no_args_is_help=True
)

HOUR = 3600.0


class IssuedRole(StrEnum):
    worker = "worker"
    client = "client"
    observer = "observer"
    operator = "operator"


class InvitedRole(StrEnum):
    worker = "worker"
    client = "client"
    observer = "observer"


Keys = Annotated[
    Path | None,
    typer.Option(
        "--keys",
        metavar="FOLDER",
        help="The folder of the cluster's keys (default: in the user's config directory; environment: "
        "JOBRUNNER_KEYS).",
    ),
]
Own = Annotated[
    str | None,
    typer.Option(
        "--address",
        "-a",
        metavar="ADDRESS",
        help="The coordinator's address as the others see it (default: where it was started last).",
    ),
]


@app.command("list", epilog=options.examples("jobrunner keys list", "jobrunner keys list --json"))
def list_keys(keys: Keys = None, json: options.Json = False, quiet: options.Quiet = False) -> None:
    """List the keys that may connect, and how many invitations are open."""
    from jobrunner.keys.keyring import require

    ring = require(_folder(keys))
    now = time.time()
    Output(json=json, quiet=quiet).show(
        {
            "keys": [
                {"name": m.name, "role": m.role, "key": m.key, "age": max(0.0, now - m.added)}
                for m in ring.members()
            ],
            "invitations": [
                {"roles": list(i.roles), "uses": i.uses, "seconds": i.until - now} for i in ring.invitations()
            ],
        },
        KEYS,
    )


@app.command(
    epilog=options.examples(
        "jobrunner keys invite",
        "jobrunner keys invite --as worker | ssh node7 jobrunner worker start -",
        "jobrunner keys invite --as observer --uses 1 --time 600 -a 10.0.0.5:7077",
    )
)
def invite(
    role: Annotated[
        InvitedRole,
        typer.Option(
            "--as", help="What for: to run calls, to submit them (or to observe), or only to observe."
        ),
    ] = InvitedRole.client,
    uses: Annotated[int, typer.Option("--uses", metavar="N", min=1, help="How many can join with it.")] = 1,
    seconds: Annotated[
        float, typer.Option("--time", metavar="SECONDS", min=1, help="How long it can be used.")
    ] = HOUR,
    address: Own = None,
    keys: Keys = None,
) -> None:
    """Print a line that lets others join: it is what `jobrunner join -` and `jobrunner worker start -` read.

    Treat it as a password. A worker's line is good for workers only, a client's for clients and observers.
    """
    from jobrunner.keys.invitation import Invitation
    from jobrunner.keys.keyring import open_keyring

    ring = open_keyring(_folder(keys))
    secret = ring.invite(role.value, seconds, uses)
    write(Invitation(_address(address, ring), ring.server.public, secret).to_line())


@app.command(
    epilog=options.examples(
        "jobrunner keys issue ci --as client -a coordinator:7077 --output ci.json",
        'JOBRUNNER_IDENTITY="$(jobrunner keys issue ci --as client -a coordinator:7077)"',
    )
)
def issue(
    name: Annotated[str, typer.Argument(metavar="NAME", help="How the key is called.")],
    role: Annotated[IssuedRole, typer.Option("--as", help="What its holder may do.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Where to write it, readable by this user alone."
        ),
    ] = None,
    address: Own = None,
    keys: Keys = None,
) -> None:
    """Make a key here and print it, for who cannot join: containers, automation. Keep it secret.

    Its holder sets JOBRUNNER_IDENTITY to it, or to the path of a file that holds it.
    """
    from jobrunner.keys.keyring import open_keyring
    from jobrunner.keys.private_files import write_private

    ring = open_keyring(_folder(keys))
    text = ring.issue(name, role.value, [_address(address, ring)]).to_text()
    if output is None:
        write(text.rstrip("\n"))
    else:
        write_private(output.absolute(), text)


@app.command(epilog=options.examples("jobrunner keys revoke ada-laptop"))
def revoke(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The key, as `jobrunner keys list` shows it.")
    ] = None,
    invitations: Annotated[
        bool, typer.Option("--invitations", help="End all open invitations instead.")
    ] = False,
    keys: Keys = None,
) -> None:
    """End a key, and the invitation that it came with.

    A running coordinator shuts out whoever holds it within a second, and ends its calls.
    """
    from jobrunner.keys.keyring import require

    ring = require(_folder(keys))
    if (name is None) != invitations:
        raise ConfigError("say which key to revoke, or --invitations")
    if name is None:
        write(f"{ring.close_invitations()} invitations ended")
    else:
        revoked = ring.revoke(name)
        member = revoked.member
        ended = ", and ended the invitation that it came with" if revoked.ended_invitation else ""
        write(f"revoked {member.role} {member.name!r}{ended}")
        if revoked.others:
            write(f"keys that came with the same invitation, and stay: {', '.join(revoked.others)}")


@app.command()
def rotate(
    keys: Keys = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """New keys for the cluster: nobody is known any more but this user; all must join again.

    A running coordinator shuts everybody out at once, and takes the new keys when it is started again.
    """
    from jobrunner.keys import keyring

    if not yes:
        typer.confirm("All workers and clients will have to join again. Go on?", abort=True, err=True)
    keyring.rotate(_folder(keys))
    write(
        "new keys are made; start the coordinator again, and have the others join with the line that it prints"
    )


def _folder(keys: Path | None) -> Path:
    from jobrunner.keys.keyring import default_folder

    return keys if keys is not None else default_folder()


def _address(address: str | None, ring: Keyring) -> str:
    """What is said, else where the coordinator was last, else where it will be by default."""
    return options.full_address(address or ring.address or own_host())
