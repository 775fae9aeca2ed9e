"""One suite for every backend: what the front promises must hold wherever calls run.

Tests take functions from the zoo, which the slots can import, or define them on the spot (then they go by value).
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from jobrunner import Executor

TESTS = Path(__file__).resolve().parent.parent
BACKENDS = ("threads", "processes", "cluster")
PROGRAM_SECONDS = 50.0

sys.path.insert(0, str(TESTS))  # for `import zoo`, here
os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])  # and in slots


def pytest_configure(config):
    config.addinivalue_line("markers", "crashes: processes die in this test, so it cannot run on threads")
    config.addinivalue_line("markers", "shared: needs calls that other processes can ask for; not on threads")


def pytest_collection_modifyitems(config, items):
    """Leave out what would kill the test run itself."""
    left_out = [
        item
        for item in items
        if "[threads" in item.name
        and (item.get_closest_marker("crashes") or item.get_closest_marker("shared"))
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session", params=BACKENDS)
def kind(request):
    """The backend's name."""
    return request.param


@pytest.fixture(scope="session")
def isolated(kind):
    """Whether each slot is a process, that can die or be stopped alone."""
    return kind != "threads"


@pytest.fixture(scope="session")
def executor(kind):
    """Two workers, shared by tests that leave no trace."""
    with Executor(kind, max_workers=2) as shared:
        yield shared


@pytest.fixture
def make_executor(kind):
    """Opens executors of this backend; they are killed when the test ends."""
    opened = []

    def make(**settings):
        settings.setdefault("max_workers", 2)
        opened.append(Executor(kind, **settings))
        return opened[-1]

    yield make
    for one in opened:
        one._lifetime.kill()


@pytest.fixture
def eventually():
    """Waits until a condition holds; its value. Fails after 30 s."""

    def wait(condition):
        deadline = time.monotonic() + 30
        while not (value := condition()):
            assert time.monotonic() < deadline, "the condition never came true"
            time.sleep(0.005)
        return value

    return wait


@pytest.fixture
def start_program(kind, tmp_path):
    """Starts a program, written as the text of a file, whose executors are of this backend by default."""
    started = []

    def start(text, *arguments):
        path = tmp_path / "program.py"
        path.write_text(textwrap.dedent(text))
        program = subprocess.Popen(
            [sys.executable, "-W", "error", str(path), *map(str, arguments)],
            env={**os.environ, "JOBRUNNER_BACKEND": kind, "JOBRUNNER_MAX_WORKERS": "2"},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(program)
        return program

    yield start
    for program in started:
        program.kill()
        program.communicate()


@pytest.fixture
def run_program(start_program):
    """Runs a program to its end; what it printed. It must succeed and leave nothing on stderr."""

    def run(text, *arguments):
        program = start_program(text, *arguments)
        out, err = program.communicate(timeout=PROGRAM_SECONDS)
        assert (program.returncode, err) == (0, "")
        return out

    return run
