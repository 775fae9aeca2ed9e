"""Tests with the libraries that people use. They are many and large, so a plain test run does without.

`scripts/test-integrations` installs them all and runs this folder, with nothing left out.
"""

from __future__ import annotations

import importlib.util

import pytest

from jobrunner import Executor

NEEDED = (
    "adaptive",
    "black",
    "dask",
    "emcee",
    "IPython",
    "ipykernel",
    "joblib",
    "jupyter_client",
    "nevergrad",
    "pylint",
    "scipy",
    "sklearn",
    "tqdm",
    "yapf",
)
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
LEFT_OUT = (
    f"tests/integrations was left out: {', '.join(MISSING)} missing; scripts/test-integrations has them"
)

collect_ignore_glob = ["test_*.py"] if MISSING else []


def pytest_terminal_summary(terminalreporter):
    if MISSING:
        terminalreporter.write_line(LEFT_OUT)


@pytest.fixture(scope="session", params=("threads", "processes", "cluster"))
def kind(request):
    """The backend's name."""
    return request.param


@pytest.fixture(scope="session")
def executor(kind):
    """Two workers, shared by tests that leave no trace."""
    with Executor(kind, max_workers=2) as shared:
        yield shared
