"""A slot serves one owner in its life, and nobody waits for ever for a slot of his own."""

from __future__ import annotations

from support.cores import DOUBLE, HALVE, assign, assignment, finish, ids, worker

from jobrunner.protocol.effects import EndSlot, RecallTasks, RunTasks, SlotExited, SlotReady, SpawnSlot
from jobrunner.protocol.tuning import FAIRNESS_QUANTUM, RECALL_AFTER
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import SlotId

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


def done_besides_recalls(world):
    world.turn()
    world.effects = [effect for effect in world.effects if not isinstance(effect, RecallTasks)]
    return did(world)


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
    while world.now < began + FAIRNESS_QUANTUM:  # its queue moves, so nothing is given back
        slot = world.core.slots[SlotId(1)]
        finish(world, 1, slot.running().number, duration=0.09)
        assign(world, assignment(f"more{world.now}"), owner=ALICE)
        did(world)
        assert world.core.next_deadline() <= began + FAIRNESS_QUANTUM
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
    assert [
        type(message).__name__ for message in world.heard() if type(message).__name__ == "TasksReturned"
    ] == []


# --- epochs: a program that comes to other versions of its modules -------------------------------------------------

FIRST, SECOND = (m.FunctionDef(b"epoch%d" % n, "epoch", b"blob", epoch=n) for n in (1, 2))


def assign_of(world, epoch, *tasks, owner=ALICE):
    later = [task._replace(body=task.body._replace(initializer=epoch.key)) for task in tasks]
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


def test_idle_slots_of_others_make_way_for_a_new_epoch_as_well():
    world = worker(slots=3)
    assign(world, assignment(1), assignment(2), owner=BOB)
    did(world)
    finish(world, 1, 1)
    finish(world, 2, 1)
    assign_of(world, FIRST, *map(assignment, (3, 4, 5)))
    assert did(world) == [("run", 3, "c-3"), ("end", 1), ("end", 2), ("start", 4), ("start", 5)]


# --- idle slots of an owner who has nothing more -------------------------------------------------------------------


def test_as_many_idle_slots_of_another_owner_make_way_as_tasks_have_none():
    world = warmed(slots=4)
    assign(world, *map(assignment, (1, 2, 3)), owner=BOB)
    assert did(world) == [("end", 1), ("end", 2), ("end", 3), ("start", 5), ("start", 6), ("start", 7)]
    for slot in (5, 6, 7):
        up(world, slot)
    assert did(world) == [("run", 5, "c-1"), ("run", 6, "c-2"), ("run", 7, "c-3")]
    assign(world, assignment(4), owner=ALICE)
    assert did(world) == [("run", 4, "c-4")], "the slot that nobody else had use for is hers still"


def test_so_do_those_of_the_same_owner_that_brought_modules_along():
    world = worker(slots=2)
    ships = m.FunctionDef(b"ships", "ships", b"blob", ships=("lib",))
    assign_of(world, ships, assignment(1), assignment(2))
    assert did(world) == [("run", 1, "c-1"), ("run", 2, "c-2")]
    finish(world, 1, 1)
    finish(world, 2, 1)
    assign(world, assignment(3), assignment(4), owner=ALICE)
    assert did(world) == [("end", 1), ("end", 2), ("start", 3), ("start", 4)]


def test_a_slot_that_becomes_idle_makes_way_too():
    world = worker(slots=2)
    assign(world, assignment(1), assignment(2), owner=ALICE)
    did(world)
    finish(world, 1, 1)
    assign(world, assignment(3), assignment(4), owner=BOB)
    assert did(world) == [("end", 1), ("start", 3)]
    finish(world, 2, 1)
    assert did(world) == [("end", 2), ("start", 4)]


def test_the_slot_that_was_idle_for_longest_makes_way_first():
    world = worker(slots=2)
    assign(world, assignment(1), owner=ALICE)
    assign(world, assignment(2), owner=CAROL)
    did(world)
    finish(world, 2, 1)
    world.turn(1.0)
    finish(world, 1, 1)
    assign(world, assignment(3), owner=BOB)
    assert did(world) == [("end", 2), ("start", 3)]


def shared(seconds):
    """A worker with an idle slot of Alice's, and one of Bob's that runs; his calls are known to take so long."""
    world = worker(slots=2)
    assign(world, assignment("a"), owner=ALICE)
    assign(world, assignment("b"), owner=BOB)
    did(world)
    finish(world, 1, 1, duration=seconds)
    finish(world, 2, 1, duration=seconds)
    assign(world, assignment("runs"), owner=BOB)
    assert did(world) == [("run", 2, "c-runs")]
    return world


def test_short_tasks_wait_for_the_slot_that_serves_them():
    """They are over before a new process would be there, and no two owners start processes for each other."""
    world = shared(seconds=0.009)
    assign(world, *map(assignment, range(9)), owner=BOB)
    assert did(world) == [("run", 2, "c-0")], "one is at hand, and the others are over within 0.1 s"


def test_unless_they_are_so_many_that_a_process_is_there_sooner():
    world = shared(seconds=0.009)
    assign(world, *map(assignment, range(12)), owner=BOB)
    assert did(world) == [("run", 2, "c-0"), ("end", 1), ("start", 3)]


def test_or_unless_that_slot_turns_out_to_be_stuck():
    world = shared(seconds=0.009)
    assign(world, *map(assignment, range(9)), owner=BOB)
    did(world)
    world.turn()
    assert world.core.next_deadline() <= world.now + RECALL_AFTER
    world.turn(RECALL_AFTER + 1e-6)
    assert ("end", 1) in [told[:2] for told in done_besides_recalls(world)]


def test_tasks_of_unknown_length_wait_for_nobody():
    world = worker(slots=2)
    assign(world, assignment("a"), owner=ALICE)
    did(world)
    finish(world, 1, 1)
    assign(world, *map(assignment, (1, 2)), functions=[HALVE], owner=BOB)
    world.take()
    other = [assignment(n, function=HALVE.key) for n in (3, 4)]
    assign(world, *other, functions=[], owner=BOB)
    assert did(world) == [], "both slots are taken or make way already"


def test_nothing_is_given_back_while_slots_that_will_run_it_start_and_end():
    world = warmed(slots=4)
    assign(world, *map(assignment, range(4)), owner=BOB)
    did(world)
    world.heard()
    for _ in range(30):
        world.turn(0.1)
        world.acknowledge()
    assert not [message for message in world.heard() if isinstance(message, m.TasksReturned)]
    for slot in range(5, 9):
        up(world, slot)
    assert [told[:2] for told in did(world)] == [("run", slot) for slot in range(5, 9)]


def test_nor_are_short_tasks_that_one_such_slot_will_run_all():
    world = shared(seconds=0.001)
    finish(world, 2, 2, duration=0.001)
    assign(world, *map(assignment, range(20)), owner=CAROL)
    assert did(world) == [("end", 1), ("start", 3)]
    world.heard()
    for _ in range(5):
        world.turn(0.1)
        world.acknowledge()
    assert not [message for message in world.heard() if isinstance(message, m.TasksReturned)]


def test_no_slot_makes_way_while_nothing_may_be_fed():
    """For what waits then has no use for it."""
    world = worker(slots=1, unacknowledged_bytes=10)
    assign(world, assignment(1), owner=ALICE)
    did(world)
    finish(world, 1, 1, payload=b"x" * 100)
    assign(world, assignment(2), owner=BOB)
    assert did(world) == []
    world.acknowledge()
    assert did(world) == [("end", 1), ("start", 2)]
