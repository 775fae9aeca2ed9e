"""What a worker puts into its slots, in which order, and how much of it."""

from __future__ import annotations

from support.cores import (
    DOUBLE,
    HALVE,
    KEY,
    OTHER_KEY,
    assign,
    assignment,
    finish,
    ids,
    ok,
    started,
    teach,
    worker,
)

from jobrunner.protocol.effects import (
    RunTasks,
    SlotReady,
    SlotTask,
)
from jobrunner.protocol.tuning import (
    SLOT_LIMIT,
)
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import SlotId
from jobrunner.protocol.wire.kinds import SINGLE_CALL, Chunk


def test_a_task_goes_to_an_idle_slot_with_its_functions():
    world = worker()
    call = assignment(1, initializer=OTHER_KEY, payload=b"x", name="mine")
    assign(world, call, functions=[DOUBLE, HALVE])
    task = SlotTask(1, "c-1", "mine", 1, KEY, b"x", SINGLE_CALL, OTHER_KEY)
    assert world.take() == [RunTasks(SlotId(1), [task], [DOUBLE, HALVE], [])]
    assert world.heard() == []
    finish(world, 1, 1)
    assert world.heard_one(m.Outcomes) == m.Outcomes([ok("c-1", payload=b"r")])
    assign(world, assignment(2), functions=[])
    assert world.take_one(RunTasks).functions == [], "it knows the function"


def test_idle_slots_come_first_and_unknown_calls_run_alone():
    world = worker(slots=2)
    assign(world, *[assignment(n) for n in range(3)])
    assert started(world) == {1: ["c-0"], 2: ["c-1"]}
    finish(world, 2, 1, duration=5.0)
    assert started(world) == {2: ["c-2"]}


def test_short_calls_go_into_a_slot_in_batches_evenly():
    world = worker(slots=2)
    teach(world, 0.00049)
    assign(world, *[assignment(n) for n in range(30)])
    first = started(world)
    assert {slot: len(tasks) for slot, tasks in first.items()} == {1: 10, 2: 10}
    finish(world, 1, 2, 3, 4, duration=0.00049)
    assert started(world) == {1: ["c-20", "c-21", "c-22"]}
    assert ids(world.heard_one(m.Outcomes).outcomes) == first[1][:3]


def test_the_emptiest_slot_comes_first():
    world = worker(slots=2)
    teach(world, 0.0005)
    assign(world, assignment(1), assignment(2))
    assert started(world) == {1: ["c-1"], 2: ["c-2"]}
    finish(world, 2, 1, duration=0.0005)
    assert started(world) == {}
    assign(world, assignment(3))
    assert started(world) == {2: ["c-3"]}


def test_a_batch_is_bounded_in_number():
    world = worker()
    teach(world, 0.0)
    assign(world, *[assignment(n) for n in range(1000)])
    (tasks,) = started(world).values()
    assert 100 < len(tasks) <= SLOT_LIMIT


def test_long_calls_run_one_at_a_time():
    world = worker()
    teach(world, 1.0)
    assign(world, assignment(1), assignment(2))
    assert started(world) == {1: ["c-1"]}


def test_a_chunk_counts_by_its_elements():
    world = worker()
    teach(world, 0.001)
    assign(world, assignment(1, kind=Chunk(0, 9)), assignment(2, kind=Chunk(9, 25)), assignment(3))
    assert started(world) == {1: ["c-1"]}, "16 ms are too much to wait behind another task"


def test_the_next_task_is_at_hand():
    world = worker()
    teach(world, 0.010)
    assign(world, *[assignment(n) for n in range(4)])
    assert started(world) == {1: ["c-0", "c-1"]}
    finish(world, 1, 2, duration=0.010)
    assert started(world) == {1: ["c-2"]}


def test_a_call_with_a_time_limit_is_alone_in_its_slot():
    world = worker()
    teach(world, 0.0001)
    assign(world, assignment(1, timeout=5.0), assignment(2))
    assert started(world) == {1: ["c-1"]}
    finish(world, 1, 2, duration=0.0001)
    assert started(world) == {1: ["c-2"]}
    assign(world, assignment(3, timeout=5.0))
    assert started(world) == {}


def test_tasks_wait_for_slots_that_are_still_starting():
    world = worker(slots=2, ready=False)
    assign(world, assignment(1), assignment(2))
    for _ in range(20):
        world.turn(0.05)
    assert [x for x in world.heard() if type(x) is not m.Heartbeat] == [], "no other worker would be faster"
    world.handle(SlotReady(SlotId(2), 52))
    assert started(world) == {2: ["c-1"]}


def test_functions_are_forgotten_by_the_slots_with_their_next_tasks():
    world = worker()
    teach(world, 1.0)
    teach(world, 1.0, key=OTHER_KEY)
    world.say(m.DropFunctions([KEY]))
    assert (world.take(), world.heard()) == ([], [])
    assert list(world.core.functions.definitions) == [OTHER_KEY]
    assign(world, assignment(1, function=OTHER_KEY), functions=[])
    assert world.take_one(RunTasks).drop_functions == [KEY]


def test_nothing_is_fed_while_too_many_outcomes_are_unacknowledged():
    world = worker(unacknowledged_bytes=100)
    assign(world, assignment(1), assignment(2))
    assert started(world) == {1: ["c-1"]}
    finish(world, 1, 1, payload=bytes(101))
    world.turn()
    assert started(world) == {}
    world.heard()
    world.acknowledge()
    assert started(world) == {1: ["c-2"]}


def test_a_function_is_told_how_often_its_call_has_begun():
    """Not how often it was assigned: what was given back has never begun."""
    world = worker()
    assign(world, assignment(1, attempt=5)._replace(unbegun=3))
    (run,) = world.take()
    assert run.tasks[0].attempt == 2
    world.lose()
    world.turn()
    assert world.hello.held == [m.Held("c-1", 5, True, unbegun=3)]
    world.open()
    finish(world, 1, 1)
    assert world.heard_one(m.Outcomes).outcomes[0].attempt == 5
