"""The collection of modules that exist only where the program runs, as `Executor(..., ship=[...])` names them.

A snapshot of them is sent, which is taken when the Executor is created. See `archive` for its use elsewhere.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from jobrunner.calls.serialization import dump_initializer
from jobrunner.config import MAX_PAYLOAD
from jobrunner.errors import ConfigError
from jobrunner.shipping.archive import File, Shipment, foreign, own_system, pack
from jobrunner.system.host import module_path

OURS = frozenset(("jobrunner", "cloudpickle", "msgpack", "__main__"))
"""Modules that a slot has before anything is unpacked there."""

MAX_PARTS = 256
"""Maximum number of modules and packages that one Executor ships, because their names travel with each function."""

INIT = "__init__.py"
SUFFIXES = (".py", *importlib.machinery.EXTENSION_SUFFIXES)
"""The suffixes of files that are modules; longer ones come first."""
LEFT_OUT = ("__pycache__", "node_modules")
"""Names of files that are omitted, beside hidden ones (.git, .venv, .env) and *.pyc."""


@dataclass(frozen=True)
class Part:
    """A top-level module or package: the file, or the folder with its __init__.py."""

    name: str
    path: Path

    @property
    def file(self) -> Path:
        """The file that the import system calls the origin."""
        return self.path / INIT if self.path.is_dir() else self.path


def find(ship: Iterable[Any]) -> list[Part]:
    """Return the parts for modules and paths from the user. Raises ConfigError for those that cannot be shipped."""
    if isinstance(ship, (str, bytes, os.PathLike, ModuleType)):
        raise ConfigError(f"ship={ship!r}: must be a list of modules and paths, ship=[...]")
    parts: dict[str, Part] = {}
    for item in ship:
        part = _of_module(item) if isinstance(item, ModuleType) else _of_path(item)
        if part.name in sys.stdlib_module_names or part.name in OURS:
            raise ConfigError(
                f"ship: {part.path} would hide the module {part.name!r} that every worker has; rename it"
            )
        known = parts.setdefault(part.name, part)
        if known != part:
            raise ConfigError(
                f"ship: {known.path} and {part.path} are both called {part.name!r}; ship one of them"
            )
    if len(parts) > MAX_PARTS:
        raise ConfigError(
            f"ship: {len(parts)} modules are given; at most {MAX_PARTS} can be shipped, so put them into a package"
        )
    return list(parts.values())


def pack_parts(
    parts: Sequence[Part],
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    limit: int = MAX_PAYLOAD,
) -> Shipment:
    """Return the initializer that makes the parts importable and then calls `initializer`.

    Raises ConfigError if the files have more than `limit` bytes or cannot be read, and SerializationError for an
    initializer that cannot be pickled.
    """
    shipment = _pack(parts, limit)
    shipment.initializer = None if initializer is None else dump_initializer(initializer, initargs)
    return shipment


def collect_again(shipment: Shipment) -> Shipment:
    """Return a shipment of the same modules with the present content of their files. Raises ConfigError."""
    again = _pack(shipment.parts, MAX_PAYLOAD)
    again.initializer = shipment.initializer
    return again


def _pack(parts: Sequence[Part], limit: int) -> Shipment:
    files: list[File] = []
    size = 0
    for part in parts:
        for path, name in _files_of(part):
            try:
                size += path.stat().st_size
                if size > limit:
                    raise ConfigError(
                        f"ship: with {path} the files have {size:,} bytes, and at most {limit:,} can be shipped;"
                        " keep the data on a file system that the workers see, or install the package there"
                    )
                files.append(File(name, os.access(path, os.X_OK), path.read_bytes()))
            except OSError as exc:
                raise ConfigError(f"ship: cannot read {path}: {exc.strerror}") from exc
    names = [file.path for file in files]
    wrong = foreign(names)
    if wrong:
        raise ConfigError(
            f"ship: the compiled modules {', '.join(wrong)} are for another system or Python version than this"
            " program's; build them for this one, or install the package on the workers instead"
        )
    system = own_system() if any(name.endswith((".so", ".pyd", ".dylib")) for name in names) else ""
    shipment = Shipment(pack(files), tuple(sorted(part.name for part in parts)), system, None)
    shipment.parts = parts
    return shipment


def is_on_path(part: Part) -> bool:
    """Return whether child processes of this one find that very module anyway."""
    spec = importlib.machinery.PathFinder.find_spec(part.name, module_path())
    return spec is not None and _is_file(part, spec.origin)


def make_importable_here(parts: Iterable[Part]) -> None:
    """Add modules that are not found otherwise to the end of sys.path, for calls that run in this process.

    Raises ConfigError if there is another module of that name.
    """
    for part in parts:
        loaded = sys.modules.get(part.name)
        if loaded is not None:
            origin = getattr(loaded, "__file__", None)
        else:
            spec = importlib.util.find_spec(part.name)
            origin = None if spec is None else spec.origin
            if spec is None:
                sys.path.append(str(part.path.parent))
                continue
        if not _is_file(part, origin):
            raise ConfigError(
                f'ship: the module {part.name!r} is {origin} in this process, where calls run on "threads"; so'
                f' {part.path} cannot be it. Use "processes", or rename one of them'
            )


def _is_file(part: Part, origin: str | None) -> bool:
    return origin is not None and os.path.realpath(origin) == os.path.realpath(part.file)


def _of_module(module: ModuleType) -> Part:
    name = module.__name__.partition(".")[0]
    if name in ("__main__", "__mp_main__"):
        raise ConfigError(
            "ship: __main__ cannot be shipped, and need not be; its functions and classes travel with the calls"
        )
    top = sys.modules.get(name, module)
    file = getattr(top, "__file__", None)
    if file is None:
        kind = "a namespace package" if hasattr(top, "__path__") else "built into Python"
        advice = (
            "ship the packages inside of it as paths, or give it an __init__.py"
            if hasattr(top, "__path__")
            else ("every worker has it")
        )
        raise ConfigError(f"ship: the module {name!r} has no file, because it is {kind}; {advice}")
    path = Path(file).absolute()
    if not path.exists():
        raise ConfigError(
            f"ship: the file {path} of the module {name!r} does not exist (it may be in an archive); install it on the"
            " workers, or unpack the archive and ship the folder"
        )
    if not hasattr(top, "__path__"):
        return Part(name, _checked_module(path))
    return Part(name, _checked_package(path.parent))


def _of_path(item: Any) -> Part:
    if not isinstance(item, (str, os.PathLike)):
        raise ConfigError(f"ship: {item!r} is not a module or a path")
    path = Path(item).expanduser().absolute()
    if not path.exists():
        hint = f"; for the module of that name, ship=[{item}] (no quotes)" if str(item) in sys.modules else ""
        raise ConfigError(f"ship: {path} does not exist{hint}")
    if path.is_dir():
        path = _checked_package(path.resolve())
        name = path.name
    else:
        name = _checked_module(path).name.removesuffix(_suffix(path))
    if not name.isidentifier():
        raise ConfigError(
            f"ship: {path} cannot be imported, because {name!r} is not a module name; rename it"
        )
    return Part(name, path)


def _checked_package(folder: Path) -> Path:
    if not (folder / INIT).is_file():
        raise ConfigError(
            f"ship: {folder} is not a package, because it has no {INIT}; ship the modules in it instead"
        )
    return folder


def _checked_module(file: Path) -> Path:
    if foreign([file.name]):
        raise ConfigError(
            f"ship: {file} is compiled for another system or Python version than this program's; build it for this one,"
            " or install it on the workers"
        )
    if not _suffix(file):
        raise ConfigError(f"ship: {file} is not a package folder or a module (.py)")
    return file


def _suffix(file: Path) -> str:
    """Return the suffix of a module's file, which is empty for other files."""
    return next((suffix for suffix in SUFFIXES if file.name.endswith(suffix)), "")


def _files_of(part: Part) -> Iterator[tuple[Path, str]]:
    """Yield the files of a part, and their paths relative to the folder that is put on sys.path."""
    if not part.path.is_dir():
        yield part.path, part.name + _suffix(part.path)
        return
    yield from _walk(part.path, part.name, ())


def _walk(folder: Path, name: str, inside: tuple[Path, ...]) -> Iterator[tuple[Path, str]]:
    real = folder.resolve()
    if real in inside:
        return  # a link that leads back
    try:
        entries = sorted(folder.iterdir())
    except OSError as exc:
        raise ConfigError(f"ship: cannot read {folder}: {exc.strerror}") from exc
    for path in entries:
        if path.name in LEFT_OUT or path.name.startswith(".") or path.suffix == ".pyc":
            continue
        if path.is_dir():
            yield from _walk(path, f"{name}/{path.name}", (*inside, real))
        elif path.is_file():
            yield path, f"{name}/{path.name}"
