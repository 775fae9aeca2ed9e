"""Functions with parts: what each core sends first, keeps, and does not take."""

from __future__ import annotations

import pytest
from support.cores import (
    DOUBLE,
    HALVE,
    KEY,
    OTHER_KEY,
    Coordinator,
    assign,
    assignment,
    client,
    die,
    finish,
    named,
    ok,
    spec,
    worker,
)

from jobrunner.protocol.coordinator.accounts import Quota
from jobrunner.protocol.coordinator.core import CoordinatorCore
from jobrunner.protocol.coordinator.function_table import key_of
from jobrunner.protocol.coordinator.settings import CoordinatorSettings
from jobrunner.protocol.effects import (
    JournalWritten,
    ResolveTasks,
    RunTasks,
    SlotReady,
    SpawnSlot,
    SubmitRequested,
    WriteJournal,
)
from jobrunner.protocol.journal_records import JournalState
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import SlotId
from jobrunner.protocol.wire.principals import Principal
from jobrunner.protocol.worker.function_store import LARGE_DEFINITION

PART = m.FunctionDef(b"part", "a part", b"the bytes of a part")
TWICE = DOUBLE._replace(parts=(PART.key,))
HALF = HALVE._replace(parts=(PART.key,))
ALICE, BOB = (Principal(f"key-of-{name}", name, "client") for name in ("alice", "bob"))
A, B = named("a", ALICE), named("b", BOB)


# --- the client ---------------------------------------------------------------------------------------------------


def submit(world, *tasks, functions=(PART, TWICE, HALF)):
    world.handle(SubmitRequested(list(tasks), list(functions)))


def test_a_client_sends_a_part_once_and_before_what_has_it():
    world = client()
    submit(world, spec(1))
    assert world.heard_one(m.Submit) == m.Submit([spec(1)], [PART, TWICE])
    submit(world, spec(2), spec(3, function=OTHER_KEY))
    assert world.heard_one(m.Submit) == m.Submit([spec(2), spec(3, function=OTHER_KEY)], [HALF])
    submit(world, spec(4, initializer=OTHER_KEY))
    assert world.heard_one(m.Submit) == m.Submit([spec(4, initializer=OTHER_KEY)])


def test_a_client_keeps_a_part_as_long_as_an_unfinished_call_needs_it():
    world = client()
    submit(world, spec(1), spec(2, function=OTHER_KEY))
    world.turn()
    world.say(m.Outcomes([ok("c-1")]))
    world.turn()
    assert list(world.core.functions.definitions) == [PART.key, OTHER_KEY]
    world.say(m.Outcomes([ok("c-2")]))
    world.turn()
    assert world.core.functions.definitions == {}
    submit(world)
    world.turn()
    assert world.core.functions.definitions == {}, "no call needs them"


def test_a_client_sends_parts_again_in_a_new_session():
    world = client()
    submit(world, spec(1))
    world.turn()
    world.heard()
    world.lose()
    world.open()
    assert world.heard() == [m.Submit([spec(1)], [PART, TWICE]), m.ResubmissionComplete()]


def test_a_part_that_is_too_large_fails_its_calls_alone():
    world = client(opened=False)
    submit(world, spec(1), spec(2, function=b"plain"), functions=[
        PART._replace(blob=(b"", bytes(101))), TWICE, HALVE._replace(key=b"plain"),
    ])  # fmt: skip
    world.heard()
    world.open(max_payload=100)
    resolved = next(effect for effect in world.take() if isinstance(effect, ResolveTasks))
    (outcome,) = resolved.outcomes
    assert outcome.id == "c-1"
    assert "function has 101 bytes, and the coordinator takes 100 at most" in outcome.detail["error"]


# --- the coordinator ----------------------------------------------------------------------------------------------


def drop(client, *keys):
    client.say(m.Submit([], [], list(keys)))


