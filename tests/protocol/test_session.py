from __future__ import annotations

import random

from support.cores import through_the_codec

from jobrunner.config import HEARTBEATS_PER_TIMEOUT
from jobrunner.protocol.effects import Send
from jobrunner.protocol.link import ACK_DELAY, Link
from jobrunner.protocol.session import COORDINATOR, FIRST_RETRY, RETRY_LIMIT, Session
from jobrunner.protocol.wire import messages as m

WELCOME = m.Welcome("coo", "1.0", 4, 10, 1000, "name")


class Greeting:
    """A hello that says how often it was made."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, serial: int) -> m.Goodbye:
        self.made += 1
        return m.Goodbye(str(self.made))  # any message will do


def make(seed: int = 1, peer_timeout: float = 10.0) -> Session:
    return Session(Greeting(), random.Random(seed), 0.0, peer_timeout)


def due(session: Session, now: float) -> list[m.Envelope]:
    effects = session.due(now)
    assert all(isinstance(effect, Send) and effect.destination == COORDINATOR for effect in effects)
    return [through_the_codec(effect.envelope) for effect in effects]


def opened(seed: int = 1, peer_timeout: float = 10.0) -> tuple[Session, Link]:
    """A session that is open, and the coordinator's end of its link."""
    session = make(seed, peer_timeout)
    (hello,) = due(session, 0.0)
    there = Link(hello.session, 0.0, 0.0)
    session.receive(there.outside(WELCOME, 0.0), 0.0)
    there.session = "name"
    return session, there


def pauses(session: Session, now: float, count: int) -> list[float]:
    """Between the next greetings."""
    found = []
    for _ in range(count):
        at = session.next_deadline()
        assert at is not None
        assert due(session, at - 1e-6) == []
        (hello,) = due(session, at)
        assert hello.seq == 0
        found.append(at - now)
        now = at
    return found


def test_it_greets_at_once_and_then_with_growing_pauses_up_to_a_limit():
    session = make()
    assert session.next_deadline() == 0.0
    found = pauses(session, 0.0, 12)
    assert found[0] == 0.0
    for n, pause in enumerate(found[1:]):
        ideal = min(FIRST_RETRY * 2**n, RETRY_LIMIT)
        assert 0.75 * ideal <= pause <= 1.25 * ideal
    assert not session.open


def test_the_pauses_are_jittered_so_that_peers_do_not_knock_together():
    third = {round(pauses(make(seed), 0.0, 3)[-1], 6) for seed in range(50)}
    assert len(third) > 40
    assert max(third) / min(third) > 1.4


def test_a_greeting_is_made_anew_each_time_within_one_session():
    session = make()
    (first,) = due(session, 0.0)
    (second,) = due(session, 1.0)
    assert (first.message, second.message) == (m.Goodbye("1"), m.Goodbye("2"))
    assert first.session == second.session != ""


def test_a_welcome_opens_it_once():
    session, there = opened()
    assert session.open
    assert session.welcome == WELCOME
    assert due(session, 0.0) == []
    again = through_the_codec(there.outside(m.Welcome("other", "1", 1, 1, 1, "x"), 0.0))
    assert session.receive(again, 0.1) == ([], [])
    assert session.welcome == WELCOME


def test_the_welcome_is_handed_on():
    session = make()
    (hello,) = due(session, 0.0)
    there = Link(hello.session, 0.0, 0.0)
    assert session.receive(there.outside(WELCOME, 0.0), 0.0) == ([WELCOME], [])


def test_what_comes_before_the_welcome_waits_for_being_sent_again():
    session = make()
    (hello,) = due(session, 0.0)
    there = Link(hello.session, 0.0, 0.0)
    welcome = there.outside(WELCOME, 0.0)
    there.session = "name"
    early = there.send(m.Capacity(3), 0.0)
    assert session.receive(early, 0.0) == ([], [])
    assert not session.open
    session.receive(welcome, 0.0)
    assert session.receive(early, 0.0) == ([m.Capacity(3)], [])


