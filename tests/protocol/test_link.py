from __future__ import annotations

import random

import pytest

from jobrunner.config import HEARTBEATS_PER_TIMEOUT
from jobrunner.protocol.link import (
    ACK_DELAY,
    EARLY_BYTES,
    EARLY_LIMIT,
    RETRANSMIT_AFTER,
    RETRANSMIT_LIMIT,
    SLOWEST_RATE,
    STALLED_AFTER,
    STALLED_FOR,
    Link,
)
from jobrunner.protocol.wire.messages import Capacity, Envelope, Heartbeat


def pair() -> tuple[Link, Link]:
    return Link("s", 0.0, 0.0), Link("s", 0.0, 0.0)


def bare(ack: int) -> Envelope:
    return Envelope("s", 0, ack, Heartbeat())


def test_messages_are_numbered_from_1_and_arrive_in_order():
    here, there = pair()
    sent = [here.send(Capacity(n), 0.0) for n in range(3)]
    assert [(e.session, e.seq, e.ack) for e in sent] == [("s", 1, 0), ("s", 2, 0), ("s", 3, 0)]
    assert [there.receive(e, 0.0) for e in sent] == [([Capacity(n)], []) for n in range(3)]
    assert there.received == 3


def test_a_message_is_kept_until_it_is_acknowledged_and_then_reported_once():
    here, there = pair()
    for n in range(3):
        there.receive(here.send(Capacity(n), 0.0, size=10), 0.0)
    assert here.unacked() == [Capacity(0), Capacity(1), Capacity(2)]
    assert here.unacked_bytes == 30
    assert here.receive(bare(2), 0.0) == ([Heartbeat()], [Capacity(0), Capacity(1)])
    assert here.unacked() == [Capacity(2)]
    assert here.unacked_bytes == 10
    assert here.receive(bare(2), 0.0) == ([Heartbeat()], [])
    assert here.receive(bare(1), 0.0) == ([Heartbeat()], []), "an older acknowledgement takes nothing back"
    assert here.receive(there.send(Capacity(9), 0.0), 0.0) == ([Capacity(9)], [Capacity(2)])
    assert here.unacked() == []


def test_a_doubled_message_is_dropped_and_acknowledged_again():
    here, there = pair()
    envelope = here.send(Capacity(1), 0.0)
    assert there.receive(envelope, 0.0)[0] == [Capacity(1)]
    assert [e.ack for e in there.due(ACK_DELAY)] == [1]
    assert there.receive(envelope, 1.0) == ([], [])
    assert there.due(1.0) == []
    assert [(e.seq, e.ack) for e in there.due(1.0 + ACK_DELAY)] == [(0, 1)]
    assert not there._early, "it is not kept either"


def test_early_messages_wait_for_the_missing_one():
    here, there = pair()
    one, two, three, four = [here.send(Capacity(n), 0.0) for n in (1, 2, 3, 4)]
    assert there.receive(three, 0.0) == ([], [])
    assert there.receive(two, 0.0) == ([], [])
    assert there.receive(three, 0.0) == ([], [])
    assert there.received == 0
    assert there.receive(one, 0.0)[0] == [Capacity(1), Capacity(2), Capacity(3)]
    assert there.receive(four, 0.0)[0] == [Capacity(4)]


def test_too_many_early_messages_are_dropped_and_come_again():
    here, there = pair()
    sent = [here.send(Capacity(n), 0.0) for n in range(EARLY_LIMIT + 3)]
    for envelope in sent[1:]:
        assert there.receive(envelope, 0.0) == ([], [])
    assert len(there.receive(sent[0], 0.0)[0]) == EARLY_LIMIT + 1
    assert there.received == EARLY_LIMIT + 1
    here.receive(bare(there.received), 0.0)
    again = here.due(RETRANSMIT_AFTER)
    assert [there.receive(e, 0.0)[0] for e in again] == [
        [Capacity(EARLY_LIMIT + 1)],
        [Capacity(EARLY_LIMIT + 2)],
    ]


