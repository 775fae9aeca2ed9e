from __future__ import annotations

import threading

import pytest

from jobrunner.mapping.pauses import Pauses
from jobrunner.testing.waiting import until


@pytest.fixture
def resumed():
    return []


def timers():
    return [thread for thread in threading.enumerate() if thread.name == "jobrunner-pauses"]


def test_items_go_on_in_the_order_of_their_ends(resumed):
    pauses = Pauses(resumed.extend)
    pauses.add("last", 0.2)
    pauses.add("first", 0.01)
    pauses.add("second", 0.1)
    until(lambda: len(resumed) == 3)
    assert resumed == ["first", "second", "last"]
    until(lambda: not timers())


def test_what_is_cleared_is_not_resumed(resumed):
    pauses = Pauses(resumed.extend)
    pauses.add(1, 1000.0)
    pauses.add(2, 900.0)
    assert sorted(pauses.clear()) == [1, 2]
    assert pauses.clear() == []
    until(lambda: not timers())
    assert resumed == []


class TooLate(threading.Timer):
    """A timer at the end of the interpreter."""

    def start(self):
        raise RuntimeError("can't start new thread at interpreter shutdown")


def test_where_no_thread_can_be_started_nothing_pauses(resumed):
    Pauses(resumed.extend, TooLate).add(1, 1000.0)
    assert resumed == [1]
