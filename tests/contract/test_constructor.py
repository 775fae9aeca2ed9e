"""Arguments and attributes of the standard library's pools."""

from __future__ import annotations

import collections
import concurrent.futures
import inspect
import multiprocessing
import os
import threading
import time

import pytest
import zoo
from programs import GIVEN

from jobrunner import ConfigError, Executor, Future, NotSupportedError, TaskLostError


def test_an_unknown_argument_is_a_type_error(kind):
    with pytest.raises(TypeError, match="max_workerz"):
        Executor(kind, **GIVEN, max_workerz=2)


def test_no_initializer_and_no_arguments_for_it(make_executor):
    assert make_executor(initializer=None, initargs=None).submit(zoo.echo, 1).result() == 1


@pytest.fixture
def positional(kind, monkeypatch):
    """Opens an executor of the kind with a number in the first place."""
    monkeypatch.setenv("JOBRUNNER_BACKEND", kind)
    opened = []

    def make(*arguments, **settings):
        opened.append(Executor(*arguments, **{**GIVEN, **settings}))
        return opened[-1]

    yield make
    for one in opened:
        one._lifetime.kill()


def test_the_positions_of_process_pool_executor(positional):
    executor = positional(1, multiprocessing.get_context("spawn"), zoo.initialize, ("given",))
    assert "given" in executor.submit(zoo.initialized).result()
    assert executor.max_workers == executor._max_workers == 1
    assert executor._mp_context.get_start_method() == "spawn"


@pytest.mark.one_pool
def test_the_positions_of_thread_pool_executor(positional, isolated):
    executor = positional(1, "mine", zoo.initialize, ("given",))
    assert "given" in executor.submit(zoo.initialized).result()
    name = executor.submit(lambda: threading.current_thread().name).result()
    assert isolated or name == "mine_0"
    assert executor._thread_name_prefix == "mine"
    named = positional(1, thread_name_prefix="other")
    name = named.submit(lambda: threading.current_thread().name).result()
    assert isolated or name == "other_0"
    with pytest.raises(ConfigError, match="twice"):
        positional(1, "mine", thread_name_prefix="other")


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"max_workers": 0}, ValueError, "^max_workers must be greater than 0$"),
        ({"max_workers": -1}, ValueError, "^max_workers must be greater than 0$"),
        ({"max_workers": "4"}, TypeError, "max_workers"),
        ({"max_workers": [4]}, TypeError, "max_workers"),
        ({"initializer": 5}, TypeError, "^initializer must be a callable$"),
        ({"mp_context": 5}, TypeError, "mp_context"),
        ({"thread_name_prefix": 5}, TypeError, "thread_name_prefix"),
        ({"max_tasks_per_child": "1"}, TypeError, "^max_tasks_per_child must be an integer$"),
        ({"max_tasks_per_child": 1.5}, TypeError, "^max_tasks_per_child must be an integer$"),
        ({"max_tasks_per_child": 0}, ValueError, "^max_tasks_per_child must be >= 1$"),
    ],
)
def test_what_the_standard_library_refuses(make_executor, arguments, error, text):
    with pytest.raises(error, match=text) as caught:
        make_executor(**arguments)
    assert isinstance(caught.value, ConfigError)


def test_numbers_in_the_first_place(positional):
    for number in (0, -1):
        with pytest.raises(ValueError, match=r"^max_workers must be greater than 0$"):
            positional(number)


@pytest.mark.one_pool
def test_a_context_that_forks(make_executor, isolated):
    context = multiprocessing.get_context("fork")
    if not isolated:
        assert make_executor(mp_context=context).submit(zoo.echo, 1).result() == 1
        return
    with pytest.warns(UserWarning, match="fresh interpreters"):
        executor = make_executor(mp_context=context)
    assert executor.submit(zoo.echo, 1).result() == 1
    with pytest.raises(ValueError, match="max_tasks_per_child is incompatible with the 'fork'"):
        make_executor(mp_context=context, max_tasks_per_child=1)


def test_the_signature_reads_well():
    names = list(inspect.signature(Executor).parameters)
    assert names[:4] == ["backend", "mp_context", "initializer", "initargs"]
    assert {"max_workers", "max_tasks_per_child", "thread_name_prefix"} <= set(names)


def test_classes(make_executor, kind, isolated):
    class Pool(Executor):
        def __init__(self, size):
            super().__init__(kind, max_workers=size, **GIVEN)
            self.submitted = 0

        def submit(self, fn, /, *args, **kwargs):
            self.submitted += 1
            return super().submit(fn, *args, **kwargs)

    with Pool(1) as pool:
        assert isinstance(pool, concurrent.futures.Executor)
        assert pool.submit(zoo.add, 1, right=2).result() == 3
        view = pool.with_options(name="named")
        assert isinstance(view, Pool)
        assert isinstance(view.submit(zoo.echo, 1), concurrent.futures.Future)
    assert pool.submitted == 1
    assert Future[int].__origin__ is Future


