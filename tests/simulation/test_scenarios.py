"""Chosen situations, in virtual time: what is bounded, what is fair, what is quiet."""

from __future__ import annotations

import pytest

from jobrunner.protocol.effects import DrainRequested
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.kinds import SINGLE_CALL, Chunk
from jobrunner.testing.simulation import Call, Conditions, Incident, Scenario, World
from jobrunner.testing.simulation.simulated_calls import CRASH, SIGKILL
from jobrunner.testing.simulation.simulated_program import ENDLESS, function

WARM_UP = 1.0


def calm_world(seed: int = 1, **options) -> World:
    """A cluster whose slots are up."""
    world = World(seed, Scenario(**options))
    world.run_for(WARM_UP)
    return world


def submit(world, calls, *, client=0, number=0, kind=SINGLE_CALL, **options):
    """Submit these calls of one function; their ids."""
    node = world.clients[client]
    definition = function(number)
    specs = [
        m.TaskSpec(node.new_id(), m.CallBody(definition.key, call.payload(), kind, m.TaskOptions(**options)))
        for call in calls
    ]
    node.submit(specs, [definition])
    return [spec.id for spec in specs]


def outcome(world, task):
    return world.truth.expected[task].outcome


def seconds_until(world, tasks, within=600.0):
    """Virtual seconds until these tasks are done."""
    begin = world.now
    while any(outcome(world, task) is None for task in tasks):
        assert world.now < begin + within, f"not done: {[t for t in tasks if outcome(world, t) is None][:9]}"
        world.run_for(0.01)
    return world.now - begin


def finish(world):
    world.finish_work()
    world.finish_clients()


def short(count, seconds=0.001):
    return [Call((seconds,))] * count


LONG = Call((60.0,))


# --- late binding -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("same_function", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_a_long_task_in_front_delays_none_of_200_short_ones(same_function, known):
    world = calm_world()
    if known:
        seconds_until(world, submit(world, short(50)))
    submit(world, [LONG], number=0 if same_function else 1)
    tasks = submit(world, short(200))
    assert seconds_until(world, tasks) < 0.4  # 200 x 1 ms on three slots, and the recall of those behind it
    finish(world)


def test_several_long_tasks_among_short_ones_leave_the_short_ones_the_other_slots():
    world = calm_world(workers=[4])
    seconds_until(world, submit(world, short(50)))
    tasks = []
    for _ in range(3):
        tasks += submit(world, short(60))
        submit(world, [LONG])
    assert seconds_until(world, tasks) < 1.0  # 180 x 1 ms on the one slot that is left
    finish(world)


def test_what_a_worker_has_queued_behind_long_tasks_goes_to_an_idle_one():
    world = calm_world(workers=[1])
    seconds_until(world, submit(world, short(50)))
    submit(world, [LONG])
    tasks = submit(world, short(20))
    world.run_for(0.005)
    world.start_worker("late", 1)
    assert seconds_until(world, tasks) < 1.0


def test_tasks_behind_a_long_one_do_not_go_in_and_out_for_ever():
    world = calm_world(workers=[1])
    seconds_until(world, submit(world, short(50)))
    submit(world, [LONG])
    tasks = submit(world, short(20))
    world.run_for(1.0)
    before = world.steps
    world.run_for(10.0)
    assert world.steps - before < 300, "the cluster only waits"
    seconds_until(world, tasks)
    attempts = [outcome(world, task).attempt for task in tasks]
    assert max(attempts) <= 3
    finish(world)


def test_slots_that_start_slowly_do_not_make_tasks_wander():
    world = World(1, Scenario(workers=[2], slot_start=5.0))
    tasks = submit(world, short(10))
    seconds_until(world, tasks)
    assert max(outcome(world, task).attempt for task in tasks) <= 3
    assert world.network.kinds.get("TasksReturned", 0) <= 3
    finish(world)


# --- slots of those who have left -------------------------------------------------------------------------------------

NAP = Call((1.0,))


