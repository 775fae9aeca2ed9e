"""What each backend can do, as far as they differ. Tests ask for it by a marker or a fixture; the rest all can."""

from __future__ import annotations

CAN = {
    "apart": "calls run in another process, so that nothing is shared with them",
    "crashes": "that process may die: its call fails, and the others go on",
    "tells": "the error of a call that died says how its process ended",
    "stops": "a call that runs can be stopped: cancel(running=True), timeout=, the end of the program",
    "ends": "Ctrl-C stops what runs",
    "nests": "calls can submit calls and wait for them, and take the Executor along",
    "shared": "a call can be asked for by its id, from other processes too",
    "once": "a call that is to run at most once is known to have begun",
    "tidy": "nothing of the backend is left once it is closed, threads included",
    "signals": "a program is one process, which Ctrl-C reaches",
}

OWN = {*CAN}

CAPABILITIES = {
    "threads": OWN - {"apart", "crashes", "tells", "stops", "ends", "shared"},
    "processes": OWN,
    "cluster": OWN,
    "dask": OWN - {"tells", "stops", "shared", "tidy"},
    "ray": OWN - {"tells", "shared", "tidy"},
    "mpi": OWN - {"crashes", "tells", "stops", "ends", "nests", "shared", "signals"},
}

BUILT_IN = ("threads", "processes", "cluster")

PROGRAM = {"mpi": ("mpiexec", "-n", "3")}
"""What starts a program, where the interpreter does not."""

MODULE = {"mpi": ("-m", "mpi4py.futures")}
"""What goes before the program's file."""
