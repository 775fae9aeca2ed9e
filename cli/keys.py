"""`jobrunner keys ...`: management of the keys that may connect to this host's coordinator, for its own user."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobrunner.cli import common_options as options
from jobrunner.cli.output import Output, write
from jobrunner.cli.text import count
from jobrunner.cli.views import KEYS
from jobrunner.errors import ConfigError
from jobrunner.system.host import own_host

if TYPE_CHECKING:
    from jobrunner.keys.keyring import Keyring

app = typer.Typer(
    help="Manage the keys that may connect to this host's coordinator.",
    rich_markup_mode=None,
    no_args_is_help=True,
)

HOUR = 3600.0


class IssuedRole(StrEnum):
    """The roles of keys that `keys issue` creates."""

    worker = "worker"
    client = "client"
    observer = "observer"
    operator = "operator"


class InvitedRole(StrEnum):
    """The roles for which `keys invite` creates invitations."""

    worker = "worker"
    client = "client"
    observer = "observer"


Keys = Annotated[
    Path | None,
    typer.Option(
        "--keys",
        metavar="FOLDER",
        help="The folder of the cluster's keys (default: a folder in the user's config directory; environment: "
        "JOBRUNNER_KEYS).",
    ),
]
Own = Annotated[
    str | None,
    typer.Option(
        "--address",
        "-a",
        metavar="ADDRESS",
        help="The coordinator's address for other hosts (default: its address at its last start).",
    ),
]


@app.command("list", epilog=options.examples("jobrunner keys list", "jobrunner keys list --json"))
def list_keys(keys: Keys = None, json: options.Json = False, quiet: options.Quiet = False) -> None:
    """List the keys that may connect, and the open invitations."""
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
            "--as",
            help="Its role: a worker runs calls, a client submits calls and sees the status, an observer only sees the "
            "status.",
        ),
    ] = InvitedRole.client,
    uses: Annotated[
        int, typer.Option("--uses", metavar="N", min=1, help="Maximum number of peers that can join with it.")
    ] = 1,
    seconds: Annotated[
        float, typer.Option("--time", metavar="SECONDS", min=1, help="Its validity, in seconds.")
    ] = HOUR,
    address: Own = None,
    keys: Keys = None,
) -> None:
    """Print an invitation line, with which others can join.

    `jobrunner join -` and `jobrunner worker start -` read the line. Treat it as a password. With a worker's line only
    workers can join; with a client's line clients and observers can join.
    """
    from jobrunner.keys.invitation import Invitation

    ring = _ring(keys)
    secret = ring.invite(role.value, seconds, uses)
    write(Invitation(_address(address, ring), ring.server.public, secret).to_line())


@app.command(
    epilog=options.examples(
        "jobrunner keys issue ci --as client -a coordinator:7077 --output ci.json",
        'JOBRUNNER_IDENTITY="$(jobrunner keys issue ci --as client -a coordinator:7077)"',
    )
)
def issue(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the key.")],
    role: Annotated[IssuedRole, typer.Option("--as", help="The role, which determines the holder's rights.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the key to this file, which only this user can read, instead of printing it.",
        ),
    ] = None,
    address: Own = None,
    keys: Keys = None,
) -> None:
    """Create a key and print it. It is meant for containers and automation, which cannot join. Keep it secret.

    The holder of the key sets JOBRUNNER_IDENTITY to the key, or to the path of a file that holds it.
    """
    from jobrunner.keys.private_files import write_private

    ring = _ring(keys)
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
        bool, typer.Option("--invitations", help="Revoke all open invitations instead of a key.")
    ] = False,
    keys: Keys = None,
) -> None:
    """Revoke a key, and the invitation with which it was obtained.

    Within a second a running coordinator disconnects the holder of the key and ends the holder's calls.
    """
    from jobrunner.keys.keyring import require

    ring = require(_folder(keys))
    if (name is None) != invitations:
        raise ConfigError("give either the name of the key to revoke, or --invitations")
    if name is None:
        write(f"revoked {count(ring.close_invitations(), 'invitation')}")
    else:
        revoked = ring.revoke(name)
        member = revoked.member
        ended = ", and the invitation with which it was obtained" if revoked.ended_invitation else ""
        write(f"revoked {member.role} {member.name!r}{ended}")
        if revoked.others:
            write(f"keys from the same invitation that remain valid: {', '.join(revoked.others)}")


@app.command()
def rotate(
    keys: Keys = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Replace all keys of the cluster. Only this user gets a new key; everybody else must join again.

    A running coordinator disconnects everybody at once, and uses the new keys when it is started again.
    """
    from jobrunner.keys import keyring

    keyring.check_keys(_folder(keys))
    if not yes:
        typer.confirm("All workers and clients will have to join again. Continue?", abort=True, err=True)
    keyring.rotate(_folder(keys))
    write(
        "the cluster has new keys; start the coordinator again, and let the others join with the lines that it prints"
    )


def _ring(keys: Path | None) -> Keyring:
    """Return the keys in the folder; create them where no coordinator has run, and say so."""
    from jobrunner.keys.keyring import has_keys, open_keyring

    folder = _folder(keys)
    if not has_keys(folder):
        typer.echo(
            f"{folder} had no keys of a coordinator, and has those of a new cluster now: if its coordinator runs on"
            " another host, or as another user, run this command there",
            err=True,
        )
    return open_keyring(folder)


def _folder(keys: Path | None) -> Path:
    from jobrunner.keys.keyring import default_folder

    return keys if keys is not None else default_folder()


def _address(address: str | None, ring: Keyring) -> str:
    """Return the given address, else the coordinator's last one, else its default address on this host."""
    return options.full_address(address or ring.address or own_host())
