"""Chunks of a client that are divided while they run."""

from __future__ import annotations

from support.cores import DOUBLE, client, ids, ok, spec

from jobrunner.protocol.effects import (
    AnswerCancel,
    CancelRequested,
    ChunkDivided,
    ResolveTasks,
    SubmitRequested,
)
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.wire.kinds import Chunk


def divided(stop):
    return m.Outcome(TaskId("c-1"), 1, m.SPLIT, b"", 0.0, {"stop": stop})


def with_chunk(**options):
    world = client()
    world.handle(SubmitRequested([spec(1, kind=Chunk(0, 8), **options)], [DOUBLE]))
    world.heard_one(m.Submit)
    return world


def test_the_program_hears_of_it_and_the_part_that_goes_on_is_named():
    world = with_chunk(timeout=8.0)
    world.say(m.Outcomes([divided(3)]))
    assert world.take() == [ChunkDivided(TaskId("c-1"), TaskId("c-1/3"), 3)]
    assert world.heard_one(m.Submit).tasks == [spec("1/3", kind=Chunk(0, 3), timeout=3.0)]
    world.say(m.Outcomes([ok("c-1/3")]))
    assert world.take() == [ResolveTasks([ok("c-1/3")])]
    assert not world.core.pending
    world.core.check_invariants()


def test_a_part_that_has_ended_by_then_is_not_named():
    world = with_chunk()
    world.say(m.Outcomes([divided(3), ok("c-1/3")]))
    assert world.take() == [ChunkDivided(TaskId("c-1"), TaskId("c-1/3"), 3), ResolveTasks([ok("c-1/3")])]
    assert world.heard() == []
    assert not world.core.pending


def test_a_wish_to_cancel_passes_to_the_part_that_goes_on():
    for running in (True, False):
        world = with_chunk()
        world.handle(CancelRequested([TaskId("c-1")], running))
        world.heard_one(m.Cancel)
        world.say(m.Outcomes([divided(3)]))
        refused = [effect for effect in world.take() if isinstance(effect, AnswerCancel)]
        cancels = [r for x in world.heard() if type(x) is m.Cancel for r in x.requests]
        part = TaskId("c-1/3")
        assert (refused, cancels) == (
            ([], [m.CancelRequest(part, True)]) if running else ([AnswerCancel([part])], [])
        )


def test_a_division_that_makes_no_sense_ends_the_chunk():
    world = with_chunk()
    world.say(m.Outcomes([divided(8)]))
    (effect,) = world.take()
    assert [(o.id, o.status) for o in effect.outcomes] == [("c-1", m.LOST)]
    assert ids(world.core.pending.values()) == []
