"""Programs whose `sys.executable` does not run Python code, but the program itself, or nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from jobrunner.protocol.worker.slot_table import START_FAILURES

APPLICATION = """
import os, sys
starts = os.environ["STARTS"]
with open(starts, "a") as file:
    file.write("started\\n")
if len(open(starts).readlines()) > 20:
    sys.exit("it starts itself again and again")
from jobrunner import ConfigError, Executor
if __name__ == "__main__":
    {prelude}
    try:
        with Executor({backend!r}, max_workers=2) as executor:
            print(executor.submit(abs, -3).result(timeout=20))
    except ConfigError as exc:
        print(exc)
"""

OWN = "sys.executable = os.path.abspath(__file__)"
FROZEN = f"{OWN}; sys.frozen = True"

local = pytest.mark.parametrize("backend", ["processes", "cluster"])


@pytest.fixture
def run(tmp_path):
    """Runs an application, which is an executable file; what it prints, and how often it was started."""

    def run(backend, prelude, name="application", **environment):
        path, starts = tmp_path / name, tmp_path / "starts"
        text = textwrap.dedent(APPLICATION).format(backend=backend, prelude=prelude)
        path.write_text(f"#!{sys.executable}\n{text}")
        path.chmod(0o755)
        done = subprocess.run(
            [str(path)],
            env={**os.environ, "STARTS": str(starts), **environment},
            capture_output=True,
            text=True,
            timeout=50,
        )
        return done.stdout, len(starts.read_text().splitlines())

    return run


@local
@pytest.mark.parametrize("prelude", [FROZEN, OWN, "sys.executable = None", "sys.executable = ''"])
def test_an_application_is_never_started_as_an_interpreter(run, backend, prelude):
    out, starts = run(backend, prelude)
    assert starts == 1
    assert "JOBRUNNER_INTERPRETER" in out


@local
def test_one_that_looks_like_an_interpreter_is_started_once_and_never_again(run, backend):
    _, starts = run(backend, OWN, name="python-application")
    assert starts <= 1 + START_FAILURES + 2


@local
def test_a_setting_names_the_interpreter(run, backend):
    assert run(backend, FROZEN, JOBRUNNER_INTERPRETER=sys.executable) == ("3\n", 1)


def test_what_multiprocessing_was_told_to_start_will_do(run):
    prelude = f"import multiprocessing; multiprocessing.set_executable({sys.executable!r}); {OWN}"
    assert run("processes", prelude) == ("3\n", 1)


def test_threads_need_no_interpreter(run):
    assert run("threads", FROZEN) == ("3\n", 1)
