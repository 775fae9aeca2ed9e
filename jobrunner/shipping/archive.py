"""The archive of shipped modules, which makes them importable in the process that it reaches.

A Shipment is an initializer. In a slot, before the first function is unpickled there, it unpacks its files into a
folder of that process alone, puts the folder first on sys.path, and runs the user's initializer. The folder is removed
with the process: by the worker in the case of a slot, else by the process itself at its exit. A folder that a killed
worker has left behind is found by a later one, because every folder in use is locked.
"""

from __future__ import annotations

import fcntl
import importlib
import importlib.machinery
import os
import pickle
import struct
import sys
import zlib
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from jobrunner.calls.initializers import NOTHING, Provided, Wrapper, run
from jobrunner.calls.serialization import (
    BY_REFERENCE,
    BY_VALUE,
    KEY_BYTES,
    PROTOCOL,
    DumpedFunction,
    load_function,
    payloads_of,
)
from jobrunner.nested import task_context

if TYPE_CHECKING:
    from jobrunner.errors import ConfigError

PREFIX = "jobrunner-slot-"
"""The prefix of the names of such folders, which are in the folder for temporary files."""

ABANDONED_AFTER = 3600.0
"""Difference in seconds between the ages of two folders from which the older one is removed, if nobody has locked it.
"""

LENGTH = struct.Struct(">Q")

installed: Wrapper | None = None
"""The initializer that this process alone serves; calls that are made from here get it, too."""

_held: list[int] = []
"""The descriptors of the folders in use, with which the locks end."""


class File(NamedTuple):
    """A file; its `path` is relative, with slashes."""

    path: str
    executable: bool
    data: bytes


class Shipment(Wrapper):
    """Shipped modules.

    `names` are the top-level modules in `archive`; `system` is its platform if it has compiled parts.
    """

    parts: Sequence[Any] = ()
    """The parts of which the archive consists, in the process that created it."""

    def __init__(
        self, archive: bytes, names: tuple[str, ...], system: str, initializer: DumpedFunction | None
    ) -> None:
        self.archive = archive
        self.names = names
        self.system = system
        self.initializer = initializer

    def __reduce__(self) -> tuple[Any, ...]:
        return Shipment, (self.archive, self.names, self.system, self.initializer)

    def dump(self) -> DumpedFunction:
        """Return the pickled form, whose key is the same in every process, so that nested calls use the same slots."""
        inner = self.initializer
        kind = BY_VALUE if inner is not None and inner.python else BY_REFERENCE
        blob = bytes((kind, *sys.version_info[:2])) + pickle.dumps(self, PROTOCOL)
        digest = blake2b(self.archive, digest_size=KEY_BYTES)
        digest.update(repr((self.names, self.system, None if inner is None else inner.key)).encode())
        title = f"for what is shipped ({', '.join(self.names)})"
        if inner is None:
            return DumpedFunction(digest.digest(), title, blob, "", (), self.names)
        return DumpedFunction(digest.digest(), inner.name, blob, inner.python, inner.modules, self.names)

    def __call__(self) -> Provided:
        """Make the modules importable here, and run the initializer. Raises ConfigError, or whatever that raises."""
        global installed
        files = unpack(self.archive)
        check_system(self.system, [file.path for file in files])
        folder = own_folder()
        write(files, folder)
        sys.path.insert(0, folder)
        importlib.invalidate_caches()
        for name in [name for name in list(sys.modules) if name.partition(".")[0] in self.names]:
            del sys.modules[name]  # it may be another version, which this host has
        installed = self
        return (
            NOTHING
            if self.initializer is None
            else run(load_function(self.initializer.blob, payloads_of(self.initializer)))
        )


# --- the archive ----------------------------------------------------------------------------------------------------


def pack(files: Iterable[File]) -> bytes:
    """Return the archive of files; the same files give the same bytes."""
    listed = sorted(files)
    fields = [field for file in listed for field in (file.path, "x" * file.executable, str(len(file.data)))]
    header = os.fsencode("\0".join(fields))  # no path can contain this character
    parts = [LENGTH.pack(len(header)), header, *(file.data for file in listed)]
    return zlib.compress(b"".join(parts), 1)


def unpack(archive: bytes) -> list[File]:
    """Return the files of an archive. Raises ConfigError for paths that lead out of the folder."""
    data = memoryview(zlib.decompress(archive))
    start = LENGTH.size
    at = start + LENGTH.unpack(data[:start])[0]
    fields = iter(os.fsdecode(bytes(data[start:at])).split("\0"))
    files = []
    for path, executable, size in zip(fields, fields, fields, strict=True):
        if any(part in ("", ".", "..") for part in path.split("/")):
            raise _error(f"the shipped archive contains the path {path!r}, which leads out of its folder")
        end = at + int(size)
        files.append(File(path, bool(executable), bytes(data[at:end])))
        at = end
    return files


def write(files: Iterable[File], folder: str) -> None:
    """Write the files to an empty folder of this user, readable by nobody else."""
    for file in files:
        path = f"{folder}/{file.path}"
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        mode = 0o700 if file.executable else 0o600
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with open(descriptor, "wb") as target:
            target.write(file.data)


# --- compiled parts -------------------------------------------------------------------------------------------------


def own_system() -> str:
    """Return the platform on which compiled modules depend, beside the Python version in their names."""
    return f"{sys.platform} {os.uname().machine}"


def foreign(paths: Iterable[str]) -> list[str]:
    """Return the compiled modules that have no file for this version of Python."""
    usable: dict[str, bool] = {}
    for path in paths:
        if path.endswith((".so", ".pyd")):
            folder, _, name = path.rpartition("/")
            stem, _, rest = name.partition(".")
            module = f"{folder}/{stem}".lstrip("/")
            fits = f".{rest}" in importlib.machinery.EXTENSION_SUFFIXES
            usable[module] = usable.get(module, False) or fits
    return [module for module, fits in usable.items() if not fits]


def check_system(system: str, paths: Iterable[str]) -> None:
    """Raise ConfigError if compiled parts are for another platform or another version of Python."""
    here = f"{own_system()} (Python {sys.version_info[0]}.{sys.version_info[1]}, host {os.uname().nodename})"
    if system and system != own_system():
        raise _error(
            f"the shipped modules are compiled for {system}, and this is {here}; install them there instead"
        )
    wrong = foreign(paths)
    if wrong:
        raise _error(
            f"the compiled modules {', '.join(wrong)} do not fit {here}; install them there instead of shipping them"
        )


# --- folders --------------------------------------------------------------------------------------------------------


def own_folder() -> str:
    """Return a new, empty folder of this process that only this user may enter.

    A folder from an interrupted attempt is removed.
    """
    folder = task_context.slot_folder
    if folder is None:  # this is not a slot, so nobody else will remove it
        import atexit
        import tempfile

        folder = tempfile.mkdtemp(prefix=PREFIX)
        atexit.register(remove, folder)
    else:
        remove(folder)
        os.makedirs(folder, 0o700)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    _held.append(descriptor)
    sweep(folder)
    return folder


def remove(folder: str) -> None:
    """Remove a folder with its content, if it exists."""
    if os.path.isdir(folder):
        import shutil

        shutil.rmtree(folder, ignore_errors=True)


def sweep(own: str) -> None:
    """Remove folders that killed processes have left."""
    from jobrunner.system import folders  # imported here like `shutil` above

    folders.sweep(own, lambda name: name.startswith(PREFIX), ABANDONED_AFTER)


def _error(message: str) -> ConfigError:
    # imported here because a slot seldom needs it, see `serialization`
    from jobrunner.errors import ConfigError

    return ConfigError(message)