def test_a_worker_gets_a_part_once_and_is_told_when_nobody_needs_it():
    world = Coordinator()
    alice, one = world.client(), world.worker(slots=4)
    alice.say(m.Submit([spec(1)], [PART, TWICE]))
    assert one.heard_one(m.Assign).functions == [PART, TWICE]
    alice.say(m.Submit([spec(2, function=OTHER_KEY)], [HALF]))
    assert one.heard_one(m.Assign).functions == [HALF]
    one.say(m.Outcomes([ok("c-1"), ok("c-2")]))
    drop(alice, PART.key, KEY)
    assert one.heard_of(m.DropFunctions) == [m.DropFunctions([KEY])]
    drop(alice, OTHER_KEY)
    assert one.heard_of(m.DropFunctions) == [m.DropFunctions([OTHER_KEY, PART.key])]
    assert len(world.core.scheduler.functions) == 0


def test_a_worker_that_comes_back_gets_parts_again():
    world = Coordinator()
    alice, one = world.client(), world.worker(slots=4)
    alice.say(m.Submit([spec(1)], [PART, TWICE]))
    one.heard()
    one.say(m.Outcomes([ok("c-1")]))
    world.reopen(one)
    alice.say(m.Submit([spec(2)]))
    assert one.heard_one(m.Assign).functions == [PART, TWICE]


@pytest.mark.parametrize(
    "functions",
    [
        [TWICE],
        [TWICE, PART],
        [PART, HALF, TWICE._replace(parts=(OTHER_KEY,))],
        [TWICE._replace(parts=(KEY,))],
    ],
    ids=["not sent", "sent later", "with parts itself", "itself"],
)
def test_a_function_without_its_parts_ends_the_session(functions):
    world = Coordinator()
    alice = world.client()
    alice.say(m.Submit([spec(1)], functions))
    assert m.Reset() in alice.heard()
    assert not world.core.scheduler.tasks
    assert "has parts that were never sent, or that have parts themselves" in world.logs[-1]


def test_parts_that_only_somebody_else_has_sent_do_not_count():
    world = Coordinator()
    alice, bob = world.client("a", who=ALICE), world.client("b", who=BOB)
    alice.say(m.Submit([spec(1, client=A)], [PART, TWICE]))
    bob.say(m.Submit([spec(1, client=B)], [TWICE]))
    assert m.Reset() in bob.heard()
    assert list(world.core.scheduler.tasks) == [f"{A}-1"]


def test_parts_have_keys_of_their_owner_too():
    world = Coordinator()
    alice, one = world.client("a", who=ALICE), world.worker()
    alice.say(m.Submit([spec(1, client=A)], [PART, TWICE]))
    part, whole = one.heard_one(m.Assign).functions
    assert part == PART._replace(key=key_of(ALICE.key, PART.key))
    assert whole == TWICE._replace(key=key_of(ALICE.key, KEY), parts=(part.key,))


def test_a_part_beyond_the_quota_fails_the_calls_that_need_it():
    world = Coordinator(quota=Quota(0, 10_000))
    alice = world.client("a", who=ALICE)
    alice.say(m.Submit([spec(1, client=A), spec(2, client=A, function=b"plain")], [
        PART._replace(blob=(bytes(20_000),)), TWICE, HALVE._replace(key=b"plain"),
    ]))  # fmt: skip
    (outcome,) = alice.heard_one(m.Outcomes).outcomes
    assert (outcome.id, outcome.status, outcome.detail["quota"]) == (f"{A}-1", m.REFUSED, True)
    assert list(world.core.scheduler.tasks) == [f"{A}-2"]


