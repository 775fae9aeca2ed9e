"""What has no file to import from: a REPL's functions, a script without a main guard, `python -c`."""

from __future__ import annotations

import subprocess

import pytest
from programs import command, environment

SESSION = """
from programs import open_executor
factor = 10
def scaled(x):
    return x * factor

class Point:
    def __init__(self, x):
        self.x = x
    def moved(self, by):
        return Point(self.x + by)

ex = open_executor(max_workers=2)
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


def run(arguments, kind, text=""):
    done = subprocess.run(
        [*command(kind), *arguments],
        input=text,
        env=environment(kind),
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return [line for line in done.stdout.splitlines() if line]


@pytest.mark.alone
def test_an_interactive_session(kind):
    assert run(["-q", "-i", "-"], kind, SESSION) == EXPECTED


def test_a_script_without_main_guard(kind, tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(SESSION)
    assert run([script], kind) == EXPECTED


def test_a_command(kind):
    assert run(["-c", SESSION], kind) == EXPECTED
