"""Which version of its modules a program has, so that no call finds an older one.

A slot imports a module once. When the program imports it again from a changed file (importlib.reload, IPython's
autoreload, or `del sys.modules[...]` and a new import), slots that have imported it before still have the old one. So a
finder in front of all others notes the names that are looked for. At the next `submit` or `map` those are looked at
that were imported before, and if the file of one has changed, a new epoch of the program begins. Its calls bring a
`SlotInitializer` along as their initializer, and no slot serves calls of two epochs (FunctionDef.epoch).

What the program has imported and not reloaded is what a slot finds on disk when it imports it, as in a process that
multiprocessing spawns.
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
"""Of the name of a file's version, which is for people too."""

CLOCK_SKEW = 2.0
"""Seconds by which the clock of a file system may be behind the one of this process."""

MAX_VERSIONS = 256
"""Reloaded modules that are named to the slots of an epoch."""


class Version(NamedTuple):
    """A module's file, and the digest of what is in it; empty where it cannot be read."""

    module: str
    file: str
    digest: str


class Epoch(NamedTuple):
    """How often the program has come to other versions of its modules, and the present ones of those concerned."""

    number: int = 0
    versions: tuple[Version, ...] = ()


class Finder:
    """Finds nothing, and notes what is looked for. A name is looked for when it is imported or reloaded."""

    def __init__(self) -> None:
        self.asked: set[str] = set()
        """Names that `epoch` has to look at."""
        self._lock = forks.lock()
        self._since = time.time() - CLOCK_SKEW
        self._known = {name: origin_of(name) for name in list(sys.modules)}
        """Where the modules are from that a slot may have imported, for the program has."""
        self._versions: dict[str, Version] = {}
        self.present = Epoch()
        """As it was when `epoch` was last asked."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the import system calls."""
        self.asked.add(name)
        return None

    def epoch(self) -> Epoch:
        """The present one; the very same object as long as nothing has changed."""
        if self.asked:
            with self._lock:
                asked, self.asked = self.asked, set()
                changed = [name for name in sorted(asked) if name in sys.modules and self._has_changed(name)]
                if changed:
                    newest = tuple(self._versions[name] for name in self._versions)[-MAX_VERSIONS:]
                    self.present = Epoch(self.present.number + 1, newest)
        return self.present

    def _has_changed(self, name: str) -> bool:
        """Whether a module that is there is another version than the one that was there before."""
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
        """Whether a file may have changed since the first slot can have imported it."""
        try:
            status = os.stat(file)
        except OSError:
            return True
        return max(status.st_mtime, status.st_ctime) >= self._since


PROGRAM = secrets.token_hex(8)
"""Tells the epochs of this program from those of others."""

_finder: Finder | None = None
_lock = forks.lock()


def watch() -> Finder:
    """Note from now on what is imported again; by whom."""
    global _finder
    with _lock:
        if _finder is None:
            _finder = Finder()
            sys.meta_path.insert(0, _finder)
        return _finder


def origin_of(name: str) -> str | None:
    """The file that a module is from, as it says itself; None where it is from no file."""
    module = sys.modules.get(name)
    if not isinstance(module, ModuleType):
        return None
    # Past the module's own way to its attributes: one that is loaded lazily would be loaded by that.
    spec = object.__getattribute__(module, "__dict__").get("__spec__")
    if not isinstance(spec, ModuleSpec) or not spec.has_location:
        return None
    return spec.origin


def digest_of(file: str) -> str:
    """Of a file's content; empty where it cannot be read."""
    try:
        with open(file, "rb") as source:
            return blake2b(source.read(), digest_size=DIGEST_BYTES).hexdigest()
    except OSError:
        return ""


# --- what a slot looks at -------------------------------------------------------------------------------------------


def check(version: Version) -> None:
    """Raises ConfigError if a module that this process would import is from another file than the program's."""
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
    """The file that a module would be imported from, found without importing the packages that it is in."""
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
        except Exception:  # whoever answers for it cannot tell: the import will
            return None
        if spec is not None:
            return spec
    return None
