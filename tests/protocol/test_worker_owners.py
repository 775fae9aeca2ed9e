"""A slot serves one owner in its life, and nobody waits for ever for a slot of his own."""

from __future__ import annotations

from protocol.support import DOUBLE, assign, assignment, finish, ids, worker

from jobrunner.ids import SlotId
from jobrunner.protocol import messages as m
from jobrunner.protocol.effects import EndSlot, RunTasks, SlotExited, SlotReady, SpawnSlot
from jobrunner.protocol.slots import QUANTUM

ALICE, BOB, CAROL = "key-of-alice", "key-of-bob", "key-of-carol"


def did(world):
    """What was done since the last call, for short: what runs where, what was started and ended."""
    told = []
    for effect in world.take():
        if isinstance(effect, RunTasks):
            told.append(("run", effect.slot, *ids(effect.tasks)))
        elif isinstance(effect, SpawnSlot):
            told.append(("start", effect.slot))
        else:
            assert isinstance(effect, EndSlot)
            told.append(("end", effect.slot))
    return told


def up(world, slot):
    world.handle(SlotReady(SlotId(slot), 50 + slot))


def gone(world, slot):
    world.handle(SlotExited(SlotId(slot), 77, 0, None, 1024, "", 0, -1))


def test_an_idle_slot_of_another_owner_makes_way_at_once():
    world = worker(slots=1)
    assign(world, assignment(1), owner=ALICE)
    assert did(world) == [("run", 1, "c-1")]
    finish(world, 1, 1)
    assign(world, assignment(2), owner=BOB)
    assert did(world) == [("end", 1), ("start", 2)]
    gone(world, 1)
    assert did(world) == []
    up(world, 2)
    assert did(world) == [("run", 2, "c-2")]


def test_the_slot_of_an_owner_is_used_again():
    world = worker(slots=2)
    assign(world, assignment(1), owner=ALICE)
    assign(world, assignment(2), owner=BOB)
    assert did(world) == [("run", 1, "c-1"), ("run", 2, "c-2")]
    finish(world, 1, 1)
    finish(world, 2, 1)
    assign(world, assignment(3), owner=BOB)
    assign(world, assignment(4), owner=ALICE)
    assert did(world) == [("run", 1, "c-4"), ("run", 2, "c-3")]


def test_a_task_overtakes_those_of_owners_who_have_no_slot():
    world = worker(slots=1)
    assign(world, assignment(1), owner=ALICE)
    did(world)
    assign(world, assignment(2), owner=BOB)
    assign(world, assignment(3), owner=ALICE)
    assert did(world) == []
    finish(world, 1, 1)
    assert did(world) == [("run", 1, "c-3")], "its time is not up yet"


def test_a_slot_makes_way_when_it_has_served_its_owner_for_long_enough():
    world = worker(slots=1)
    assign(world, assignment(1), owner=ALICE)
    did(world)
    assign(world, assignment(2), owner=BOB)
    assign(world, assignment(3), owner=ALICE)
    world.turn()
    began = world.now
    while world.now < began + QUANTUM:  # its queue moves, so nothing is given back
        slot = world.core.slots[SlotId(1)]
        finish(world, 1, slot.running().number, duration=0.09)
        assign(world, assignment(f"more{world.now}"), owner=ALICE)
        did(world)
        assert world.core.next_deadline() <= began + QUANTUM
        world.turn(0.09)
    slot = world.core.slots[SlotId(1)]
    assert slot.leaving
    finish(world, 1, slot.running().number, duration=0.09)
    assert did(world) == [("end", 1), ("start", 2)]
    up(world, 2)
    assert did(world)[0][:3] == ("run", 2, "c-2")


def test_of_three_owners_and_two_slots_each_gets_a_turn():
    world = worker(slots=2)
    for number, owner in enumerate((ALICE, BOB, CAROL)):
        assign(world, assignment(number), owner=owner)
    assert did(world) == [("run", 1, "c-0"), ("run", 2, "c-1")]
    finish(world, 2, 1)
    assert did(world) == [("end", 2), ("start", 3)], "Bob has nothing more"
    up(world, 3)
    assert did(world) == [("run", 3, "c-2")]


