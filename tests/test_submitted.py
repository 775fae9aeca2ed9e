"""map through a submit of the program's, over a backend that runs calls when the test says so."""

from __future__ import annotations

import itertools

import pytest

from jobrunner import Executor
from jobrunner.testing.stub_backend import StubBackend


class Counting(Executor):
    def submit(self, fn, /, *args, **kwargs):
        self.__dict__.setdefault("seen", []).append(args)
        return super().submit(fn, *args, **kwargs)


@pytest.fixture
def backend():
    return StubBackend()


@pytest.fixture
def executor(backend):
    opened = Counting(backend)
    yield opened
    opened._lifetime.kill()


def test_each_element_is_a_call_of_submit(backend, executor):
    results = executor.map(pow, [2, 3, 4], itertools.count(1))
    assert executor.seen == [(2, 1), (3, 2), (4, 3)]
    assert all(call.span is None for call in backend.calls)
    backend.run_all()
    assert list(results) == [2, 9, 64]


def test_options_go_along(backend, executor):
    executor.with_options(retries=3, name="some").map(abs, [1])
    assert backend.calls[0].options.retries == 3
    replaced = Executor(backend)
    submit = replaced.submit
    replaced.submit = lambda fn, /, *args: submit(fn, *args)
    view = replaced.with_options(retries=1).with_options(name="other")
    view.map(abs, [2])
    view.submit(abs, 2)
    replaced.submit(abs, 3)
    options = [call.options for call in backend.calls[1:]]
    assert [(one.retries, one.name) for one in options] == [(1, "other"), (1, "other"), (0, None)]
    backend.run_all()


def test_a_buffer_bounds_what_is_taken(backend, executor):
    backend.automatic = True
    taken = []

    def endless():
        for x in itertools.count():
            taken.append(x)
            yield x

    results = executor.map(abs, endless(), buffersize=4)
    assert list(itertools.islice(results, 10)) == list(range(10))
    assert len(taken) == 14
    results.close()


def test_a_failure_cancels_the_rest(backend, executor):
    results = executor.map(lambda x: 1 // x, [1, 0, 1, 1])
    backend.run_next()
    backend.run_next()
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert all(call.future.cancelled() for call in backend.calls)


def test_the_calls_own_timeout_error_is_no_limit_of_the_map(backend, executor):
    def fail(_):
        raise TimeoutError("its own")

    results = executor.map(fail, [1], timeout=60)
    backend.run_all()
    with pytest.raises(TimeoutError, match="its own"):
        next(results)


def test_after_shutdown_nothing_is_taken(backend, executor):
    executor.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.map(abs, [1])
