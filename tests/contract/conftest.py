"""One suite for every backend: what the front promises must hold wherever calls run.

Tests take functions from the zoo, which the slots can import, or define them on the spot (then they go by value).
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from jobrunner import Executor
from jobrunner.backends import registry
from jobrunner.backends.base import CAPABILITIES
from jobrunner.testing.promises import BY_FILE, WANTED
from jobrunner.testing.waiting import until

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # for `import zoo`, here
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])  # and in slots

from programs import GIVEN, command, environment  # noqa: E402

BACKENDS = tuple(filter(None, os.environ.get("JOBRUNNER_CONTRACT", "").split(","))) or (
    "threads",
    "processes",
    "cluster",
)
"""Others are tested where they are installed: see `jobrunner.testing.backend_contract`, and scripts/test-engines."""

PROMISES_WANTED = tuple(filter(None, os.environ.get(WANTED, "").split(",")))
OWN = ("processes", "cluster")
ONE_POOL = ("threads", "processes", "cluster")

PROGRAM_SECONDS = 50.0 if {*BACKENDS} <= {*ONE_POOL} else 200.0
"""Engines take seconds to start, on a busy machine many, and some programs open five executors."""


def pytest_configure(config):
    for name, meaning in CAPABILITIES.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    config.addinivalue_line("markers", "promise(name): which one it belongs to, if not to that of its file")
    config.addinivalue_line("markers", "one_pool: of an Executor that is one pool of workers on this host")
    config.addinivalue_line("markers", "own: looks into the processes and cluster backends")


def pytest_collection_modifyitems(config, items):
    """Note each test's promise, and leave out what a backend cannot do, as its capabilities say."""
    left_out, gone = [], set()
    for item in items:
        if item.path.resolve().parent != HERE:
            continue
        marker = item.get_closest_marker("promise")
        promise = marker.args[0] if marker else BY_FILE[item.path.stem]
        item.user_properties.append(("promise", promise))
        kind = item.callspec.params.get("kind") if hasattr(item, "callspec") else None
        words = {marker.name for marker in item.iter_markers()}
        elsewhere = ("own" in words and kind not in OWN) or ("one_pool" in words and kind not in ONE_POOL)
        if elsewhere or (PROMISES_WANTED and promise not in PROMISES_WANTED):
            gone.add(item)
        elif kind is not None and (words & {*CAPABILITIES}) - registry.capabilities(kind):
            left_out.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    gone.update(left_out)
    items[:] = [item for item in items if item not in gone]


@pytest.fixture(scope="session", params=BACKENDS)
def kind(request):
    """The backend's name."""
    return request.param


@pytest.fixture(scope="session")
def options():
    """What every Executor of the kind is opened with."""
    return GIVEN


@pytest.fixture(scope="session")
def can(kind):
    """What the backend can do: some of the words of `backends.base.CAPABILITIES`."""
    return registry.capabilities(kind)


@pytest.fixture(scope="session")
def copies(can):
    """Whether calls share no objects with the program."""
    return "copies" in can


@pytest.fixture(scope="session")
def isolated(can):
    """Whether calls run in other processes."""
    return "apart" in can


@pytest.fixture(scope="session")
def executor(kind):
    """Two workers, shared by tests that leave no trace."""
    with Executor(kind, **{**GIVEN, "max_workers": 2}) as shared:
        yield shared


@pytest.fixture
def make_executor(kind):
    """Opens executors of this backend; they are killed when the test ends."""
    opened = []

    def make(**settings):
        opened.append(Executor(kind, **{**GIVEN, "max_workers": 2, **settings}))
        return opened[-1]

    yield make
    for one in opened:
        one._lifetime.kill()


@pytest.fixture
def eventually():
    """Waits until a condition holds; its value. Fails after 30 s."""
    return until


@pytest.fixture
def start_program(kind, tmp_path):
    """Starts a program, written as the text of a file, whose executors `programs.open_executor` opens."""
    started = []

    def start(text, *arguments):
        path = tmp_path / "program.py"
        path.write_text(textwrap.dedent(text))
        program = subprocess.Popen(
            [*command(kind, "-W", "error"), str(path), *map(str, arguments)],
            env=environment(kind),
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