def test_early_messages_are_few_if_they_are_large():
    here, there = pair()
    one, two, three = [here.send(Capacity(n), 0.0) for n in (1, 2, 3)]
    for early in (three, two):
        early.size = EARLY_BYTES - 1
        assert there.receive(early, 0.0) == ([], [])
    assert there.receive(one, 0.0)[0] == [Capacity(1)]
    assert there.receive(two, 0.0)[0] == [Capacity(2), Capacity(3)]
    four, five = [here.send(Capacity(n), 0.0) for n in (4, 5)]
    five.size = EARLY_BYTES
    there.receive(five, 0.0)
    assert there.receive(four, 0.0)[0] == [Capacity(4), Capacity(5)], "there is room again"


def test_what_is_outside_the_stream_is_neither_numbered_nor_kept():
    here, there = pair()
    envelope = here.outside(Heartbeat(), 0.0)
    assert envelope.seq == 0
    assert here.unacked() == []
    assert here.next_deadline() is None
    assert there.receive(envelope, 0.0) == ([Heartbeat()], [])
    assert there.receive(envelope, 0.0) == ([Heartbeat()], [])
    assert there.next_deadline() is None, "it needs no acknowledgement"


def test_retransmission_doubles_its_pause_up_to_the_limit_and_begins_anew_after_an_acknowledgement():
    here, _ = pair()
    here.send(Capacity(1), 0.0)
    here.send(Capacity(2), 1.5)
    now, pauses = 0.0, []
    for number in range(7):
        at = here.next_deadline()
        assert at is not None
        assert here.due(at - 0.001) == []
        said = [(1, Capacity(1)), (2, Capacity(2))][: 2 if number < 6 else 1]
        assert [(e.seq, e.message) for e in here.due(at)] == said
        pauses.append(at - now)
        now = at
    assert pauses == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert max(pauses) == RETRANSMIT_LIMIT
    here.receive(bare(1), now)
    assert here.next_deadline() == now + RETRANSMIT_AFTER
    here.receive(bare(2), now)
    assert here.next_deadline() is None


def test_a_large_message_gets_the_time_that_a_slow_connection_takes():
    here, _ = pair()
    here.send(Capacity(1), 0.0, size=10 * SLOWEST_RATE)
    assert here.next_deadline() == RETRANSMIT_AFTER + 10


def test_an_acknowledgement_waits_for_a_message_to_ride_on():
    here, there = pair()
    there.receive(here.send(Capacity(1), 0.0), 5.0)
    assert there.next_deadline() == 5.0 + ACK_DELAY
    assert there.due(5.0 + ACK_DELAY / 2) == []
    assert there.send(Capacity(2), 5.0 + ACK_DELAY / 2).ack == 1
    assert there.due(5.0 + ACK_DELAY) == [], "it has gone with the message"


def test_the_first_unacknowledged_message_sets_the_time_of_the_acknowledgement():
    here, there = pair()
    there.receive(here.send(Capacity(1), 0.0), 5.0)
    there.receive(here.send(Capacity(2), 0.0), 5.09)
    assert there.next_deadline() == 5.0 + ACK_DELAY


def test_a_quiet_link_sends_heartbeats_and_a_busy_one_does_not():
    link = Link("s", 0.0, 10.0)
    assert link.next_deadline() == 1.0
    assert link.due(0.9) == []
    assert link.due(1.0) == [bare(0)]
    assert link.due(1.0) == []
    link.outside(Heartbeat(), 1.9)
    assert link.due(2.5) == []
    assert link.due(2.9) == [bare(0)]


def test_what_goes_out_again_is_a_sign_of_life_itself():
    link = Link("s", 0.0, RETRANSMIT_AFTER * HEARTBEATS_PER_TIMEOUT)
    link.send(Capacity(1), 0.0)
    assert [e.seq for e in link.due(RETRANSMIT_AFTER)] == [1]


def test_without_heartbeats_a_link_with_nothing_to_do_has_no_deadline():
    link = Link("s", 0.0, 0.0)
    assert link.next_deadline() is None
    assert link.due(1e9) == []


