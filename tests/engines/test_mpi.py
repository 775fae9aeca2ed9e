"""The "mpi" backend, in jobs of three processes that `mpiexec` starts."""

from __future__ import annotations

import subprocess
import textwrap

import pytest
from programs import command, environment

ENGINE = "mpi"


@pytest.fixture
def run_job(tmp_path):
    """Runs a program as an MPI job, to its end; what it printed."""

    def run(text):
        path = tmp_path / "program.py"
        path.write_text(textwrap.dedent(text))
        done = subprocess.run(
            [*command("mpi", "-W", "error"), path],
            env=environment("mpi"),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=50,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return run


def test_calls_run_in_the_other_processes(run_job):
    text = """
        import numpy
        from jobrunner import Executor, current_task

        def where(_):
            return current_task().worker

        with Executor("mpi") as executor:
            print(executor.max_workers, sorted(set(executor.map(where, range(50), chunksize=1))))
            array = executor.submit(lambda a: a + 1, numpy.zeros(1_000_000)).result()
            array += 1
            print(array.sum())
    """
    assert run_job(text) == "2 ['rank 1', 'rank 2']\n2000000.0\n"


def test_executors_one_after_the_other_and_side_by_side(run_job):
    text = """
        from jobrunner import Executor
        from zoo import add
        with Executor("mpi", max_workers=1) as one, Executor("mpi") as other:
            print(one.max_workers, one.submit(add, other.submit(add, 1, 2), 3).result())
        with Executor("mpi") as third:
            print(third.submit(add, 1, 2).result())
    """
    assert run_job(text) == "1 6\n3\n"


def test_no_more_processes_are_used_than_calls_run_at_a_time(run_job):
    text = """
        from jobrunner import Executor, current_task

        calls = 0

        def count():
            global calls
            calls += 1
            return calls, current_task().worker

        with Executor("mpi", max_workers=1) as executor:
            counts, workers = zip(*[executor.submit(count).result() for _ in range(5)])
            print(counts, len(set(workers)))
    """
    assert run_job(text) == "(1, 2, 3, 4, 5) 1\n"


def test_calls_find_the_modules_that_the_program_finds(run_job, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "beside.py").write_text("def name(): return __name__")
    text = """
        import sys
        sys.path.insert(0, "elsewhere")
        import beside
        from jobrunner import Executor
        with Executor("mpi") as executor:
            print(executor.submit(beside.name).result(), executor.submit(lambda: beside.name()).result())
    """
    assert run_job(text) == "beside beside\n"


def test_what_it_cannot_do_it_refuses(run_job):
    text = """
        from jobrunner import Executor, NotSupportedError, current_executor
        from zoo import add
        with Executor("mpi") as executor:
            for options in ({"timeout": 1}, {"resources": {"gpu": 1}}, {"detach": True}):
                try:
                    executor.with_options(**options).submit(add, 1)
                except NotSupportedError as exc:
                    print(exc)
            print(executor.submit(current_executor).exception())
    """
    lines = run_job(text).splitlines()
    assert len(lines) == 4
    assert all('use "' in line for line in lines)


def test_it_takes_no_address(run_job):
    text = """
        from jobrunner import ConfigError, Executor
        try:
            Executor("mpi", address="tcp://h:1")
        except ConfigError as exc:
            print(exc)
    """
    assert "accepts no address" in run_job(text)
