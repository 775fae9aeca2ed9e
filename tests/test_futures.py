"""Future, wait, as_completed and gather; the standard library's Futures included."""

from __future__ import annotations

import concurrent.futures
import queue
import threading
from concurrent.futures import CancelledError, InvalidStateError
from contextlib import contextmanager

import pytest
from support.steps import Steps

from jobrunner import (
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    Future,
    TaskTimeoutError,
    as_completed,
    futures,
    gather,
    wait,
)
from jobrunner.futures import CancelWaits
from jobrunner.nested import wait_hooks as blocking


def done(value):
    future = Future()
    future.set_result(value)
    return future


def failed(exc):
    future = Future()
    future.set_exception(exc)
    return future


def cancelled():
    future = Future()
    future.confirm_cancelled()
    return future


@pytest.fixture
def waits():
    """How often the calling thread said that it waits."""
    seen = []

    @contextmanager
    def hook(awaited=None):
        seen.append("begin")
        try:
            yield
        finally:
            seen.append("end")

    blocking.install(hook)
    yield seen
    blocking.install(None)


def test_it_is_a_standard_future():
    assert isinstance(Future(), concurrent.futures.Future)


def test_result_and_exception():
    assert done(1).result() == 1
    assert done(1).exception() is None
    error = ValueError("x")
    assert failed(error).exception() is error
    with pytest.raises(ValueError, match="x") as caught:
        failed(error).result()
    assert caught.value is error
    with pytest.raises(CancelledError):
        cancelled().result()
    with pytest.raises(CancelledError):
        cancelled().exception()


@pytest.mark.parametrize("ask", [Future.result, Future.exception])
def test_waits_time_out_with_both_kinds_of_timeout_error(ask):
    for kind in (TimeoutError, concurrent.futures.TimeoutError):
        with pytest.raises(kind):
            ask(Future(), timeout=0)
    assert issubclass(TaskTimeoutError, TimeoutError)
    assert issubclass(TaskTimeoutError, concurrent.futures.TimeoutError)


def test_a_timeout_error_of_the_call_arrives_as_it_is():
    error = TimeoutError("the call's own")
    with pytest.raises(TimeoutError) as caught:
        failed(error).result(timeout=1)
    assert caught.value is error


def test_only_real_waits_are_announced(waits):
    done(1).result()
    failed(ValueError()).exception()
    assert waits == []
    with pytest.raises(TimeoutError):
        Future().result(0)
    assert waits == ["begin", "end"]


class Waited(Exception):
    """Ends a wait at its beginning."""


@pytest.fixture
def awaited():
    """What a wait of the calling thread is for, as it says at its beginning."""

    @contextmanager
    def hook(awaited=None):
        raise Waited(None if awaited is None else awaited())
        yield

    def of(action):
        with pytest.raises(Waited) as caught:
            action()
        return caught.value.args[0]

    blocking.install(hook)
    yield of
    blocking.install(None)


def named(name):
    future = Future()
    future.id = name
    return future


def test_a_wait_says_which_calls_alone_can_end_it(awaited):
    a, b, c, plain = named("a"), named("b"), done(3), concurrent.futures.Future()
    assert awaited(a.result) == (["a"], True)
    assert awaited(a.exception) == (["a"], True)
    assert awaited(lambda: wait([a, c, b])) == (["a", "b"], True)
    assert awaited(lambda: gather([a, plain, b])) == (["a", "b"], True)
    assert awaited(lambda: wait([a, b], return_when=FIRST_COMPLETED)) == (["a", "b"], False)
    assert awaited(lambda: wait([a, b], return_when=FIRST_EXCEPTION)) == (["a", "b"], False)
    calls, every = awaited(lambda: next(as_completed([a, b])))
    assert (sorted(calls), every) == (["a", "b"], False)


def test_a_wait_that_may_end_otherwise_does_not(awaited):
    a, plain = named("a"), concurrent.futures.Future()
    assert awaited(lambda: a.result(1)) is None
    assert awaited(lambda: a.exception(timeout=1)) is None
    assert awaited(lambda: wait([a], timeout=1)) is None
    assert awaited(lambda: next(as_completed([a], timeout=1))) is None
    assert awaited(lambda: wait([a, plain], return_when=FIRST_COMPLETED)) is None
    assert awaited(lambda: next(as_completed([a, Future()]))) is None
    assert awaited(lambda: wait([a, done(1)], return_when=FIRST_COMPLETED)) is None


def test_a_wait_ends_when_the_result_comes():
    future = Future()
    asked = threading.Event()
    got = []

    def ask():
        asked.set()
        got.append(future.result())

    thread = threading.Thread(target=ask)
    thread.start()
    asked.wait()
    future.set_result(5)
    thread.join()
    assert got == [5]


