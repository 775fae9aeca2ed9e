"""The line that lets a host join: the coordinator's address and public key, and a short-lived secret.

    jobrunner://10.0.0.5:7077/SERVERKEY.SECRET

The secret is that of a key pair of its own. The coordinator knows the public half, so the holder of the line can prove
in the handshake that it has the secret, which itself is never sent and never written to a file.

A line comes from standard input, a file or the environment. As an argument of a command it can be read by everybody on
the host until it is overwritten (`process_list`), a moment after the command has started.
"""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path
from typing import NamedTuple

from jobrunner.config import JOIN_SCHEME
from jobrunner.errors import ConfigError
from jobrunner.keys import process_list
from jobrunner.keys.private_files import read_private
from jobrunner.transport.curve import Credentials, from_text, pair_of

ENVIRONMENT = "JOBRUNNER_INVITATION"

STANDARD_INPUT = "-"
FILE_MARK = "@"
"""The character before the name of a file, in an argument that may also be a line or an address."""


class Invitation(NamedTuple):
    """The content of an invitation line: the coordinator's address and public key, and the invitation's secret key."""

    address: str
    server: str
    secret: str

    def to_line(self) -> str:
        return f"{JOIN_SCHEME}{self.address.removeprefix('tcp://')}/{self.server}.{self.secret}"

    @property
    def credentials(self) -> Credentials:
        return Credentials(self.server, pair_of(self.secret))


def parse_line(text: str) -> Invitation:
    """Return the invitation of a line; raise ConfigError, without showing a secret, if it is not one."""
    address, slash, keys = text.strip().removeprefix(JOIN_SCHEME).partition("/")
    server, dot, secret = keys.partition(".")
    if not (text.strip().startswith(JOIN_SCHEME) and address and slash and dot):
        raise ConfigError(
            "this is not an invitation line; it must look like jobrunner://HOST:PORT/KEY.SECRET, as"
            " `jobrunner keys invite` prints it"
        )
    try:
        from_text(server)
        from_text(secret)
    except ConfigError as exc:
        raise ConfigError("the invitation line is incomplete or was changed; paste the whole line") from exc
    return Invitation(f"tcp://{address}", server, secret)


def names_a_line(argument: str) -> bool:
    """Return whether an argument is a line or names its source, and is not an address."""
    text = argument.strip()
    return text == STANDARD_INPUT or text.startswith((FILE_MARK, JOIN_SCHEME))


def read_line(source: str) -> str:
    """Return the line that a setting or an argument gives: the line itself, `-` for standard input, or a file.

    A file may be given as `@FILE`, too. A line that was given as text is overwritten where other users could see it,
    and removed from the environment that calls would inherit. Raises ConfigError.
    """
    forget_line()
    text = source.strip()
    if text.startswith(JOIN_SCHEME):
        hide_line(text)
        return text
    if text == STANDARD_INPUT:
        line = ask_for_line()
    else:
        path = text.removeprefix(FILE_MARK)
        try:
            line = read_private(Path(path)).strip()
        except FileNotFoundError:
            raise ConfigError(f"the file {path} for the invitation line does not exist") from None
    if not line:
        raise ConfigError("no invitation line was given; `jobrunner keys invite` prints one")
    return line


def forget_line() -> None:
    """Remove the line from the environment, which calls and their processes inherit."""
    line = os.environ.pop(ENVIRONMENT, "").strip()
    if line.startswith(JOIN_SCHEME):
        process_list.hide(line.rpartition(".")[2])


def ask_for_line() -> str:
    """Return the first line of standard input; a terminal asks for it and does not show it."""
    if sys.stdin is not None and sys.stdin.isatty():
        return getpass.getpass("The line to join with (jobrunner://...): ").strip()
    return sys.stdin.readline().strip() if sys.stdin is not None else ""


def hide_line(line: str) -> None:
    secret = line.rpartition(".")[2]
    if secret and not process_list.hide(secret):
        print(
            "jobrunner: the line to join with is in the process list, where everybody on this host can read it; give"
            " `-` in its place, and the line on standard input",
            file=sys.stderr,
        )
