"""What travels when an Executor ships modules, and how it becomes importable in the process that it reaches.

A Shipment is an initializer: called in a slot, before the first function there is unpickled, it unpacks its files into
a folder of that process alone, puts it first on sys.path, and runs the initializer of the user. The folder is removed
with the process: by the worker where that is a slot, else by the process itself at its exit. What a killed worker
leaves behind is found by a later one, for who uses a folder holds a lock on it.
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
"""Begins the name of every such folder; they are in the folder for temporary files."""

ABANDONED_AFTER = 3600.0
"""Seconds between the making of two folders after which the older one is removed, if nobody holds its lock."""

LENGTH = struct.Struct(">Q")

installed: Wrapper | None = None
"""What this process serves alone: the calls that are made from here get it too."""

_held: list[int] = []
"""Descriptors of the folders in use: the locks last as long as they do."""


class File(NamedTuple):
    """`path` is relative, with slashes."""

    path: str
    executable: bool
    data: bytes


class Shipment(Wrapper):
    """`names` are the top-level modules in `archive`; `system` is what it is for, if it has compiled parts."""

    parts: Sequence[Any] = ()
    """What the archive was made of, where it was made."""

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
        """Its key is the same wherever it is asked for, so that the calls of a call find the slots of that call."""
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
        """Make the modules importable here, and run the initializer. Raises ConfigError, or what that one raises."""
        global installed
        files = unpack(self.archive)
        check_system(self.system, [file.path for file in files])
        folder = own_folder()
        write(files, folder)
        sys.path.insert(0, folder)
        importlib.invalidate_caches()
        for name in [name for name in list(sys.modules) if name.partition(".")[0] in self.names]:
            del sys.modules[name]  # another version, say, that this host has
        installed = self
        return (
            NOTHING
            if self.initializer is None
            else run(load_function(self.initializer.blob, payloads_of(self.initializer)))
        )


# --- the archive ----------------------------------------------------------------------------------------------------


def pack(files: Iterable[File]) -> bytes:
    """The same files give the same bytes."""
    listed = sorted(files)
    fields = [field for file in listed for field in (file.path, "x" * file.executable, str(len(file.data)))]
    header = os.fsencode("\0".join(fields))  # which no path can hold
    parts = [LENGTH.pack(len(header)), header, *(file.data for file in listed)]
    return zlib.compress(b"".join(parts), 1)


def unpack(archive: bytes) -> list[File]:
    """Raises ConfigError for paths that would lead out of the folder."""
    data = memoryview(zlib.decompress(archive))
    start = LENGTH.size
    at = start + LENGTH.unpack(data[:start])[0]
    fields = iter(os.fsdecode(bytes(data[start:at])).split("\0"))
    files = []
    for path, executable, size in zip(fields, fields, fields, strict=True):
        if any(part in ("", ".", "..") for part in path.split("/")):
            raise _error(f"what is shipped holds the path {path!r}, which leads out of its folder")
        end = at + int(size)
        files.append(File(path, bool(executable), bytes(data[at:end])))
        at = end
    return files


def write(files: Iterable[File], folder: str) -> None:
    """Into an empty folder of this user's; for nobody else to read."""
    for file in files:
        path = f"{folder}/{file.path}"
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        mode = 0o700 if file.executable else 0o600
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with open(descriptor, "wb") as target:
            target.write(file.data)


# --- compiled parts -------------------------------------------------------------------------------------------------


def own_system() -> str:
    """What compiled modules depend on beside the version of Python, which is in their names."""
    return f"{sys.platform} {os.uname().machine}"


def foreign(paths: Iterable[str]) -> list[str]:
    """Compiled modules of which no file is for this version of Python."""
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
    """Raises ConfigError where compiled parts are for another kind of machine, or another version of Python."""
    here = f"{own_system()} (Python {sys.version_info[0]}.{sys.version_info[1]}, host {os.uname().nodename})"
    if system and system != own_system():
        raise _error(
            f"what is shipped has parts that are compiled for {system}, and this is {here}: install it there instead"
        )
    wrong = foreign(paths)
    if wrong:
        raise _error(
            f"the compiled modules {', '.join(wrong)} do not fit {here}: install them there instead of shipping them"
        )


# --- folders --------------------------------------------------------------------------------------------------------


def own_folder() -> str:
    """A new, empty folder of this process, which only this user may enter. One from an interrupted attempt is gone."""
    folder = task_context.slot_folder
    if folder is None:  # this is no slot: nobody else will remove it
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
    """With all that is in it; nothing happens where it is not there."""
    if os.path.isdir(folder):
        import shutil

        shutil.rmtree(folder, ignore_errors=True)


def sweep(own: str) -> None:
    """Remove what others have left: those who were killed, and could not."""
    from jobrunner.system import folders  # here, as `shutil` above

    folders.sweep(own, lambda name: name.startswith(PREFIX), ABANDONED_AFTER)


def _error(message: str) -> ConfigError:
    from jobrunner.errors import ConfigError  # here: a slot seldom needs it, see `serialization`

    return ConfigError(message)
