"""When a slot says that its turn is free, and when that it is not."""

from __future__ import annotations

import pytest

from jobrunner.workers.framing import BLOCKED
from jobrunner.workers.yielding import Yielding


@pytest.fixture
def yielding(parts):
    parts.running.number = 7
    return Yielding(parts.running, parts.outbox, lambda: None)


def test_a_wait_is_told_at_its_beginning_and_its_end(parts, yielding):
    with yielding.waiting():
        assert parts.said() == [[BLOCKED, 1]]
        assert yielding.told
    assert parts.said() == [[BLOCKED, 0]]
    assert not yielding.told


def test_a_wait_inside_of_a_wait_is_not_told(parts, yielding):
    with yielding.waiting():
        parts.said()
        with yielding.waiting():
            assert parts.said() == []
        assert parts.said() == []
    assert parts.said() == [[BLOCKED, 0]]


def test_a_task_that_stands_still_yields_until_it_moves(parts, yielding):
    yielding.standstill.task = 7
    yielding.tell()
    assert parts.said() == [[BLOCKED, 1]]
    yielding.standstill.task = 0
    yielding.tell()
    assert parts.said() == [[BLOCKED, 0]]


def test_another_task_that_stood_still_says_nothing_about_the_running_one(parts, yielding):
    yielding.standstill.task = 6
    yielding.tell()
    parts.running.number = yielding.standstill.task = 0
    yielding.tell()
    assert parts.said() == []


def test_the_turn_is_taken_back_from_a_task_that_has_left_a_wait_open(parts, yielding):
    left = yielding.waiting()
    left.__enter__()
    parts.said()
    yielding.take_back()
    assert parts.said() == [[BLOCKED, 0]]
    left.__exit__(None, None, None)  # as the garbage collector may do at any time
    assert parts.said() == []
    with yielding.waiting():
        assert parts.said() == [[BLOCKED, 1]]


def test_a_process_that_the_task_has_forked_says_nothing(parts, yielding):
    parts.outbox.leave_to_parent()
    with yielding.waiting():
        pass
    assert parts.said() == []
    assert not yielding.told


def test_the_control_thread_is_told_when_to_look_again(yielding):
    assert yielding.look(7) == [None, None], "nothing is waited for, and no call was submitted"
    with yielding.waiting(lambda: None):
        assert yielding.look(7)[1] is not None
