"""Chunks at a worker that are divided while they run."""

from __future__ import annotations

import pytest
from support.cores import assign, assignment, finish, started, worker

from jobrunner.protocol.effects import DivideChunk, SlotAwaits, SlotDivided
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import SlotId, TaskId
from jobrunner.protocol.wire.kinds import Chunk

PLACE = {"worker": "w", "host": "host"}


@pytest.fixture
def world():
    """A worker with one slot, which runs the chunk "c-1" of eight elements, with a time limit of 8 s."""
    world = worker()
    assign(world, assignment(1, kind=Chunk(2, 10), timeout=8.0))
    assert started(world) == {1: ["c-1"]}
    return world


def divide(world, stop, number=1):
    world.handle(SlotDivided(SlotId(1), number, stop))


def outcomes(world):
    return [o for message in world.heard() if type(message) is m.Outcomes for o in message.outcomes]


def test_the_slot_of_a_chunk_is_asked(world):
    world.say(m.Divide([TaskId("c-1"), TaskId("c-7")]))
    assert [effect for effect in world.take() if isinstance(effect, DivideChunk)] == [
        DivideChunk(SlotId(1), 1)
    ]


def test_a_divided_chunk_ends_and_a_part_of_it_goes_on(world):
    divide(world, 4)
    assert outcomes(world) == [m.Outcome(TaskId("c-1"), 1, m.SPLIT, b"", 0.0, {**PLACE, "stop": 4})]
    assert list(world.core.tasks) == ["c-1/4"]
    assert world.core.tasks[TaskId("c-1/4")].assignment.body.kind == (2, 4)
    finish(world, 1, 1)
    (outcome,) = outcomes(world)
    assert (outcome.id, outcome.attempt, outcome.status) == ("c-1/4", 1, m.OK)


def test_what_goes_on_is_told_to_wait_under_its_new_name(world):
    world.handle(SlotAwaits(SlotId(1), 1, [TaskId("d-1")], True))
    world.heard()
    divide(world, 4)
    (waits,) = [message for message in world.heard() if type(message) is m.Waits]
    assert waits == m.Waits([m.Wait(TaskId("c-1/4"), (TaskId("d-1"),))])


def test_what_goes_on_has_its_share_of_the_time(world):
    divide(world, 4)
    task = world.core.tasks[TaskId("c-1/4")]
    assert task.stop_at == pytest.approx(world.now + 2.0, abs=0.5)
    assert task.assignment.body.options.timeout == 2.0
    world.turn(2.5)
    assert task.stop_reason == m.TIMED_OUT


@pytest.mark.parametrize("stop", [0, 2, 10, 11])
def test_a_division_that_leaves_all_or_nothing_is_none(world, stop):
    divide(world, stop)
    assert outcomes(world) == []
    assert list(world.core.tasks) == ["c-1"]


def test_a_chunk_that_is_being_stopped_ends_as_a_whole_though_it_was_divided(world):
    world.say(m.Cancel([m.CancelRequest(TaskId("c-1"), True)]))
    world.take()
    divide(world, 4)
    assert outcomes(world) == []
    world.say(m.Divide([TaskId("c-1")]))
    assert world.take() == [], "it has given back all that it can"
    finish(world, 1, 1)
    assert [(o.id, o.status) for o in outcomes(world)] == [("c-1", m.CANCELLED)]


def test_what_comes_too_late_changes_nothing(world):
    finish(world, 1, 1)
    divide(world, 4)
    assert [(o.id, o.status) for o in outcomes(world)] == [("c-1", m.OK)]
    assert not world.core.tasks
