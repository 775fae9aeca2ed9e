from __future__ import annotations

import pytest
from support import cores
from support.cores import DOUBLE, named, spec

from jobrunner.protocol.coordinator import rejections
from jobrunner.protocol.coordinator.rejections import (
    MAX_REASON_LENGTH,
    QUIET,
    REMEMBERED,
    TOLERATED,
    Rejections,
)
from jobrunner.protocol.effects import Disconnect, JoinAnswered, JoinRequested, Rejected, Revoked, Send
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.principals import CLIENT, INVITED, WORKER, Principal


def test_the_first_is_told_at_once_and_the_rest_of_the_minute_together():
    rejections = Rejections()
    assert rejections.note(b"x", "peer x", "too long", 0.0) == ["rejected a message from peer x: too long"]
    for n in range(1, 1000):
        assert rejections.note(b"x", "peer x", f"reason {n}", n * QUIET / 1000) == []
    assert rejections.next_deadline() == QUIET
    assert rejections.due(QUIET - 0.1) == []
    assert rejections.due(QUIET) == [
        "rejected 999 more messages from peer x within 60 s; the last: reason 999"
    ]
    assert rejections.count == 1000
    assert rejections.due(QUIET) == []


def test_a_flood_that_goes_on_is_told_once_a_minute():
    rejections = Rejections()
    lines = [line for n in range(10_000) for line in rejections.note(b"x", "peer x", "bad", n * 0.06)]
    assert len(lines) == 10
    assert lines[1] == "rejected 999 more messages from peer x within 60 s; the last: bad"


def test_who_has_been_quiet_for_a_minute_is_forgotten():
    rejections = Rejections()
    rejections.note(b"x", "peer x", "bad", 0.0)
    assert len(rejections) == 1
    assert rejections.due(QUIET) == []
    assert len(rejections) == 0
    assert rejections.next_deadline() is None
    assert rejections.note(b"x", "peer x", "bad", QUIET + 1) == ["rejected a message from peer x: bad"]


def test_each_peer_has_a_minute_of_its_own():
    rejections = Rejections()
    assert rejections.note(b"x", "peer x", "bad", 0.0)
    assert rejections.note(b"y", "peer y", "bad", 30.0)
    assert not rejections.note(b"x", "peer x", "bad", 31.0)
    assert not rejections.note(b"y", "peer y", "bad", 31.0)
    assert rejections.next_deadline() == 60.0
    assert rejections.due(61.0) == ["rejected 1 more messages from peer x within 60 s; the last: bad"]
    assert rejections.next_deadline() == 90.0


def test_fresh_connections_without_end_are_one_peer():
    rejections = Rejections()
    lines = []
    for n in range(20_000):
        lines += rejections.note(b"%d" % n, f"connection {n}", "bad", n * 0.0025)
        assert len(rejections) <= REMEMBERED + 1
    assert len(lines) == REMEMBERED + 1
    assert lines[-1] == "rejected a message from other connections: bad"
    assert rejections.count == 20_000
    (told,) = rejections.due(QUIET + 1.0)
    assert told.startswith(f"rejected {20_000 - REMEMBERED - 1} more messages from other connections")


def test_a_reason_is_one_line_of_bounded_length():
    rejections = Rejections()
    (line,) = rejections.note(b"x", "peer x", "a\nb\x1b[31m" + "c" * 10_000, 0.0)
    assert line.startswith("rejected a message from peer x: a?b?[31mccc")
    assert len(line) < MAX_REASON_LENGTH + 50
    assert line.isprintable()


# --- in the coordinator -------------------------------------------------------------------------------------------


@pytest.fixture
def world() -> cores.Coordinator:
    return cores.Coordinator()


def rejected(world: cores.Coordinator) -> list[str]:
    """The lines about it since the last call."""
    lines = [line for line in world.logs if line.startswith("rejected")]
    world.logs.clear()
    return lines


def test_garbage_is_logged_once_a_minute_and_counted(world):
    for _ in range(500):
        world.reject(b"\x00ab", "malformed message")
    assert rejected(world) == ["rejected a message from connection 006162: malformed message"]
    assert world.core.offences.count == 500
    deadline = world.core.next_deadline()
    assert deadline == world.now + QUIET
    world.turn(QUIET)
    assert rejected(world) == [
        "rejected 499 more messages from connection 006162 within 60 s; the last: malformed message"
    ]
    world.turn(QUIET)
    assert rejected(world) == []
    assert world.core.next_deadline() is None, "nothing is left of it"


def test_peers_are_named(world):
    client, worker = world.client(), world.worker()
    world.reject(client.source, "bad")
    world.reject(worker.source, "bad")
    assert rejected(world) == [
        "rejected a message from client c on host: bad",
        "rejected a message from worker w on host: bad",
    ]


def test_what_a_peer_may_not_say_counts_and_does_not_flood_the_log_either(world):
    client, worker = world.client(), world.worker()
    for _ in range(20):
        client.say(m.Running(["c-1"]))
        worker.say(m.Submit([spec(1)], [DOUBLE]))
        assert client.heard() == [m.Reset()]
        assert worker.heard() == [m.Reset()]
        world.reopen(client)
        world.reopen(worker)
    assert world.core.offences.count == 40
    assert len(rejected(world)) == 2


# --- who goes on --------------------------------------------------------------------------------------------------


def cut(world: cores.Coordinator) -> list[bytes]:
    """Whose connections were to be closed since the last call."""
    return [effect.source for effect in world.take() if type(effect) is Disconnect]


