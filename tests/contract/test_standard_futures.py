"""Futures and map in the corners of what the documentation of `concurrent.futures` says."""

from __future__ import annotations

import concurrent.futures
import logging
import pickle
import sys
import threading

import pytest
import zoo

from jobrunner import FIRST_EXCEPTION, Executor, Future, as_completed, wait


def test_a_future_that_is_done_stays_as_it_is(executor):
    future = executor.submit(zoo.echo, 1)
    assert future.result() == 1
    for change in (lambda: future.set_result(2), lambda: future.set_exception(ValueError())):
        with pytest.raises(concurrent.futures.InvalidStateError):
            change()
    with pytest.raises(RuntimeError):
        future.set_running_or_notify_cancel()
    assert (future.cancel(), future.cancelled(), future.running(), future.done()) == (
        False,
        False,
        False,
        True,
    )
    assert (future.result(0), future.exception(0)) == (1, None)


@pytest.mark.parametrize("timeout", [0, -1, 0.001])
def test_waits_that_are_over_before_the_call(make_executor, tmp_path, timeout):
    executor = make_executor()
    future = executor.submit(zoo.wait_for, str(tmp_path / "go"), 1)
    results = executor.map(zoo.wait_for, [str(tmp_path / "go")], timeout=timeout)
    for late in (
        lambda: future.result(timeout),
        lambda: future.exception(timeout=timeout),
        lambda: list(as_completed([future], timeout)),
        lambda: next(results),
    ):
        with pytest.raises(concurrent.futures.TimeoutError):
            late()
    assert wait([future], timeout) == (set(), {future})
    (tmp_path / "go").touch()
    assert future.result() == 1


def test_a_cancelled_future(make_executor, tmp_path, eventually):
    executor = make_executor(max_workers=1)
    started, go = str(tmp_path / "started"), str(tmp_path / "go")
    running = executor.submit(zoo.announce_and_wait, started, go, 1)
    eventually((tmp_path / "started").exists)
    waiting = [executor.submit(zoo.echo) for _ in range(3)]
    told = []
    waiting[-1].add_done_callback(lambda future: told.append(future.cancelled()))
    assert eventually(lambda: waiting[-1].cancel())
    future = waiting[-1]
    assert (future.cancelled(), future.done(), future.running(), future.cancel()) == (True, True, False, True)
    assert told == [True]
    future.add_done_callback(lambda future: told.append("late"))
    assert told == [True, "late"]
    for look in (future.result, future.exception, lambda: future.result(0)):
        with pytest.raises(concurrent.futures.CancelledError):
            look()
    with pytest.raises(concurrent.futures.InvalidStateError):
        future.set_result(1)
    assert list(as_completed([future], 10)) == [future]
    assert wait([future, running], 0.01, FIRST_EXCEPTION).done >= {future}
    (tmp_path / "go").touch()
    assert running.result() == 1


def test_callbacks_are_called_in_order_whatever_one_raises(make_executor, tmp_path, caplog):
    executor = make_executor()
    future = executor.submit(zoo.wait_for, str(tmp_path / "go"))
    called = []
    all_called = threading.Event()

    def note(what, then=lambda: None):
        def callback(_):
            called.append(what)
            then()

        future.add_done_callback(callback)

    note(1)
    note(2, lambda: 1 / 0)
    note(3, lambda: sys.exit(1))
    note(4, all_called.set)
    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        (tmp_path / "go").touch()
        assert future.result() is None
        assert all_called.wait(30)
        assert called == [1, 2, 3, 4]
        assert "ZeroDivisionError" in caplog.text
        assert "exception calling callback for" in caplog.text
        caplog.clear()
        note(5, lambda: 1 / 0)  # at once, here
        assert called[-1] == 5
        assert "ZeroDivisionError" in caplog.text
    assert executor.submit(zoo.echo, "goes on").result(30) == "goes on"


def test_a_future_that_the_program_ends_itself(make_executor, tmp_path, eventually):
    executor = make_executor(max_workers=1)
    future = executor.submit(zoo.wait_for, str(tmp_path / "go"))
    future.set_result("mine")
    (tmp_path / "go").touch()
    assert executor.submit(zoo.echo, "goes on").result(30) == "goes on"
    assert future.result() == "mine"
    executor.shutdown()


def test_what_a_wait_raises_that_is_over_has_no_arguments_and_no_context(make_executor, tmp_path):
    executor = make_executor()
    go = str(tmp_path / "go")
    future = executor.submit(zoo.wait_for, go, 1)
    results = executor.map(zoo.wait_for, [go], timeout=0)
    for late in (lambda: future.result(0), lambda: future.exception(0.001), lambda: next(results)):
        with pytest.raises(TimeoutError) as caught:
            late()
        assert (caught.value.args, str(caught.value)) == ((), "")
        assert caught.value.__context__ is None
        assert any("not done" in note for note in caught.value.__notes__)
    (tmp_path / "go").touch()
    assert future.result() == 1


def test_callbacks_of_a_cancelled_future_are_called_by_who_cancels(make_executor, tmp_path, eventually):
    executor = make_executor(max_workers=1)
    running = executor.submit(zoo.announce_and_wait, str(tmp_path / "started"), str(tmp_path / "go"))
    eventually((tmp_path / "started").exists)
    future = [executor.submit(zoo.echo) for _ in range(3)][-1]
    lock, called = threading.RLock(), []

    def callback(future):
        with lock:  # another thread would wait here for the one that cancels
            called.append((threading.current_thread(), future.cancelled()))

    future.add_done_callback(callback)
    with lock:
        assert future.cancel()
        assert called == [(threading.current_thread(), True)]
    assert future.cancel()
    assert len(called) == 1
    (tmp_path / "go").touch()
    running.result()


