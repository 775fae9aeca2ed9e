"""Folders for temporary things: temporary files, and the Unix sockets of local backends.

A socket's path has at most 107 bytes, so a long TMPDIR cannot contain it.

A program that is killed leaves the folder of its socket behind. The creator of a folder holds a lock on it as long as
the program lives, and removes folders of this user that nobody holds.
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
"""Maximum length in bytes of a Unix socket's path; Linux allows 107, macOS 103."""

SOCKET = "coordinator"
TOKEN_BYTES = 12

PREFIX = "jobrunner-of-"
HELD = re.compile(f"{PREFIX}[0-9a-f]{{{2 * TOKEN_BYTES}}}")
"""The names of folders that their programs hold."""

ABANDONED_AFTER = 60.0
"""Time in seconds for which a folder is kept although nobody holds it, because it may have just been created."""


def temporary_folder() -> str | None:
    """Return the folder for temporary files, or None if no folder is writable."""
    try:
        usual = [tempfile.gettempdir()]
    except OSError:
        usual = []
    return next(filter(_can_hold, (*usual, *_other_folders())), None)


def socket_folder() -> str:
    """Return the path of a new folder that is short enough for a socket in it. Raises ConfigError."""
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
    """Create the folder for this user alone, and missing folders above it. Raises ConfigError."""
    try:
        os.makedirs(folder, 0o700)
    except OSError as exc:
        raise ConfigError(
            f"cannot create the folder {folder}: {exc.strerror}; set TMPDIR to another folder"
        ) from exc


def hold_folder(folder: str) -> int:
    """Hold a new folder, and remove folders beside it that killed programs have left.

    The folder is held while the returned descriptor is open; programs that this one starts do not inherit it. Raises
    OSError if there is no free descriptor.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        pass  # the file system has no locks, so nobody removes anything there
    try:
        sweep(folder, HELD.fullmatch, ABANDONED_AFTER)
    except OSError:
        pass  # the folder above cannot be listed, or there is no free descriptor: another program will do it
    return descriptor


def leave_folder(folder: str) -> None:
    """Remove a folder and the socket in it. This needs no descriptor, because none may be left."""
    for remove, path in ((os.unlink, f"{folder}/{SOCKET}"), (os.rmdir, folder)):
        with suppress(OSError):
            remove(path)


def sweep(own: str, is_alike: Callable[[str], object], seconds: float) -> None:
    """Remove folders beside the folder `own` that killed programs have left.

    These are the folders of this user whose name `is_alike`, that are older than this one by this number of seconds,
    and on which nobody holds a lock.
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
    except OSError:  # it belongs to another user, or has been removed meanwhile
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
    """Return the reason why calls cannot connect to the Unix socket at that address, or an empty string."""
    path = address.partition("://")[2]
    if os.path.exists(path):
        return ""
    return (
        f"calls cannot make calls of their own: {path} was removed, maybe with the folder that TMPDIR names"
    )
