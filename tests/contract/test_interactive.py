"""What has no file to import from: a REPL's functions, a script without a main guard, `python -c`."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SESSION = """
from jobrunner import Executor
factor = 10
def scaled(x):
    return x * factor

class Point:
    def __init__(self, x):
        self.x = x
    def moved(self, by):
        return Point(self.x + by)

ex = Executor(max_workers=2)
print("first", ex.submit(scaled, 1).result(30))
factor = 20
print("second", ex.submit(scaled, 1).result(30))
def scaled(x):
    return -x

print("third", list(ex.map(scaled, range(3))))
print("fourth", ex.submit(lambda p: p.moved(2), Point(1)).result(30).x)
print("fifth", ex.submit(Point(5).moved, 1).result(30).x)
ex.shutdown()
"""

EXPECTED = ["first 10", "second 20", "third [0, -1, -2]", "fourth 3", "fifth 6"]


@pytest.fixture
def environment(kind):
    return {**os.environ, "JOBRUNNER_BACKEND": kind}


def run(arguments, environment, text=""):
    done = subprocess.run(
        [sys.executable, *arguments], input=text, env=environment, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return [line for line in done.stdout.splitlines() if line]


def test_an_interactive_session(environment):
    assert run(["-q", "-i", "-"], environment, SESSION) == EXPECTED


def test_a_script_without_main_guard(environment, tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(SESSION)
    assert run([script], environment) == EXPECTED


def test_a_command(environment):
    assert run(["-c", SESSION], environment) == EXPECTED