def second_owner(slots=4, **options):
    """A worker all of whose slots have run calls of a first client, which has left; and a second one."""
    world = calm_world(workers=[slots], clients=2, owners=2, **options)
    seconds_until(world, submit(world, [NAP] * slots))
    world.clients[0].leave()
    world.run_for(60.0)
    return world


@pytest.mark.parametrize(("slots", "calls"), [(4, 8), (8, 16)])
def test_the_slots_of_an_owner_who_has_left_serve_the_next_one(slots, calls):
    world = second_owner(slots)
    before = world.network.kinds.get("TasksReturned", 0)
    tasks = submit(world, [NAP] * calls, client=1, number=1)
    assert seconds_until(world, tasks) < 2.4  # two after the other, and the start of the slots
    assert [outcome(world, task).attempt for task in tasks] == [1] * calls
    assert world.network.kinds.get("TasksReturned", 0) == before
    finish(world)


@pytest.mark.parametrize("slot_start", [0.01, 0.3, 3.0])
def test_nothing_goes_to_and_fro_while_slots_change_hands(slot_start):
    world = second_owner(slot_start=slot_start)
    before = world.network.kinds.get("TasksReturned", 0)
    tasks = submit(world, [NAP] * 8, client=1, number=1)
    assert seconds_until(world, tasks) < 2.4 + 1.5 * slot_start
    assert world.network.kinds.get("TasksReturned", 0) == before
    finish(world)


def test_two_owners_of_short_calls_do_not_start_processes_for_each_other():
    world = calm_world(workers=[2], clients=2, owners=2)
    (worker,) = world.workers
    for number in (0, 1, 0):  # until each has a slot, and it is known how long the calls take
        seconds_until(world, submit(world, short(5), client=number, number=number))
    processes = worker.slots.started
    for _ in range(20):
        tasks = [task for n in (0, 1) for task in submit(world, short(5), client=n, number=n)]
        seconds_until(world, tasks)
    assert worker.slots.started == processes
    finish(world)


def test_owners_of_long_calls_share_all_slots():
    world = calm_world(workers=[4], clients=2, owners=2)
    first = submit(world, [NAP] * 8, client=0)
    world.run_for(0.5)
    second = submit(world, [NAP] * 8, client=1, number=1)
    assert seconds_until(world, first + second) < 5.0
    finish(world)


# --- fairness -----------------------------------------------------------------------------------------------------


def test_a_small_client_is_not_delayed_by_a_large_one():
    world = calm_world(clients=2)
    many = submit(world, short(1000, 0.01), client=0)
    world.run_for(0.5)
    few = submit(world, short(20, 0.01), client=1, number=1)
    assert seconds_until(world, few) < 0.5
    assert seconds_until(world, many) < 4.0  # 1000 x 10 ms on four slots is 2.5 s
    finish(world)


def test_a_higher_priority_goes_first():
    world = calm_world(workers=[2])
    many = submit(world, short(500, 0.01))
    world.run_for(0.2)
    urgent = submit(world, short(10, 0.01), priority=5)
    assert seconds_until(world, urgent) < 0.3
    seconds_until(world, many)
    finish(world)


def test_tasks_for_a_scarce_resource_are_not_starved_by_plain_ones():
    world = calm_world(workers=[2], resources={"gpu": 1.0})
    many = submit(world, short(500, 0.01))
    world.run_for(0.2)
    scarce = submit(world, short(5, 0.01), resources=(("gpu", 1.0),))
    assert seconds_until(world, scarce) < 0.5
    seconds_until(world, many)
    finish(world)


@pytest.mark.parametrize("urgent", [0, 100])
def test_what_needs_much_of_a_resource_is_not_starved_by_what_needs_little(urgent):
    """Whose calls come so that one unit or the other is always taken."""
    world = calm_world(workers=[4], resources={"gpu": 2.0})
    gpu = (("gpu", 1.0),)
    submit(world, [Call((0.25,))], resources=gpu)
    world.run_for(0.1)
    small = submit(world, [Call((0.25,))] * 60, resources=gpu)
    [large] = submit(world, [Call((0.1,))], resources=(("gpu", 2.0),), priority=urgent)
    assert seconds_until(world, [large]) < (2.0 if urgent else 9.0)
    assert any(outcome(world, task) is None for task in small) or not urgent
    seconds_until(world, small)
    finish(world)