def test_cancel_without_a_backend_is_the_standard_one():
    future = Future()
    assert future.cancel()
    assert future.cancelled()
    assert not done(1).cancel()


def test_cancel_asks_the_backend_unless_it_is_done():
    asked = []
    future = Future()
    future.bind("1", canceller=lambda future, running: asked.append(running) or False)
    assert not future.cancel()
    assert not future.cancel(running=True)
    future.set_result(1)
    assert not future.cancel()
    assert asked == [False, True]


def test_confirm_cancelled_works_once_and_from_running_too():
    calls = []
    future = Future()
    future.add_done_callback(calls.append)
    future.confirm_running()
    assert future.running()
    assert not future.cancel_pending()
    future.confirm_cancelled()
    future.confirm_cancelled()
    assert future.cancelled()
    assert calls == [future]
    with pytest.raises(InvalidStateError):
        future.set_result(1)


def test_cancel_pending():
    calls = []
    future = Future()
    future.add_done_callback(calls.append)
    assert future.cancel_pending()
    assert future.cancel_pending()
    assert calls == [future]
    assert not done(1).cancel_pending()


def test_callbacks_of_a_plain_cancel_are_called_once():
    calls = []
    future = Future()
    future.add_done_callback(calls.append)
    future.cancel()
    future.confirm_cancelled()
    assert calls == [future]


def test_confirm_running_does_not_touch_a_finished_future():
    future = done(1)
    future.confirm_running()
    assert future.done()


def test_wait_wakes_on_a_confirmed_cancel():
    future = Future()
    thread = threading.Thread(target=future.confirm_cancelled)
    thread.start()
    finished, not_done = wait([future])
    thread.join()
    assert finished == {future}
    assert not not_done


def test_wait_takes_standard_futures_and_every_return_when():
    ours, theirs = Future(), concurrent.futures.Future()
    assert wait([ours, theirs], timeout=0).not_done == {ours, theirs}
    theirs.set_result(1)
    assert wait([ours, theirs], return_when=FIRST_COMPLETED).done == {theirs}
    ours.set_exception(ValueError())
    assert wait([ours, theirs], return_when=FIRST_EXCEPTION).done == {ours, theirs}
    with pytest.raises(ValueError, match="Invalid return condition"):
        wait([Future()], return_when="ANY")


def test_as_completed_yields_each_once_as_they_finish():
    first, second, theirs = done(1), Future(), concurrent.futures.Future()
    iterator = as_completed([first, second, theirs, first])
    assert next(iterator) is first
    theirs.set_result(1)
    assert next(iterator) is theirs
    second.set_result(1)
    assert list(iterator) == [second]


def test_as_completed_times_out():
    iterator = as_completed([done(1), Future()], timeout=0)
    next(iterator)
    for kind in (TimeoutError, concurrent.futures.TimeoutError):
        with pytest.raises(kind):
            list(as_completed([Future()], timeout=0))
    with pytest.raises(TimeoutError, match=r"1 \(of 2\) futures unfinished"):
        next(iterator)


def test_gather():
    assert gather([done(1), done(2)]) == [1, 2]
    assert gather([]) == []
    with pytest.raises(ValueError, match="first"):
        gather(iter([done(1), failed(ValueError("first")), failed(OSError("second"))]))
    with pytest.raises(TimeoutError, match="1 of 2"):
        gather([done(1), Future()], timeout=0)


def test_that_a_call_runs_is_an_answer_to_those_who_would_not_stop_it():
    waits, future, answered = CancelWaits(), Future(), queue.SimpleQueue()

    def cancel(stop, asked):
        with waits.one_more(future) as wait:
            wait.wait(asked.set, 30, stop)
            answered.put(stop)

    threads = []
    for stop in (False, True):
        asked = threading.Event()
        threads.append(threading.Thread(target=cancel, args=(stop, asked)))
        threads[-1].start()
        assert asked.wait(30)
    waits.of(future).refuse()
    assert answered.get(timeout=30) is False
    threads[0].join(30)
    assert answered.empty()
    waits.of(future).end()
    assert answered.get(timeout=30) is True
    threads[1].join(30)
    assert not waits


def test_at_any_line_of_a_future_its_thread_may_come_to_use_another_one():
    """As a signal handler does, a finalizer that the garbage collector calls, a debugger."""

    def use():
        called = []
        future = Future()
        future.confirm_running()
        future.add_done_callback(called.append)
        future.set_result(1)
        done(2)
        assert called == [future]

    for step in range(1, 1000):
        steps = Steps([futures], step, act=use)
        with steps.here():
            use()
            done(3).result()
            Future().cancel()
        if not steps.place:
            break
    assert step > 20
