"""Crashes, timeouts, retries, initializers: what one call does to the others."""

from __future__ import annotations

import importlib
import sys
from concurrent.futures import BrokenExecutor

import pytest
import zoo

from jobrunner import InitializerError, NotSupportedError, TaskLostError, TaskTimeoutError


@pytest.mark.promise("crashes")
@pytest.mark.crashes
@pytest.mark.parametrize("fn", [zoo.exit_hard, zoo.kill_self, zoo.segfault])
def test_a_crash_fails_alone(make_executor, can, fn):
    executor = make_executor(max_workers=1)
    bad, good = executor.submit(fn), executor.submit(zoo.echo, 1)
    with pytest.raises(TaskLostError) as caught:
        bad.result()
    assert isinstance(caught.value, BrokenExecutor)
    if "tells" in can:
        assert any(word in str(caught.value) for word in ("exit code 3", "code 3", "SIGKILL", "SIGSEGV"))
    assert good.result() == 1


@pytest.mark.parametrize("attempts", [1, 3])
def test_retries(make_executor, tmp_path, attempts):
    trace = tmp_path / "trace"

    def flaky():
        zoo.append_line(str(trace), "x")
        if len(trace.read_text().split()) < 3:
            raise ValueError("again")
        return "done"

    future = make_executor().with_options(retries=attempts - 1).submit(flaky)
    if attempts == 3:
        assert future.result() == "done"
    else:
        with pytest.raises(ValueError, match="again"):
            future.result()
    assert len(trace.read_text().split()) == attempts


@pytest.mark.promise("timeouts")
def test_a_timeout_stops_one_call(make_executor, can, tmp_path):
    executor = make_executor(max_workers=1)
    limited = executor.with_options(timeout=0.3)
    if "stops" not in can:
        with pytest.raises(NotSupportedError, match="cannot be stopped"):
            limited.submit(zoo.nothing)
        return
    future = limited.submit(zoo.wait_for, str(tmp_path / "never"))
    with pytest.raises(TaskTimeoutError) as caught:
        future.result()
    assert isinstance(caught.value, TimeoutError)
    assert executor.submit(zoo.echo, 1).result() == 1


@pytest.mark.promise("timeouts")
def test_a_timeout_in_map_costs_its_element(make_executor, can, tmp_path):
    if "stops" not in can:
        with pytest.raises(NotSupportedError, match="cannot be stopped"):
            make_executor().with_options(timeout=1).map(zoo.echo, [1])
        return

    def stuck(value):
        return zoo.wait_for(str(tmp_path / "never")) if value == 2 else value

    for chunksize in (None, 4):
        results = (
            make_executor(max_workers=1).with_options(timeout=0.4).map(stuck, range(4), chunksize=chunksize)
        )
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(TaskTimeoutError):
            next(results)


def test_resources_that_can_never_be_had_are_refused(executor):
    view = executor.with_options(resources={"gpu": 1})
    with pytest.raises(NotSupportedError, match="resources"):
        view.submit(zoo.nothing)
    with pytest.raises(NotSupportedError, match="resources"):
        list(view.map(zoo.echo, [1]))


def test_priority(make_executor, tmp_path, eventually):
    executor = make_executor(max_workers=1)
    started, trace = tmp_path / "started", tmp_path / "trace"
    executor.submit(zoo.announce_and_wait, str(started), str(tmp_path / "go"))
    eventually(started.exists)
    for priority in (0, 5, -5, 5):
        executor.with_options(priority=priority).submit(zoo.append_line, str(trace), str(priority))
    # Threads have no coordinator that they would have to reach.
    eventually(lambda: executor.status().get("tasks", {"queued": 4})["queued"] == 4)
    (tmp_path / "go").touch()
    executor.shutdown()
    assert trace.read_text().split() == ["5", "5", "0", "-5"]


def test_the_initializer_runs_before_the_first_call(make_executor):
    executor = make_executor(max_workers=1, initializer=zoo.initialize, initargs=("ready",))
    assert "ready" in executor.submit(zoo.initialized).result()


def test_what_an_initializer_sets_in_the_program_is_seen_by_its_functions(run_program):
    """The idiom of the standard library's pool: load something once per process, into a global."""
    text = """
        from functools import partial
        from jobrunner import Executor

        count = 0

        def load(value):
            global count, model
            count, model = value, {"weight": value}

        def add(x):
            return count + x

        def weigh(x, y=0):
            return model["weight"] * x + y

        if __name__ == "__main__":
            with Executor(initializer=load, initargs=(7,), max_workers=1) as ex:
                print(ex.submit(add, 1).result(), list(ex.map(add, [1, 2])), list(ex.map(lambda x: count * x, [1, 2])))
                print(ex.submit(weigh, 2).result(), ex.submit(partial(weigh, y=1), 2).result())
    """
    assert run_program(text) == "8 [8, 9] [7, 14]\n14 15\n"


def test_an_initializer_that_fails(make_executor):
    executor = make_executor(initializer=zoo.fail_to_initialize, initargs=("no licence",))
    future = executor.submit(zoo.nothing)
    with pytest.raises(InitializerError, match="no licence") as caught:
        future.result()
    assert isinstance(caught.value, BrokenExecutor)


@pytest.fixture
def half(tmp_path, monkeypatch):
    """A package whose import takes until the file "go on" is there; "started" is there once it has begun."""
    folder = tmp_path / "half"
    folder.mkdir()
    (folder / "part.py").write_text("")
    (folder / "__init__.py").write_text(
        "from half import part\n"
        "from pathlib import Path\n"
        f"Path({str(tmp_path / 'started')!r}).touch()\n"
        f"while not Path({str(tmp_path / 'go on')!r}).exists():\n"
        "    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.own
@pytest.mark.promise("cancel")
def test_a_process_in_which_an_import_was_interrupted_is_replaced(make_executor, half, eventually):
    def import_it():
        left = sorted(name for name in sys.modules if name.startswith("half"))
        importlib.import_module("half.part")
        return left

    executor = make_executor(max_workers=1)
    before = executor.submit(zoo.pid).result()
    interrupted = executor.submit(import_it)
    eventually((half / "started").exists)
    behind = [executor.submit(import_it), executor.submit(zoo.pid)]
    assert interrupted.cancel(running=True)
    (half / "go on").touch()
    assert behind[0].result() == [], "no half of it was left"
    after = behind[1].result()
    assert after != before
    assert executor.submit(zoo.pid).result() == after, "it stays"