def test_a_stranger_who_goes_on_is_told_so_and_disconnected(world):
    for _ in range(TOLERATED):
        world.reject(b"x", "bad")
    assert world.take() == []
    world.reject(b"x", "bad")
    told, disconnected = world.take()
    assert disconnected == Disconnect(b"x")
    assert type(told) is Send
    assert type(told.envelope.message) is m.Refused
    assert "made no sense" in told.envelope.message.error
    world.reject(b"x", "bad")
    assert cut(world) == [b"x"], "should it come again, at once"


def test_after_a_quiet_minute_it_may_err_again(world):
    for _ in range(TOLERATED):
        world.reject(b"x", "bad")
    world.turn(QUIET)
    world.turn(QUIET)
    world.reject(b"x", "bad")
    assert cut(world) == []


def test_a_peer_that_goes_on_loses_its_session_and_what_it_had(world):
    client, worker, honest = world.client("c"), world.worker("w"), world.client("d")
    client.say(m.Submit([spec(1)], [DOUBLE]))
    assert cores.ids(worker.heard_one(m.Assign).tasks) == ["c-1"]
    honest.say(m.Submit([spec(1, client="d")], [DOUBLE]))
    for _ in range(TOLERATED + 1):
        world.reject(client.source, "bad")
    assert cut(world) == [client.source]
    (refused,) = client.heard()
    assert type(refused) is m.Refused
    assert list(world.core.scheduler.roster.clients) == ["d"]
    assert worker.heard_one(m.Cancel).requests == [m.CancelRequest("c-1", True)]
    assert worker.source in world.core.sessions.peers


def test_of_a_crowd_those_who_come_late_are_disconnected_at_once(world):
    for number in range(REMEMBERED + TOLERATED):
        world.reject(b"%d" % number, "bad")
    assert cut(world) == []
    world.reject(b"late", "bad")
    assert cut(world) == [b"late"]
    world.reject(b"0", "bad")
    assert cut(world) == [], "those who came first still have their hundred"


ALICE = Principal("key-of-alice", "alice", "client")


def test_who_has_a_key_is_never_one_of_the_crowd(world):
    client = world.client(who=ALICE)
    for number in range(REMEMBERED + TOLERATED + 5):
        world.reject(b"%d" % number, "bad")
    cut(world)
    world.handle(Rejected(client.source, "bad", who=ALICE))
    assert cut(world) == []
    for _ in range(TOLERATED):
        world.handle(Rejected(client.source, "bad", who=ALICE))
    assert cut(world) == [client.source]


def test_all_connections_of_a_key_are_one_peer(world):
    for number in range(TOLERATED):
        world.handle(Rejected(b"%d" % number, "bad", who=ALICE))
    assert cut(world) == []
    assert len(rejected(world)) == 1, "one line, not one for each of its connections"
    world.handle(Rejected(b"another", "bad", who=ALICE))
    assert cut(world) == [b"another"]
    honest = world.client("d", who=ALICE)
    honest.say(m.Submit([spec(1, client=named("d", ALICE))], [DOUBLE]))
    assert len(world.core.scheduler.tasks) == 1, "who sends nothing wrong is not disturbed"


def test_a_join_that_comes_to_nothing_is_nobody_elses_fault(world):
    innocent = world.client(who=ALICE)
    innocent.acknowledge()  # the last to speak
    for _ in range(TOLERATED + 1):
        request = asked_to_join(world, b"joiner", "key")
        world.handle(JoinAnswered(request, "", "the invitation is for observer"))
    assert cut(world) == [b"joiner"]
    request = asked_to_join(world, b"another joiner", "key")
    world.handle(JoinAnswered(request, "", "the invitation is for observer"))
    assert cut(world) == [b"another joiner"], "with the same invitation"
    world.reject(innocent.source, "bad")
    assert cut(world) == []


def asked_to_join(world, source, key, session="session"):
    """The holder of an invitation asks for that; what the coordinator's keys are asked for."""
    world.give(
        source, m.Envelope(session, 0, 0, m.Join(key, "name", CLIENT)), Principal("I" * 43, "", INVITED)
    )
    (request,) = [effect for effect in world.take() if isinstance(effect, JoinRequested)]
    return request


def test_who_joins_again_and_again_with_one_key_is_answered_and_nothing_else_happens(world):
    """Each time would else be a line in the log, and a look at the files of the keys."""
    invited = Principal("I" * 43, "", INVITED)
    world.handle(JoinAnswered(asked_to_join(world, b"joiner", "key"), "anna"))
    world.take()
    for number in range(9):
        world.give(b"joiner", m.Envelope(f"s{number}", 0, 0, m.Join("key", "name", CLIENT)), invited)
        (sent,) = world.take()
        assert sent.envelope == m.Envelope(f"s{number}", 0, 0, m.Joined("anna"))
    assert len(world.logs) == 1
    asked_to_join(world, b"joiner", "another key")
    world.handle(Revoked("key"))
    asked_to_join(world, b"joiner", "key")


# --- those who come and go ------------------------------------------------------------------------------------------


def test_who_comes_and_goes_without_end_does_not_flood_the_log(world, monkeypatch):
    monkeypatch.setattr(rejections, "MAX_LINES", 20)
    for number in range(20):
        world.client(f"c{number}", who=ALICE).say(
            m.Submit([spec(1, client=named(f"c{number}", ALICE))], [DOUBLE]), m.Goodbye()
        )
    assert len(world.logs) == 20 + 1
    assert "no more lines about peers with the key 'alice'" in world.logs[-1]
    world.worker(who=Principal("N" * 43, "node", WORKER))
    assert "joined" in world.logs[-1], "others are still told of"
    world.turn(QUIET)
    world.worker("w2", who=ALICE._replace(role=WORKER))
    assert "worker w2 joined" in world.logs[-1], "and so is it after a minute"
