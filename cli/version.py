"""`jobrunner version`: the versions for a bug report, and the path of the config file."""

from __future__ import annotations

import platform
import sys
from typing import Any

from jobrunner.cli import common_options as options
from jobrunner.cli.output import Output, View
from jobrunner.config import file_path
from jobrunner.version import __version__

PACKAGES = ("pyzmq", "msgpack", "cloudpickle", "typer", "rich")


def version(json: options.Json = False) -> None:
    """Show the versions for a bug report, and the config file."""
    Output(json=json).show(facts(), VERSION)


def facts() -> dict[str, Any]:
    path = file_path()
    return {
        "jobrunner": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        **{package: installed(package) for package in PACKAGES},
        "libzmq": libzmq(),
        "config_file": str(path),
        "config_file_exists": path.is_file(),
    }


def installed(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def libzmq() -> str:
    """Return the version of the C library inside pyzmq, which is known only after loading it."""
    try:
        from jobrunner.transport.sockets import describe_versions
    except ImportError as exc:
        return f"cannot be loaded: {exc}"
    return describe_versions()["libzmq"]


def lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    shown = {
        name: str(value) for name, value in found.items() if name not in ("config_file", "config_file_exists")
    }
    note = "" if found["config_file_exists"] else " (does not exist; the defaults apply)"
    return [*shown.items(), ("config file", found["config_file"] + note)]


def _table(found: dict[str, Any]) -> Any:
    from jobrunner.cli.views import fields

    return fields(lines(found))


VERSION = View(_table, lambda found: [found["jobrunner"]])
