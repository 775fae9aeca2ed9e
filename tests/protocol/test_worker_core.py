"""The worker's state machine as a whole: its greeting, what it says of tasks, crashes and sessions."""

from __future__ import annotations

import random

import pytest
from support.cores import (
    DOUBLE,
    KEY,
    Upstream,
    assign,
    assignment,
    die,
    finish,
    ids,
    ok,
    returned,
    started,
    teach,
    worker,
)

from jobrunner.protocol.effects import (
    ConnectionLost,
    EndSlot,
    GiveUp,
    HandshakeFailed,
    RecallTasks,
    RunTasks,
    SignalSlot,
    SlotAwaits,
    SlotBlocked,
    SlotPrinted,
    SlotReady,
    SlotSpoiled,
    SpawnSlot,
)
from jobrunner.protocol.tuning import (
    RECALL_AFTER,
    RETRACT_WHEN_IDLE_AFTER,
    RETURN_AFTER,
    RUNNING_AFTER,
)
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.checks import MAX_AWAITED
from jobrunner.protocol.wire.ids import SlotId, WorkerId
from jobrunner.protocol.wire.kinds import Chunk
from jobrunner.protocol.worker.core import COMPLAIN_EVERY, WorkerCore
from jobrunner.protocol.worker.settings import WorkerSettings
from jobrunner.protocol.worker.slot_table import START_FAILURES
from jobrunner.protocol.worker.unacknowledged import OUTPUT_LIMIT

PLACE = {"worker": "w", "host": "host"}


# --- greeting -----------------------------------------------------------------------------------------------------


def test_it_starts_its_slots_and_greets():
    core = WorkerCore(
        WorkerSettings(
            WorkerId("id of w"),
            "w",
            "1.0",
            "3.11",
            "host",
            2,
            slots=3,
            resources={"gpu": 1.0},
            peer_timeout=7.0,
        ),
        random.Random(1),
        100.0,
    )
    world = Upstream(core)
    assert world.heard() == [
        m.WorkerHello("id of w", "1.0", "3.11", "w", "host", 2, 7.0, 3, {"gpu": 1.0}, [], serial=1)
    ]
    assert world.take() == [], "what its slots are to be like, the coordinator will say"
    world.open(hash_seed=77)
    assert world.heard() == []
    assert world.take() == [SpawnSlot(SlotId(n), 77) for n in (1, 2, 3)]


def test_slots_with_another_hash_seed_make_way():
    """Those of a coordinator that was started again, and has chosen another."""
    world = worker(slots=2)
    assign(world, assignment(1))
    assert started(world) == {1: ["c-1"]}
    world.lose()
    world.open(hash_seed=78)
    assert [effect for effect in world.take() if type(effect) is not ConnectionLost] == [
        SignalSlot(SlotId(2), "SIGKILL"),
        SpawnSlot(SlotId(3), 78),
    ], "one has run nothing"
    finish(world, 1, 1)
    assert world.take() == [EndSlot(SlotId(1)), SpawnSlot(SlotId(4), 78)]
    world.lose()
    world.open(hash_seed=78)
    assert [effect for effect in world.take() if type(effect) is not ConnectionLost] == []


def test_a_slot_that_does_not_end_in_time_is_killed():
    world = worker(exit_wait=3.0)
    assign(world, assignment(1), owner="alice")
    started(world)
    finish(world, 1, 1)
    assign(world, assignment(2), owner="bob")
    assert world.take() == [EndSlot(SlotId(1)), SpawnSlot(SlotId(2))]
    assert world.core.next_deadline() <= world.now + 3.0
    world.turn(2.9)
    assert world.take() == []
    world.turn(0.2)
    assert world.take() == [SignalSlot(SlotId(1), "SIGKILL")]


def test_what_a_slot_prints_between_tasks_is_put_down_to_the_last_one():
    world = worker()
    world.handle(SlotPrinted(SlotId(1), [(0, m.STDOUT, "nobody's\n")]))
    assign(world, assignment(1))
    started(world)
    finish(world, 1, 1)
    world.heard()
    world.handle(SlotPrinted(SlotId(1), [(0, m.STDOUT, "late\n")]))
    assert world.heard() == [m.Output([m.OutputChunk("c-1", "double", m.STDOUT, "late\n")])]


def test_an_idle_worker_sends_heartbeats_and_nothing_else():
    world = worker()
    for _ in range(10):
        world.acknowledge()
        world.turn(1.0)
    assert world.heard() == [m.Heartbeat()] * 10
    assert world.take() == []


