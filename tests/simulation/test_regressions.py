"""What the simulation has found, each as the shortest history that shows it."""

from __future__ import annotations

from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.codec import encode
from jobrunner.testing.simulation import Call, Scenario, World
from jobrunner.testing.simulation.simulated_program import function


def make(**options) -> World:
    world = World(1, Scenario(**options))
    world.run_for(1.0)
    return world


def submit(world: World, client: int, *calls: Call, number: int = 0) -> list[str]:
    node = world.clients[client]
    specs = [m.TaskSpec(node.new_id(), m.CallBody(function(number).key, call.payload())) for call in calls]
    node.submit(specs, [function(number)])
    return [spec.id for spec in specs]


def finish(world: World) -> None:
    world.finish_work()
    world.finish_clients()


def test_a_function_that_goes_and_comes_back_within_a_turn_is_known_to_the_worker():
    """Its DropFunctions left after the Assign that brought it again."""
    world = make(clients=2, workers=[1])
    submit(world, 0, Call((0.01,)))
    world.run_for(1.0)
    world.clients[0].leave()
    submit(world, 1, Call((0.01,)))
    world.finish_work()
    world.finish_clients()


def test_functions_of_an_earlier_session_do_not_stay_with_the_worker():
    world = make(workers=[1], peer_timeout=1.0)
    for number in range(3):
        submit(world, 0, Call((0.01,)), number=number)
    world.run_for(1.0)
    world.network.cut(world.seats[0].source, up=True, down=True, how="drop")
    world.run_for(3.0)
    world.network.mend(world.seats[0].source)
    world.run_for(10.0)
    assert not world.seats[0].core.functions.definitions
    finish(world)


def test_a_greeting_that_arrives_at_the_next_coordinator_does_not_open_a_second_stream():
    """It took the numbers of the living session for its own: the peer's next messages waited for ever."""
    world = make(workers=[1])
    client = world.clients[0]
    nonce = client.core.session.link.session.partition("/")[0]
    hello = m.ClientHello(client.id, "1", "3", "host", 1, 10.0)
    frames = [bytes(frame) for frame in encode(m.Envelope(nonce, 0, 0, hello))]
    submit(world, 0, Call((0.01,)))
    world.run_for(1.0)
    world.coordinator.crash()
    world.revive()
    world.network._arrive_up(client.source, frames)
    submit(world, 0, Call((0.01,)))
    world.run_for(20.0)
    assert not world.truth.unresolved()
    finish(world)


def test_a_task_that_is_done_before_it_is_named_again_does_not_run_again():
    """Its outcome had been acknowledged and forgotten when the Submit of the new session arrived."""
    world = make(workers=[1])
    client = world.clients[0]
    [task] = submit(world, 0, Call((3.0,)))
    world.run_for(1.0)
    client.core.session.begin(world.now)
    client.thaw()
    old = client.core.session.link.session
    while not world.coordinator.core.sessions.peers[client.source].link.session.startswith(old):
        world.run_for(0.0001)
    world.network.cut(client.source, up=True, down=False, how="drop")
    world.run_for(0.01)
    assert client.core.session.open
    world.network.mend(client.source)
    finish(world)
    assert world.truth.runs_of(task) == 1


def test_the_outcome_of_a_worker_that_has_died_since_does_not_make_it_a_place_for_tasks():
    """A restarted coordinator had its outcome, but nobody to give it to; then the worker died; then the client came."""
    world = make(workers=[1], peer_timeout=1.0, client_grace=60.0)
    client, worker = world.clients[0], world.seats[0]
    [task] = submit(world, 0, Call((2.0,)))
    world.run_for(1.0)
    world.network.cut(client.source, up=True, down=True, how="drop")
    world.coordinator.crash()
    world.run_for(3.0)
    world.revive()
    world.run_for(10.0)
    assert world.coordinator.core.scheduler.orphans[task].outcome is not None
    worker.crash()
    world.run_for(5.0)
    world.network.mend(client.source)
    world.run_for(10.0)
    assert world.truth.expected[task].outcome is not None
    assert worker.core.settings.id not in {
        peer.id for peer in world.coordinator.core.scheduler.roster.workers_with_room
    }
    submit(world, 0, Call((0.1,)))
    world.run_for(1.0)
    world.revive()
    finish(world)
    assert world.truth.runs_of(task) == 1


def test_an_assignment_that_was_lost_is_not_taken_for_the_attempt_before_it():
    """The worker held attempt 1, the coordinator waited for attempt 2: nobody would have run it."""
    world = make(workers=[1])
    worker = world.seats[0]
    [task] = submit(world, 0, Call((5.0,)))
    world.run_for(1.0)
    scheduler = world.coordinator.core.scheduler
    peer = scheduler.roster.workers[worker.core.settings.id]
    record = scheduler.tasks[task]
    scheduler.attempts._release(record)
    scheduler.attempts.again(record, world.now)
    scheduler.attempts.assign(record, peer, world.now)
    peer.assigned.clear()
    worker.core.session.begin(world.now)
    worker.thaw()
    finish(world)


def test_a_restarted_coordinator_waits_for_the_workers_before_it_gives_their_work_away():
    world = make(workers=[1, 1], peer_timeout=1.0)
    [task] = submit(world, 0, Call((40.0,)))
    world.run_for(20.0)
    [running] = [node for node in world.seats if task in node.core.tasks]
    world.coordinator.crash()
    world.network.cut(running.source, up=True, down=True, how="drop")
    world.revive()
    world.run_for(1.5)
    assert world.clients[0].core.session.open
    assert world.coordinator.core.scheduler.tasks[task].worker is None
    world.network.mend(running.source)
    finish(world)
    assert world.truth.runs_of(task) == 1


def test_a_task_whose_outcome_was_forgotten_with_its_client_runs_again_as_a_new_one():
    world = make(workers=[1], peer_timeout=1.0, client_grace=2.0, result_cache=0)
    client = world.clients[0]
    [task] = submit(world, 0, Call((0.5,)))
    world.run_for(0.3)
    world.network.cut(client.source, up=False, down=True, how="drop")
    world.run_for(1.0)
    assert world.truth.runs_of(task) == 1
    world.network.cut(client.source, up=True, down=True, how="drop")
    world.run_for(15.0)
    assert not world.coordinator.core.scheduler.roster.clients
    world.network.mend(client.source)
    finish(world)
    assert world.truth.runs_of(task) == 2
