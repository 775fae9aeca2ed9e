from __future__ import annotations

from support.client_calls import sent, submit
from support.cores import DOUBLE, HALVE, KEY, OTHER_KEY, client, ids, ok, spec

from jobrunner.protocol.effects import (
    AnnounceRunning,
    CapacityChanged,
    Connected,
    ConnectionLost,
    QueryRequested,
    ResolveTasks,
    ShowOutput,
    Unreachable,
)
from jobrunner.protocol.link import ACK_DELAY
from jobrunner.protocol.wire import messages as m

# --- submitting ---------------------------------------------------------------------------------------------------


def test_nothing_but_the_greeting_leaves_before_the_session_is_open():
    world = client(opened=False)
    submit(world, spec(1))
    (hello,) = world.heard()
    assert hello == m.ClientHello("c", "1.0", "3.11", "host", 1, 10.0, serial=1)
    world.open(slots=6)
    assert world.take() == [Connected(6)]
    assert world.heard() == [m.ResubmissionComplete(), m.Submit([spec(1)], [DOUBLE])]


def test_calls_of_one_turn_leave_in_one_message_with_their_functions():
    world = client()
    submit(world, spec(1), spec(2))
    submit(world, spec(3, function=OTHER_KEY, initializer=KEY), functions=[HALVE, DOUBLE])
    calls = [spec(1), spec(2), spec(3, function=OTHER_KEY, initializer=KEY)]
    assert world.heard() == [m.Submit(calls, [DOUBLE, HALVE])]
    assert world.heard() == []
    assert world.take() == []


# --- outcomes -----------------------------------------------------------------------------------------------------


def test_an_outcome_is_handed_on_once():
    world = client()
    sent(world, spec(1), spec(2))
    world.say(m.Outcomes([ok("c-1"), ok("c-1"), ok("c-9")]))
    assert world.take() == [ResolveTasks([ok("c-1")])]
    world.say(m.Outcomes([ok("c-1", attempt=2)]))
    assert world.take() == []
    assert list(world.core.pending) == ["c-2"]


def test_what_runs_and_what_prints_is_handed_on():
    world = client()
    sent(world, spec(1))
    chunk = m.OutputChunk("c-1", "double", m.STDOUT, "hello\n")
    world.say(m.Running(["c-1"]), m.Output([chunk]), m.Capacity(9))
    assert world.take() == [AnnounceRunning(["c-1"]), ShowOutput([chunk]), CapacityChanged(9)]
    assert world.heard() == []


def test_the_start_of_a_task_that_is_over_is_not_announced():
    world = client()
    world.say(m.Running(["c-1"]))
    assert world.take() == []


# --- sessions -----------------------------------------------------------------------------------------------------


def test_after_a_lost_session_first_what_was_sent_then_the_rest():
    world = client(opened=False)
    submit(world, *[spec(n) for n in range(5)])
    world.open(window_tasks=3)
    assert [type(x) for x in world.heard()] == [m.ResubmissionComplete, m.Submit]
    world.say(m.Outcomes([ok("c-1")]))
    world.take()
    world.heard()
    world.handle(QueryRequested(1, "status"))
    assert world.heard_one(m.Query) == m.Query(1, "status")
    world.lose()
    (lost,) = world.take()
    assert isinstance(lost, ConnectionLost)
    assert "does not know this session" in lost.reason
    submit(world, spec(5, priority=9))
    world.heard()

    world.open(window_tasks=1, slots=2)
    assert world.take() == [Connected(2)]
    first, resubmission_complete, query = world.heard()
    assert first == m.Submit([spec(0), spec(2), spec(3)], [DOUBLE]), "whatever the window is now"
    assert resubmission_complete == m.ResubmissionComplete()
    assert query == m.Query(1, "status")
    world.say(m.Outcomes([ok("c-0"), ok("c-2"), ok("c-3")]))
    assert ids(world.heard_one(m.Submit).tasks) == ["c-5"]


def test_silence_ends_the_session_and_the_greetings_begin():
    world = client()
    sent(world, spec(1))
    world.run(9.9)
    world.heard()
    world.now += 0.1
    assert world.heard() == []
    assert world.take() == [ConnectionLost("it has been silent for 10 s")]
    (hello,) = world.heard()
    assert type(hello) is m.ClientHello
    world.open()
    assert [type(x) for x in world.heard()] == [m.Submit, m.ResubmissionComplete]


def test_a_coordinator_that_says_goodbye_is_waited_for():
    world = client(reconnect_timeout=100.0)
    sent(world, spec(1))
    world.say(m.Goodbye("the coordinator has stopped"))
    assert world.take() == [ConnectionLost("it has stopped")]
    assert world.heard() == []
    world.now += 5.0
    assert type(world.heard_one(m.ClientHello)) is m.ClientHello


def test_an_unreachable_coordinator_is_told_again_soon():
    world = client()
    sent(world, spec(1))
    world.handle(Unreachable(b""))
    assert world.core.next_deadline() == world.now + ACK_DELAY
    world.now += ACK_DELAY
    assert world.heard() == [], "the link drops what it has seen already"


def test_an_idle_client_sends_heartbeats_and_nothing_else():
    world = client(peer_timeout=10.0)
    for _ in range(40):
        world.acknowledge()
        world.turn(0.5)
    assert world.heard() == [m.Heartbeat()] * 20
