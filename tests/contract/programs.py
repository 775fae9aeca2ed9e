"""How tests start programs whose executors are of some kind, and how these open them."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from jobrunner import Executor
from jobrunner.testing.promises import OPTIONS

GIVEN: dict[str, Any] = json.loads(os.environ.get(OPTIONS) or "{}")
"""What every Executor of the kind is opened with."""

OWN_VARIABLES = ("PMI_", "HYDI_", "HYDRA_", "MPI_")
"""What one `mpiexec` sets, and another must not find."""


def command(kind: str, *options: str) -> list[str]:
    """What starts a program whose executors are of that kind; its file, or `-c` and its text, go behind it."""
    if kind == "mpi":
        return ["mpiexec", "-n", "3", sys.executable, *options, "-m", "mpi4py.futures"]
    return [sys.executable, *options]


def environment(kind: str) -> dict[str, str]:
    """Its environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OWN_VARIABLES)}
    return {**kept, "JOBRUNNER_BACKEND": kind, "JOBRUNNER_MAX_WORKERS": "2", OPTIONS: json.dumps(GIVEN)}


def open_executor(**settings: Any) -> Executor:
    """In such a program: an Executor of that kind."""
    return Executor(**{**GIVEN, **settings})
