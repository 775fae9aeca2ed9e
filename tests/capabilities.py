"""What each backend can do, as far as they differ. Tests ask for it by a marker or a fixture; the rest all can."""

from __future__ import annotations

import os
import sys

CAN = {
    "apart": "calls run in another process, so that nothing is shared with them",
    "crashes": "that process may die: its call fails, and the others go on",
    "tells": "the error of a call that died says how its process ended",
    "stops": "a call that runs can be stopped: cancel(running=True), timeout=, the end of the program",
    "ends": "Ctrl-C stops what runs",
    "nests": "calls can submit calls and wait for them, and take the Executor along",
    "shared": "a call can be asked for by its id, from other processes too",
    "tidy": "nothing of the backend is left once it is closed, threads included",
    "alone": "the interpreter alone runs a program: interactively too, and Ctrl-C reaches it",
}

OWN = {*CAN}

CAPABILITIES = {
    "threads": OWN - {"apart", "crashes", "tells", "stops", "ends", "shared"},
    "processes": OWN,
    "cluster": OWN,
    "dask": OWN - {"tells", "stops", "shared", "tidy"},
    "ray": OWN - {"tells", "shared", "tidy"},
    "mpi": OWN - {"crashes", "tells", "stops", "ends", "nests", "shared", "alone"},
}

BUILT_IN = ("threads", "processes", "cluster")

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
    return {**kept, "JOBRUNNER_BACKEND": kind, "JOBRUNNER_MAX_WORKERS": "2"}
