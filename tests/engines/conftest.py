"""Tests against the real engines, each started by the test. What is particular to one is here; see tests/contract too.

An engine that is not installed is skipped, unless JOBRUNNER_ENGINES names it: then that is a failure, so that nothing
is left out where it should run. `scripts/test-engines` makes an environment for each.
"""

from __future__ import annotations

import importlib.util
import os
import shutil

import pytest

from jobrunner.testing.waiting import until

PACKAGES = {"dask": "distributed", "ray": "ray", "mpi": "mpi4py"}
WANTED = os.environ.get("JOBRUNNER_ENGINES", "").split(",")


@pytest.fixture(scope="module", autouse=True)
def engine(request):
    """The engine of a module, by its constant ENGINE."""
    name = request.module.ENGINE
    missing = importlib.util.find_spec(PACKAGES[name]) is None
    if name == "mpi" and shutil.which("mpiexec") is None:
        missing = True
    if missing and name in WANTED:
        pytest.fail(f"JOBRUNNER_ENGINES names {name}, which is not installed here")
    if missing:
        pytest.skip(f"{name} is not installed here; `scripts/test-engines {name}` does that")
    return name


@pytest.fixture
def eventually():
    """Waits until a condition holds; its value. Fails after 30 s."""
    return until


@pytest.fixture
def no_jobrunner(tmp_path):
    """The folder of a module `jobrunner` that is none; on PYTHONPATH it hides the real one."""
    folder = tmp_path / "hiding"
    folder.mkdir()
    (folder / "jobrunner.py").write_text("")
    return folder
