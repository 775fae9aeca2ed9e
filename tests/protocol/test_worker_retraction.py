"""What a worker takes back from slots that do not answer, since a call keeps all else in their process from running."""

from __future__ import annotations

import pytest
from support.cores import assign, assignment, call, finish, ids, results, started, worker

from jobrunner.protocol.bundles import pack_calls
from jobrunner.protocol.effects import (
    EndSlot,
    RecallTasks,
    RetractTasks,
    SlotDivided,
    SlotRetracted,
    SlotReturned,
    SlotSplit,
    SpawnSlot,
)
from jobrunner.protocol.tuning import ANSWER_WITHIN, RECALL_AFTER
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import SlotId, TaskId
from jobrunner.protocol.wire.kinds import Bundle, Chunk

SLOT = SlotId(1)


def bundle(number):
    return assignment(number, payload=pack_calls([b"a", b"b", b"c"]), kind=Bundle(3))


def outcomes(world):
    return [o for message in world.heard() if type(message) is m.Outcomes for o in message.outcomes]


def retractions(world):
    return [effect for effect in world.take() if isinstance(effect, RetractTasks)]


@pytest.fixture
def world():
    """A worker with one slot, which has not answered yet that the bundle "c-1" was recalled."""
    world = worker()
    assign(world, bundle(1))
    started(world)
    world.turn(RECALL_AFTER)
    assert world.take() == [RecallTasks(SLOT)]
    return world


def test_what_a_slot_does_not_give_back_is_taken(world):
    world.turn(ANSWER_WITHIN / 2)
    assert world.core.next_deadline() <= world.now + ANSWER_WITHIN / 2
    assert retractions(world) == []
    world.turn(ANSWER_WITHIN / 2)
    assert retractions(world) == [RetractTasks(SLOT)]
    world.handle(SlotSplit(SLOT, 1, results(b"x"), 1))
    world.handle(SlotRetracted(SLOT, []))
    (told,) = outcomes(world)
    assert (told.id, told.status, told.detail["running"]) == ("c-1", m.SPLIT, 1)
    assert list(world.core.tasks) == [call("c-1", 1)]
    world.turn(10 * ANSWER_WITHIN)
    assert retractions(world) == [], "there is nothing more to take"


def test_what_a_slot_says_of_it_later_changes_nothing(world):
    world.handle(SlotSplit(SLOT, 1, results(b"x"), 1))
    world.handle(SlotRetracted(SLOT, []))
    world.heard()
    world.handle(SlotReturned(SLOT, [2, 3]))
    world.handle(SlotSplit(SLOT, 1, results(b"x"), 1))
    assert outcomes(world) == []
    finish(world, 1, 1, payload=b"y")
    (told,) = outcomes(world)
    assert (told.id, told.payload) == (call("c-1", 1), b"y")


def test_a_slot_that_moves_is_asked_for_again_after_a_while(world):
    tries = 0
    for _ in range(35):
        world.turn(ANSWER_WITHIN / 10)
        tries += len(retractions(world))
    assert tries == 3


def test_nothing_is_taken_from_a_slot_that_has_answered(world):
    world.handle(SlotReturned(SLOT, []))
    world.handle(SlotSplit(SLOT, 1, results(), 0))
    world.turn(2 * ANSWER_WITHIN)
    assert retractions(world) == []


def quick(world):
    """Its calls have been seen to take next to no time."""
    assign(world, assignment(1))
    started(world)
    finish(world, 1, 1, duration=0.0001)
    world.turn()
    world.take(), world.heard()


def test_tasks_that_wait_behind_a_call_are_taken_and_wait_for_another_slot():
    world = worker()
    quick(world)
    assign(world, assignment(2), assignment(3), assignment(4))
    assert started(world) == {1: ["c-2", "c-3", "c-4"]}
    world.turn(RECALL_AFTER)
    world.turn(ANSWER_WITHIN)
    assert retractions(world) == [RetractTasks(SLOT)]
    world.handle(SlotRetracted(SLOT, [3, 4]))
    assert ids(world.core.queue) == ["c-3", "c-4"]
    assert world.take() == [], "the slot gets none of them, nor others"
    finish(world, 1, 2)
    world.turn()
    assert started(world)[1], "it has come to its senses"


def test_a_slot_from_which_everything_was_taken_makes_way_for_another_process():
    """Something runs there that nobody waits for, such as a thread that a call has left behind."""
    world = worker()
    quick(world)
    assign(world, assignment(2), assignment(3))
    started(world)
    world.turn(RECALL_AFTER)
    world.turn(ANSWER_WITHIN)
    world.take()
    world.handle(SlotRetracted(SLOT, [2, 3]))
    assert world.take() == [EndSlot(SLOT), SpawnSlot(SlotId(2))]
    assert ids(world.core.queue) == ["c-2", "c-3"]


@pytest.fixture
def chunk():
    """A worker with one slot, which was asked to divide the chunk "c-1"."""
    world = worker()
    assign(world, assignment(1, kind=Chunk(0, 8)))
    started(world)
    world.say(m.Divide([TaskId("c-1")]))
    world.take()
    return world


def test_a_chunk_that_a_slot_does_not_divide_is_divided_without_it(chunk):
    chunk.turn(ANSWER_WITHIN)
    assert retractions(chunk) == [RetractTasks(SLOT, (1,))]
    chunk.handle(SlotDivided(SLOT, 1, 3))
    chunk.handle(SlotRetracted(SLOT, []))
    assert list(chunk.core.tasks) == ["c-1/3"]
    chunk.turn(10 * ANSWER_WITHIN)
    assert retractions(chunk) == []


@pytest.mark.parametrize(("detach", "chunks"), [(False, (2,)), (True, ())])
def test_a_chunk_is_divided_together_with_what_is_taken_from_behind_it(detach, chunks):
    """From a slot that has not heard of it nothing is taken again. A chunk that `map` does not make stays whole."""
    world = worker()
    quick(world)
    assign(world, assignment(2, kind=Chunk(0, 8), detach=detach), assignment(3))
    assert started(world) == {1: ["c-2", "c-3"]}
    world.turn(RECALL_AFTER)
    world.turn(ANSWER_WITHIN)
    assert retractions(world) == [RetractTasks(SLOT, chunks)]


def test_a_slot_that_has_nothing_to_give_back_of_a_chunk_says_so_and_is_left_alone(chunk):
    chunk.handle(SlotDivided(SLOT, 1, 0))
    chunk.turn(10 * ANSWER_WITHIN)
    assert retractions(chunk) == []
    assert list(chunk.core.tasks) == ["c-1"]


def test_so_is_a_slot_whose_chunk_has_ended(chunk):
    finish(chunk, 1, 1)
    chunk.turn(10 * ANSWER_WITHIN)
    assert retractions(chunk) == []