# --- a new process after so many calls ----------------------------------------------------------------------


@pytest.mark.renews
@pytest.mark.parametrize("most", [1, 3])
def test_no_process_makes_more_calls(make_executor, most):
    executor = make_executor(max_tasks_per_child=most)
    futures = [executor.submit(zoo.pid) for _ in range(10)]
    counts = collections.Counter(future.result() for future in futures)
    assert max(counts.values()) <= most
    assert os.getpid() not in counts


@pytest.mark.renews
def test_short_calls_that_travel_together_count_each(make_executor):
    executor = make_executor(max_workers=1, max_tasks_per_child=40)
    counts = collections.Counter()
    for _ in range(4):  # what is known of a function grows with each
        futures = [executor.submit(zoo.pid) for _ in range(60)]
        counts.update(future.result() for future in futures)
    assert sum(counts.values()) == 240
    assert max(counts.values()) <= 40
    assert len(counts) >= 6


@pytest.mark.renews
@pytest.mark.parametrize("chunksize", [None, 1, 7])
def test_elements_count_each(make_executor, chunksize):
    executor = make_executor(max_tasks_per_child=5)
    counts = collections.Counter(executor.map(zoo.pid, range(30), chunksize=chunksize))
    assert sum(counts.values()) == 30
    assert max(counts.values()) <= 5


@pytest.mark.renews
def test_each_process_is_initialized_and_at_most_once_holds(make_executor, tmp_path):
    trace = tmp_path / "trace"

    def note(value):
        zoo.append_line(str(trace), str(value))
        return zoo.initialized()

    executor = make_executor(
        max_workers=1, max_tasks_per_child=2, initializer=zoo.initialize, initargs=("given",)
    )
    results = list(executor.with_options(at_most_once=True).map(note, range(7), chunksize=4))
    assert results == [["given"]] * 7
    assert sorted(trace.read_text().split()) == [str(i) for i in range(7)]


def test_where_no_process_is_replaced_it_says_so(make_executor, can):
    if "renews" not in can:
        with pytest.raises(NotSupportedError, match="max_tasks_per_child"):
            make_executor(max_tasks_per_child=3)


# --- the end by force ---------------------------------------------------------------------------------------


@pytest.mark.one_pool
@pytest.mark.stops
@pytest.mark.parametrize("way", ["terminate_workers", "kill_workers"])
def test_ending_by_force(make_executor, eventually, tmp_path, way):
    executor = make_executor(max_workers=1)
    running = executor.submit(zoo.announce_and_wait, str(tmp_path / "started"), str(tmp_path / "never"))
    waiting = [executor.submit(zoo.echo, i) for i in range(3)]
    eventually((tmp_path / "started").exists)
    eventually(running.running)
    began = time.monotonic()
    getattr(executor, way)()
    assert time.monotonic() - began < 30
    assert isinstance(running.exception(), TaskLostError)
    assert isinstance(running.exception(), concurrent.futures.process.BrokenProcessPool)
    assert all(future.cancelled() for future in waiting)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(zoo.nothing)
    executor.shutdown()


def test_ending_by_force_where_nothing_can_be_stopped(make_executor, can):
    if "stops" not in can:
        with pytest.raises(NotSupportedError, match="cannot stop"):
            make_executor().terminate_workers()


# --- what libraries look for --------------------------------------------------------------------------------


def test_attributes_under_the_names_of_the_standard_pools(make_executor, kind, tmp_path, eventually):
    executor = make_executor(max_workers=1, initializer=zoo.initialize, initargs=(1,))
    assert executor._max_workers == 1
    assert executor._initializer is zoo.initialize
    assert executor._initargs == (1,)
    assert executor._shutdown is executor._shutdown_thread is False
    assert executor._broken is False
    executor.submit(zoo.nothing).result()
    assert hasattr(executor, "_threads") == hasattr(executor, "_work_queue") == (kind == "threads")
    assert hasattr(executor, "_processes") == (kind == "processes")
    if kind == "threads":
        assert all(isinstance(thread, threading.Thread) for thread in executor._threads)
        assert executor._work_queue.empty()
        executor.submit(zoo.announce_and_wait, str(tmp_path / "started"), str(tmp_path / "go"))
        eventually((tmp_path / "started").exists)
        executor.submit(zoo.nothing)
        assert executor._work_queue.qsize() == 1
        (tmp_path / "go").touch()
    if kind == "processes":
        pid = executor.submit(zoo.pid).result()
        assert executor._processes[pid].is_alive()
        assert executor._processes[pid].pid == pid
        executor._processes[pid].terminate()
        eventually(lambda: executor.submit(zoo.pid).result() != pid)
    executor.shutdown()
    assert executor._shutdown is executor._shutdown_thread is True