@pytest.mark.shared
@pytest.mark.apart
def test_a_future_and_an_executor_come_back_from_a_call(make_executor):
    executor = make_executor()
    first = executor.submit(zoo.echo, 7)
    held, other = executor.submit(zoo.echo, zoo.Counter((first, executor))).result(30).count
    assert (held.id, held.result(30)) == (first.id, 7)
    assert other.submit(zoo.echo, 8).result(30) == 8


def test_leaving_the_block_answers_false(make_executor):
    assert make_executor().__exit__(None, None, None) is False


@pytest.mark.promise("map")
def test_results_of_map_are_a_generator(executor):
    results = executor.map(zoo.echo, range(3))
    assert [results.send(None), results.send("something"), next(results)] == [0, 1, 2]
    results = executor.map(zoo.echo, range(3))
    assert next(results) == 0
    with pytest.raises(KeyError):
        results.throw(KeyError("thrown"))
    assert list(results) == []


@pytest.mark.promise("map")
def test_map_after_shutdown_reads_its_input_before_it_raises(make_executor):
    executor = make_executor()
    executor.shutdown()
    taken = []

    def numbers(count):
        for number in range(count):
            taken.append(number)
            yield number

    refuses = zoo.FailsOnPickle()
    for fn in (zoo.echo, lambda value: (value, refuses)):
        taken.clear()
        assert list(executor.map(fn, numbers(0))) == []
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            executor.map(fn, numbers(1))
        assert taken == [0]
        with pytest.raises(ZeroDivisionError):
            executor.map(fn, (1 / (1 - number) for number in range(1, 2)))


@pytest.mark.promise("map")
@pytest.mark.copies
def test_map_of_what_cannot_be_pickled_reads_its_input_at_once(executor):
    taken = []

    def numbers():
        for number in range(3):
            taken.append(number)
            yield number

    refuses = zoo.FailsOnPickle()
    results = executor.map(lambda value: (value, refuses), numbers())
    assert taken == [0, 1, 2]
    with pytest.raises(RuntimeError, match="will not be pickled"):
        next(results)
    with pytest.raises(KeyError):
        executor.map(lambda value: (value, refuses), iter(lambda: {}["in the input"], None))


@pytest.mark.promise("map")
def test_map_of_nothing(executor):
    assert list(executor.map(zoo.echo, [])) == []
    assert list(executor.map(zoo.echo, [], timeout=0)) == []
    assert list(executor.map(zoo.add, [1, 2], [])) == []


@pytest.mark.promise("map")
def test_map_raises_what_its_input_raises_at_once(executor):
    def numbers():
        yield 1
        raise KeyError("in the input")

    with pytest.raises(KeyError, match="in the input"):
        executor.map(zoo.echo, numbers())
    with pytest.raises(TypeError):
        executor.map(zoo.echo, 5)
    assert executor.submit(zoo.echo, 1).result() == 1


@pytest.mark.promise("map")
def test_map_takes_its_input_at_once_and_calls_without_being_iterated_over(make_executor, tmp_path):
    executor = make_executor()
    taken = []

    def numbers():
        for number in range(5):
            taken.append(number)
            yield str(number)

    executor.map(zoo.append_line, [str(tmp_path / "trace")] * 5, numbers())
    assert taken == [0, 1, 2, 3, 4]
    executor.shutdown()
    assert sorted((tmp_path / "trace").read_text().split()) == ["0", "1", "2", "3", "4"]


@pytest.mark.promise("map")
def test_map_cancels_the_rest_when_its_time_is_over(make_executor, tmp_path, eventually):
    executor = make_executor(max_workers=1)
    trace = tmp_path / "trace"
    running = executor.submit(zoo.announce_and_wait, str(tmp_path / "started"), str(tmp_path / "go"))
    eventually((tmp_path / "started").exists)
    results = executor.map(zoo.append_line, [str(trace)] * 10, map(str, range(10)), timeout=0, chunksize=1)
    with pytest.raises(concurrent.futures.TimeoutError):
        next(results)
    (tmp_path / "go").touch()
    running.result()
    executor.shutdown()
    # An engine that takes some ahead may have the first.
    assert not trace.exists() or len(trace.read_text().split()) < 5


@pytest.mark.promise("endings")
def test_shutdown_within_the_block_and_submit_from_a_callback_after_it(make_executor, tmp_path):
    raised = []
    called = threading.Event()
    with make_executor() as executor:
        future = executor.submit(zoo.wait_for, str(tmp_path / "go"))

        def submit_one_more(_):
            try:
                executor.submit(zoo.echo)
            except RuntimeError as exc:
                raised.append(exc)
            called.set()

        future.add_done_callback(submit_one_more)
        executor.shutdown(wait=False)
        (tmp_path / "go").touch()
    assert future.done()
    assert called.wait(30)
    assert "cannot schedule new futures after shutdown" in str(raised[0])


def test_what_cannot_be_pickled_is_a_type_error():
    with Executor("threads") as executor:
        for one in (executor, executor.submit(zoo.echo, 1), Future()):
            with pytest.raises(TypeError, match="cannot be sent to another process"):
                pickle.dumps(one)
