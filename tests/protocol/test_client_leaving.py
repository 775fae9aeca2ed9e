from __future__ import annotations

from support.client_calls import submit
from support.cores import client, spec

from jobrunner.protocol.effects import (
    Connected,
    ConnectionLost,
    DrainRequested,
    GiveUp,
    HandshakeFailed,
    Stop,
)
from jobrunner.protocol.wire import messages as m


def test_it_gives_up_when_nobody_has_ever_answered_in_time():
    world = client(opened=False, connect_timeout=3.0, reconnect_timeout=99.0)
    world.turn()
    world.run(2.9)
    assert world.take() == []
    assert world.core.next_deadline() == 100.0 + 3.0
    world.now = 100.0 + 3.0
    assert world.take() == [GiveUp("no answer for 3 s", "CoordinatorLostError")]
    assert world.core.next_deadline() is None
    world.turn(5.0)
    assert world.take() == []


def test_it_gives_up_when_a_lost_coordinator_stays_away():
    world = client(connect_timeout=1.0, reconnect_timeout=20.0)
    world.run(10.0)
    assert [type(x) for x in world.take()] == [ConnectionLost]
    world.run(19.9)
    assert world.take() == []
    world.run(0.1)
    assert world.take() == [
        GiveUp("it has been silent for 10 s, and has not come back within 20 s", "CoordinatorLostError")
    ]


def test_it_names_no_silence_when_something_else_answers():
    """The advice is about keys then; to start a coordinator would be the wrong one."""
    world = client(opened=False, connect_timeout=3.0)
    world.turn()
    world.handle(HandshakeFailed("another cluster answers", refused=False))
    world.run(3.0)
    assert world.take() == [GiveUp("another cluster answers", "CoordinatorLostError", advises=True)]


def test_time_in_which_its_own_process_stood_still_is_no_wait_for_an_answer():
    """The program may keep the I/O thread from running before it has greeted anybody, and after."""
    world = client(opened=False, connect_timeout=3.0)
    world.turn(60.0)
    assert world.take() == []
    world.run(1.0)
    world.turn(60.0)
    world.run(1.0)
    assert world.take() == []
    world.run(2.0)
    assert [type(x) for x in world.take()] == [GiveUp]


def test_nor_is_it_silence_of_the_coordinator():
    world = client(peer_timeout=10.0)
    world.run(5.0)
    world.turn(60.0)
    assert world.take() == []
    world.run(3.0)
    assert world.take() == []
    world.run(2.5)
    assert [type(x) for x in world.take()] == [ConnectionLost]


def test_the_time_begins_anew_with_each_loss():
    world = client(reconnect_timeout=20.0)
    for _ in range(3):
        world.lose()
        world.turn(15.0)
        world.open()
    world.heard()
    assert {type(x) for x in world.take()} == {ConnectionLost, Connected}


def test_without_a_limit_it_goes_on_trying():
    world = client(opened=False)
    for _ in range(50):
        world.turn(100.0)
    assert world.take() == []
    assert world.core.next_deadline() is not None


def test_a_refusal_is_the_end():
    world = client(opened=False)
    world.turn()
    world.give(m.Envelope("", 0, 0, m.Refused("use the same version")))
    assert world.take() == [GiveUp("use the same version", "ProtocolError")]
    assert world.core.next_deadline() is None


def test_who_is_shut_out_in_the_middle_hears_of_it_at_once():
    """Not when the coordinator has been silent for long enough."""
    world = client()
    world.give(m.Envelope(world.link.session, 0, 0, m.Refused("the key was revoked", "AuthenticationError")))
    assert world.take() == [GiveUp("the key was revoked", "AuthenticationError")], (
        "nobody waits for it any more"
    )
    assert world.core.next_deadline() is None


def test_it_leaves_with_a_goodbye_after_all_else():
    world = client()
    submit(world, spec(1))
    world.handle(DrainRequested())
    assert [type(x) for x in world.heard()] == [m.Submit, m.Goodbye]
    assert world.take() == [Stop()]
    assert world.core.next_deadline() is None
    world.turn(100.0)
    assert (world.heard(), world.take()) == ([], [])


def test_without_a_session_it_just_leaves():
    world = client(opened=False)
    world.turn()
    world.heard()
    world.handle(DrainRequested())
    assert world.take() == [Stop()]
    assert world.heard() == []
