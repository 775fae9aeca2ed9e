"""Well-formed messages that no jobrunner would send: nothing raises, and nobody else is disturbed."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from support import cores
from support.cores import DOUBLE, KEY, assignment, ended, ok, spec

from jobrunner.config import MAX_SLOTS
from jobrunner.protocol.coordinator.attempts import LATEST_REATTACHED
from jobrunner.protocol.effects import ConnectionLost
from jobrunner.protocol.link import Link
from jobrunner.protocol.session import RETRY_LIMIT
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.codec import NUMBERS
from jobrunner.protocol.wire.ids import ClientId, WorkerId

FAR = 2**31 - 1
"""An attempt of the future."""

ANY: dict[type, m.Message] = {
    type(message): message
    for message in (
        m.ClientHello(ClientId("stranger"), "1", "3", "host", 1, 10.0),
        m.WorkerHello(
            WorkerId("stranger"), "1", "3", "w", "host", 1, 10.0, 1, {}, [m.Held("c-1", FAR, True)]
        ),
        m.Welcome("other", "1", 1, 1, 1, "other"),
        m.Submit([spec(1, client="other"), spec(1)._replace(depends_on=("c-1", "x-9"))], [DOUBLE]),
        m.ResubmissionComplete(),
        m.Cancel([m.CancelRequest("c-1", True), m.CancelRequest("nobody-7", True)]),
        m.CancelRefused(["c-1", "nobody-7"]),
        m.Divide(["c-1", "nobody-7"]),
        m.Query(1, "cancel", "nobody-7"),
        m.Reply(77, None, "an answer that nobody waits for"),
        m.Assign([assignment(1, attempt=FAR)], [DOUBLE]),
        m.DropFunctions([KEY, b"never sent"]),
        m.Outcomes([ok("c-1", FAR), ok("nobody-7"), ended("c-1", m.UNMET)]),
        m.Running(["c-1", "nobody-7"]),
        m.TasksReturned([("c-1", FAR), ("nobody-7", 1)]),
        m.Capacity(2**53),
        m.Stuck("nothing is left"),
        m.Waits([m.Wait("c-1", ("c-1", "nobody-7")), m.Wait("nobody-7", ("c-1",), False)]),
        m.Output([m.OutputChunk("nobody-7", "f", m.STDERR, "text")]),
        m.Drain(),
        m.Goodbye("farewell"),
        m.Heartbeat(),
        m.Reset(),
        m.Refused("go away"),
        m.Join("key", "eve", "operator"),
        m.Joined("eve"),
        m.Watch(["nobody-7"]),
        m.Accepted(["nobody-7"]),
        m.ResultRequest(["c-1", "nobody-7"]),
        m.ResultReply([ok("c-1"), ok("nobody-7")], ["c-1", "nobody-8"]),
    )
}


def test_there_is_one_of_each_kind_here():
    assert ANY.keys() == NUMBERS.keys()


@pytest.fixture
def world() -> cores.Coordinator:
    return cores.Coordinator()


def submitted(world: cores.Coordinator) -> tuple[cores.Remote, cores.Remote]:
    """A client with a task that a worker has."""
    client, worker = world.client(), world.worker()
    client.say(m.Submit([spec(1)], [DOUBLE]))
    assert worker.heard_one(m.Assign).tasks[0].id == "c-1"
    return client, worker


@pytest.mark.parametrize("kind", ANY, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("numbered", [True, False], ids=["numbered", "outside the stream"])
@pytest.mark.parametrize("role", ["client", "worker"])
def test_the_coordinator_takes_anything_from_anyone(world, kind, numbered, role):
    client, worker = submitted(world)
    stranger = world.client("x") if role == "client" else world.worker("x")
    send = stranger.link.send if numbered else stranger.link.outside
    world.give(stranger.source, send(ANY[kind], world.now))
    for _ in range(3):
        world.turn(0.3)
    if kind is m.Cancel and role == "client":
        return  # whoever is in the cluster may cancel what he can name
    worker.say(m.Outcomes([ok("c-1")]))
    outcomes = [o for message in client.heard_of(m.Outcomes) for o in message.outcomes]
    assert [(o.id, o.status) for o in outcomes] == [("c-1", m.OK)]


@pytest.mark.parametrize("kind", ANY, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("numbered", [True, False], ids=["numbered", "outside the stream"])
@pytest.mark.parametrize("role", ["client", "worker"])
def test_clients_and_workers_take_anything_from_their_coordinator(kind, numbered, role):
    world = cores.client() if role == "client" else cores.worker()
    send = world.link.send if numbered else world.link.outside
    world.give(send(ANY[kind], world.now))
    for _ in range(3):
        world.turn(0.3)


# --- to the coordinator -------------------------------------------------------------------------------------------


def greeting_on(world: cores.Coordinator, source: bytes, hello: Any, session: str) -> Link:
    """Another greeting on a connection that has a session already."""
    link = Link(session, world.now, 0.0)
    world.give(source, link.outside(hello, world.now))
    world.turn()
    return link


def test_a_worker_that_greets_under_another_name_loses_what_it_had(world):
    client, worker = submitted(world)
    other = dataclasses.replace(worker.hello, worker="another id", name="another")
    greeting_on(world, worker.source, other, "second")
    assert [w["name"] for w in world.query(client, "workers")] == ["another"]
    assert world.core.scheduler.tasks["c-1"].attempt == 2, "it was given to the new one"
    assert world.core.offences.count == 1


def test_a_client_that_greets_under_another_name_has_the_usual_grace(world):
    client, _worker = submitted(world)
    other = dataclasses.replace(client.hello, client="another")
    greeting_on(world, client.source, other, "second")
    assert "c-1" in world.core.scheduler.tasks
    world.run(world.core.settings.client_grace - 1.0)
    assert "c" in world.core.scheduler.roster.clients
    world.run(2.0)
    assert (
        world.core.scheduler.roster.clients.keys() == {"another"} or not world.core.scheduler.roster.clients
    )


def test_a_client_with_nothing_to_do_that_greets_under_other_names_leaves_no_traces(world):
    client = world.client()
    for number in range(50):
        greeting_on(
            world, client.source, dataclasses.replace(client.hello, client=f"c{number}"), f"s{number}"
        )
    world.turn(1.0)
    assert list(world.core.scheduler.roster.clients) == ["c49"]


def test_a_client_that_becomes_a_worker(world):
    client, worker = submitted(world)
    hello = dataclasses.replace(worker.hello, worker="another id", name="another")
    greeting_on(world, client.source, hello, "second")
    world.run(world.core.settings.client_grace + 1.0, worker)
    assert "c" not in world.core.scheduler.roster.clients


def test_what_follows_a_goodbye_is_not_heard(world):
    """It would give tasks to a worker that is gone, and take tasks of a client that is."""
    client, worker = submitted(world)
    for remote, last in ((worker, m.Capacity(5)), (client, m.Submit([spec(2)], [DOUBLE]))):
        goodbye = remote.link.send(m.Goodbye(), world.now)
        world.give(remote.source, remote.link.send(last, world.now))  # early
        world.give(remote.source, goodbye)
        world.turn()
    assert not world.core.scheduler.roster.workers_with_room
    assert "c-2" not in world.core.scheduler.tasks


def test_a_client_cannot_submit_under_the_name_of_another(world):
    """The other's task would be taken over, and its outcome go to the wrong one."""
    client, worker = submitted(world)
    stranger = world.client("x")
    stranger.say(m.Submit([spec(1, client="x"), spec(1)], [DOUBLE]))
    assert stranger.heard() == [m.Reset()]
    assert "task c-1 is not its own" in world.logs[-1]
    worker.say(m.Outcomes([ok("c-1")]))
    assert [o.id for message in client.heard_of(m.Outcomes) for o in message.outcomes] == ["c-1"]