def test_a_refused_worker_gives_up():
    core = WorkerCore(
        WorkerSettings(WorkerId("i"), "w", "1.0", "3.11", "host", 2, 1), random.Random(1), 100.0
    )
    world = Upstream(core)
    world.turn()
    world.take()
    world.give(m.Envelope("", 0, 0, m.Refused("use the same version")))
    assert world.take() == [GiveUp("use the same version", "ProtocolError")]
    assert core.next_deadline() is None


# --- while tasks run ----------------------------------------------------------------------------------------------


def test_only_tasks_that_take_a_while_are_announced_and_once():
    world = worker()
    assign(world, assignment(1))
    started(world)
    world.turn(RUNNING_AFTER * 0.9)
    assert world.heard() == []
    world.now = 100.0 + RUNNING_AFTER
    assert world.core.next_deadline() == pytest.approx(world.now)
    assert world.heard() == [m.Running(["c-1"])]
    world.turn(0.5)
    assert world.heard() == []


def test_what_waits_behind_a_task_that_turns_out_long_is_recalled_and_runs_elsewhere():
    world = worker(slots=2)
    teach(world, 0.001)
    assign(world, *[assignment(n) for n in range(4)])
    assert started(world) == {1: ["c-0", "c-2"], 2: ["c-1", "c-3"]}
    world.turn(0.001)
    finish(world, 2, 1, 2, duration=0.001)
    world.turn()
    world.heard()
    world.now = 100.0 + RECALL_AFTER
    assert world.core.next_deadline() <= world.now
    assert world.take() == [RecallTasks(SlotId(1))]
    world.turn(0.01)
    assert world.take() == [], "it is asked once"
    returned(world, 1, 3)
    assert started(world) == {2: ["c-2"]}
    world.turn(0.3)
    assert [x for x in world.heard() if type(x) is m.TasksReturned] == []


def test_what_waits_while_another_slot_is_idle_is_recalled_soon():
    world = worker(slots=2)
    teach(world, 0.010)
    assign(world, *[assignment(n) for n in range(4)])
    assert started(world) == {1: ["c-0", "c-2"], 2: ["c-1", "c-3"]}
    world.turn(0.001)
    finish(world, 2, 1, 2, duration=0.010)
    world.turn()
    world.heard()
    assert world.core.next_deadline() == pytest.approx(100.0 + RETRACT_WHEN_IDLE_AFTER)
    world.now = 100.0 + RETRACT_WHEN_IDLE_AFTER
    assert world.take() == [RecallTasks(SlotId(1), bundle=False)]
    returned(world, 1, 3)
    assert started(world) == {2: ["c-2"]}


def test_an_idle_slot_of_another_owner_is_no_reason_to_recall():
    world = worker(slots=2)
    teach(world, 0.001)
    assign(world, assignment("other"), owner="theirs")
    started(world)
    finish(world, 2, 1, duration=0.001)
    assign(world, *[assignment(n) for n in range(2)])
    assert started(world) == {1: ["c-0", "c-1"]}
    world.turn()
    world.heard()
    world.turn(2 * RETRACT_WHEN_IDLE_AFTER)
    assert world.take() == []


def test_a_queue_that_stands_still_is_given_back():
    world = worker()
    assign(world, assignment(1), assignment(2), assignment(3, attempt=4))
    started(world)
    world.turn(RETURN_AFTER * 0.9)
    assert [x for x in world.heard() if type(x) is not m.Running] == []
    world.now = 100.0 + RETURN_AFTER
    assert world.core.next_deadline() <= world.now
    assert world.heard() == [m.TasksReturned([("c-2", 1), ("c-3", 4)])]
    assert list(world.core.tasks) == ["c-1"]
    world.turn(RETURN_AFTER)
    assert world.heard() == []


def test_what_a_task_prints_is_passed_on_with_its_name():
    world = worker()
    assign(world, assignment(1), assignment(2, name="other"))
    started(world)
    world.handle(SlotPrinted(SlotId(1), [(1, m.STDOUT, "one\n"), (0, m.STDERR, "two\n")]))
    assert world.heard() == [
        m.Output(
            [
                m.OutputChunk("c-1", "double", m.STDOUT, "one\n"),
                m.OutputChunk("c-1", "double", m.STDERR, "two\n"),
            ]
        )
    ]


