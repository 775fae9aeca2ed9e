"""The tasks that wait for a slot: each owner's in their order."""

from __future__ import annotations

from support.cores import assignment

from jobrunner.protocol.wire.ids import SlotId
from jobrunner.protocol.worker.local_queue import LocalQueue
from jobrunner.protocol.worker.slots import ENDING, Owner, Slot, WorkerTask

ALICE, BOB = Owner("alice"), Owner("bob")


def queue(*tasks):
    made = LocalQueue()
    for number, owner in tasks:
        made.push(WorkerTask(assignment(number), owner))
    return made


def ids(tasks):
    return [task.id for task in tasks]


def test_each_owner_has_an_order_of_its_own():
    waiting = queue((1, ALICE), (2, BOB), (3, ALICE))
    waiting.push(WorkerTask(assignment(4), BOB), front=True)
    assert ids(waiting.tasks_of(ALICE)) == ["c-1", "c-3"]
    assert ids(waiting.tasks_of(BOB)) == ["c-4", "c-2"]
    assert (len(waiting), waiting.count(BOB), list(waiting.owners)) == (4, 2, [ALICE, BOB])


def test_what_is_taken_is_the_first_and_is_a_move():
    waiting = queue((1, ALICE), (2, ALICE))
    first = waiting.first(ALICE)
    assert waiting.moved_at == 0.0
    assert waiting.pop(ALICE, 5.0) is first
    assert (waiting.moved_at, ids(waiting)) == (5.0, ["c-2"])
    assert waiting.first(BOB) is None


def test_an_owner_without_tasks_is_gone():
    waiting = queue((1, ALICE))
    waiting.remove(next(iter(waiting)))
    assert (len(waiting), list(waiting.owners)) == (0, [])


def test_all_but_the_first_are_cut_off():
    waiting = queue((1, ALICE), (2, BOB), (3, ALICE))
    assert ids(waiting.cut(1)) == ["c-3", "c-2"]
    assert ids(waiting) == ["c-1"]


def test_the_neediest_owner_is_the_one_whom_fewest_slots_serve_that_stay():
    slots = [Slot(SlotId(n)) for n in (1, 2)]
    slots[0].owner, slots[1].owner = ALICE, BOB
    waiting = queue((1, ALICE), (2, BOB))
    assert waiting.neediest(slots) == ALICE, "the first of several"
    slots[1].state = ENDING
    assert waiting.neediest(slots) == BOB
