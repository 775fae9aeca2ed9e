"""Time limits and cancels at a worker: which task is stopped, by which step, and that no other one is hit."""

from __future__ import annotations

from support.cores import (
    assign,
    assignment,
    die,
    ended,
    finish,
    returned,
    started,
    teach,
    worker,
)

from jobrunner.protocol.effects import (
    ConnectionLost,
    InterruptTask,
    RecallTasks,
    SignalSlot,
    SpawnSlot,
)
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import SlotId

PLACE = {"worker": "w", "host": "host"}


def cancel(world, *numbers, running=True):
    world.say(m.Cancel([m.CancelRequest(f"c-{n}", running) for n in numbers]))


def test_a_task_whose_time_is_up_is_asked_then_told_then_made_to_stop():
    world = worker(slots=2, stop_grace=3.0)
    assign(world, assignment(1, timeout=10.0), assignment(2))
    assert started(world) == {1: ["c-1"], 2: ["c-2"]}
    for after, effect in [
        (9.9, None),
        (0.1, InterruptTask(SlotId(1), 1)),
        (2.9, None),
        (0.1, SignalSlot(SlotId(1), "SIGTERM")),
        (2.9, None),
        (0.1, SignalSlot(SlotId(1), "SIGKILL")),
        (60.0, None),
    ]:
        world.now = round(world.now + after, 6)
        world.acknowledge()
        assert world.take() == ([] if effect is None else [effect]), world.now
    world.heard()
    die(world, 1, 1)
    assert world.take() == [SpawnSlot(SlotId(3))]
    (outcome,) = world.heard_one(m.Outcomes).outcomes
    detail = {"timeout": 10.0, "error": "it ran longer than its timeout of 10 s", "stderr": "last words"}
    assert outcome._replace(duration=0.0) == ended("c-1", m.TIMED_OUT, **PLACE, **detail)._replace(
        duration=0.0
    )


def test_a_task_that_gives_in_to_the_interrupt_has_timed_out_and_keeps_its_slot():
    world = worker()
    assign(world, assignment(1, timeout=1.0))
    started(world)
    world.now += 1.0
    assert world.take() == [InterruptTask(SlotId(1), 1)]
    finish(world, 1, 1, status=m.ERROR, payload=b"KeyboardInterrupt")
    (outcome,) = next(x for x in world.heard() if type(x) is m.Outcomes).outcomes
    assert (outcome.status, outcome.payload, outcome.detail["timeout"]) == (m.TIMED_OUT, b"", 1.0)
    world.turn(60.0)
    assert [x for x in world.take() if type(x) is not ConnectionLost] == []


def test_a_task_that_finishes_in_spite_of_the_interrupt_has_succeeded():
    world = worker()
    assign(world, assignment(1, timeout=1.0))
    started(world)
    world.now += 1.0
    world.take()
    finish(world, 1, 1)
    assert [x.outcomes[0].status for x in world.heard() if type(x) is m.Outcomes] == [m.OK]


def test_a_queued_task_is_cancelled_at_once_and_a_finished_one_is_not_answered():
    world = worker()
    assign(world, assignment(1), assignment(2))
    started(world)
    cancel(world, 2, 3, running=False)
    assert world.heard() == [m.Outcomes([m.Outcome("c-2", 1, m.CANCELLED)])]
    assert world.take() == []


def test_a_running_task_refuses_a_mild_cancel():
    world = worker()
    assign(world, assignment(1))
    started(world)
    cancel(world, 1, running=False)
    assert world.heard() == [m.CancelRefused(["c-1"])]
    assert world.take() == []


def test_a_running_task_is_stopped_on_its_slot_alone():
    world = worker(slots=2, stop_grace=3.0)
    assign(world, assignment(1), assignment(2))
    started(world)
    cancel(world, 2)
    cancel(world, 2)
    assert world.take() == [InterruptTask(SlotId(2), 1)]
    world.now += 3.0
    world.acknowledge()
    assert world.take() == [SignalSlot(SlotId(2), "SIGTERM")]
    world.heard()
    die(world, 2, 1, code=-15)
    assert world.take() == [SpawnSlot(SlotId(3))]
    assert [(o.id, o.status) for o in world.heard_one(m.Outcomes).outcomes] == [("c-2", m.CANCELLED)]


def test_a_task_that_waits_behind_another_is_recalled_and_the_other_is_not_hit():
    world = worker(stop_grace=3.0)
    teach(world, 0.0001)
    assign(world, *[assignment(n) for n in (1, 2, 3)])
    assert started(world) == {1: ["c-1", "c-2", "c-3"]}
    cancel(world, 2)
    assert world.take() == [RecallTasks(SlotId(1)), InterruptTask(SlotId(1), 3)]
    world.now += 3.0
    assert [x for x in world.take() if type(x) is SignalSlot] == [], "c-1 runs there"
    world.heard()
    returned(world, 1, 3, 4)
    assert [x for x in world.heard() if type(x) is m.Outcomes] == [
        m.Outcomes([m.Outcome("c-2", 1, m.CANCELLED)])
    ]
    assert list(world.core.tasks) == ["c-1", "c-3"]


def test_a_cancelled_task_that_was_next_is_stopped_when_its_turn_came_first():
    world = worker(stop_grace=3.0)
    teach(world, 0.0001)
    assign(world, assignment(1), assignment(2))
    started(world)
    cancel(world, 2)
    world.take()
    finish(world, 1, 2)
    returned(world, 1)
    world.take()
    world.now += 3.0
    assert SignalSlot(SlotId(1), "SIGTERM") in world.take()