def test_messages_of_another_session_are_ignored_and_no_sign_of_life():
    session, _ = opened()
    stranger = Link("another", 0.0, 0.0)
    assert session.receive(stranger.send(m.Capacity(3), 0.0), 9.0) == ([], [])
    assert session.receive(stranger.outside(m.Reset(), 0.0), 9.0) == ([], [])
    assert session.open
    assert session.link.last_heard == 0.0


def test_a_reset_begins_a_new_session_at_once():
    session, there = opened()
    session.send(m.Capacity(1), 1.0)
    session.receive(there.outside(m.Reset(), 2.0), 2.0)
    assert not session.open
    assert session.seeking_since == 2.0
    assert "does not know this session" in session.loss
    (hello,) = due(session, 2.0)
    assert hello.session not in ("", there.session)
    assert (hello.seq, hello.ack) == (0, 0)
    assert session.link.unacked() == []


def test_the_pauses_begin_small_again_in_a_new_session():
    session = make()
    pauses(session, 0.0, 8)
    session.receive(m.Envelope(session.link.session, 0, 0, WELCOME), 100.0)
    session.receive(m.Envelope(session.link.session, 0, 0, m.Reset()), 100.0)
    found = pauses(session, 100.0, 3)
    assert found[0] == 0.0
    assert found[1] <= 1.25 * FIRST_RETRY


def test_seeking_since_counts_from_the_loss_and_not_from_each_greeting():
    session, there = opened()
    session.receive(there.outside(m.Reset(), 2.0), 2.0)
    (hello,) = due(session, 2.0)
    session.receive(m.Envelope(hello.session, 0, 0, m.Reset()), 3.0)
    assert session.seeking_since == 2.0


def test_silence_ends_it():
    session, there = opened(peer_timeout=10.0)
    session.receive(there.outside(m.Heartbeat(), 3.0), 3.0)
    assert session.next_deadline() == 10.0 / HEARTBEATS_PER_TIMEOUT
    assert [e.message for e in due(session, 12.9)] == [m.Heartbeat()]
    assert session.next_deadline() == 13.0
    assert due(session, 13.0) == []  # the author of the next greeting must know first
    assert not session.open
    assert session.next_deadline() == 13.0
    (hello,) = due(session, 13.0)
    assert isinstance(hello.message, m.Goodbye)
    assert session.loss == "it has been silent for 10 s"


def test_a_coordinator_in_this_process_cannot_fall_silent():
    session, _ = opened(peer_timeout=0.0)
    assert session.next_deadline() is None
    assert due(session, 1e9) == []
    assert session.open


def test_a_goodbye_ends_it_and_leaves_the_coordinator_time_to_start_again():
    session, there = opened()
    goodbye = through_the_codec(there.send(m.Goodbye("stopped"), 5.0))
    assert session.receive(goodbye, 5.0) == ([m.Goodbye("stopped")], [])
    assert not session.open
    assert session.loss == "it has stopped"
    assert due(session, 5.0) == []
    at = session.next_deadline()
    assert at is not None
    assert RETRY_LIMIT / 2 * 0.75 <= at - 5.0 <= RETRY_LIMIT / 2 * 1.25
    assert len(due(session, at)) == 1


def test_a_refusal_is_final():
    session = make()
    due(session, 0.0)
    refusal = through_the_codec(m.Envelope("", 0, 0, m.Refused("another version")))
    assert session.receive(refusal, 0.0) == ([], [])
    assert session.refusal == "another version"
    assert session.next_deadline() is None
    assert due(session, 1e6) == []


def test_what_was_acknowledged_is_reported():
    session, there = opened()
    effect = session.send(m.Capacity(1), 0.0)
    assert isinstance(effect, Send)
    there.receive(through_the_codec(effect.envelope), 0.0)
    assert session.receive(there.outside(m.Heartbeat(), 0.0), 0.0) == ([m.Heartbeat()], [m.Capacity(1)])


def test_an_unreachable_coordinator_is_tried_again_soon():
    session, _ = opened()
    session.send(m.Capacity(1), 0.5)
    session.unreachable(0.6)
    assert session.next_deadline() == 0.6 + ACK_DELAY
    assert [e.message for e in due(session, 0.6 + ACK_DELAY)] == [m.Capacity(1)]
