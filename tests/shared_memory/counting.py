"""What this process has open."""

from __future__ import annotations

import os
from pathlib import Path

MIB = 1 << 20


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def maps():
    """Maps of segments, private ones: those of a pool are shared."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sum("/memfd:jobrunner-payload" in line and line.split()[1].endswith("p") for line in lines)
