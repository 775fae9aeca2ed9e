"""The thread of a backend reaches its end, wherever it is stopped."""

from __future__ import annotations

import threading

import pytest
from support.steps import Killed, Steps

from jobrunner.backends import backend_thread
from jobrunner.backends.backend_thread import BackendThread

SECONDS = 20


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Threads end by an exception here, which is reported at length."""
    monkeypatch.setattr(threading, "excepthook", lambda _: None)


def nothing():
    pass


def test_the_steps_of_the_end_follow_the_work():
    taken = []
    end = lambda: (lambda: taken.append("first"), lambda: taken.append("second"))  # noqa: E731
    thread = BackendThread("test", lambda: taken.append("work"), taken.append, end)
    thread.start()
    assert thread.join(SECONDS)
    assert taken == ["work", "first", "second"]


def test_what_the_work_raises_is_told_before_the_end():
    failure, taken = Killed(), []

    def work():
        raise failure

    thread = BackendThread("test", work, taken.append, lambda: (lambda: taken.append("end"),))
    thread.start()
    assert thread.join(SECONDS)
    assert taken == [failure, "end"]


def test_who_waits_for_it_learns_whether_it_has_ended():
    go, current = threading.Event(), []
    thread = BackendThread(
        "test", lambda: (current.append(thread.is_current), go.wait(SECONDS)), print, tuple
    )
    thread.start()
    assert not thread.join(0.0)
    go.set()
    assert thread.join(SECONDS)
    assert current == [True]
    assert not thread.is_current


def test_the_end_comes_wherever_the_thread_is_killed():
    """At each of its lines, in the work's failure and in the end itself as well."""
    for raised in (None, ValueError("of the work")):

        def work(raised=raised):
            if raised is not None:
                raise raised

        step, place = 0, "before"
        while place:
            step += 1
            steps = Steps([backend_thread], step, Killed, threads="jobrunner-test")
            taken = []
            thread = BackendThread(
                "test", work, lambda _: None, lambda taken=taken: (lambda: taken.append(1),)
            )
            threading.settrace(steps.trace)
            try:
                thread.start()
            finally:
                threading.settrace(None)
            assert thread.join(SECONDS)
            place = steps.place
            assert taken, place
        assert step > 5
