"""Large payloads between two processes' sockets on one host: pointed to, where both ends agreed, else sent."""

from __future__ import annotations

import os

import msgpack
import pytest

from jobrunner.protocol.effects import Received, Send
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.codec import decode, encode
from jobrunner.protocol.wire.payloads import Payload, buffers_of, payload_size
from jobrunner.shared_memory.segment_pool import SegmentPool, can_share
from jobrunner.shared_memory.shared_payload import SharedPayload
from jobrunner.testing.waiting import until
from jobrunner.transport.manifests import MANIFEST, Sharing
from jobrunner.transport.sockets import DealerWire, RouterWire

pytestmark = pytest.mark.skipif(not can_share(), reason="no shared memory here")

MIB = 1 << 20
HELLO = m.ClientHello("c", "0", "3", "host", 1, 10.0, True)
WELCOME = m.Welcome("coordinator", "0", 2, 10, 10 * MIB, "s", 10 * MIB)
CLIENT, COORDINATOR = b"client", b""


@pytest.fixture
def pool():
    pool = SegmentPool(64 * MIB, 0)
    yield pool
    pool.close()


def envelope(message):
    return m.Envelope("s", 1, 0, message)


def submit(payload: Payload):
    return envelope(m.Submit([m.TaskSpec("c-1", m.CallBody(b"key", payload))], []))


def outcomes(payload: Payload):
    return envelope(m.Outcomes([m.Outcome("c-1", 1, m.OK, payload)]))


def agreed():
    """A client's end and a coordinator's, which have greeted each other."""
    client, coordinator = Sharing(asks=True), Sharing(asks=False)
    assert pass_on(client, COORDINATOR, envelope(HELLO), coordinator, CLIENT) == HELLO
    assert pass_on(coordinator, CLIENT, envelope(WELCOME), client, COORDINATOR) == WELCOME
    return client, coordinator


def pass_on(sender, destination, sent, receiver, source):
    """The message as it arrives; None if it is lost."""
    frames = receiver.resolve(source, [bytes(frame) for frame in sender.encode(destination, sent)])
    return None if frames is None else decode(frames).message


def payload_of(message):
    return message.tasks[0].body.payload if isinstance(message, m.Submit) else message.outcomes[0].payload


def content(payload):
    return [bytes(part) for part in buffers_of(payload)]


def test_payloads_are_pointed_to_both_ways(pool):
    client, coordinator = agreed()
    for sender, receiver, destination, source, message in (
        (client, coordinator, COORDINATOR, CLIENT, submit),
        (coordinator, client, CLIENT, COORDINATOR, outcomes),
    ):
        payload = pool.store([b"pickle", b"x" * MIB])
        sent = message(payload)
        assert sum(map(len, sender.encode(destination, sent))) < 1000
        again = message(pool.store([b"pickle", b"x" * MIB]))
        arrived = payload_of(pass_on(sender, destination, again, receiver, source))
        assert isinstance(arrived, SharedPayload)
        assert payload_size(arrived) == payload_size(payload) == MIB + 6
        assert content(arrived) == [b"pickle", b"x" * MIB]


def test_a_payload_that_is_sent_again_is_sent_whole(pool):
    client, coordinator = agreed()
    sent = submit(pool.store([b"pickle", b"x" * MIB]))
    first = payload_of(pass_on(client, COORDINATOR, sent, coordinator, CLIENT))
    second = payload_of(pass_on(client, COORDINATOR, sent, coordinator, CLIENT))
    assert isinstance(first, SharedPayload)
    assert isinstance(second, tuple)
    assert content(first) == content(second)


def test_a_message_counts_as_lost_when_its_memory_is_gone(pool):
    client, coordinator = agreed()
    payload = pool.store([b"pickle", b"x" * MIB])
    frames = client.encode(COORDINATOR, submit(payload))
    del payload
    pool.store([b"another", b"y" * MIB])
    assert coordinator.resolve(CLIENT, frames) is None


def test_nothing_is_pointed_to_before_both_have_tried(pool):
    client, coordinator = Sharing(asks=True), Sharing(asks=False)
    payload = pool.store([b"pickle", b"x" * MIB])
    for sender, destination in ((client, COORDINATOR), (coordinator, CLIENT)):
        frames = sender.encode(destination, submit(payload))
        assert frames == encode(submit(payload))
        assert content(payload_of(decode(frames).message)) == [b"pickle", b"x" * MIB]


def test_who_does_not_ask_gets_nothing_but_bytes(pool):
    coordinator = Sharing(asks=False)
    assert coordinator.resolve(CLIENT, encode(envelope(HELLO))) == encode(envelope(HELLO))
    assert coordinator.encode(CLIENT, envelope(WELCOME)) == encode(envelope(WELCOME))


def test_a_probe_that_cannot_be_read_turns_it_off(pool):
    _, coordinator = agreed()
    probe = [os.getpid(), 99_999, b"s" * 16, 1, [9]]
    frames = [bytes((MANIFEST,)) + msgpack.packb((probe, [])), *encode(envelope(HELLO))]
    assert decode(coordinator.resolve(CLIENT, frames)).message == HELLO
    sent = outcomes(pool.store([b"pickle", b"x" * MIB]))
    assert coordinator.encode(CLIENT, sent) == encode(sent)


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"\x00",
        b"\xc1",
        msgpack.packb(1),
        msgpack.packb((None, 5)),
        msgpack.packb((None, [[1]])),
        msgpack.packb((None, [[7, [1, 2, b"s" * 16, 1, [9]]]])),
        msgpack.packb((None, [[1, ["1", 2, b"s" * 16, 1, [9]]]])),
        msgpack.packb((None, [[1, [1, 2, b"s" * 3, 1, [9]]]])),
        msgpack.packb((None, [[1, 5]])),
    ],
)
def test_manifests_that_nobody_writes(manifest):
    coordinator = Sharing(asks=False)
    assert coordinator.resolve(CLIENT, [bytes((MANIFEST,)) + manifest, *encode(envelope(HELLO))]) is None


def test_over_sockets(pool, tmp_path):
    router = RouterWire(f"ipc://{tmp_path}/coordinator")
    router.share(Sharing(asks=False))
    dealer = DealerWire(router.address)
    dealer.share(Sharing(asks=True))
    plain = DealerWire(router.address)
    try:
        sources = []
        for wire in (dealer, plain):
            wire.send(Send(b"", envelope(HELLO)))
            sources.append(one(router).source)
            router.send(Send(sources[-1], envelope(WELCOME)))
            assert one(wire).envelope.message == WELCOME
        payload = pool.store([b"pickle", b"x" * MIB])
        dealer.send(Send(b"", submit(payload)))
        up = one(router).envelope
        assert up.size > MIB
        for source, wire, kind in zip(sources, (dealer, plain), (SharedPayload, tuple), strict=True):
            router.send(Send(source, outcomes(payload_of(up.message))))
            arrived = payload_of(one(wire).envelope.message)
            assert isinstance(arrived, kind)
            assert content(arrived) == [b"pickle", b"x" * MIB]
    finally:
        for wire in (plain, dealer, router):
            wire.close()


def one(wire) -> Received:
    (event,) = until(lambda: wire.receive(0.0), "an event", meanwhile=lambda: wire.wait(0.1))
    assert isinstance(event, Received)
    return event