def test_the_throughput_of_short_tasks_is_close_to_what_the_slots_can_do():
    world = calm_world(workers=[4, 4])
    seconds_until(world, submit(world, short(200)))
    tasks = submit(world, short(2000))
    assert seconds_until(world, tasks) < 0.4  # 2000 x 1 ms on eight slots is 0.25 s
    finish(world)


# --- few messages -------------------------------------------------------------------------------------------------


def test_short_tasks_travel_in_batches():
    world = calm_world(workers=[2])
    seconds_until(world, submit(world, short(200, 0.0001)))
    before = dict(world.network.kinds)
    seconds_until(world, submit(world, short(4000, 0.0001)))
    sent = {kind: count - before.get(kind, 0) for kind, count in world.network.kinds.items()}
    assert sent["Submit"] == 1
    assert sent["Assign"] < 400
    assert sent["Outcomes"] < 1600  # to the coordinator, and on
    assert "Running" not in sent or sent["Running"] == 0
    assert sum(sent.values()) < 2100
    finish(world)


def test_an_idle_cluster_only_shows_that_it_lives():
    world = calm_world(workers=[1, 1], clients=2)
    world.run_for(5.0)
    before, steps = world.network.sent, world.steps
    world.run_for(60.0)
    assert world.network.sent - before <= 60 * 4 * 2 * 1.3  # four peers, both ways, about once a second
    assert world.steps - steps < 60 * 40
    assert set(world.network.kinds) <= {
        "ClientHello", "WorkerHello", "Welcome", "Capacity", "Heartbeat", "ResubmissionComplete", "Query", "Reply"
    }  # fmt: skip


def test_a_waiting_queue_costs_nothing():
    world = calm_world(workers=[1])
    submit(world, [LONG])
    world.run_for(1.0)
    submit(world, short(3000), number=1)
    world.run_for(1.0)
    steps = world.steps
    world.run_for(20.0)
    assert world.steps - steps < 20 * 30


# --- crashes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_poison_endings_after_exactly_the_limit_and_hurts_nobody(limit):
    world = calm_world(crash_limit=limit)
    [poison] = submit(world, [Call((0.01,), CRASH)])
    others = submit(world, short(100, 0.01), number=1)
    seconds_until(world, [poison, *others])
    assert world.truth.runs_of(poison) == limit
    assert outcome(world, poison).status == m.CRASHED
    assert outcome(world, poison).detail["limit"] == limit
    assert len(outcome(world, poison).detail["attempts"]) == limit
    assert all(outcome(world, task).status == m.OK for task in others)
    finish(world)


def test_a_chunk_that_crashes_names_the_element_and_is_not_repeated():
    world = calm_world()
    [chunk] = submit(world, [Call((0.01,) * 10, CRASH, guilty=7)], kind=Chunk(3, 9))
    seconds_until(world, [chunk])
    assert outcome(world, chunk).status == m.CRASHED
    assert outcome(world, chunk).detail["element"] == 7
    assert world.truth.runs_of(chunk) == 1
    finish(world)


def test_a_task_that_crashes_less_often_than_the_limit_succeeds():
    world = calm_world()
    [task] = submit(world, [Call((0.01,), CRASH, bad_runs=2)])
    seconds_until(world, [task])
    assert outcome(world, task).status == m.OK
    finish(world)


def test_a_cut_off_worker_that_proves_alive_has_not_crashed():
    """However often the network fails, a long task on a lone worker goes on."""
    world = calm_world(workers=[1], peer_timeout=2.0, crash_limit=2)
    [task] = submit(world, [Call((60.0,))])
    worker = world.seats[0]
    for _ in range(4):
        world.run_for(3.0)
        world.network.cut(worker.source, up=True, down=True, how="drop")
        world.run_for(4.0)
        world.network.mend(worker.source)
    assert seconds_until(world, [task]) < 40.0
    assert outcome(world, task).status == m.OK
    assert world.truth.runs_of(task) == 1
    finish(world)


