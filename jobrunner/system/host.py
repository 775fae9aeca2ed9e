"""The properties of this process and its host: usable CPUs, the module path, names and versions."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import math
import os
import socket
import sys
from collections.abc import Iterable
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def own_host() -> str:
    """Return this host's name for people."""
    return os.uname().nodename


def python_version() -> str:
    """Return the major and minor version of Python, such as "3.11", on which functions by value depend."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def current_folder() -> str | None:
    """Return the current folder, or None if it has been removed."""
    try:
        return os.getcwd()
    except OSError:
        return None


def current_environment() -> dict[str, str]:
    """Return the environment as a dict; `dict(os.environ)` raises KeyError if another thread changes it meanwhile."""
    present = ((name, os.environ.get(name)) for name in list(os.environ))
    return {name: value for name, value in present if value is not None}


def module_path(also: str | None = None) -> list[str]:
    """Return the module path for a child process: that of this process, and the folder `also`.

    The default of `also` is the current folder, where relative entries, including the empty one, begin.
    """
    here = current_folder()
    path = [
        entry if here is None or os.path.isabs(entry) else os.path.normpath(os.path.join(here, entry))
        for entry in sys.path
        if isinstance(entry, str)
    ]
    last = also or here
    return path if last is None or last in path else [*path, last]


def missing_modules(names: Iterable[str]) -> list[str]:
    """Return those of these top-level modules that a child process could not import; nothing is imported."""
    missing = [name for name in names if not _is_found(name)]
    if missing:
        importlib.invalidate_caches()  # one may have been installed a moment ago
        missing = [name for name in missing if not _is_found(name)]
    return missing


def _is_found(name: str) -> bool:
    try:
        if importlib.util.find_spec(name) is not None:
            return True
    except ValueError:  # it is loaded, and does not say from where
        return True
    except Exception:  # its finder cannot tell here, but the import will
        return True
    return importlib.machinery.PathFinder.find_spec(name, module_path()) is not None


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use, after affinity and cgroup limits; at least 1."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS has no affinity
        count = os.cpu_count() or 1
    limit = cgroup_limit(CGROUPS, own_cgroup())
    return max(1, count if limit is None else min(count, math.ceil(limit)))


def own_cgroup() -> str:
    """Return this process's place in the unified hierarchy; "/" if there is none."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return "/"
    return next((line[3:] for line in lines if line.startswith("0::")), "/")


def cgroup_limit(root: Path, group: str) -> float | None:
    """Return the smallest CPU quota of the group and those above it, in CPUs, or None. Checks version 2, then 1."""
    limits = []
    place = root / group.strip("/")
    for folder in (place, *place.parents):
        limits += quota(folder / "cpu.max")
        if folder == root:
            break
    limits += quota_v1(root / "cpu")
    return min(limits, default=None)


def quota(file: Path) -> list[float]:
    try:
        amount, period = file.read_text().split()
        return [int(amount) / int(period)]
    except (OSError, ValueError):  # there is no such file, or it contains "max"
        return []


def quota_v1(folder: Path) -> list[float]:
    try:
        amount = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return []
    return [amount / period] if amount > 0 and period > 0 else []


def unknown_host(address: str) -> str:
    """Return why the host in "tcp://HOST:PORT" cannot be found, or an empty string if it can."""
    scheme, _, rest = address.partition("://")
    host = rest.rpartition(":")[0].strip("[]")
    if scheme != "tcp":
        return ""
    try:
        socket.getaddrinfo(host, None)
    except OSError as exc:
        return f"there is no host {host!r} ({exc.strerror})"
    return ""
