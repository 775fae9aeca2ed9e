"""The versions of a program's modules, with which no call finds an older version.

A slot imports a module once. If the program imports it again from a changed file (importlib.reload, IPython's
autoreload, or `del sys.modules[...]` and a new import), slots that have imported it before still have the old version.
So a finder in front of all others notes the names that are looked for. At the next `submit` or `map` those that had
been imported before are checked, and if the file of one has changed, a new epoch of the program begins. Its calls carry
a `SlotInitializer` as their initializer, and no slot serves calls of two epochs (FunctionDef.epoch).

A module that the program has imported and not reloaded is, in a slot, the one on disk at the time of the slot's import,
as in a process that multiprocessing spawns.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NamedTuple

from jobrunner.system import forks

DIGEST_BYTES = 6
"""Size in bytes of the name of a file's version, which people read, too."""

CLOCK_SKEW = 2.0
"""Maximum time in seconds by which the clock of a file system may be behind this process's clock."""

MAX_VERSIONS = 256
"""Maximum number of reloaded modules that are named to the slots of an epoch."""


class Version(NamedTuple):
    """A module's file, and the digest of its content, which is empty if the file cannot be read."""

    module: str
    file: str
    digest: str


class Epoch(NamedTuple):
    """The number of times that the program has changed to other versions of its modules, and their present versions."""

    number: int = 0
    versions: tuple[Version, ...] = ()


class Finder:
    """A finder that finds nothing and notes the names that are looked for, because they are imported or reloaded."""

    def __init__(self) -> None:
        self.asked: set[str] = set()
        """The names that `epoch` has to check."""
        self._lock = forks.lock()
        self._since = time.time() - CLOCK_SKEW
        self._known = {name: origin_of(name) for name in list(sys.modules)}
        """The files of the modules that a slot may have imported, because the program has."""
        self._versions: dict[str, Version] = {}
        self.present = Epoch()
        """The epoch at the last call of `epoch`."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Note the name for which the import system calls this."""
        self.asked.add(name)
        return None

    def epoch(self) -> Epoch:
        """Return the present epoch, which is the same object as long as nothing has changed."""
        if self.asked:
            with self._lock:
                asked, self.asked = self.asked, set()
                changed = [name for name in sorted(asked) if name in sys.modules and self._has_changed(name)]
                if changed:
                    newest = tuple(self._versions[name] for name in self._versions)[-MAX_VERSIONS:]
                    self.present = Epoch(self.present.number + 1, newest)
        return self.present

    def _has_changed(self, name: str) -> bool:
        """Return whether a loaded module has another version than the one that was loaded before."""
        origin = origin_of(name)
        if name not in self._known:
            self._known[name] = origin
            return False
        if origin is None:  # built into Python, or a namespace
            return False
        before, self._known[name] = self._known[name], origin
        version = Version(name, origin, digest_of(origin))
        last = self._versions.get(name)
        if version.digest and (
            version == last or (last is None and origin == before and not self._is_recent(origin))
        ):
            return False
        self._versions.pop(name, None)
        self._versions[name] = version
        return True

    def _is_recent(self, file: str) -> bool:
        """Return whether a file may have changed since the first slot can have imported it."""
        try:
            status = os.stat(file)
        except OSError:
            return True
        return max(status.st_mtime, status.st_ctime) >= self._since


PROGRAM = secrets.token_hex(8)
"""A random string that distinguishes the epochs of this program from those of others."""

_finder: Finder | None = None
_lock = forks.lock()


def watch() -> Finder:
    """Return the finder that notes imports from the first call on."""
    global _finder
    with _lock:
        if _finder is None:
            _finder = Finder()
            sys.meta_path.insert(0, _finder)
        return _finder


def origin_of(name: str) -> str | None:
    """Return the file that a module says it is from, or None if it is from no file."""
    module = sys.modules.get(name)
    if not isinstance(module, ModuleType):
        return None
    # `object.__getattribute__` does not load a module that is loaded lazily.
    spec = object.__getattribute__(module, "__dict__").get("__spec__")
    if not isinstance(spec, ModuleSpec) or not spec.has_location:
        return None
    return spec.origin


def digest_of(file: str) -> str:
    """Return the digest of a file's content, which is empty if it cannot be read."""
    try:
        with open(file, "rb") as source:
            return blake2b(source.read(), digest_size=DIGEST_BYTES).hexdigest()
    except OSError:
        return ""


# --- what a slot looks at -------------------------------------------------------------------------------------------


def check(version: Version) -> None:
    """Raise ConfigError if a module that this process would import has another file than the program's."""
    file = found(version.module)
    digest = digest_of(file) if file is not None else ""
    if digest and digest != version.digest:
        from jobrunner.errors import ConfigError

        name = version.module
        raise ConfigError(
            f"the program has reloaded the module {name!r}, which is version {version.digest} there"
            f" ({version.file}) and version {digest} on {os.uname().nodename} ({file}): install the same there, or"
            f" ship it with Executor(..., ship=[{name.partition('.')[0]}])"
        )


def found(name: str) -> str | None:
    """Return the file from which a module would be imported, found without importing the packages that contain it."""
    path: Iterable[str] | None = None
    spec = None
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        spec = _find(".".join(parts[:end]), path)
        if spec is None:
            return None
        path = spec.submodule_search_locations
    return spec.origin if spec is not None and spec.has_location else None


def _find(name: str, path: Iterable[str] | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(name, path)  # type: ignore[arg-type]
        except Exception:  # its finder cannot tell here, but the import will
            return None
        if spec is not None:
            return spec
    return None