def test_fresh_slots_go_to_those_who_have_the_fewest():
    world = worker(slots=3)
    assign(world, assignment(1), assignment(2), assignment(3), owner=ALICE)
    assign(world, assignment(4), owner=BOB)
    assert did(world) == [("run", 1, "c-1"), ("run", 2, "c-4"), ("run", 3, "c-2")]


def test_tasks_wait_for_a_slot_that_starts_and_are_not_given_back():
    world = worker(slots=1)
    assign(world, assignment(1), owner=ALICE)
    did(world)
    finish(world, 1, 1)
    assign(world, assignment(2), owner=BOB)
    did(world)
    gone(world, 1)
    world.heard()
    for _ in range(10):
        world.turn(0.1)
    assert ids(world.core.queue) == ["c-2"]
    assert [type(message).__name__ for message in world.heard() if type(message).__name__ == "Returned"] == []


# --- epochs: a program that comes to other versions of its modules -------------------------------------------------

FIRST, SECOND = (m.FunctionDef(b"epoch%d" % n, "epoch", b"blob", epoch=n) for n in (1, 2))


def assign_of(world, epoch, *tasks, owner=ALICE):
    later = [task._replace(setup=epoch.key) for task in tasks]
    assign(world, *later, functions=[DOUBLE, epoch], owner=owner)


def warmed(slots):
    """A worker all of whose slots have served Alice's calls of the first epoch of all."""
    world = worker(slots=slots)
    assign(world, *[assignment(f"warm{n}") for n in range(slots)], owner=ALICE)
    did(world)
    for slot in range(1, slots + 1):
        finish(world, slot, 1)
    did(world)
    return world


def test_a_call_of_another_epoch_gets_a_slot_of_its_own():
    world = warmed(slots=1)
    assign_of(world, FIRST, assignment(1))
    assert did(world) == [("end", 1), ("start", 2)]
    gone(world, 1)
    up(world, 2)
    assert did(world) == [("run", 2, "c-1")]
    finish(world, 2, 1)
    assign_of(world, FIRST, assignment(2))
    assert did(world) == [("run", 2, "c-2")], "the epoch goes on"


def test_all_slots_make_way_for_the_calls_of_a_new_epoch():
    world = warmed(slots=3)
    assign_of(world, FIRST, *map(assignment, (1, 2, 3)))
    assert did(world) == [("end", 1), ("end", 2), ("end", 3), ("start", 4), ("start", 5), ("start", 6)]


def test_no_more_slots_make_way_than_there_are_calls():
    world = warmed(slots=3)
    assign_of(world, FIRST, assignment(1))
    assert did(world) == [("end", 1), ("start", 4)]
    assign_of(world, FIRST, assignment(2))
    assert did(world) == [("end", 2), ("start", 5)]


def test_a_slot_that_still_runs_a_call_of_an_earlier_epoch_makes_way_when_it_is_done():
    world = worker(slots=1)
    assign(world, assignment(1), owner=ALICE)
    assign_of(world, FIRST, assignment(2))
    assert did(world) == [("run", 1, "c-1")]
    finish(world, 1, 1)
    assert did(world) == [("end", 1), ("start", 2)]


def test_calls_of_an_earlier_epoch_still_run():
    world = warmed(slots=2)
    assign_of(world, SECOND, assignment(1), assignment(2))
    assign_of(world, FIRST, assignment(3))
    assert did(world)[:2] == [("end", 1), ("end", 2)]
    for slot in (1, 2):
        gone(world, slot)
    up(world, 3)
    up(world, 4)
    assert did(world) == [("run", 3, "c-1"), ("run", 4, "c-3")]


def test_slots_of_others_do_not_make_way_for_a_new_epoch():
    world = worker(slots=3)
    assign(world, assignment(1), assignment(2), owner=BOB)
    did(world)
    finish(world, 1, 1)
    finish(world, 2, 1)
    assign_of(world, FIRST, *map(assignment, (3, 4, 5)))
    assert did(world) == [("run", 3, "c-3")]
