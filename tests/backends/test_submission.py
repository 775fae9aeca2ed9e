"""What is given on to a backend of a call that is submitted."""

from __future__ import annotations

import concurrent.futures
from functools import partial

import pytest
import zoo

from jobrunner.backends.prepared import Prepared
from jobrunner.backends.submission import Submission
from jobrunner.calls import serialization
from jobrunner.errors import SerializationError
from jobrunner.futures import Future
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.kinds import SINGLE_CALL


class Backend:
    """It accepts calls unless it `is_closed`, and keeps what it gets."""

    def __init__(self):
        self.sent = []
        self.is_closed = False
        self.submission = Submission(self.check_open, self.send)

    def check_open(self):
        if self.is_closed:
            raise RuntimeError("closed")

    def send(self, prepared, payload, kind, options, futures=()):
        self.check_open()
        self.sent.append((prepared, payload, kind, options, list(futures)))
        return Future()

    def submit(self, fn, *args, options=m.DEFAULT_OPTIONS, **kwargs):
        return self.submission.submit(Prepared(fn), args, kwargs, options)


@pytest.fixture
def backend():
    return Backend()


def test_arguments_are_sent_as_they_are_now(backend):
    argument = [1]
    assert not backend.submit(zoo.echo, argument).done()
    argument.append(2)
    [(_, payload, kind, options, futures)] = backend.sent
    assert serialization.load_call(payload)[0] == ([1],)
    assert (kind, options, futures) == (SINGLE_CALL, m.DEFAULT_OPTIONS, [])


def test_those_of_a_partial_come_first(backend):
    backend.submit(partial(zoo.echo, [1], key="old", other=2), 3, key="new")
    arguments = serialization.load_call(backend.sent[0][1])
    assert arguments[0] == ([1], 3)
    assert arguments[1] == {"key": "new", "other": 2}


def test_futures_among_them_are_named_apart_and_each_once(backend):
    needed = concurrent.futures.Future()
    backend.submit(zoo.echo, needed, [needed, 1])
    assert backend.sent[0][4] == [needed]


def test_what_cannot_be_pickled_fails_with_its_name_and_only_while_calls_are_accepted(backend):
    options = m.TaskOptions(name="bad")
    for name, given in (("bad", options), ("echo", m.DEFAULT_OPTIONS)):
        failed = backend.submit(zoo.echo, (n for n in ()), options=given)
        assert isinstance(failed.exception(0), SerializationError)
        assert failed.name == name
    assert not backend.sent
    backend.is_closed = True
    with pytest.raises(RuntimeError, match="closed"):
        backend.submit(zoo.echo, (n for n in ()))


def test_a_chunk_is_sent_with_the_range_of_its_elements(backend):
    prepared = Prepared(zoo.echo)
    backend.submission.submit_chunk(prepared, b"packed", 3, 5, m.DEFAULT_OPTIONS)
    assert backend.sent == [(prepared, b"packed", (3, 5), m.DEFAULT_OPTIONS, [])]
