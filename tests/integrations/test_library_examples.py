"""The examples that need other libraries run as a user runs them, in a process of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"


@pytest.fixture
def run(kind, tmp_path):
    """Runs an example on a backend; the lines that it printed. Nothing that is set on this host reaches it."""

    def run(name, *arguments):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("JOBRUNNER_")}
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / name), *arguments],
            env=environment | {"JOBRUNNER_BACKEND": kind, "JOBRUNNER_MAX_WORKERS": "2"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=50,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    return run


def numbers(line):
    return [float(found) for found in re.findall(r"-?\d+\.\d+", line)]


def test_scipy(run):
    found, true = run("06_scipy.py", "--generations", "30")
    assert numbers(found)[:3] == pytest.approx(numbers(true), abs=0.1)


def test_emcee(run):
    intercept, slope = run("07_emcee.py", "--walkers", "16", "--steps", "200")
    assert numbers(intercept)[0] == pytest.approx(1.0, abs=0.3)
    assert numbers(slope)[0] == pytest.approx(2.0, abs=0.1)


def test_adaptive(run):
    (line,) = run("08_adaptive.py", "--points", "60")
    points, near = map(int, re.findall(r"(\d+) ", line)[:2])
    assert points >= 60
    assert near > points / 6  # on a tenth of the range
    assert numbers(line)[-1] == pytest.approx(0.3, abs=0.05)
