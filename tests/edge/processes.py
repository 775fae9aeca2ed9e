"""The processes of a run, found in /proc."""

from __future__ import annotations

import os
from pathlib import Path

from edge.plan import CALLS, CLUSTER

MODULES = {CALLS: b"jobrunner.workers.child", CLUSTER: b"jobrunner.coordinator.embedded"}
"""By kind, what a process of it is started with."""


def marked(mark: str) -> list[int]:
    """Processes that have inherited that line of the environment."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                environment = Path("/proc", name, "environ").read_bytes().split(b"\0")
                state = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if mark.encode() in environment and state != "Z":
                found.append(int(name))
    return found


def of_kind(pid: int, kind: str) -> bool:
    try:
        return MODULES[kind] in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
    except OSError:
        return f"process {pid}"
