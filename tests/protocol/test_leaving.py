"""How a worker drains: what runs ends, everything else is given back, and time is limited."""

from __future__ import annotations

import pytest
from support.cores import (
    assign,
    assignment,
    die,
    finish,
    ok,
    returned,
    started,
    teach,
    worker,
)

from jobrunner.protocol.effects import (
    DrainRequested,
    EndSlot,
    RecallTasks,
    SlotPrinted,
    Stop,
)
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import SlotId


@pytest.mark.parametrize("asked_by", ["signal", "coordinator"])
def test_draining_finishes_what_runs_and_gives_back_the_rest(asked_by):
    world = worker()
    assign(world, assignment(1), assignment(2))
    started(world)
    if asked_by == "signal":
        world.handle(DrainRequested())
    else:
        world.say(m.Drain())
    assert world.heard() == [m.Drain(), m.TasksReturned([("c-2", 1)])]
    assert world.take() == []
    assign(world, assignment(3))
    assert world.heard() == [m.TasksReturned([("c-3", 1)])]
    world.now += 5.0
    world.acknowledge()
    assert world.take() == []
    world.heard()
    finish(world, 1, 1)
    assert world.heard() == [m.Outcomes([ok("c-1", payload=b"r")])]
    assert world.take() == [EndSlot(SlotId(1))], "what the task has left for the end is done"
    world.handle(SlotPrinted(SlotId(1), [(0, m.STDOUT, "late\n")]))
    assert world.heard() == [m.Output([m.OutputChunk("c-1", "double", m.STDOUT, "late\n")])]
    die(world, 1, code=0)
    assert world.heard() == [m.Goodbye()]
    assert world.take() == [Stop()]
    assert world.core.next_deadline() is None


def test_an_idle_worker_drains_at_once():
    world = worker()
    world.handle(DrainRequested())
    assert world.heard() == [m.Drain(), m.Goodbye()]
    assert world.take() == [Stop()]


def test_what_a_slot_gives_back_while_draining_goes_to_other_workers():
    world = worker()
    teach(world, 0.0001)
    assign(world, *[assignment(n) for n in (1, 2, 3)])
    started(world)
    world.handle(DrainRequested())
    assert world.take() == [RecallTasks(SlotId(1))]
    assert world.heard() == [m.Drain()]
    finish(world, 1, 2)
    returned(world, 1, 3, 4)
    assert world.take() == [EndSlot(SlotId(1))]
    assert world.heard() == [m.Outcomes([ok("c-1", payload=b"r")]), m.TasksReturned([("c-2", 1), ("c-3", 1)])]
    die(world, 1, code=0)
    assert (world.take(), world.heard()) == ([Stop()], [m.Goodbye()])


def test_a_crash_while_draining_starts_no_new_slot():
    world = worker()
    assign(world, assignment(1))
    started(world)
    world.handle(DrainRequested())
    die(world, 1, 1)
    assert world.take() == [Stop()]
    assert [type(x) for x in world.heard()] == [m.Drain, m.Outcomes, m.Goodbye]


def test_draining_has_a_limit_and_what_then_still_runs_runs_elsewhere():
    world = worker(drain_timeout=5.0)
    assign(world, assignment(1))
    started(world)
    world.handle(DrainRequested())
    world.heard()
    world.now += 5.0
    assert world.heard() == [m.Running(["c-1"]), m.TasksReturned([("c-1", 1)], begun=True), m.Goodbye()]
    assert world.take() == [Stop()]


def test_a_draining_worker_says_so_in_each_new_session():
    world = worker()
    assign(world, assignment(1))
    started(world)
    world.handle(DrainRequested())
    world.heard()
    world.lose()
    world.open()
    assert world.heard() == [m.Drain()]
