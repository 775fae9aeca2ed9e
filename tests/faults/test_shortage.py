"""Programs that may open only so many descriptors: their pools go on with what can be had, and say so."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from jobrunner import Executor, JobRunnerError
from jobrunner.coordinator import local_cluster

PROGRAM = """
import resource, sys
soft, hard, backend, slots = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
from jobrunner import Executor, JobRunnerError, current_executor, gather

def limit(_=None):
    return resource.getrlimit(resource.RLIMIT_NOFILE)

def deep(n):
    return 1 + current_executor().submit(deep, n - 1).result() if n else 0

with Executor(backend, max_workers=slots) as executor:
"""

WITH_FEW = """
import fcntl, gc, os, resource, sys
from jobrunner import Executor, JobRunnerError

MAX_DESCRIPTORS = 64
resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_DESCRIPTORS, MAX_DESCRIPTORS))

def opened():
    gc.collect()  # what failed to start is known to its error
    found = set()
    for number in range(MAX_DESCRIPTORS):
        try:
            fcntl.fcntl(number, fcntl.F_GETFD)
            found.add(number)
        except OSError:
            pass
    return found

Executor(sys.argv[1], max_workers=1).shutdown()  # which imports all that there is to import
before = opened()
for free in range(12):
    spare = [os.dup(0) for _ in range(MAX_DESCRIPTORS - len(before) - free)]
    try:
        Executor(sys.argv[1], max_workers=1).shutdown()
    except (OSError, JobRunnerError):
        pass
    for number in spare:
        os.close(number)
    if opened() != before:
        print(free, sorted(opened() - before))
        before = opened()
"""

local = pytest.mark.parametrize("backend", ["processes", "cluster"])


def run(tmp_path, text, *arguments):
    """What a program of these lines, which have an `executor`, writes to stdout and stderr."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM + textwrap.indent(textwrap.dedent(text), "    "))
    done = subprocess.run(
        [sys.executable, str(path), *map(str, arguments)], capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@local
def test_the_limit_is_raised_for_slots_and_calls_find_the_programs(tmp_path, backend):
    out, err = run(
        tmp_path,
        """
        print(set(executor.map(limit, range(100), chunksize=1)), executor.max_workers)
        """,
        *(48, 1024, backend, 8),
    )
    assert (out, err) == ("{(48, 1024)} 8\n", "")


@local
def test_a_pool_goes_on_with_the_slots_that_it_has_and_says_so_once(tmp_path, backend):
    out, err = run(
        tmp_path,
        """
        print(sum(executor.map(abs, range(100), chunksize=1)))
        """,
        *(80, 80, backend, 8),
    )
    assert out == "4950\n"
    assert err.count("of 8 slots, until more can be started: cannot start a process for this slot") == 1
    assert len(err.splitlines()) == 1


@local
def test_a_call_too_deep_fails_alone(tmp_path, backend):
    out, _ = run(
        tmp_path,
        """
        failing = executor.submit(deep, 40)
        others = [executor.submit(abs, n) for n in range(20)]
        print(type(failing.exception()).__name__, "no further slot" in str(failing.exception()))
        print(sum(gather(others)), executor.submit(deep, 1).result())
        """,
        *(88, 88, backend, 1),
    )
    assert out == "JobRunnerError True\n190 1\n"


def test_an_embedded_cluster_that_cannot_start_ends_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(local_cluster, "BOOT", "raise SystemExit('not today')")
    monkeypatch.setattr(local_cluster, "RESTART_PAUSE", 0.0)
    with Executor("cluster", max_workers=1) as executor:
        failure = executor.submit(abs, 1).exception(timeout=30)
    assert isinstance(failure, JobRunnerError)
    assert f"ended {local_cluster.MAX_STARTS} times in a row before it could be reached (exit code 1)" in str(
        failure
    )


@pytest.mark.parametrize("backend", ["processes", "cluster"])
def test_an_executor_that_finds_too_few_descriptors_leaves_none_of_them_behind(tmp_path, backend):
    """Nor a folder; and ZeroMQ, which would end the program, is not asked for what it cannot have."""
    path = tmp_path / "program.py"
    path.write_text(WITH_FEW)
    folder = tmp_path / "t"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, str(path), backend],
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (done.stdout, done.returncode) == ("", 0), done.stderr
    assert os.listdir(folder) == []


def test_calls_that_make_calls_fail_alone_where_no_descriptor_is_left_for_their_socket(tmp_path):
    out, _ = run(
        tmp_path,
        """
        import os
        executor.submit(abs, 1).result()
        spare = []
        try:
            while True:
                spare.append(os.dup(0))
        except OSError:
            pass
        for _ in range(12):
            failure = executor.submit(deep, 1).exception()
            print(isinstance(failure, (JobRunnerError, OSError)), executor.submit(abs, -2).result())
            os.close(spare.pop())
        for descriptor in spare:
            os.close(descriptor)
        spare.clear()
        print(executor.submit(deep, 1).exception())
        """,
        *(256, 256, "processes", 1),
    )
    assert out == "True 2\n" * 12 + "None\n"


@local
def test_a_pool_without_any_slot_ends_with_the_reason(tmp_path, backend):
    out, _ = run(
        tmp_path,
        """
        failure = executor.submit(abs, 1).exception()
        print(type(failure).__name__, "no slot can be started" in str(failure), "ulimit" in str(failure))
        """,
        *((30, 30) if backend == "processes" else (44, 44)),
        *(backend, 2),
    )
    assert out == "JobRunnerError True True\n"