# --- cancelling ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stopped_by", [0, 1, 2])
def test_cancelling_a_running_endings_it_with_the_mildest_means(stopped_by):
    world = calm_world(workers=[1], stop_grace=2.0)
    [task] = submit(world, [Call((ENDLESS,), stopped_by=stopped_by)])
    world.run_for(1.0)
    world.clients[0].cancel([task], True)
    taken = seconds_until(world, [task])
    assert 2.0 * stopped_by <= taken < 2.0 * stopped_by + 0.3
    assert outcome(world, task).status == m.CANCELLED
    finish(world)


def test_cancelling_what_is_queued_behind_a_running_task_in_its_slot_spares_that():
    world = calm_world(workers=[1])
    seconds_until(world, submit(world, short(50)))
    [running] = submit(world, [Call((0.5,), stopped_by=SIGKILL)])
    behind = submit(world, short(3))
    world.run_for(0.01)
    world.clients[0].cancel(behind, True)
    assert seconds_until(world, behind) < 0.1
    assert {outcome(world, task).status for task in behind} == {m.CANCELLED}
    seconds_until(world, [running])
    assert outcome(world, running).status == m.OK
    finish(world)


def test_a_cancel_that_may_not_stop_a_running_task_is_refused_once_it_runs():
    world = calm_world(workers=[1])
    [task] = submit(world, [Call((1.0,))])
    world.run_for(0.2)
    world.clients[0].cancel([task], False)
    seconds_until(world, [task])
    assert outcome(world, task).status == m.OK
    assert world.truth.expected[task].refused == 1
    finish(world)


def test_a_cancel_outlives_its_workers_session():
    world = calm_world(workers=[1], peer_timeout=2.0)
    [task] = submit(world, [Call((ENDLESS,))])
    world.run_for(1.0)
    source = world.seats[0].source
    world.network.cut(source, up=False, down=True, how="drop")
    world.clients[0].cancel([task], True)
    world.run_for(3.0)  # the worker takes the coordinator for lost, and greets it anew
    world.network.mend(source)
    assert seconds_until(world, [task]) < 10.0
    assert outcome(world, task).status == m.CANCELLED
    finish(world)


# --- leaving and coming back --------------------------------------------------------------------------------------


def test_a_drained_worker_finishes_what_runs_and_hands_back_the_rest():
    world = calm_world(workers=[2, 2], drain_timeout=30.0)
    tasks = submit(world, [Call((2.0,))] * 12)
    world.run_for(1.0)
    world.at(world.now, lambda: world.seats[0].post(DrainRequested()))
    assert seconds_until(world, tasks) < 12.0
    assert {outcome(world, task).status for task in tasks} == {m.OK}
    assert all(world.truth.runs_of(task) == 1 for task in tasks)
    assert world.seats[0].finished or world.workers[0].finished
    finish(world)


def test_a_worker_that_is_told_to_drain_without_a_session_delivers_its_outcomes_first():
    world = calm_world(workers=[1, 1], peer_timeout=2.0, drain_timeout=30.0)
    tasks = submit(world, [Call((4.0,))] * 2)
    world.run_for(1.0)
    world.coordinator.crash()
    worker = world.seats[0]
    world.run_for(0.5)
    worker.post(DrainRequested())
    world.run_for(5.0)
    assert worker.alive, "its task is done, and nobody knows"
    world.revive()
    seconds_until(world, tasks)
    assert all(world.truth.runs_of(task) == 1 for task in tasks)
    world.run_for(5.0)
    assert worker.finished


def test_a_restarted_coordinator_finds_everything_again_and_repeats_nothing():
    world = calm_world(workers=[2, 2])
    tasks = submit(world, [Call((3.0,))] * 10)
    world.run_for(1.0)
    world.coordinator.crash()
    world.run_for(1.0)
    world.revive()
    seconds_until(world, tasks)
    assert all(world.truth.runs_of(task) == 1 for task in tasks)
    finish(world)


