"""An initializer that fails on a worker: its calls go elsewhere, and end where it fails everywhere."""

from __future__ import annotations

import pytest
from support.cores import (
    DOUBLE,
    Coordinator,
    assign,
    assignment,
    client,
    die,
    finish,
    ids,
    ok,
    spec,
    started,
    worker,
)

from jobrunner.backends.failures import exception_of
from jobrunner.calls.serialization import dump_exception
from jobrunner.errors import InitializerError
from jobrunner.protocol.coordinator.missing_modules import (
    ANSWER_SECONDS,
    MAX_FAILURE_BYTES,
    NEW_ANSWER_SECONDS,
)
from jobrunner.protocol.effects import (
    IN_INITIALIZER,
    INITIALIZER_FAILED,
    EndSlot,
    InitializerFailed,
    ResolveTasks,
    SlotReady,
    SpawnSlot,
    SubmitRequested,
)
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.batches import of_outcome
from jobrunner.protocol.wire.kinds import Bundle, Chunk
from jobrunner.protocol.wire.payloads import payload_size

INIT = m.FunctionDef(b"init", "init", b"blob")
OTHER = m.FunctionDef(b"other", "other", b"blob")
RAISED = dump_exception(InitializerError("no licence"))
FAILED = {"worker": "w", "host": "host", "setup": True}
DIED = {**FAILED, "error": "its process exited with code 3 (pid 7)", "pid": 7, "exit_code": 3}


def call(number, initializer=INIT, **options):
    return spec(number, initializer=initializer and initializer.key, **options)


def fail(remote, *tasks, detail=FAILED):
    """Their initializer fails at this worker."""
    status = m.CRASHED if "pid" in detail else m.ERROR
    payload = b"" if "pid" in detail else RAISED
    remote.say(m.Outcomes([m.Outcome(t.id, t.attempt, status, payload, 0.0, detail) for t in tasks]))


@pytest.mark.parametrize("detail", [FAILED, DIED])
def test_its_calls_go_to_a_worker_where_it_does_not(detail):
    world = Coordinator()
    peer = world.client()
    bad = world.worker("bad")
    peer.say(m.Submit([call(1), call(2)], [DOUBLE, INIT]))
    tasks = bad.heard_one(m.Assign).tasks
    good = world.worker("good", slots=2)
    good.heard()
    fail(bad, *tasks, detail=detail)
    assert "c-1" in ids(good.heard_one(m.Assign).tasks)
    peer.say(m.Submit([call(3, None), call(4)], []))
    assert ids(bad.heard_one(m.Assign).tasks) == ["c-3"], "others' calls are welcome there"
    good.say(m.Outcomes([ok("c-1", 2)]))
    assert [outcome.status for outcome in peer.heard_one(m.Outcomes).outcomes] == [m.OK]


@pytest.mark.parametrize("detail", [FAILED, DIED])
def test_where_it_fails_everywhere_all_calls_end(detail):
    world = Coordinator()
    peer = world.client()
    first, second = world.worker("a"), world.worker("b")
    peer.say(m.Submit([call(n) for n in range(1, 6)] + [call(6, None)], [DOUBLE, INIT]))
    fail(first, *first.heard_one(m.Assign).tasks, detail=detail)
    assert not [message for message in peer.heard() if isinstance(message, m.Outcomes)]
    fail(second, *second.heard_one(m.Assign).tasks, detail=detail)
    outcomes = peer.heard_one(m.Outcomes).outcomes
    assert sorted(ids(outcomes)) == [f"c-{n}" for n in range(1, 6)]
    assert all(outcome.detail["setup"] for outcome in outcomes)
    assert isinstance(exception_of(outcomes[0], ""), InitializerError)
    assert set(world.core.scheduler.tasks) == {"c-6"}
    peer.say(m.Submit([call(7)], []))
    assert ids(peer.heard_one(m.Outcomes).outcomes) == ["c-7"], "at once"


def test_of_a_failure_little_is_kept():
    """It is told to all calls that come meanwhile, and is in nobody's account."""
    world = Coordinator()
    peer, bad, good = world.client(), world.worker("bad"), world.worker("good")
    peer.say(m.Submit([call(1)], [DOUBLE, INIT]))
    (first,) = [t for remote in (bad, good) for said in remote.heard_of(m.Assign) for t in said.tasks]
    remote = bad if world.core.scheduler.tasks[first.id].worker.name == "bad" else good
    huge = {**FAILED, "stderr": "x" * 500_000}
    remote.say(m.Outcomes([m.Outcome(first.id, 1, m.ERROR, bytes(1_000_000), 0.0, huge)]))
    other = good if remote is bad else bad
    (again,) = other.heard_one(m.Assign).tasks
    other.say(m.Outcomes([m.Outcome(again.id, 2, m.ERROR, bytes(1_000_000), 0.0, huge)]))
    (outcome,) = peer.heard_one(m.Outcomes).outcomes
    error = exception_of(outcome, "double")
    assert isinstance(error, InitializerError)
    assert "an exception of 1,000,000 bytes" in str(error)
    assert payload_size(outcome.payload) + of_outcome(outcome) < MAX_FAILURE_BYTES


def test_it_is_tried_again_after_a_while():
    world = Coordinator()
    peer = world.client()
    remote = world.worker("a")
    peer.say(m.Submit([call(1)], [DOUBLE, INIT]))
    fail(remote, *remote.heard_one(m.Assign).tasks)
    peer.heard()
    world.run(NEW_ANSWER_SECONDS + 1)
    peer.say(m.Submit([call(2)], []))
    assert ids(remote.heard_one(m.Assign).tasks) == ["c-2"]
    assert NEW_ANSWER_SECONDS < ANSWER_SECONDS