def test_a_worker_cannot_say_what_only_a_coordinator_knows(world):
    for status in (m.LOST, m.UNMET, m.REFUSED):
        client, worker = submitted(world)
        worker.say(m.Outcomes([ok("nobody-1"), ended("c-1", status)]))
        assert worker.heard() == [m.Reset()]
        assert client.heard_of(m.Outcomes) == []
        world = cores.Coordinator()


def test_slots_without_end_can_still_be_told(world):
    client = world.client()
    for n in range(4):
        world.worker(f"w{n}", slots=MAX_SLOTS).say(m.Capacity(2**53))
    client.heard()
    assert world.query(client, "status")["slots"] == 4 * MAX_SLOTS


def test_a_worker_that_drains_gets_nothing_whatever_it_says_of_its_slots(world):
    client, worker = world.client(), world.worker()
    worker.say(m.Drain())
    worker.say(m.Capacity(3))
    client.say(m.Submit([spec(1)], [DOUBLE]))
    assert worker.heard() == []


def test_an_attempt_of_the_far_future_is_not_reattached(world):
    """The next one would have a number that fits into no message."""
    client = world.client()
    client.say(m.Submit([spec(1)], [DOUBLE]))
    worker = world.worker(held=[m.Held("c-1", LATEST_REATTACHED + 1, True), m.Held("d-1", FAR, True)])
    (assigned,) = worker.heard_of(m.Assign)
    assert [(task.id, task.attempt) for task in assigned.tasks] == [("c-1", 1)]


def test_a_task_may_need_itself_or_a_circle(world):
    client, worker = world.client(), world.worker()
    circle = [
        spec(1)._replace(depends_on=("c-1",)),
        spec(2)._replace(depends_on=("c-3",)),
        spec(3)._replace(depends_on=("c-2",)),
    ]
    client.say(m.Submit(circle, [DOUBLE]))
    assert worker.heard() == []
    client.say(m.Cancel([m.CancelRequest(f"c-{n}", True) for n in (1, 2, 3)]))
    outcomes = [o for message in client.heard_of(m.Outcomes) for o in message.outcomes]
    assert {o.id for o in outcomes} == {"c-1", "c-2", "c-3"}
    assert not world.core.scheduler.tasks


# --- to a client or a worker --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [cores.client, cores.worker], ids=["client", "worker"])
def test_a_numbered_welcome_opens_nothing(make):
    """It would be held back as one that came early, in a session that counts as open."""
    world = make()
    world.lose()
    world.turn()
    world.give(m.Envelope(world.link.session, 5, 0, m.Welcome("coo", "1.0", 4, 10, 1 << 20, "name")))
    assert not world.core.session.open
    world.open()
    assert world.core.session.open


@pytest.mark.parametrize("missing", ["function", "initializer"])
def test_a_worker_gives_up_a_session_in_which_a_function_is_missing(missing):
    world = cores.worker()
    cores.assign(world, assignment(1, **{missing: b"never sent"}), assignment(2))
    assert not world.core.session.open
    assert world.core.tasks == {}
    assert world.take() == [ConnectionLost("it named a function that it had not sent")]
    assert world.heard() == [], "it does not greet at once, else the two would do nothing but that"
    world.turn(1.25 * RETRY_LIMIT / 2)
    assert type(world.heard_one(m.WorkerHello)) is m.WorkerHello
    world.open()
    cores.assign(world, assignment(1))
    assert cores.started(world) == {1: ["c-1"]}
