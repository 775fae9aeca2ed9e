"""Folders for what does not last: for temporary files, and for the Unix sockets of local backends.

A socket's path has at most 107 bytes, so a long TMPDIR will not do for it.

A program that is killed leaves the folder of its socket behind. Whoever makes one holds a lock on it for as long as the
program lives, and removes those of this user that nobody holds.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress

from jobrunner.errors import ConfigError

MAX_SOCKET_LENGTH = 100
"""Bytes of a Unix socket's path; Linux allows 107, macOS 103."""

SOCKET = "coordinator"
TOKEN_BYTES = 12

PREFIX = "jobrunner-of-"
HELD = re.compile(f"{PREFIX}[0-9a-f]{{{2 * TOKEN_BYTES}}}")
"""The names of folders that their programs hold."""

ABANDONED_AFTER = 60.0
"""Seconds that a folder is left alone although nobody holds it: it may just have been made."""


def temporary_folder() -> str | None:
    """The folder for temporary files; None where no folder can be written to."""
    try:
        usual = [tempfile.gettempdir()]
    except OSError:
        usual = []
    return next(filter(_can_hold, (*usual, *_other_folders())), None)


def socket_folder() -> str:
    """The path of a folder, not made yet, that is short enough for a socket in it. Raises ConfigError."""
    name = f"{PREFIX}{secrets.token_hex(TOKEN_BYTES)}"
    tried = []
    for parent in (temporary_folder(), *_other_folders()):
        if parent is None:
            continue
        tried.append(parent)
        folder = f"{parent}/{name}"
        if len(os.fsencode(f"{folder}/{SOCKET}")) <= MAX_SOCKET_LENGTH and _can_hold(parent):
            return folder
    raise ConfigError(
        f"there is no folder for a socket: each of {', '.join(tried)} is read-only or has too long a path; set TMPDIR"
        " or XDG_RUNTIME_DIR to a writable folder with a short path"
    )


def make_folder(folder: str) -> None:
    """For this user alone; also what is above it, which may have been removed meanwhile. Raises ConfigError."""
    try:
        os.makedirs(folder, 0o700)
    except OSError as exc:
        raise ConfigError(
            f"cannot create the folder {folder}: {exc.strerror}; set TMPDIR to another folder"
        ) from exc


def hold_folder(folder: str) -> int:
    """Hold a folder that was just made, and remove what others have left beside it, those who were killed.

    It is held while the descriptor that this returns is open, and does not pass to programs that this one starts.
    Raises OSError where there is no descriptor for it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        pass  # a file system without locks: nobody removes anything there
    try:
        sweep(folder, HELD.fullmatch, ABANDONED_AFTER)
    except OSError:
        pass  # what is above cannot be listed, or no further descriptor is to be had: others will do it
    return descriptor


def leave_folder(folder: str) -> None:
    """Remove a folder that was made, and the socket in it. Takes no descriptor: there may be none left."""
    for remove, path in ((os.unlink, f"{folder}/{SOCKET}"), (os.rmdir, folder)):
        with suppress(OSError):
            remove(path)


def sweep(own: str, is_alike: Callable[[str], object], seconds: float) -> None:
    """Remove what others have left beside the folder `own`: those who were killed, and could not.

    That is each folder of this user's whose name `is_alike`, that is older than this one by so many seconds, and that
    nobody holds a lock of.
    """
    parent = os.path.dirname(own)
    before = os.stat(own).st_mtime - seconds
    for name in os.listdir(parent):
        path = f"{parent}/{name}"
        if is_alike(name) and path != own and _is_abandoned(path, before):
            shutil.rmtree(path, ignore_errors=True)


def _is_abandoned(folder: str, before: float) -> bool:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # it is another user's, or gone meanwhile
        return False
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.getuid() or found.st_mtime > before:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:  # somebody holds it
        return False
    finally:
        os.close(descriptor)


def _other_folders() -> Iterator[str]:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        yield runtime
    yield from ("/tmp", "/var/tmp", "/dev/shm")


def _can_hold(folder: str) -> bool:
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)


def unreachable(address: str) -> str:
    """Why calls cannot connect to the Unix socket at that address, if so."""
    path = address.partition("://")[2]
    if os.path.exists(path):
        return ""
    return (
        f"calls cannot make calls of their own: {path} was removed, maybe with the folder that TMPDIR names"
    )