def test_parts_are_written_with_what_has_them_and_are_there_after_a_restart():
    world = Coordinator()
    world.core = CoordinatorCore(CoordinatorSettings("coo", "1.0"), world.now, JournalState())
    alice = world.client("a", who=ALICE)
    alice.say(m.Submit([spec(1, client=A, initializer=OTHER_KEY)], [PART, TWICE, HALF]))
    world.turn()
    (written,) = [effect for effect in world.take() if isinstance(effect, WriteJournal)]
    assert [each.name for each in written.entry.functions] == [PART.name, TWICE.name, HALF.name]
    state = JournalState()
    state.apply(written.entry)
    assert len(state.needed_functions()) == 3

    again = Coordinator()
    again.core = CoordinatorCore(CoordinatorSettings("coo", "1.0"), again.now, state)
    again.turn()
    one = again.worker()
    again.run(20, one)
    (assign,) = one.heard_of(m.Assign)
    assert [each.blob for each in assign.functions] == [PART.blob, TWICE.blob, HALF.blob]
    one.say(m.Outcomes([ok(f"{A}-1")]))
    again.turn()
    again.handle(JournalWritten(1))
    again.run(60, one)
    assert len(again.core.scheduler.functions) == 0


# --- the worker ---------------------------------------------------------------------------------------------------


def runs(world):
    """By slot, the keys of the functions that it was sent, and of those that it may drop."""
    effects = [effect for effect in world.take() if isinstance(effect, RunTasks)]
    return {
        effect.slot: ([each.key for each in effect.functions], effect.drop_functions) for effect in effects
    }


def test_each_slot_gets_a_part_once():
    world = worker(slots=2)
    assign(world, assignment(1), assignment(2), functions=[PART, TWICE])
    assert runs(world) == {1: ([PART.key, KEY], []), 2: ([PART.key, KEY], [])}
    finish(world, 1, 1)
    assign(world, assignment(3, function=OTHER_KEY, initializer=KEY), functions=[HALF])
    assert runs(world) == {1: ([OTHER_KEY], [])}


def test_a_slot_that_comes_later_gets_parts_too():
    world = worker()
    assign(world, assignment(1), assignment(2), functions=[PART, TWICE])
    world.take()
    die(world, 1, 1)
    (spawned,) = [effect for effect in world.take() if isinstance(effect, SpawnSlot)]
    world.handle(SlotReady(spawned.slot, 99))
    assert runs(world) == {spawned.slot: ([PART.key, KEY], [])}


def test_a_part_is_kept_while_a_function_has_it_whatever_the_coordinator_says():
    world = worker()
    assign(world, assignment(1), functions=[PART, TWICE])
    world.take()
    world.say(m.DropFunctions([PART.key]))
    finish(world, 1, 1)
    world.turn()
    assert set(world.core.functions.definitions) == {PART.key, KEY}
    world.say(m.DropFunctions([KEY]))
    world.turn()
    assert world.core.functions.definitions == {}
    assign(world, assignment(2, function=b"plain"), functions=[HALVE._replace(key=b"plain")])
    assert runs(world) == {1: ([b"plain"], [PART.key, KEY])}


def test_a_slot_hears_at_once_that_it_may_drop_something_large():
    world = worker(slots=2)
    large = PART._replace(blob=(bytes(LARGE_DEFINITION),))
    assign(world, assignment(1), functions=[large, TWICE])
    world.take()
    finish(world, 1, 1)
    world.say(m.DropFunctions([KEY, PART.key]))
    assert world.take() == [RunTasks(SlotId(1), [], [], [KEY, PART.key])]
    assert world.take() == []


def test_a_function_that_is_sent_again_is_the_one_that_is_there():
    world = worker()
    assign(world, assignment(1), functions=[PART, TWICE])
    world.take()
    first = world.core.functions.definitions.copy()
    world.lose()
    world.open()
    world.say(m.Assign([assignment(2)], [PART, DOUBLE]))
    world.turn()
    assert world.core.functions.definitions == first
    finish(world, 1, 1)
    assert runs(world) == {1: ([], [])}


@pytest.mark.parametrize("parts", [[], [PART, HALF]], ids=["not sent", "with parts themselves"])
def test_a_function_without_its_parts_ends_a_workers_session(parts):
    world = worker()
    whole = TWICE._replace(parts=(OTHER_KEY,)) if parts else TWICE
    assign(world, assignment(1), functions=[*parts, whole])
    world.turn()
    assert world.core.tasks == {}
    assert world.logs[-1] == (
        "the function double has parts that were never sent, or that have parts themselves"
    )
    assert not world.core.session.open