def test_what_is_printed_leaves_before_the_outcome():
    world = worker()
    assign(world, assignment(1))
    started(world)
    world.handle(SlotPrinted(SlotId(1), [(1, m.STDOUT, "bye\n")]))
    finish(world, 1, 1)
    assert [type(x) for x in world.heard()] == [m.Output, m.Outcomes]


def test_what_is_printed_without_a_session_is_bounded():
    world = worker()
    assign(world, assignment(1))
    started(world)
    world.lose()
    for n in range(3 * OUTPUT_LIMIT):
        world.handle(SlotPrinted(SlotId(1), [(1, m.STDOUT, f"{n}\n")]))
    assert len(world.core._unacknowledged.leftovers()) <= OUTPUT_LIMIT + 1


def test_a_task_whose_function_is_gone_may_still_print():
    """The coordinator gave it up while the worker was away, and forgot the function since."""
    world = worker()
    assign(world, assignment(1))
    started(world)
    world.say(m.DropFunctions([KEY]))
    world.handle(SlotPrinted(SlotId(1), [(1, m.STDOUT, "late\n")]))
    assert [x.chunks[0].text for x in world.heard()] == ["late\n"]


def test_an_error_says_where_it_happened():
    world = worker()
    assign(world, assignment(1))
    started(world)
    finish(world, 1, 1, status=m.ERROR, payload=b"exception")
    (outcome,) = world.heard_one(m.Outcomes).outcomes
    assert outcome == m.Outcome("c-1", 1, m.ERROR, b"exception", 1.0, PLACE)


# --- crashes ------------------------------------------------------------------------------------------------------


def test_a_crash_costs_the_running_task_alone_and_the_slot_is_replaced():
    world = worker()
    teach(world, 0.0001)
    assign(world, assignment(1, attempt=2), assignment(2), assignment(3))
    assert started(world) == {1: ["c-1", "c-2", "c-3"]}
    world.now += 0.01
    die(world, 1, 2)
    assert world.take() == [SpawnSlot(SlotId(2))]
    (outcome,) = world.heard_one(m.Outcomes).outcomes
    assert outcome.duration == pytest.approx(0.01)
    assert outcome._replace(duration=0.0) == m.Outcome(
        "c-1",
        2,
        m.CRASHED,
        b"",
        0.0,
        {
            **PLACE,
            "error": "its process was killed by SIGKILL (pid 77)",
            "pid": 77,
            "exit_code": None,
            "signal": "SIGKILL",
            "peak_memory": 1024,
            "stderr": "last words",
        },
    )
    world.handle(SlotReady(SlotId(2), 52))
    effect = world.take_one(RunTasks)
    assert ids(effect.tasks) == ["c-2", "c-3"]
    assert effect.functions == [DOUBLE], "the new process knows nothing"


def test_the_guilty_one_is_who_the_slot_says_not_who_was_first():
    world = worker()
    teach(world, 0.0001)
    assign(world, assignment(1), assignment(2, kind=Chunk(4, 7)), assignment(3))
    started(world)
    die(world, 1, 3, element=5, code=3)
    (outcome,) = world.heard_one(m.Outcomes).outcomes
    assert (outcome.id, outcome.detail["element"], outcome.detail["exit_code"]) == ("c-2", 5, 3)
    assert outcome.detail["error"] == "its process exited with code 3 (pid 77)"
    assert ids(world.core.queue) == ["c-1", "c-3"]


def test_an_idle_slot_that_dies_is_replaced_without_a_word():
    world = worker()
    die(world, 1)
    assert world.take() == [SpawnSlot(SlotId(2))]
    assert world.heard() == []
    die(world, 1)
    finish(world, 1, 1)
    returned(world, 1, 1)
    world.handle(SlotReady(SlotId(1), 1))
    world.handle(SlotBlocked(SlotId(1), True))
    world.handle(SlotPrinted(SlotId(1), [(1, 1, "x")]))
    assert (world.take(), world.heard()) == ([], []), "late words of a slot that is gone"


def test_slots_that_never_come_up_make_it_give_up_with_what_they_said():
    world = worker(ready=False)
    for n in range(1, START_FAILURES):
        die(world, n, code=1)
        assert world.take() == [SpawnSlot(SlotId(n + 1))]
    die(world, START_FAILURES, code=1)
    (effect,) = world.take()
    assert effect == GiveUp("slots die while they start (exit code 1): last words", "JobRunnerError")
    assert world.core.next_deadline() is None


