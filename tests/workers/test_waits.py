"""What a slot tells of the waits of its task: those that last, and whose end is known."""

from __future__ import annotations

import threading

import pytest

from jobrunner.nested.wait_hooks import Awaited
from jobrunner.protocol.wire.checks import MAX_AWAITED
from jobrunner.workers.framing import AWAITS
from jobrunner.workers.waits import MAX_TOLD, TOLD_AFTER, Waits


class Outbox:
    """Keeps what it is given."""

    def __init__(self):
        self.lock = threading.RLock()
        self.items = []

    def put(self, item):
        assert item[0] == AWAITS
        self.items.append(tuple(item[1]))

    def flush(self):
        pass


class Task:
    """The task 7 of a slot, and what its worker is told."""

    def __init__(self):
        self.now = 0.0
        self.outbox = Outbox()
        self.waits = Waits(self.outbox, lambda: self.now)

    def wait(self, *calls, every=True):
        return self.waits.enter(lambda: Awaited(list(calls), every))

    def look(self, after=TOLD_AFTER, number=7):
        """Seconds until the next look."""
        self.now += after
        return self.waits.look(number)

    def told(self):
        items, self.outbox.items = self.outbox.items, []
        return items


@pytest.fixture
def task():
    return Task()


def test_a_wait_that_lasts_is_told_once(task):
    assert task.look() is None
    wait = task.wait("a", "b", every=False)
    assert task.look(TOLD_AFTER / 2) == TOLD_AFTER / 2
    assert task.told() == []
    assert task.look(TOLD_AFTER / 2) == TOLD_AFTER
    assert task.told() == [(7, ["a", "b"], False)]
    task.look()
    assert task.told() == []
    task.waits.leave(wait, 7)
    assert task.told() == [(7, [], True)]
    assert task.look() is None


def test_one_that_is_over_soon_is_not_told(task):
    wait = task.wait("a")
    task.look(TOLD_AFTER / 2)
    task.waits.leave(wait, 7)
    task.look()
    assert task.told() == []


def test_what_is_left_of_it_is_told_later(task):
    calls = ["a", "b"]
    task.waits.enter(lambda: Awaited(list(calls), True))
    task.look()
    calls.pop()
    task.look(TOLD_AFTER / 2)
    task.look(TOLD_AFTER / 2)
    assert task.told() == [(7, ["a", "b"], True), (7, ["a"], True)]


def test_a_wait_within_another_counts_and_then_that_one_again(task):
    outer = task.wait("a")
    task.look()
    inner = task.wait("b")
    task.look()
    task.waits.leave(inner, 7)
    task.look()
    task.waits.leave(outer, 7)
    assert task.told() == [
        (7, ["a"], True),
        (7, ["b"], True),
        (7, [], True),
        (7, ["a"], True),
        (7, [], True),
    ]


def test_nothing_is_told_of_one_whose_end_nobody_knows(task):
    def breaks():
        raise RuntimeError("set changed size during iteration")

    for awaited in (None, lambda: None, breaks, lambda: Awaited([], True)):
        wait = task.waits.enter(awaited)
        assert task.look() == TOLD_AFTER
        task.waits.leave(wait, 7)
    assert task.told() == []


def test_of_too_many_calls_some_are_told_where_it_takes_all(task):
    assert MAX_TOLD <= MAX_AWAITED
    many = [str(n) for n in range(MAX_TOLD + 1)]
    wait = task.wait(*many)
    task.look()
    task.waits.leave(wait, 7)
    task.wait(*many, every=False)
    task.look()
    assert task.told() == [(7, many[:-1], True), (7, [], True)]


def test_an_interrupt_may_keep_a_task_from_leaving_but_not_from_being_told(task):
    task.wait("a")
    task.look()
    task.waits.interrupted()
    assert task.look(0.0) is None
    assert task.told() == [(7, ["a"], True), (7, [], True)]


def test_the_end_of_a_task_needs_no_word(task):
    task.wait("a")
    task.look()
    task.waits.end()
    assert task.told() == [(7, ["a"], True)]
    assert task.look(number=8) is None
    wait = task.wait("b")
    task.look(number=8)
    task.waits.leave(wait, 8)
    assert task.told() == [(8, ["b"], True), (8, [], True)]


def test_a_wait_that_is_left_while_it_is_looked_at_is_not_told(task):
    def leaves():
        task.waits.leave(wait, 7)
        return Awaited(["a"], True)

    wait = task.waits.enter(leaves)
    task.look()
    assert task.told() == []
