from __future__ import annotations

import pytest
from support.cores import KEY, OTHER_KEY, assignment

from jobrunner.protocol.tuning import (
    MIN_ESTIMATE,
    ONE_AHEAD_MAX_SECONDS,
    RECALL_AFTER,
    RETRACT_WHEN_IDLE_AFTER,
    SLOT_LIMIT,
    SLOT_SECONDS,
    UNKNOWN,
)
from jobrunner.protocol.wire.ids import SlotId
from jobrunner.protocol.wire.kinds import Chunk
from jobrunner.protocol.wire.messages import FunctionDef
from jobrunner.protocol.worker.slots import ENDING, READY, STARTING, Slot, WorkerTask


def ready_slot(*estimates: float, **options) -> Slot:
    slot = Slot(SlotId(1))
    slot.state = READY
    for number, estimate in enumerate(estimates):
        put(slot, number, estimate, **options)
    return slot


def put(slot: Slot, name: int, estimate: float = 0.0, now: float = 0.0, **options) -> WorkerTask:
    task = WorkerTask(assignment(name, **options))
    task.estimate = estimate
    slot.put(task, now)
    return task


def test_tasks_are_numbered_per_slot_from_1_and_the_first_runs():
    slot = ready_slot()
    assert slot.running() is None
    first, second = put(slot, 1), put(slot, 2)
    assert (first.number, second.number) == (1, 2)
    assert first.slot is second.slot is slot
    assert slot.running() is first
    assert slot.take(1) is first
    assert first.slot is None
    assert slot.running() is second
    assert slot.take(1) is None
    assert put(slot, 3).number == 3, "a number is never used again"


def test_only_a_task_for_an_idle_slot_is_progress():
    slot = ready_slot()
    put(slot, 1, now=5.0)
    put(slot, 2, now=9.0)
    assert slot.progress == 5.0


def test_the_estimated_work_is_kept_in_step_and_never_drifts():
    slot = ready_slot(0.1, 0.2)
    assert slot.seconds == pytest.approx(0.3)
    slot.take(1)
    assert slot.seconds == pytest.approx(0.2)
    slot.take(2)
    assert slot.seconds == 0.0


@pytest.mark.parametrize("state", [STARTING, ENDING])
def test_a_slot_that_is_not_up_has_no_room(state):
    slot = ready_slot()
    slot.state = state
    assert not slot.has_capacity(0.0, False)
    assert not slot.idle


def test_an_idle_slot_takes_anything():
    slot = ready_slot()
    assert slot.idle
    assert slot.has_capacity(UNKNOWN, False)
    assert slot.has_capacity(1e9, True)
    slot.blocked = True
    assert not slot.has_capacity(0.0, False), "but for one whose task waits for others"


def test_only_short_tasks_go_behind_another():
    slot = ready_slot(SLOT_SECONDS / 4, SLOT_SECONDS / 4)
    assert slot.has_capacity(SLOT_SECONDS / 2, False)
    assert not slot.has_capacity(SLOT_SECONDS * 0.51, False)
    assert not slot.has_capacity(UNKNOWN, False)
    assert not slot.has_capacity(0.0, True), "this one must be alone"
    slot.recalled = True
    assert not slot.has_capacity(0.0, False)


def test_of_longer_tasks_one_waits_behind_another():
    slot = ready_slot(ONE_AHEAD_MAX_SECONDS)
    assert slot.has_capacity(ONE_AHEAD_MAX_SECONDS, False)
    assert not slot.has_capacity(ONE_AHEAD_MAX_SECONDS * 1.01, False)
    put(slot, 1, ONE_AHEAD_MAX_SECONDS)
    assert not slot.has_capacity(ONE_AHEAD_MAX_SECONDS, False)
    assert not ready_slot(ONE_AHEAD_MAX_SECONDS * 1.01).has_capacity(ONE_AHEAD_MAX_SECONDS, False)


def test_what_waits_is_recalled_sooner_where_another_slot_could_run_it():
    slot = ready_slot(0.001)
    slot.progress = 5.0
    assert slot.recall_at(spare=True) is None, "nothing waits"
    put(slot, 1)
    assert slot.recall_at(spare=False) == 5.0 + RECALL_AFTER
    assert slot.recall_at(spare=True) == 5.0 + RETRACT_WHEN_IDLE_AFTER
    slot.recalled = True
    assert slot.recall_at(spare=True) is None


def test_a_task_with_a_time_limit_gets_nothing_behind_it():
    assert not ready_slot(0.0, timeout=9.0).has_capacity(0.0, False)


def test_a_call_costs_something_however_short():
    slot = ready_slot()
    count = 0
    while slot.has_capacity(0.0, False) and count < 1000:
        put(slot, count, MIN_ESTIMATE)
        count += 1
    assert count <= min(SLOT_LIMIT, SLOT_SECONDS / MIN_ESTIMATE)
    many = ready_slot(*[0.0] * SLOT_LIMIT)
    assert not many.has_capacity(0.0, False)


def test_a_slot_learns_and_forgets_functions():
    slot = ready_slot()
    slot.drop_function(KEY)
    assert slot.to_drop == [], "what it never knew it need not be told"
    assert slot.learns(KEY)
    assert not slot.learns(KEY)
    assert slot.learns(OTHER_KEY)
    slot.drop_function(KEY)
    assert slot.to_drop == [KEY]
    assert not slot.learns(KEY), "it was not told to drop it yet"
    assert slot.to_drop == []


def test_a_slot_that_needs_a_function_again_keeps_its_parts():
    part = FunctionDef(b"part", "a part", b"bytes")
    whole = FunctionDef(KEY, "f", b"bytes", parts=(part.key,))
    functions = {each.key: each for each in (part, whole)}
    slot = ready_slot()
    assert slot.lacks(whole, functions) == [part, whole]
    for key in functions:
        slot.drop_function(key)
    assert slot.lacks(whole, functions) == []
    assert slot.to_drop == []
    slot.drop_function(KEY)
    assert slot.lacks(whole._replace(key=OTHER_KEY), functions) == [whole._replace(key=OTHER_KEY)]


def test_a_chunk_counts_its_elements():
    assert WorkerTask(assignment(1)).elements == 1
    assert WorkerTask(assignment(1, kind=Chunk(2, 9))).elements == 7
