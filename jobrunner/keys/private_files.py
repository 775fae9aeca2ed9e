"""Files that only their user may read: keys, and files that contain keys."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from jobrunner.errors import ConfigError
from jobrunner.protocol.wire.ids import random_token


def read_private(path: Path) -> str:
    """Return the text of a private file; raise ConfigError if others may read or write it.

    Raises FileNotFoundError if the file does not exist.
    """
    try:
        with open(path, encoding="utf-8") as file:
            check_private(os.fstat(file.fileno()), path)
            return file.read()
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"cannot read {path}: {exc}") from exc


def check_private(state: os.stat_result, path: Path) -> None:
    """Raise ConfigError if others may read or change a file, or own it."""
    mode = stat.S_IMODE(state.st_mode)
    if state.st_uid not in (os.geteuid(), 0) or mode & 0o077:
        private = "700" if stat.S_ISDIR(state.st_mode) else "600"
        raise ConfigError(
            f"{path} must be private, but other users may read or change it (mode {mode:04o}, user {state.st_uid});"
            f" `chmod {private} {path}` makes it private. If somebody may have read keys, use `jobrunner keys rotate`"
        )


def write_private(path: Path, text: str) -> None:
    """Write `text` to a file, completely or not at all, readable only by its user; raise ConfigError."""
    draft = path.with_name(f".{path.name}.{random_token()}")
    try:
        private_folder(path.parent)
        # In a folder to which others may write, a file that already has that name is somebody else's.
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(fd)
        os.replace(draft, path)
    except OSError as exc:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise ConfigError(f"cannot write {path}: {exc.strerror}") from exc


def private_folder(path: Path) -> None:
    """Create a folder that only its user may enter."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def check_own(folder: Path) -> None:
    """Raise ConfigError if others may put files into a folder, or restore earlier files there."""
    state, user = folder.stat(), os.geteuid()
    strange = user != 0 and state.st_uid not in (user, 0)  # in containers, root is given folders of a user
    if strange or state.st_mode & stat.S_IWOTH:
        raise ConfigError(
            f"the folder {folder} cannot hold keys, because others may write to it or own it (user {state.st_uid});"
            " use a folder of your own"
        )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock out other processes during a change of the content of `folder`; raise ConfigError."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; keys need a folder of your own")
    try:
        private_folder(folder)
        check_own(folder)
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        raise ConfigError(f"cannot write to {folder}: {exc.strerror}") from exc
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
