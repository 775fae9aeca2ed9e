"""The part of the interpreter's own tests that takes no time; CI runs all of them on each Python that has some."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("run.py")

NOT_HERE = 77


@pytest.mark.parametrize("word", ["FutureTests", "test_free_reference", "test_submit"])
def test_on_threads(word):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "threads", "-k", word],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode == NOT_HERE:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