def test_a_slot_that_comes_up_clears_the_count():
    world = worker(ready=False)
    for n in range(1, 3 * START_FAILURES):
        if n % START_FAILURES == 0:
            world.handle(SlotReady(SlotId(n), 1))
        die(world, n, code=1)
        assert world.take() == [SpawnSlot(SlotId(n + 1))]


def test_a_spoiled_slot_gets_no_more_and_makes_way():
    world = worker()
    teach(world, 0.0001)
    assign(world, assignment(1), assignment(2))
    assert started(world) == {1: ["c-1", "c-2"]}
    world.handle(SlotSpoiled(SlotId(1)))
    finish(world, 1, 2)
    returned(world, 1, 3)
    assert world.take() == [EndSlot(SlotId(1)), SpawnSlot(SlotId(2))]
    world.handle(SlotReady(SlotId(2), 52))
    assert started(world) == {2: ["c-2"]}


# --- slots whose task waits for others ----------------------------------------------------------------------------


def test_a_blocked_task_yields_its_slot():
    world = worker()
    assign(world, assignment(1), assignment(2))
    started(world)
    world.handle(SlotBlocked(SlotId(1), True))
    assert world.heard() == [m.Capacity(2)]
    assert world.take() == [SpawnSlot(SlotId(2))]
    world.handle(SlotBlocked(SlotId(1), True))
    world.handle(SlotReady(SlotId(2), 52))
    assert started(world) == {2: ["c-2"]}
    world.handle(SlotBlocked(SlotId(1), False))
    assert world.heard() == [m.Capacity(1)]
    assert world.take() == [], "the one that stood in is busy"
    finish(world, 2, 1)
    assert world.take() == [EndSlot(SlotId(2))]
    die(world, 2, code=0)
    world.handle(SlotReady(SlotId(2), 1))
    finish(world, 1, 1)
    world.heard()
    assert world.take() == []
    assert list(world.core.slots) == [1]


def test_what_waits_in_a_blocked_slot_is_recalled():
    world = worker()
    teach(world, 0.0001)
    assign(world, assignment(1), assignment(2))
    started(world)
    world.handle(SlotBlocked(SlotId(1), True))
    assert world.take() == [RecallTasks(SlotId(1)), SpawnSlot(SlotId(2))]


def test_a_blocked_slot_that_dies_lends_nothing_any_more():
    world = worker()
    assign(world, assignment(1))
    started(world)
    world.handle(SlotBlocked(SlotId(1), True))
    world.handle(SlotReady(SlotId(2), 52))
    world.take()
    world.heard()
    die(world, 1, 1)
    assert world.take() == [], "the one that stood in is the slot now"
    assert [type(x) for x in world.heard()] == [m.Outcomes, m.Capacity]


def awaits(world, number, *calls, every=True):
    """The first slot tells what its task waits for."""
    world.handle(SlotAwaits(SlotId(1), number, list(calls), every))


def told_waits(world):
    return [message for message in world.heard() if type(message) is m.Waits]


def test_what_tasks_wait_for_is_passed_on_in_every_session():
    world = worker()
    assign(world, assignment(1))
    started(world)
    awaits(world, 1, "d-1", "d-2")
    assert told_waits(world) == [m.Waits([m.Wait("c-1", ("d-1", "d-2"))])]
    world.turn()
    assert told_waits(world) == []
    world.lose()
    world.turn()
    world.open()
    assert told_waits(world) == [m.Waits([m.Wait("c-1", ("d-1", "d-2"))])]
    awaits(world, 1, "d-2", every=False)
    awaits(world, 1)
    assert told_waits(world) == [m.Waits([m.Wait("c-1", ())])], "the last word is enough"
    world.lose()
    world.turn()
    world.open()
    assert told_waits(world) == []


def test_what_tasks_wait_for_that_are_not_there_is_nobodys_business():
    world = worker()
    assign(world, assignment(1))
    started(world)
    awaits(world, 7, "d-1")
    world.handle(SlotAwaits(SlotId(9), 1, ["d-1"], True))
    assert told_waits(world) == []
    awaits(world, 1, "d-1")
    finish(world, 1, 1)
    assert told_waits(world) == []


