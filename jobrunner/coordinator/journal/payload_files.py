"""The large payloads of a journal, each in a file of its own, as SQLite would copy and checksum them several times.

The law: a file is complete before a row names it (`Reference`), and on the disk before that row is (`sync`, before the
journal's checkpoint). It is removed when no row needs it: at once if nothing is lost should the row come back,
otherwise after the checkpoint that makes sure that it does not. A file that differs from its reference counts as never
written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import zlib
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path

import msgpack

from jobrunner.errors import ConfigError
from jobrunner.keys.private_files import check_private, private_folder
from jobrunner.protocol.wire.ids import random_token
from jobrunner.protocol.wire.payloads import Payload, buffers_of, payload_size

LARGE = 128 * 1024
"""Size in bytes from which a payload gets a file; smaller ones are faster in a row."""

UNSETTLED_BYTES = 64 * 1024 * 1024
"""Size in bytes of files that wait to be written to the disk or removed, from which this is done.

It is small enough for one turn of a coordinator.
"""


class Reference(bytes):
    """The packed reference to a payload in a file: its name, its checksum and the sizes of its parts."""


class PayloadFiles:
    """The folder of one journal and one user, which is created when it is needed."""

    def __init__(self, folder: Path) -> None:
        """Open the folder. Raises ConfigError if others may change its content."""
        self._folder = folder
        self._unsynced: dict[str, int] = {}
        """By file, the size in bytes of files that may not be on the disk yet."""
        self._condemned: dict[str, int] = {}
        """By file, the size in bytes of files that are removed after the next checkpoint."""
        if folder.exists():
            check_private(folder.lstat(), folder)

    @property
    def unsettled_bytes(self) -> int:
        return sum(self._unsynced.values()) + sum(self._condemned.values())

    def size(self) -> int:
        """Return the size of all files in bytes."""
        return sum(file.stat().st_size for file in files_in(self._folder))

    def write(self, payload: Payload) -> Reference:
        """Write a payload to a file; on an error, remove the file and raise OSError."""
        parts = [
            memoryview(part) for part in ((payload,) if isinstance(payload, bytes) else buffers_of(payload))
        ]
        name = random_token()
        path = self._folder / name
        private_folder(self._folder)
        try:
            check_private(self._folder.lstat(), self._folder)  # somebody else may have created it meanwhile
        except ConfigError as exc:
            raise PermissionError(str(exc)) from exc
        require_room(self._folder, payload_size(payload))
        try:
            write_whole(path, parts)
        except OSError:
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        self._unsynced[name] = payload_size(payload)
        sizes = len(payload) if isinstance(payload, bytes) else [part.nbytes for part in parts]
        packed: bytes = msgpack.packb((name, checksum(parts), sizes))
        return Reference(packed)

    def read(self, reference: Reference) -> Payload | None:
        """Return the payload, or None if the file is not complete."""
        name, crc, sizes = msgpack.unpackb(reference)
        try:
            data = memoryview((self._folder / name).read_bytes())
        except OSError:
            return None
        if zlib.crc32(data) != crc:
            return None
        if isinstance(sizes, int):
            return bytes(data)
        ends = accumulate(sizes)  # there may be very many
        return tuple([bytes(data[end - size : end]) for end, size in zip(ends, sizes, strict=True)])

    def remove(self, reference: Reference) -> None:
        """Remove the file at once."""
        name = name_in(reference)
        self._unsynced.pop(name, None)
        with contextlib.suppress(OSError):
            (self._folder / name).unlink()

    def condemn(self, reference: Reference) -> None:
        """Remove the file when it is certain that no row will name it again, see `settle`."""
        name = name_in(reference)
        self._unsynced.pop(name, None)
        self._condemned[name] = size_in(reference)

    def sync(self) -> None:
        """Write the files that rows may name to the disk. Raises OSError."""
        if not self._unsynced:
            return
        for name in self._unsynced:
            sync(self._folder / name)
        sync(self._folder)
        self._unsynced.clear()

    def settle(self) -> None:
        """Remove the condemned files, because the rows are on the disk."""
        for name in self._condemned:
            with contextlib.suppress(OSError):
                (self._folder / name).unlink()
        self._condemned.clear()

    def adopt(self, references: Iterable[Reference]) -> None:
        """Keep the files that rows name at the start, and condemn all others in the folder."""
        known = {name_in(reference) for reference in references}
        for file in files_in(self._folder):
            found = self._unsynced if file.name in known else self._condemned
            found[file.name] = file.stat().st_size


def name_in(reference: Reference) -> str:
    name: str = msgpack.unpackb(reference)[0]
    return name


def size_in(reference: Reference) -> int:
    """Return the size of the payload in bytes."""
    sizes = msgpack.unpackb(reference)[2]
    return sizes if isinstance(sizes, int) else sum(sizes)


def files_in(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.is_file()] if folder.is_dir() else []


def require_room(folder: Path, size: int) -> None:
    """Raise OSError if the disk has less room, because each try would otherwise fill all of it in vain."""
    found = os.statvfs(folder)
    if found.f_bavail * found.f_frsize < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def write_whole(path: Path, parts: list[memoryview]) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        for part in parts:
            left = part.cast("B") if part.nbytes else part
            while left:
                left = left[os.write(fd, left) :]
    finally:
        os.close(fd)


def checksum(parts: list[memoryview]) -> int:
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    return crc


def sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
