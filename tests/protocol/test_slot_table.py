"""Starts of slots that fail for want of descriptors, processes or memory: a worker goes on with what it has."""

from __future__ import annotations

from support.cores import (
    assign,
    assignment,
    die,
    started,
    worker,
)

from jobrunner.protocol.effects import (
    GiveUp,
    SlotBlocked,
    SlotNotStarted,
    SlotReady,
    SpawnSlot,
)
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import SlotId
from jobrunner.protocol.worker.slot_starts import FIRST_PAUSE
from jobrunner.protocol.worker.slot_table import START_FAILURES


def spawned(world):
    """The slots whose start is asked for in this turn; nothing else was done."""
    effects = world.take()
    assert all(type(effect) is SpawnSlot for effect in effects), effects
    return [effect.slot for effect in effects]


def cannot_start(world, *slots):
    for slot in slots:
        world.handle(SlotNotStarted(SlotId(slot), "no descriptors"))


def test_the_slots_that_can_be_started_go_on_and_others_are_tried_later_one_at_a_time():
    world = worker(slots=4, ready=False)
    cannot_start(world, 3, 4)
    assert world.heard() == [m.Capacity(2)]
    assert world.logs[-1] == "only 2 of 4 slots, until more can be started: no descriptors"
    for slot in (1, 2):
        world.handle(SlotReady(SlotId(slot), 50))
    assign(world, assignment(1), assignment(2))
    assert started(world) == {1: ["c-1"], 2: ["c-2"]}
    for trial in range(5, 12):
        world.acknowledge()
        world.turn(FIRST_PAUSE / 2)
        assert world.take() == []
        assert world.core.next_deadline() <= world.core._slot_table.next_start()
        world.now = world.core._slot_table.next_start()
        world.acknowledge()
        assert spawned(world) == [trial]
        cannot_start(world, trial)
    assert len([line for line in world.logs if "no descriptors" in line]) == 1, "it is said once"
    world.now = world.core._slot_table.next_start()
    world.acknowledge()
    assert spawned(world) == [12]
    world.handle(SlotReady(SlotId(12), 50))
    assert spawned(world) == [13], "all the others at once, from now on"
    assert m.Capacity(4) in world.heard()


def test_a_slot_that_has_gone_is_replaced_at_once_even_then():
    world = worker(slots=3, ready=False)
    cannot_start(world, 3)
    world.handle(SlotReady(SlotId(1), 50))
    world.handle(SlotReady(SlotId(2), 50))
    assert world.take() == []
    die(world, 1)
    assert spawned(world) == [4]


def test_without_any_slot_it_gives_up_with_the_reason_before_long():
    world = worker(slots=2, ready=False)
    began = world.now
    cannot_start(world, 1, 2)
    for trial in range(3, 2 + START_FAILURES):
        assert world.take() == []
        world.now = world.core._slot_table.next_start()
        assert spawned(world) == [trial]
        cannot_start(world, trial)
    (effect,) = world.take()
    assert effect == GiveUp("no slot can be started: no descriptors", "JobRunnerError")
    assert world.now - began < 10


def test_slots_that_die_while_they_start_do_not_end_a_worker_whose_other_slots_work():
    world = worker(slots=2, ready=False)
    world.handle(SlotReady(SlotId(1), 50))
    for n in range(START_FAILURES - 1):
        die(world, 2 + n, code=1)
        assert spawned(world) == [3 + n]
    die(world, 1 + START_FAILURES, code=1)
    assert world.take() == [], "not at once, any more"
    assert world.core.capacity() == 1
    world.now = world.core._slot_table.next_start()
    (trial,) = spawned(world)
    die(world, trial, code=1)
    assert world.take() == []
    assign(world, assignment(1))
    assert started(world) == {1: ["c-1"]}


def test_it_says_so_when_all_its_tasks_wait_for_tasks_that_find_no_slot():
    world = worker()
    assign(world, assignment(1))
    started(world)
    world.handle(SlotBlocked(SlotId(1), True))
    assert spawned(world) == [2]
    cannot_start(world, 2)
    assert world.heard() == [m.Capacity(2), m.Capacity(1)], "maybe it was for a moment"
    world.now = world.core._slot_table.next_start()
    assert spawned(world) == [3]
    cannot_start(world, 3)
    assert world.heard() == [m.Running(["c-1"]), m.Stuck("no descriptors")]
    world.now = world.core._slot_table.next_start()
    assert spawned(world) == [4]
    cannot_start(world, 4)
    assert world.heard() == [m.Stuck("no descriptors")], "again, as nobody has helped"
    world.handle(SlotBlocked(SlotId(1), False))
    assert world.heard() == [m.Capacity(1)], "not any more"
