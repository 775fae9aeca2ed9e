"""Which idle slots make way: as many as others have use for, and no more."""

from __future__ import annotations

from support.cores import assignment

from jobrunner.protocol.tuning import RECALL_AFTER, START_SECONDS, UNKNOWN
from jobrunner.protocol.wire.ids import SlotId
from jobrunner.protocol.worker.dismissal import Dismissal, filling, outdated, share_of_slot, unneeded
from jobrunner.protocol.worker.local_queue import LocalQueue
from jobrunner.protocol.worker.slots import READY, Owner, Slot, WorkerTask

ALICE, BOB = Owner("alice"), Owner("bob")
LATER = Owner("alice", epoch=1)


def slots(*owners):
    made = []
    for number, owner in enumerate(owners, 1):
        slot = Slot(SlotId(number))
        slot.state, slot.owner = READY, owner
        made.append(slot)
    return made


def waiting(owner, count):
    queue = LocalQueue()
    for number in range(count):
        queue.push(WorkerTask(assignment(number), owner))
    return queue


def unknown(task):
    return UNKNOWN


def test_idle_slots_make_way_one_for_each_task_of_unknown_length():
    idle = slots(ALICE, ALICE, ALICE)
    assert unneeded(idle, waiting(BOB, 2), unknown, 0.0) == Dismissal(idle[:2], None)


def test_short_tasks_share_a_slot():
    idle = slots(ALICE, ALICE)
    found = unneeded(idle, waiting(BOB, 4), lambda task: START_SECONDS / 4, 0.0)
    assert found == Dismissal(idle[:1], None)


def test_short_tasks_that_are_tried_again_may_end_their_slot_and_get_one_each():
    idle = slots(ALICE, ALICE)
    queue = LocalQueue()
    for number in range(2):
        queue.push(WorkerTask(assignment(number, attempt=2), BOB))
    assert unneeded(idle, queue, lambda task: START_SECONDS / 10, 0.0) == Dismissal(idle, None)
    given_back = LocalQueue()
    for number in range(2):
        given_back.push(WorkerTask(assignment(number, attempt=2)._replace(unbegun=1), BOB))
    assert len(unneeded(idle, given_back, lambda task: START_SECONDS / 10, 0.0).slots) == 1


def test_a_slot_whose_owner_has_tasks_stays():
    assert unneeded(slots(BOB), waiting(BOB, 1), unknown, 0.0) == Dismissal([], None)


def test_a_fresh_slot_takes_the_task():
    assert unneeded(slots(ALICE, None), waiting(BOB, 1), unknown, 0.0) == Dismissal([], None)


def test_where_the_owner_has_a_busy_slot_it_is_looked_at_again_when_that_may_be_stuck():
    idle, busy = slots(ALICE, BOB)
    running = WorkerTask(assignment("running"), BOB)
    busy.put(running, 1.0)
    found = unneeded([idle, busy], waiting(BOB, 1), lambda task: START_SECONDS / 8, 1.0)
    assert found == Dismissal([], 1.0 + RECALL_AFTER)


def test_idle_slots_of_earlier_epochs_are_outdated_one_for_each_later_task():
    idle = slots(ALICE, ALICE, BOB)
    assert outdated(idle, waiting(LATER, 1)) == idle[:1]
    assert outdated(idle, waiting(LATER, 5)) == idle[:2]
    assert outdated(idle, waiting(ALICE, 5)) == []


def test_slots_that_start_will_soon_run_as_much_as_fills_them():
    tasks = list(waiting(ALICE, 5))
    assert filling(2, tasks, unknown) == 2
    assert filling(1, tasks, lambda task: START_SECONDS / 2) == 2
    assert filling(0, tasks, unknown) == 0


def test_a_task_takes_a_slot_at_the_most():
    assert share_of_slot(UNKNOWN) == share_of_slot(100 * START_SECONDS) == 1.0
    assert share_of_slot(START_SECONDS / 2) == 0.5
