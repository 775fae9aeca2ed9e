"""Errors of pickling are what the standard library's pools raise, to a program that catches them."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures.process import BrokenProcessPool

import pytest
import zoo

from jobrunner import SerializationError

pytestmark = pytest.mark.copies


class Refused(Exception):
    def __init__(self, code):
        super().__init__(code)
        self.code = code


class RefusesToBePickled:
    def __reduce__(self):
        raise Refused(7)


class RefusesToHaveState:
    def __getstate__(self):
        raise Refused(8)


class Local:
    """As one whose class cannot be found: plain pickle and cloudpickle refuse it with different errors."""

    def __init__(self):
        self.lock = threading.Lock()

    def __reduce__(self):
        return (lambda: None), (self.lock,)


UNPICKLABLE = [
    (threading.Lock, TypeError),
    (RefusesToBePickled, Refused),
    (RefusesToHaveState, Refused),
    (zoo.FailsOnPickle, RuntimeError),
    (Local, (AttributeError, pickle.PicklingError)),
]


def check(error, expected):
    assert isinstance(error, SerializationError)
    assert isinstance(error, pickle.PicklingError)
    assert isinstance(error, expected)
    assert "cannot pickle" in str(error)
    assert type(error).__name__ == "SerializationError"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), str(error))


@pytest.mark.parametrize(("make", "expected"), UNPICKLABLE)
def test_an_argument(executor, make, expected):
    future = executor.submit(zoo.echo, make())
    with pytest.raises(expected):
        future.result()
    check(future.exception(), expected)
    assert "argument 0 of echo, of type" in str(future.exception())
    check(executor.submit(zoo.echo, value=[make()]).exception(), expected)
    with pytest.raises(expected) as caught:
        list(executor.map(zoo.echo, [1, make()]))
    check(caught.value, expected)


def test_an_attribute_of_the_users_own_exception(executor):
    with pytest.raises(Refused) as caught:
        executor.submit(zoo.echo, RefusesToBePickled()).result()
    assert caught.value.code == 7
    assert isinstance(caught.value.__cause__, Refused)


def test_a_result(executor):
    future = executor.submit(lambda: threading.Lock())
    with pytest.raises(TypeError, match=r"cannot pickle the result of .*<lambda>, of type _thread.lock"):
        future.result()
    check(future.exception(), TypeError)
    with pytest.raises(TypeError, match="cannot pickle the result"):
        list(executor.map(lambda x: threading.Lock() if x else x, range(3)))
    future = executor.submit(zoo.FailsOnPickle)
    check(future.exception(), RuntimeError)


def test_what_does_not_unpickle_in_the_slot_or_here(executor):
    for future in (executor.submit(zoo.echo, zoo.FailsOnUnpickle()), executor.submit(zoo.FailsOnUnpickle)):
        with pytest.raises(SerializationError) as caught:
            future.result()
        assert isinstance(caught.value, RuntimeError)
        assert "could not be unpickled" in str(caught.value)


def test_an_exception_that_does_not_unpickle(executor):
    """The standard library's pool is broken by it, and programs catch that."""

    def fail(_=None):
        raise zoo.TwoArgumentsError(3, "with a text")

    for error in (executor.submit(fail).exception(), first_failure(executor.map(fail, range(3)))):
        for expected in (SerializationError, TypeError, BrokenProcessPool):
            assert isinstance(error, expected)
        assert "TwoArgumentsError: 3: with a text" in str(error)


def first_failure(results):
    try:
        list(results)
    except Exception as exc:
        return exc


def test_an_exception_that_cannot_be_pickled(executor):
    def fail():
        error = ValueError("with a lock")
        error.lock = threading.Lock()
        raise error

    error = executor.submit(fail).exception()
    assert isinstance(error, SerializationError)
    assert isinstance(error, TypeError)
    assert "ValueError: with a lock" in str(error)