def test_of_too_many_calls_some_are_told_where_all_are_needed():
    world = worker()
    assign(world, assignment(1))
    started(world)
    many = [f"d-{n}" for n in range(MAX_AWAITED + 1)]
    awaits(world, 1, *many)
    assert told_waits(world) == [m.Waits([m.Wait("c-1", tuple(many[:-1]))])]
    awaits(world, 1, *many, every=False)
    assert told_waits(world) == [m.Waits([m.Wait("c-1", (), False)])]


def test_capacity_that_changed_during_the_greeting_is_announced():
    world = worker()
    assign(world, assignment(1))
    started(world)
    world.lose()
    world.turn()
    world.take()
    assert world.hello.slots == 1
    world.handle(SlotBlocked(SlotId(1), True))
    world.open()
    assert m.Capacity(2) in world.heard()


# --- sessions -----------------------------------------------------------------------------------------------------


def test_a_new_session_opens_with_what_is_held_and_the_outcomes_that_may_be_lost():
    world = worker(slots=2)
    assign(world, *[assignment(n, attempt=n) for n in (1, 2, 3, 4)])
    assert started(world) == {1: ["c-1"], 2: ["c-2"]}
    finish(world, 2, 1, payload=b"second")
    world.turn()
    assert ids(world.heard_one(m.Outcomes).outcomes) == ["c-2"]  # and nobody acknowledges it
    world.lose()
    finish(world, 2, 2, payload=b"third")
    world.turn()
    effects = world.take()
    assert [type(x) for x in effects if type(x) is not RunTasks] == [ConnectionLost]
    world.open()
    assert sorted(world.hello.held) == [
        m.Held("c-1", 1, True),
        m.Held("c-2", 2, False),
        m.Held("c-3", 3, False),
        m.Held("c-4", 4, True),
    ]
    (outcomes,) = world.heard()
    assert outcomes == m.Outcomes([ok("c-2", 2, b"second"), ok("c-3", 3, b"third")])
    world.acknowledge()
    world.lose()
    world.turn()
    assert ids(world.hello.held) == ["c-1", "c-4"]


def test_the_first_greeting_after_a_silence_names_the_outcomes_that_may_be_lost():
    """Later greetings of that session count for nothing, and an outcome that no greeting named is dropped."""
    world = worker()
    assign(world, assignment(1))
    started(world)
    finish(world, 1, 1)
    world.turn()
    assert ids(world.heard_one(m.Outcomes).outcomes) == ["c-1"]  # and nobody acknowledges it
    world.run(10.0)
    world.turn()
    assert ids(world.hello.held) == ["c-1"]


def test_acknowledged_outcomes_are_not_sent_again():
    world = worker()
    assign(world, assignment(1))
    started(world)
    finish(world, 1, 1)
    world.turn()
    world.acknowledge()
    world.lose()
    world.open()
    assert world.hello.held == []
    assert [type(x) for x in world.heard()] == [m.Outcomes], "that of before"


def test_work_goes_on_without_a_session():
    world = worker()
    assign(world, assignment(1), assignment(2))
    started(world)
    world.lose()
    world.take()
    finish(world, 1, 1)
    assert [ids(x.tasks) for x in world.take() if type(x) is RunTasks] == [["c-2"]]
    world.turn(1.0)
    world.heard()
    world.open()
    assert [x for x in world.heard() if type(x) is m.Running] == [m.Running(["c-2"])]


def test_a_queue_without_a_session_is_kept():
    world = worker()
    assign(world, assignment(1), assignment(2))
    started(world)
    world.lose()
    for _ in range(20):
        world.turn(0.05)
    assert list(world.core.tasks) == ["c-1", "c-2"]
    world.open()
    assert ids(world.hello.held) == ["c-1", "c-2"]


def test_a_task_assigned_again_while_it_is_here_is_joined_under_the_new_number():
    world = worker()
    assign(world, assignment(1))
    started(world)
    assign(world, assignment(1, attempt=3))
    assert world.take() == []
    finish(world, 1, 1)
    assert world.heard() == [m.Outcomes([ok("c-1", 3, b"r")])]


def test_a_coordinator_with_other_keys_is_complained_of_once_a_minute():
    world = worker()
    world.logs.clear()
    for _ in range(100):
        world.handle(HandshakeFailed("other keys", refused=False))
    assert world.logs == ["other keys"]
    world.handle(HandshakeFailed("no keys", refused=False))
    assert world.logs == ["other keys", "no keys"]
    world.now += COMPLAIN_EVERY
    world.handle(HandshakeFailed("no keys", refused=False))
    assert world.logs == ["other keys", "no keys", "no keys"]