def test_fifty_workers_that_come_back_at_once_do_not_storm():
    world = calm_world(workers=[1] * 50, peer_timeout=4.0)
    world.run_for(2.0)
    world.coordinator.crash()
    world.run_for(30.0)
    before = world.network.kinds["WorkerHello"]
    world.revive()
    world.run_for(10.0)
    assert len(world.coordinator.core.scheduler.roster.workers) == 50
    assert world.network.kinds["WorkerHello"] - before <= 110
    assert world.network.kinds.get("Reset", 0) <= 60


def test_a_client_that_comes_back_within_its_grace_loses_nothing():
    world = calm_world(workers=[2], peer_timeout=1.0, client_grace=20.0)
    tasks = submit(world, [Call((0.5,))] * 20)
    client = world.clients[0]
    world.run_for(0.7)
    world.network.cut(client.source, up=True, down=True, how="drop")
    world.run_for(12.0)
    world.network.mend(client.source)
    seconds_until(world, tasks)
    assert all(world.truth.runs_of(task) == 1 for task in tasks)
    finish(world)


def test_a_client_that_was_given_up_and_comes_back_gets_everything_after_all():
    world = calm_world(workers=[1], peer_timeout=1.0, client_grace=2.0, stop_grace=4.0)
    tasks = submit(world, [Call((20.0,), stopped_by=SIGKILL), Call((1.0,))])
    client = world.clients[0]
    world.run_for(1.0)
    client.freeze()
    world.run_for(1.0 * 6 + 2.0 + 2.0)  # its silence, the grace, and into the stopping of its task
    assert not world.coordinator.core.scheduler.roster.clients
    client.thaw()
    seconds_until(world, tasks)
    assert {outcome(world, task).status for task in tasks} == {m.OK}
    finish(world)


def test_a_dead_clients_tasks_vanish_after_its_grace():
    world = calm_world(workers=[2], peer_timeout=1.0, client_grace=5.0)
    submit(world, [Call((ENDLESS,))] * 10)
    world.run_for(1.0)
    world.clients[0].crash()
    world.run_for(4.0)
    assert world.coordinator.core.scheduler.tasks
    world.run_for(20.0)
    assert not list(world.truth.leftovers())


# --- accounts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("remembered", [1, 256])
def test_hundreds_of_functions_come_and_go(remembered):
    world = World(1, Scenario(workers=[2, 2], remembered=remembered))
    tasks = []
    for number in range(600):
        tasks += submit(world, short(1), number=number)
        world.run_for(0.002)
    for number in range(0, 600, 7):
        tasks += submit(world, short(1), number=number)
    seconds_until(world, tasks)
    finish(world)


@pytest.mark.parametrize("window", [1, 3])
def test_a_small_window_only_slows_a_client_down(window):
    world = calm_world(workers=[2], window_tasks=window)
    tasks = submit(world, short(100))
    world.run_for(0.0005)
    while any(outcome(world, task) is None for task in tasks):
        assert len(world.coordinator.core.scheduler.tasks) <= window
        world.run_for(0.005)
    finish(world)


def test_a_window_of_bytes_lets_a_larger_task_through_alone():
    world = calm_world(workers=[1], window_bytes=100)
    tasks = submit(world, [Call((0.001,), big=True)] * 5)
    assert seconds_until(world, tasks) < 2.0
    finish(world)


def test_ten_thousand_cancelled_tasks_leave_nothing():
    world = calm_world(workers=[1])
    [first] = submit(world, [Call((2.0,))])
    tasks = submit(world, short(10_000), number=1)
    world.run_for(0.5)
    world.clients[0].cancel(tasks, False)
    world.run_for(1.0)
    assert all(outcome(world, task) is not None for task in tasks)
    seconds_until(world, [first])
    finish(world)


def test_a_network_that_loses_every_fifth_message_is_survived():
    world = World(
        7,
        Scenario(
            profile="lossy",
            workers=[2, 2],
            conditions=Conditions(drop=0.2, duplicate=0.2, reorder=0.2),
            incidents=[Incident(0.5, "kill slot", 0.0)],
        ),
    )
    tasks = submit(world, short(200))
    world.run_for(30.0)
    world.heal()
    seconds_until(world, tasks)
    finish(world)
