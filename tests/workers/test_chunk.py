"""Chunks in a slot: by themselves, shared by two threads, and in a real process."""

from __future__ import annotations

import random
import sys
import threading
from functools import cached_property

import pytest

from jobrunner.calls import serialization
from jobrunner.protocol.effects import SlotDivided, SlotFinished
from jobrunner.workers.chunk import Chunk
from jobrunner.workers.crash_board import ELEMENT


class Running:
    """A chunk of ten elements, the first of which is number 5; `take` begins the next one, as the main thread does."""

    def __init__(self, count=10, start=5):
        self.fields = [0, -1]
        self.chunk = Chunk(1, start, start + count, self.fields)
        self.count = count
        self.told = []

    @cached_property
    def left(self):
        return self.chunk.begin(list(range(self.count)))

    def take(self):
        self.fields[ELEMENT], element = next(self.left)
        return element

    def give_back(self):
        self.chunk.give_back(self.told.append)
        return self.told


def test_what_the_worker_has_taken_does_not_begin():
    running = Running()
    assert [running.take() for _ in range(3)] == [0, 1, 2]
    assert running.chunk.keep(7), "that element is the one that is kept"
    assert list(running.left) == []
    assert not running.chunk.give_back(running.told.append)
    assert running.told == []


def test_nor_does_an_element_that_was_just_to_begin_when_it_was_taken():
    running = Running()
    assert [running.take() for _ in range(3)] == [0, 1, 2]
    assert not running.chunk.keep(6)
    assert running.fields[ELEMENT] == 6, "whoever dies now is no fault of that element"
    assert list(running.left) == []


def test_a_chunk_that_is_left_alone_has_all_its_elements():
    running = Running()
    assert list(running.left) == list(zip(range(5, 15), range(10), strict=True))


def test_what_is_given_back_are_the_elements_that_have_not_begun():
    running = Running()
    assert [running.take() for _ in range(3)] == [0, 1, 2]
    assert running.give_back() == [8]
    assert list(running.left) == []


def test_it_is_given_back_once():
    running = Running()
    running.take()
    running.give_back()
    assert running.give_back() == [6]


def test_one_element_is_kept_though_none_has_begun():
    running = Running()
    assert running.left
    assert running.give_back() == [6]
    assert list(running.left) == [(5, 0)]


def test_elements_are_given_back_while_they_are_being_loaded():
    running = Running()
    assert running.give_back() == [6]
    assert list(running.left) == [(5, 0)]
    assert running.give_back() == [6]


def test_the_last_element_has_nothing_behind_it_to_give_back():
    running = Running(count=2)
    running.take()
    running.take()
    assert running.give_back() == []
    assert list(running.left) == []
    assert running.give_back() == []


def test_nothing_is_given_back_after_the_end():
    running = Running()
    running.take()
    running.chunk.end()
    assert running.give_back() == []


def test_the_outcome_cannot_overtake_what_is_told():
    running, order = Running(), []
    entered = threading.Event()

    def tell(_stop):
        ender.start()
        entered.wait()
        order.append("told")

    def end():
        entered.set()
        running.chunk.end()
        order.append("ended")

    ender = threading.Thread(target=end)
    running.take()
    running.chunk.give_back(tell)
    ender.join()
    assert order == ["told", "ended"]


def test_each_element_is_run_or_given_back_whenever_that_comes():
    """The two threads change places between any two steps."""
    rng = random.Random(1)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(300):
            running, seen = Running(count=rng.choice((2, 50, 400)), start=0), []
            begun = threading.Barrier(2)
            spins = rng.randrange(200)

            def give_back(running=running, begun=begun, spins=spins):
                begun.wait()
                sum(range(spins))
                running.give_back()

            control = threading.Thread(target=give_back)
            control.start()
            begun.wait()
            for index, element in running.chunk.begin(list(range(running.count))):
                running.fields[ELEMENT] = index
                seen.append(element)
            control.join()
            assert seen == list(range(running.told[0] if running.told else running.count))
    finally:
        sys.setswitchinterval(before)


# --- in a real slot -------------------------------------------------------------------------------------------------


def waits_at_third(folder, x):
    if x == 2:
        (folder / "third").touch()
        while not (folder / "go").exists():
            pass
    return 10 * x


def wait_for_go(folder):
    (folder / "setting up").touch()
    while not (folder / "go").exists():
        pass


@pytest.fixture
def chunk(owner, slot, tmp_path):
    """The number of a chunk of six that has come to its third element, which ends with the file "go"."""
    number = owner.chunk(slot, waits_at_third, [(tmp_path, x) for x in range(6)], start=1)
    owner.until((tmp_path / "third").exists)
    yield number
    (tmp_path / "go").touch()


def test_the_rest_of_a_chunk_is_given_back_while_an_element_runs(owner, slot, chunk, tmp_path):
    owner.pool.divide(slot, chunk)
    assert owner.until(lambda: owner.of(SlotDivided)) == [SlotDivided(slot, chunk, 3)]
    assert chunk not in owner.outcomes
    (tmp_path / "go").touch()
    assert owner.value(chunk).values == [10, 20]
    kinds = [type(event) for event in owner.events if isinstance(event, (SlotDivided, SlotFinished))]
    assert kinds == [SlotDivided, SlotFinished]


def test_the_rest_of_a_chunk_is_given_back_while_its_initializer_runs(owner, slot, tmp_path):
    initializer = serialization.dump_initializer(wait_for_go, (tmp_path,))
    number = owner.chunk(slot, abs, [(-x,) for x in range(6)], start=1, initializer=initializer)
    owner.until((tmp_path / "setting up").exists)
    owner.pool.divide(slot, number)
    assert owner.until(lambda: owner.of(SlotDivided)) == [SlotDivided(slot, number, 2)]
    (tmp_path / "go").touch()
    assert owner.value(number).values == [1]


def test_a_chunk_that_does_not_run_any_more_is_left_alone(owner, slot, chunk, tmp_path):
    """The answer says so: without one, the worker would take the rest back by itself."""
    owner.pool.divide(slot, chunk + 1)
    owner.until(lambda: owner.of(SlotDivided) == [SlotDivided(slot, chunk + 1, 0)])
    (tmp_path / "go").touch()
    assert owner.value(chunk).values == [10, 20, 30, 40, 50]
    owner.pool.divide(slot, chunk)
    owner.until(lambda: owner.of(SlotDivided)[1:] == [SlotDivided(slot, chunk, 0)])
