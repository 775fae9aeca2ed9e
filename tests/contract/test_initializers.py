"""A failing or dying initializer: as the documentation of concurrent.futures has it."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import logging
import weakref
from concurrent.futures import BrokenExecutor
from concurrent.futures.process import BrokenProcessPool
from concurrent.futures.thread import BrokenThreadPool

import pytest
import zoo
from programs import GIVEN

from jobrunner import Executor, InitializerError

pytestmark = pytest.mark.one_pool


@pytest.fixture(autouse=True)
def quiet():
    """What the initializer of a thread raises is logged, as the standard library does."""
    log = logging.getLogger("concurrent.futures")
    before, log.propagate = log.propagate, False
    log.addHandler(handler := logging.NullHandler())
    yield
    log.propagate = before
    log.removeHandler(handler)


def wait_and_fail(started, path):
    zoo.announce_and_wait(started, path)
    raise OSError("no licence")


def submitted(executor, count):
    """The calls that it takes before it is known to be broken, one at least."""
    futures = [executor.submit(zoo.echo, 0)]
    with contextlib.suppress(BrokenExecutor):
        futures += [executor.submit(zoo.echo, i) for i in range(1, count)]
    return futures


def check(executor, futures, isolated, eventually, text):
    for future in futures:
        with pytest.raises(BrokenExecutor):
            future.result()
        error = future.exception()
        assert isinstance(error, InitializerError)
        assert isinstance(error, BrokenProcessPool if isolated else BrokenThreadPool)
        assert text in str(error)
    with pytest.raises(BrokenExecutor, match=text):
        executor.submit(zoo.nothing)
    with pytest.raises(BrokenExecutor, match=text):
        executor.map(zoo.echo, [1, 2])
    assert list(executor.map(zoo.echo, [])) == []
    assert executor._broken
    executor.shutdown()


def test_a_broken_executor_is_let_go_of(kind):
    """An error that was raised knows the frames that it went through, and so everything in them."""
    references = []

    def use():
        settings = {**GIVEN, "max_workers": 2, "initializer": zoo.divide, "initargs": (1, 0)}
        executor = Executor(kind, **settings)
        references.append(weakref.ref(executor))
        with executor, pytest.raises(BrokenExecutor):
            executor.submit(zoo.echo, 1).result()
        with pytest.raises(RuntimeError):
            executor.submit(zoo.echo, 1)
        with pytest.raises(RuntimeError):
            executor.map(zoo.echo, [1])

    use()
    gc.collect()
    assert references[0]() is None


def test_pending_calls_and_later_ones_fail(make_executor, isolated, eventually, tmp_path):
    started, go = tmp_path / "started", tmp_path / "go"
    executor = make_executor(initializer=wait_and_fail, initargs=(str(started), str(go)))
    futures = [executor.submit(zoo.echo, i) for i in range(10)]
    futures.append(executor.with_options(retries=3).submit(zoo.nothing))
    needed = executor.submit(zoo.echo, futures[0])
    eventually(started.exists)
    go.touch()
    check(executor, [*futures, needed][:11], isolated, eventually, "no licence")
    assert needed.exception() is not None
    assert len(started.read_text().split()) <= 2


def test_an_error_of_the_initializer_is_the_cause(make_executor):
    executor = make_executor(initializer=zoo.fail_to_initialize, initargs=("no licence",))
    error = executor.submit(zoo.nothing).exception()
    assert error.__cause__ is not None
    assert "OSError" in f"{error.__cause__!s}{error.__cause__!r}"


@pytest.mark.crashes
@pytest.mark.parametrize("dies", [zoo.exit_hard, zoo.segfault])
def test_an_initializer_that_dies_is_not_started_for_ever(
    make_executor, isolated, eventually, tmp_path, dies
):
    trace = tmp_path / "trace"

    def die():
        zoo.append_line(str(trace), "x")
        dies()

    executor = make_executor(initializer=die)
    futures = submitted(executor, 5)
    check(executor, futures, isolated, eventually, "initializer")
    assert len(trace.read_text().split()) <= 2


def test_a_map_that_is_under_way(make_executor):
    executor = make_executor(initializer=zoo.fail_to_initialize, initargs=("no licence",))
    with pytest.raises(BrokenExecutor):
        list(executor.map(zoo.echo, range(1000)))


def test_others_are_not_concerned(make_executor):
    bad = make_executor(initializer=zoo.fail_to_initialize, initargs=("no licence",))
    assert isinstance(bad.submit(zoo.nothing).exception(), InitializerError)
    assert make_executor().submit(zoo.echo, 1).result() == 1


def test_waiting_for_them(make_executor):
    bad = make_executor(initializer=zoo.fail_to_initialize, initargs=("no licence",))
    futures = submitted(bad, 3)
    assert concurrent.futures.wait(futures).not_done == set()


def test_it_is_logged(make_executor, run_program):
    """In the logger that the standard library uses, and where it runs."""
    text = """
        import logging, sys
        from jobrunner import Executor

        def fail():
            logging.getLogger("concurrent.futures").addHandler(logging.StreamHandler(sys.stdout))
            raise OSError("no licence")

        if __name__ == "__main__":
            with Executor(max_workers=1, initializer=fail) as ex:
                try:
                    ex.submit(int).result()
                except Exception as exc:
                    print(type(exc).__name__)
    """
    printed = run_program(text)
    assert "Exception in initializer:" in printed
    assert "OSError: no licence" in printed
    assert printed.endswith("InitializerError\n") or "InitializerError\n" in printed


@pytest.mark.apart
def test_streams_that_an_initializer_replaces_are_those_of_all_calls(run_program, tmp_path):
    """As where workers are to print nothing, or into files of their own."""
    out = run_program(f"""
        import os, sys
        from pathlib import Path
        from programs import open_executor

        def quiet(path):
            sys.stdout = open(path, "a", buffering=1)
            sys.stderr = open(os.devnull, "w")

        def work(i):
            print("work", i)
            print("hidden", file=sys.stderr)

        def fork():
            child = os.fork()
            if not child:
                print("forked", flush=True)
                os._exit(0)
            os.waitpid(child, 0)

        def fork_and_return():
            child = os.fork()
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if child else None

        path = Path({str(tmp_path / "log")!r})
        with open_executor(max_workers=1, initializer=quiet, initargs=(path,)) as ex, open_executor() as other:
            list(ex.map(work, range(3)))
            for i in (3, 4):
                ex.submit(work, i).result()
                assert path.read_text().split()[1::2] == [str(k) for k in range(i + 1)]
            ex.submit(fork).result()
            assert path.read_text().split()[-1] == "forked"
            other.submit(print, "shown").result()

        def silent():
            sys.stdout = None

        with open_executor(max_workers=1, initializer=silent) as ex:
            for i in range(2):
                ex.submit(print, "silent", i).result()
            assert ex.submit(fork_and_return).result() == 0
    """)
    assert out == "shown\n"
