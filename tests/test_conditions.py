"""Ctrl-C at any step of a wait: it arrives as what it is, and others find the lock free."""

from __future__ import annotations

import threading

import pytest
from support.steps import Steps

from jobrunner.system import conditions
from jobrunner.system.conditions import Condition, Event

SECONDS = 20


def enter(condition):
    with condition:
        pass


def wait(condition):
    with condition:
        condition.wait(0.001)


def wait_for(condition):
    with condition:
        condition.wait_for(lambda: False, 0.001)


def is_free(lock):
    """Whether another thread can take it."""
    found = []

    def look():
        if lock.acquire(timeout=SECONDS):
            lock.release()
            found.append(lock)

    looker = threading.Thread(target=look, daemon=True)
    looker.start()
    looker.join(SECONDS * 2)
    return bool(found)


def interrupt_everywhere(act, lock):
    """At each step of `act` in turn; the number of steps."""
    step, place = 0, "before the first"
    while place:
        step += 1
        steps = Steps([threading, conditions], step, error=KeyboardInterrupt, edges=True)
        try:
            with steps.here():
                act()
        except KeyboardInterrupt:
            assert steps.place
        place = steps.place
        assert is_free(lock), place
    return step - 1


@pytest.mark.parametrize("use", [wait, wait_for])
def test_a_condition_is_whole_wherever_an_interrupt_comes(use):
    condition = Condition()
    assert interrupt_everywhere(lambda: use(condition), condition) > 10


def test_with_takes_and_releases_the_lock_in_one_step():
    condition = Condition()
    assert interrupt_everywhere(lambda: enter(condition), condition) == 0
    with condition:
        assert condition._is_owned()
    assert not condition._is_owned()


def test_an_event_is_whole_wherever_an_interrupt_comes():
    event = Event()
    assert interrupt_everywhere(lambda: event.wait(0.001), event._cond) > 10
    event.set()
    assert event.wait(0)


def test_a_condition_that_nobody_holds_cannot_be_waited_for():
    condition = Condition()
    with pytest.raises(RuntimeError):
        condition.wait(0)
    assert is_free(condition)
