"""What the simulation has found about bundles, each as the shortest history that shows it."""

from __future__ import annotations

from jobrunner.protocol.bundles import pack_calls
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import call_id
from jobrunner.protocol.wire.kinds import Bundle
from jobrunner.testing.simulation import Call, Scenario, World
from jobrunner.testing.simulation.laws import names_of
from jobrunner.testing.simulation.simulated_calls import flat
from jobrunner.testing.simulation.simulated_program import ENDLESS, function

SHORT = Call((0.0001,))
LONG = Call((1.0,))


def make(**options) -> World:
    world = World(1, Scenario(**options))
    world.run_for(1.0)
    return world


def bundle(world: World, *calls: Call) -> list[str]:
    """Submit a bundle; the ids of its calls."""
    node = world.clients[0]
    payload = pack_calls([flat(call.payload()) for call in calls])
    spec = m.TaskSpec(node.new_id(), m.CallBody(function(0).key, payload, Bundle(len(calls))))
    node.submit([spec], [function(0)])
    return [call_id(spec.id, index) for index in range(len(calls))]


def task(world: World, call: Call, *depends_on: str, priority: int = 0) -> str:
    node = world.clients[0]
    options = m.TaskOptions(priority=priority)
    body = m.CallBody(function(0).key, call.payload(), options=options)
    spec = m.TaskSpec(node.new_id(), body, tuple(depends_on))
    node.submit([spec], [function(0)])
    return spec.id


def finish(world: World) -> None:
    world.finish_work()
    world.finish_clients()


def status(world: World, call: str) -> int:
    return world.truth.expected[call].outcome.status


def test_a_bundle_is_given_up_and_its_calls_run_once_each():
    world = make(workers=[1, 1, 1])
    calls = bundle(world, SHORT, LONG, SHORT, SHORT)
    finish(world)
    assert [world.truth.runs_of(call) for call in calls] == [1, 1, 1, 1]
    assert [status(world, call) for call in calls] == [m.OK] * 4


def test_a_call_that_kills_costs_the_others_one_repetition():
    world = make(workers=[1], crash_limit=2)
    calls = bundle(world, SHORT, Call((0.0001,), "crash"), SHORT)
    finish(world)
    assert [world.truth.runs_of(call) for call in calls] == [2, 3, 1]
    assert [status(world, call) for call in calls] == [m.OK, m.CRASHED, m.OK]


def test_tasks_that_need_a_call_do_not_keep_it_from_being_sent():
    """They filled the window, and what they waited for had to wait for them."""
    world = make(workers=[1], window_tasks=2)
    calls = bundle(world, LONG, SHORT, SHORT)
    waiting = [task(world, SHORT, calls[2]) for _ in range(3)]
    finish(world)
    assert [status(world, call) for call in (*calls, *waiting)] == [m.OK] * 6


def test_a_task_is_not_sent_before_the_bundle_whose_call_it_needs():
    """The window had room for one of the two."""
    world = make(workers=[1], window_tasks=1)
    first = task(world, LONG)
    calls = bundle(world, SHORT, SHORT)
    waiting = task(world, SHORT, calls[1], priority=1)
    finish(world)
    assert [status(world, call) for call in (first, *calls, waiting)] == [m.OK] * 4


def test_the_call_that_runs_is_not_told_to_be_cancelled_before_it_has_stopped():
    """It waited to be named, and what waits at the client is cancelled there."""
    world = make(workers=[1], window_tasks=1)
    calls = bundle(world, Call((ENDLESS,)), SHORT)
    node = world.clients[0]
    task(world, SHORT)
    for _ in range(2000):
        if calls[0] in node.core.pending:
            break
        world.run_for(0.0001)
    node.cancel([calls[0]], True)
    finish(world)
    assert status(world, calls[0]) == m.CANCELLED
    assert status(world, calls[1]) == m.OK


def test_who_needs_a_call_that_was_cancelled_with_its_bundle_is_told():
    """Nobody but the client knew, and it was unknown to the coordinator after a while."""
    for whole in (False, True):
        world = make(workers=[1])
        task(world, LONG)
        calls = bundle(world, SHORT, SHORT)
        waiting = task(world, SHORT, calls[1])
        world.run_for(0.1)
        node = world.clients[0]
        node.cancel([names_of(calls[1])[1] if whole else calls[1]], False)
        world.run_for(1.5)
        assert status(world, waiting) == m.UNMET
        assert world.truth.expected[waiting].outcome.detail["need_status"] == m.CANCELLED
        finish(world)


def test_a_call_is_needed_for_as_long_as_its_client_has_not_heard_of_its_bundles_end():
    """The search for it was stopped after ten seconds, in which no message had reached the client."""
    world = make(workers=[1], peer_timeout=60.0, client_grace=60.0, clients=2)
    node = world.clients[0]
    calls = bundle(world, SHORT, Call((0.0001,), "crash", 0, 1), SHORT)
    world.clients[1].watch(calls[2])
    world.network.cut(node.source, up=False, down=True, how="drop")
    world.run_for(25.0)
    assert world.clients[1].watching
    world.network.mend(node.source)
    finish(world)
    assert status(world, calls[2]) == m.OK


def test_the_call_that_runs_is_kept_while_what_names_it_is_on_its_way():
    """What acknowledged the split came through; what named the call did not for longer than the grace."""
    world = make(workers=[1, 1], client_grace=0.1)
    node = world.clients[0]
    calls = bundle(world, Call((8.0,)), SHORT)
    peer = world.coordinator.core.scheduler.roster.clients[node.id]
    while not peer.awaiting_resubmission:
        world.step()
    world.network.cut(node.source, up=True, down=False, how="drop")
    while calls[0] not in node.core.pending:
        world.step()
    world.run_for(0.001)
    world.network.mend(node.source)
    node.ask("status")
    finish(world)
    assert world.truth.runs_of(calls[0]) == 1


def test_a_coordinator_that_is_started_again_finds_the_call_that_runs():
    world = make(workers=[1], peer_timeout=1.0)
    calls = bundle(world, Call((8.0,)), SHORT)
    world.run_for(1.0)
    world.coordinator.crash()
    world.run_for(0.5)
    world.revive()
    finish(world)
    assert [world.truth.runs_of(call) for call in calls] == [1, 1]
