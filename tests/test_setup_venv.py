"""scripts/setup-venv: when it installs, and when it leaves alone what is there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "setup-venv"

PIP = """
import pathlib, sys
with open({log!r}, "a") as log:
    print(*sys.argv[1:], file=log)
"""
"""Stands in for pip, which would need a network: it writes down what it is asked for."""

PYTHON = """#!/bin/sh
if [ "$1 $2" = "-m venv" ]; then
    "{python}" -m venv --without-pip "$3" "$4"
    for folder in "$4"/lib/python*/site-packages; do cp -r "{pip}" "$folder/pip"; done
else
    exec "{python}" "$@"
fi
"""


@pytest.fixture
def checkout(tmp_path):
    """A checkout with the least that the script looks at; gives `run`, and the folder of what is installed."""
    root, pip, log = tmp_path / "checkout", tmp_path / "pip", tmp_path / "log"
    for part in ("cli", "workers"):
        (root / "jobrunner" / part).mkdir(parents=True)
        (root / "jobrunner" / part / "__init__.py").touch()
    (root / "scripts").mkdir()
    shutil.copy(SCRIPT, root / "scripts")
    (root / "pyproject.toml").touch()
    pip.mkdir()
    (pip / "__init__.py").touch()
    (pip / "__main__.py").write_text(PIP.format(log=str(log)))
    python = tmp_path / "python"
    python.write_text(PYTHON.format(python=sys.executable, pip=pip))
    python.chmod(0o755)

    def run(extra: str) -> list[str]:
        """What pip was asked to install."""
        log.write_text("")
        environment = {k: v for k, v in os.environ.items() if k != "JOBRUNNER_VENV"} | {"PYTHON": str(python)}
        done = subprocess.run(
            [root / "scripts" / "setup-venv", extra],
            env=environment,
            capture_output=True,
            text=True,
            timeout=50,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{root}/.venv/bin/python\n"
        return [line.rpartition(" ")[2] for line in log.read_text().splitlines()]

    return run, root / ".venv"


def test_what_is_there_is_reused(checkout):
    run, _ = checkout
    assert run("base") == ["."]
    assert run("base") == []
    assert run("test") == [".[test]"]
    assert run("base") == []


def test_a_copy_that_was_installed_over_the_checkout_is_replaced(checkout):
    """`pip install .` in the same environment, as the README has it: else tests would run the copy from then on."""
    run, venv = checkout
    assert run("test") == [".[test]"]
    (packages,) = venv.glob("lib/python*/site-packages")
    (packages / "jobrunner").mkdir()
    assert run("test") == [".[test]"]
