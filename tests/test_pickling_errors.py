"""Errors of pickling that are what pickling raised, too."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import re
import threading
import traceback
from dataclasses import dataclass

import pytest

from jobrunner import SerializationError
from jobrunner.pickling.pickling_errors import serialization_error


class Refused(Exception):
    def __init__(self, reason, code):
        super().__init__(reason)
        self.reason, self.code = reason, code

    def __str__(self):
        return f"refused: {self.reason}"

    def __reduce__(self):
        raise RuntimeError("not even this one")


@dataclass(frozen=True)
class Frozen(Exception):
    code: int


class Unwilling(Exception):
    def __init_subclass__(cls):
        raise RuntimeError("nobody derives from this")


class Slotted(Exception):
    __slots__ = ("where",)


def raised_by(fn, *args):
    try:
        fn(*args)
    except Exception as exc:
        return exc


@pytest.mark.parametrize(
    "cause",
    [
        raised_by(pickle.dumps, threading.Lock()),
        AttributeError("Can't pickle local object 'f.<locals>.g'"),
        Refused("no", 7),
        Frozen(3),
        raised_by(open, "/nowhere/at/all"),
        raised_by("\udc80".encode),
        KeyError("x"),
        ImportError("x", name="module"),
        StopIteration(3),
        RecursionError("too deep"),
    ],
    ids=lambda cause: type(cause).__name__,
)
def test_it_is_both_and_makes_journeys(cause):
    error = serialization_error("cannot pickle argument 0", cause)
    for one in (error, pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert isinstance(one, SerializationError)
        assert isinstance(one, pickle.PicklingError)
        assert isinstance(one, type(cause))
        assert str(one) == "cannot pickle argument 0"
        assert repr(one) == "SerializationError('cannot pickle argument 0')"
        assert one.args == ("cannot pickle argument 0",)
        assert traceback.format_exception_only(one) == [
            "jobrunner.errors.SerializationError: cannot pickle argument 0\n"
        ]
    assert type(error) is type(serialization_error("another", cause))
    assert error == error
    assert hash(error) == hash(error)
    with pytest.raises(type(cause)):  # a frozen dataclass, too, can be raised, and caught
        raise error from cause


def test_it_has_what_the_cause_has():
    error = serialization_error("text", Refused("no", 7))
    assert (error.reason, error.code) == ("no", 7)
    assert pickle.loads(pickle.dumps(error)).code == 7
    missing = serialization_error("text", raised_by(open, "/nowhere/at/all"))
    assert (missing.errno, missing.filename) == (2, "/nowhere/at/all")
    slotted = Slotted()
    slotted.where = "here"
    assert serialization_error("text", slotted).where == "here"


def test_what_of_it_cannot_be_pickled_stays_behind():
    error = serialization_error("text", Refused(threading.Lock(), 7))
    arrived = pickle.loads(pickle.dumps(error))
    assert (hasattr(arrived, "reason"), arrived.code) == (False, 7)


@pytest.mark.parametrize("cause", [Unwilling("x"), KeyboardInterrupt()])
def test_a_class_that_allows_no_other_is_left_out(cause):
    error = serialization_error("text", cause)
    assert type(error) is SerializationError
    assert str(error) == "text"


def test_several_causes():
    error = serialization_error("text", AttributeError("first"), Unwilling("x"), TypeError("second"))
    assert isinstance(error, TypeError)
    error = serialization_error("text", AttributeError("first"), TypeError("second"))
    assert isinstance(error, AttributeError)
    assert isinstance(error, TypeError)


def test_a_recursion_that_cloudpickle_has_renamed():
    cause = pickle.PicklingError("deep")
    cause.__cause__ = RecursionError("maximum recursion depth exceeded")
    assert isinstance(serialization_error("text", cause), RecursionError)


def test_one_of_pickle_alone_is_a_plain_one():
    assert type(serialization_error("text", pickle.PicklingError("x"))) is SerializationError
    assert type(serialization_error("text")) is SerializationError


@pytest.mark.parametrize(
    ("cause", "advice"),
    [
        (
            RuntimeError("Lock objects should only be shared between processes through inheritance"),
            r"on this host, pass it to an initializer .*multiprocessing\.Manager\(\)",
        ),
        (
            multiprocessing.AuthenticationError("digest sent was rejected"),
            r"current_process\(\)\.authkey.*initializer",
        ),
    ],
)
def test_what_can_be_done_is_said_once(cause, advice):
    error = serialization_error("cannot pickle it", cause)
    assert re.search(advice, str(error))
    assert str(serialization_error("cannot pickle it", cause, cause)) == str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_other_causes_have_the_advice_that_is_given_for_them():
    assert str(serialization_error("cannot pickle it", RuntimeError("no"))) == "cannot pickle it"
    assert str(serialization_error("not it", RuntimeError("no"), otherwise="; do this")) == "not it; do this"
    lock = RuntimeError("Lock objects should only be shared between processes through inheritance")
    assert "do this" not in str(serialization_error("not it", lock, otherwise="; do this"))
