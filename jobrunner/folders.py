"""Folders for what does not last: for temporary files, and for the Unix sockets of local backends.

A socket's path has at most 107 bytes, so a long TMPDIR will not do for it.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator

from jobrunner.errors import ConfigError

LONGEST_SOCKET = 100
"""Bytes of a Unix socket's path; Linux allows 107, macOS 103."""

SOCKET = "coordinator"
TOKEN_BYTES = 12


def temporary_folder() -> str | None:
    """The folder for temporary files; None where no folder can be written to."""
    try:
        usual = [tempfile.gettempdir()]
    except OSError:
        usual = []
    return next(filter(_can_hold, (*usual, *_other_folders())), None)


def socket_folder() -> str:
    """The path of a folder, not made yet, that is short enough for a socket in it. Raises ConfigError."""
    name = f"jobrunner-{secrets.token_hex(TOKEN_BYTES)}"
    tried = []
    for parent in (temporary_folder(), *_other_folders()):
        if parent is None:
            continue
        tried.append(parent)
        folder = f"{parent}/{name}"
        if len(os.fsencode(f"{folder}/{SOCKET}")) <= LONGEST_SOCKET and _can_hold(parent):
            return folder
    raise ConfigError(
        f"there is no folder for a socket: none of {', '.join(tried)} can be written to, with a path that is short"
        " enough; set TMPDIR or XDG_RUNTIME_DIR to one"
    )


def make_folder(folder: str) -> None:
    """For this user alone; also what is above it, which may have been removed meanwhile. Raises ConfigError."""
    try:
        os.makedirs(folder, 0o700)
    except OSError as exc:
        raise ConfigError(f"cannot make the folder {folder}: {exc.strerror}; set TMPDIR to another") from exc


def _other_folders() -> Iterator[str]:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        yield runtime
    yield from ("/tmp", "/var/tmp", "/dev/shm")


def _can_hold(folder: str) -> bool:
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)