def test_a_peer_is_silent_after_its_timeout_and_never_where_it_has_none():
    link = Link("s", 5.0, 10.0)
    assert not link.silent(14.9)
    assert link.silent(15.0)
    link.receive(bare(0), 12.0)
    assert not link.silent(21.9)
    assert not Link("s", 0.0, 0.0).silent(1e9)


def test_last_heard_is_the_time_of_any_message():
    here, there = pair()
    late = here.send(Capacity(2), 0.0)
    there.receive(late, 7.0)
    assert there.last_heard == 7.0
    there.receive(late, 8.0)
    assert there.last_heard == 8.0


def test_a_peer_that_acknowledges_nothing_is_sent_less_and_less_again():
    here = Link("s", 0.0, 0.0)
    for _ in range(200):
        here.send(Heartbeat(), 0.0)
    now, again = 0.0, []
    for _ in range(9):
        now = here.next_deadline()
        again.append(len(here.due(now)))
    assert again == [64, 32, 16, 8, 4, 2, 1, 1, 1]
    here.receive(bare(1), now)
    assert len(here.due(here.next_deadline())) == 64


def test_and_is_stalled_at_last():
    here, _ = pair()
    here.send(Capacity(1), 100.0, SLOWEST_RATE)
    for second in range(101, 700):
        here.send(Capacity(2), float(second), SLOWEST_RATE)  # behind it: that puts nothing off
    for second in range(100, 700, 10):
        here.receive(bare(0), float(second))
    assert not here.stalled(103.9 + STALLED_AFTER)
    assert here.stalled(104.0 + STALLED_AFTER)
    here.stood_still(50.0, 700.0)
    assert not here.stalled(104.0 + STALLED_AFTER)
    assert here.stalled(154.0 + STALLED_AFTER)
    here.receive(bare(1), 750.0)
    assert not here.stalled(750.0 + STALLED_AFTER)


def test_one_that_was_silent_has_time_to_acknowledge():
    here, _ = pair()
    here.send(Capacity(1), 0.0)
    assert not here.stalled(10 * STALLED_AFTER)
    here.receive(bare(0), 10 * STALLED_AFTER)
    assert not here.stalled(10 * STALLED_AFTER + STALLED_FOR - 0.1)
    assert here.stalled(10 * STALLED_AFTER + STALLED_FOR)
    here.receive(bare(1), 10 * STALLED_AFTER + STALLED_FOR)
    assert not here.stalled(20 * STALLED_AFTER)


def test_retransmit_soon_brings_the_next_repetition_forward():
    here, _ = pair()
    here.retransmit_soon(0.0)
    assert here.next_deadline() is None, "there is nothing to repeat"
    here.send(Capacity(1), 0.0)
    here.retransmit_soon(1.0)
    assert here.next_deadline() == 1.0 + ACK_DELAY
    here.retransmit_soon(1.05)
    assert here.next_deadline() == 1.0 + ACK_DELAY, "it is not put off by being told again"
    assert [e.seq for e in here.due(1.0 + ACK_DELAY)] == [1]


@pytest.mark.parametrize("seed", range(20))
def test_everything_arrives_once_and_in_order_over_a_lossy_connection(seed):
    rng = random.Random(seed)
    here, there = pair()
    now, arrived, acked = 0.0, [], []
    under_way = [(there, here.send(Capacity(n), now)) for n in range(200)]
    while len(acked) < 200:
        now += 0.5
        under_way += [(there, e) for e in here.due(now)] + [(here, e) for e in there.due(now)]
        rng.shuffle(under_way)
        for end, envelope in under_way:
            for _ in range(rng.choice([0, 1, 1, 2])):
                messages, mine = end.receive(envelope, now)
                if end is there:
                    arrived += messages
                else:
                    acked += mine
        under_way = []
        assert now < 10_000
    wanted = [Capacity(n) for n in range(200)]
    assert [x for x in arrived if x != Heartbeat()] == wanted
    assert acked == wanted