def test_another_initializer_is_not_concerned():
    world = Coordinator()
    peer = world.client()
    remote = world.worker("a")
    peer.say(m.Submit([call(1)], [DOUBLE, INIT]))
    fail(remote, *remote.heard_one(m.Assign).tasks)
    peer.heard()
    peer.say(m.Submit([call(2, OTHER)], [OTHER]))
    assert ids(remote.heard_one(m.Assign).tasks) == ["c-2"]


def test_a_call_that_is_to_be_cancelled_is():
    world = Coordinator()
    peer = world.client()
    remote = world.worker("a")
    peer.say(m.Submit([call(1)], [DOUBLE, INIT]))
    tasks = remote.heard_one(m.Assign).tasks
    peer.say(m.Cancel([m.CancelRequest(tasks[0].id, True)]))
    fail(remote, *tasks)
    assert [outcome.status for outcome in peer.heard_one(m.Outcomes).outcomes] == [m.CANCELLED]


def test_a_worker_that_speaks_of_an_initializer_that_there_is_not_is_heard_as_usual():
    world = Coordinator()
    peer = world.client()
    remote = world.worker("a")
    peer.say(m.Submit([call(1, None)], [DOUBLE]))
    fail(remote, *remote.heard_one(m.Assign).tasks)
    assert [outcome.status for outcome in peer.heard_one(m.Outcomes).outcomes] == [m.ERROR]
    assert not world.core.scheduler.missing_modules.contested_modules


# --- the worker -----------------------------------------------------------------------------------------------------


def test_a_slot_whose_initializer_failed_makes_way():
    world = worker()
    assign(world, assignment(1, initializer=INIT.key), functions=[DOUBLE, INIT])
    assert started(world) == {1: ["c-1"]}
    finish(world, 1, 1, status=INITIALIZER_FAILED)
    (outcome,) = world.heard_one(m.Outcomes).outcomes
    assert (outcome.status, outcome.detail) == (m.ERROR, FAILED)
    assert world.take() == [EndSlot(1), SpawnSlot(2)]


def test_a_process_that_dies_in_its_initializer():
    world = worker()
    assign(world, assignment(1, initializer=INIT.key, kind=Chunk(0, 5)), functions=[DOUBLE, INIT])
    world.take()
    die(world, 1, 1, element=IN_INITIALIZER, code=3)
    (outcome,) = world.heard_one(m.Outcomes).outcomes
    assert outcome.status == m.CRASHED
    assert outcome.detail["setup"]
    assert "element" not in outcome.detail


# --- the client -----------------------------------------------------------------------------------------------------


def test_the_program_is_told_that_nothing_can_run():
    world = client()
    tasks = [call(1), call(2), call(3, None)]
    world.handle(SubmitRequested(tasks, [DOUBLE, INIT]))
    world.heard()
    outcome = m.Outcome(tasks[0].id, 1, m.ERROR, RAISED, 0.0, FAILED)
    world.say(m.Outcomes([outcome]))
    assert world.take() == [InitializerFailed(outcome)]
    world.say(m.Outcomes([ok("c-3")]))
    assert [type(effect) for effect in world.take()] == [ResolveTasks]


# --- a slot makes so many calls -------------------------------------------------------------------------------------


def up(world, slot):
    world.handle(SlotReady(slot, 50 + slot))


def test_a_slot_is_replaced_after_its_calls():
    world = worker(max_tasks_per_slot=2)
    assign(world, *(assignment(n) for n in range(1, 4)))
    assert started(world) == {1: ["c-1"]}
    finish(world, 1, 1)
    assert started(world) == {1: ["c-2"]}
    finish(world, 1, 2)
    assert world.take() == [EndSlot(1), SpawnSlot(2)]
    up(world, 2)
    assert started(world) == {2: ["c-3"]}


def test_short_calls_count_when_they_are_given_to_it_and_no_more_when_they_come_back():
    world = worker(max_tasks_per_slot=4)
    assign(world, assignment(0))
    world.take()
    finish(world, 1, 1, duration=1e-5)
    assert world.take() == []
    assign(world, *(assignment(n) for n in range(1, 6)))
    assert started(world) == {1: ["c-1", "c-2", "c-3"]}
    slot = world.core.slots[1]
    assert slot.calls_left == 0
    assert slot.take_back(4).id == "c-3"
    assert slot.calls_left == 1


def test_what_does_not_fit_any_more_waits_for_the_next_process():
    world = worker(max_tasks_per_slot=4)
    assign(world, assignment(1, kind=Chunk(0, 3)))
    assert started(world) == {1: ["c-1"]}
    assign(world, assignment(2, kind=Chunk(3, 6)))
    finish(world, 1, 1)
    assert world.take() == [EndSlot(1), SpawnSlot(2)]
    up(world, 2)
    assert started(world) == {2: ["c-2"]}


@pytest.mark.parametrize("kind", [Chunk(10, 15), Bundle(5)])
def test_a_task_of_more_calls_comes_back_to_be_cut(kind):
    world = worker(max_tasks_per_slot=4)
    assign(world, assignment(1, kind=kind))
    (outcome,) = world.heard_one(m.Outcomes).outcomes
    assert (outcome.status, outcome.detail["most_calls"]) == (m.CRASHED, 4)
    assert world.take() == []
    assert not world.core.tasks
