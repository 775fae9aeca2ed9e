from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from typing import Any

import pytest
import zmq

from jobrunner.errors import ConfigError
from jobrunner.keys.keyring import open_keyring
from jobrunner.protocol.effects import Received, Rejected, Send, Unreachable
from jobrunner.protocol.wire import codec
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.codec import INLINE_LIMIT, encode
from jobrunner.protocol.wire.principals import CLIENT, MAX_QUESTION_BYTES, OBSERVER
from jobrunner.testing.waiting import BOUND, until
from jobrunner.transport import sockets
from jobrunner.transport.sockets import (
    RECEIVE_BYTES,
    RECEIVE_LIMIT,
    RECEIVE_MARK,
    DealerWire,
    RouterWire,
    check_address,
    is_loopback,
)


@pytest.fixture
def router():
    wire = RouterWire("tcp://127.0.0.1:0")
    yield wire
    wire.close()


@pytest.fixture
def dealer(router):
    wire = DealerWire(router.address)
    yield wire
    wire.close()


def receive(wire: Any, count: int = 1) -> list[Any]:
    """That many events, as they come."""
    events: list[Any] = []

    def enough() -> bool:
        events.extend(wire.receive(0.0))
        return len(events) >= count

    until(enough, lambda: f"{count} events, beside {events},", meanwhile=lambda: wire.wait(0.1))
    assert len(events) == count
    return events


def numbered(number: int) -> m.Envelope:
    return m.Envelope("s", number, 0, m.Capacity(number))


def greet(router: RouterWire, dealer: DealerWire) -> bytes:
    """The source under which the router knows the dealer."""
    assert dealer.send(Send(b"", numbered(1))) is None
    (event,) = receive(router)
    return event.source


def test_messages_travel_both_ways(router, dealer):
    assert dealer.send(Send(b"", numbered(1))) is None
    (event,) = receive(router)
    assert event == Received(event.source, numbered(1))
    assert event.source != b""
    assert router.send(Send(event.source, numbered(2))) is None
    assert receive(dealer) == [Received(b"", numbered(2))]


@pytest.mark.parametrize("size", [0, INLINE_LIMIT, INLINE_LIMIT + 1, 5_000_000])
def test_payloads_of_any_size_arrive(router, dealer, size):
    parts = (bytes(range(256)), os.urandom(size), memoryview(bytearray(b"end")))
    source = greet(router, dealer)
    outcomes = m.Outcomes([m.Outcome("c-1", 1, m.OK, parts, 1.0), m.Outcome("c-2", 1, m.OK, parts[1], 1.0)])
    for sender, receiver, destination in ((router, dealer, source), (dealer, router, b"")):
        sender.send(Send(destination, m.Envelope("s", 1, 0, outcomes)))
        (event,) = receive(receiver)
        one, two = event.envelope.message.outcomes
        assert tuple(map(bytes, one.payload)) == tuple(map(bytes, parts))
        assert (two.payload if isinstance(two.payload, bytes) else bytes(two.payload[0])) == parts[1]


def test_a_peer_without_a_connection_is_unreachable(router, dealer):
    assert router.send(Send(b"nobody", numbered(1))) == Unreachable(b"nobody")
    source = greet(router, dealer)
    dealer.close()
    until(lambda: router.send(Send(source, numbered(1))) == Unreachable(source))


def test_a_dealer_may_send_before_anybody_listens():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{found.getsockname()[1]}"
    dealer = DealerWire(address)
    for number in range(100):
        assert dealer.send(Send(b"", numbered(number))) is None
    router = RouterWire(address)
    assert [event.envelope for event in receive(router, 100)] == [numbered(n) for n in range(100)]
    router.close()
    dealer.close()


def test_no_water_mark_drops_or_blocks(router, dealer):
    source = greet(router, dealer)
    for number in range(5000):
        assert router.send(Send(source, numbered(number))) is None
    assert [event.envelope.seq for event in receive(dealer, 5000)] == list(range(5000))


def test_a_turn_takes_a_bounded_number_of_messages(router, dealer):
    for number in range(RECEIVE_LIMIT + 10):
        dealer.send(Send(b"", numbered(number)))
    counts: list[int] = []
    while sum(counts) < RECEIVE_LIMIT + 10:
        router.wait(BOUND)
        time.sleep(0.05)  # for more of them to gather; without it the test would pass too easily
        counts.append(len(router.receive(0.0)))
    assert max(counts) <= RECEIVE_LIMIT


def test_and_a_bounded_size_of_what_must_be_decoded(router, dealer):
    """Else some hundred messages that are as large as they may be would keep the loop for minutes."""
    large = m.Envelope("s", 1, 0, m.Goodbye("x" * (RECEIVE_BYTES // 3)))
    for _ in range(12):
        dealer.send(Send(b"", large))
    counts: list[int] = []
    while sum(counts) < 12:
        router.wait(BOUND)
        time.sleep(0.2)  # as above
        counts.append(len(router.receive(0.0)))
    assert max(counts) <= 3


def test_garbage_is_rejected_and_the_next_message_is_not(router, dealer):
    raw = dealer._socket
    raw.send(b"\xc1 garbage")
    raw.send_multipart([b"", b""])
    dealer.send(Send(b"", numbered(3)))
    first, second, third = receive(router, 3)
    assert isinstance(first, Rejected)
    assert isinstance(second, Rejected)
    assert not first.version_mismatch
    assert third.envelope == numbered(3)


def test_a_peer_of_zeromqs_first_protocol_is_not_heard(router, dealer):
    """It has no greeting, so whatever a stray program sends would be messages."""
    with socket.create_connection(("127.0.0.1", int(router.address.rpartition(":")[2])), BOUND) as stranger:
        stranger.settimeout(BOUND)
        stranger.sendall(b"\x01\x00" + b"\x05\x00noise" * 10)
        try:
            while stranger.recv(1000):
                pass
        except ConnectionResetError:
            pass
    dealer.send(Send(b"", numbered(1)))
    (event,) = receive(router)
    assert event.envelope == numbered(1)


def test_who_sends_faster_than_is_received_is_held_up(router):
    """Otherwise the memory here would fill with what has not been taken; nothing is lost by it."""
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.setsockopt(zmq.SNDHWM, 10)
    dealer.connect(router.address)
    sent = 0
    frame = encode(m.Envelope("s", 1, 0, m.Goodbye("x" * 20_000)))[0]
    try:
        while dealer.poll(500, zmq.POLLOUT):
            dealer.send(frame)
            sent += 1
            assert sent < 20 * RECEIVE_MARK
        assert sent > RECEIVE_MARK
        assert len(receive(router, sent)) == sent
    finally:
        dealer.close()
        context.term()


def test_frames_without_end_are_counted_but_not_kept(router, dealer, monkeypatch):
    monkeypatch.setattr(sockets, "MAX_FRAMES", 5)
    monkeypatch.setattr(codec, "MAX_FRAMES", 5)
    dealer._socket.send_multipart([b"head", *[b"x"] * 1000])
    dealer.send(Send(b"", numbered(2)))
    first, second = receive(router, 2)
    assert isinstance(first, Rejected)
    assert first.reason == "more than 5 frames"
    assert second.envelope == numbered(2)


@pytest.mark.parametrize(("role", "taken"), [(OBSERVER, False), (CLIENT, True)])
def test_who_only_asks_may_ask_briefly(role, taken, tmp_path):
    """Much more is made of a message than it has bytes, and those who do not submit have little to say."""
    keys = open_keyring(tmp_path / "keys")
    wire = RouterWire("tcp://127.0.0.1:0", keys)
    peer = DealerWire(wire.address, keys.issue("somebody", role).credentials)
    try:
        peer.send(Send(b"", m.Envelope("s", 1, 0, m.Goodbye("x" * MAX_QUESTION_BYTES))))
        (event,) = receive(wire)
        assert isinstance(event, Received if taken else Rejected)
        assert taken or "at most 65536 are allowed" in event.reason
        peer.send(Send(b"", m.Envelope("s", 2, 0, m.Goodbye("x" * (MAX_QUESTION_BYTES - 100)))))
        assert isinstance(receive(wire)[0], Received)
    finally:
        peer.close()
        wire.close()


def test_another_version_is_told_apart(router, dealer):
    dealer._socket.send(b"\x96\x63\xa1s\x01\x00\x00\x00")
    (event,) = receive(router)
    assert isinstance(event, Rejected)
    assert event.version_mismatch


def test_wait_names_the_descriptors_that_are_ready(router):
    reader, writer = os.pipe()
    router.register(reader)
    assert router.wait(0) == set()
    os.write(writer, b"x")
    assert router.wait(BOUND) == {reader}
    os.close(reader)
    os.close(writer)


def test_wait_rounds_up_so_that_a_deadline_has_come_when_it_ends(router):
    began = time.monotonic()
    router.wait(0.0123)
    assert time.monotonic() - began >= 0.0123


def test_an_orderly_end_lets_the_last_messages_leave(router):
    dealer = DealerWire(router.address)
    dealer.send(
        Send(b"", m.Envelope("s", 1, 0, m.Outcomes([m.Outcome("c", 1, 0, (bytes(3_000_000),), 1.0)])))
    )
    dealer.close(orderly=True)
    (event,) = receive(router)
    assert event.envelope.seq == 1


def test_closing_with_nobody_at_the_other_end_is_bounded():
    dealer = DealerWire("tcp://127.0.0.1:9")
    dealer.send(Send(b"", numbered(1)))
    began = time.monotonic()
    dealer.close(orderly=True)
    assert time.monotonic() - began < 10


def test_a_coordinator_comes_back_on_the_same_port_and_the_dealer_finds_it(router, dealer):
    greet(router, dealer)
    router.close()
    again = RouterWire(router.address)

    def arrived() -> bool:
        dealer.send(Send(b"", numbered(9)))
        again.wait(0.1)
        return bool(again.receive(0.0))

    until(arrived)
    again.close()


def test_a_port_that_is_taken_is_a_config_error(router):
    with pytest.raises(ConfigError, match=r"cannot listen on .*another coordinator"):
        RouterWire(router.address)


TOO_LITTLE = """
import os, resource
from pathlib import Path
from jobrunner.transport.sockets import DealerWire

def leave_descriptors(count):
    limit = len(os.listdir("/dev/fd")) - 1 + count
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

def leave_memory(megabytes):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

{limit}
try:
    DealerWire("ipc:///nowhere")
except OSError as exc:
    print(exc.strerror)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel limits memory on Linux only")
@pytest.mark.parametrize(
    ("limit", "said"),
    [("leave_descriptors(2)", "file descriptors are in use"), ("leave_memory(12)", "Cannot allocate memory")],
)
def test_a_program_that_has_too_little_for_a_socket_hears_so_and_goes_on(limit, said):
    done = subprocess.run(
        [sys.executable, "-c", TOO_LITTLE.replace("{limit}", limit)],
        capture_output=True,
        text=True,
        timeout=BOUND,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert said in done.stdout


UNCLOSED = """
import gc
from jobrunner.transport.sockets import DealerWire, RouterWire

for kind, address in ((RouterWire, "tcp://127.0.0.1:0"), (DealerWire, "tcp://127.0.0.1:9")):
    wire = kind(address)
    wire.itself = wire
    del wire
    gc.collect()
print("goes on")
"""
"""As where an error came between the making of a socket and the end of what was to close it."""


@pytest.mark.parametrize("options", [[], ["-W", "error"]])
def test_the_garbage_collector_closes_what_nobody_has_closed(options):
    ended = subprocess.run(
        [sys.executable, *options, "-c", UNCLOSED], capture_output=True, text=True, timeout=BOUND
    )
    assert ended.stdout == "goes on\n", ended.stderr


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-interface"])
def test_an_address_that_this_host_does_not_have_is_told_from_a_port_that_is_taken(host):
    with pytest.raises(
        ConfigError, match=r"cannot listen on .*this host has no such address.*--host"
    ) as caught:
        RouterWire(f"tcp://{host}:0")
    assert "another coordinator" not in str(caught.value)


def test_unix_sockets_work_and_their_descriptor_can_be_polled(tmp_path):
    address = f"ipc://{tmp_path}/socket"
    router, dealer = RouterWire(address), DealerWire(address)
    greet(router, dealer)
    assert not router.pending()
    dealer.send(Send(b"", numbered(2)))
    until(router.pending)
    assert isinstance(router.fileno(), int)
    assert len(receive(router)) == 1
    router.close()
    dealer.close()


def test_ipv6_where_there_is_any():
    try:
        router = RouterWire("tcp://[::1]:0")
    except ConfigError:
        pytest.skip("this host has no IPv6")
    dealer = DealerWire(router.address)
    greet(router, dealer)
    dealer.close()
    router.close()


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("10.0.0.5:7077", "tcp://10.0.0.5:7077"),
        ("tcp://host:1", "tcp://host:1"),
        ("ipc:///run/x", "ipc:///run/x"),
        ("tcp://[::1]:7077", "tcp://[::1]:7077"),
    ],
)
def test_addresses(given, full):
    assert check_address(given) == full


@pytest.mark.parametrize(
    "bad", ["host", "host:", ":7077", "host:0", "host:70770", "host:x", "udp://h:1", "ipc://", ""]
)
def test_addresses_that_are_none(bad):
    with pytest.raises(ConfigError, match="must look like tcp://"):
        check_address(bad)


@pytest.mark.parametrize("bad", ["host:0", "tcp://host:70770"])
def test_a_port_that_cannot_be_is_told(bad):
    with pytest.raises(ConfigError, match="a port is a number from 1 to 65535"):
        check_address(bad)


def test_a_line_to_join_with_is_no_address_and_its_secret_is_not_repeated():
    with pytest.raises(ConfigError, match=r"`jobrunner join -`.*tcp://10.0.0.5:7077") as caught:
        check_address("jobrunner://10.0.0.5:7077/KEY.SECRET")
    assert "SECRET" not in str(caught.value)


def test_loopback():
    assert all(is_loopback(host) for host in ("localhost", "127.0.0.1", "127.8.8.8", "::1", "[::1]"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", "*", ""))


# --- closing somebody's connection --------------------------------------------------------------------------------


def hello(text: str) -> m.Envelope:
    return m.Envelope(text, 0, 0, m.Goodbye(text))


def test_an_unwanted_peer_still_gets_the_last_word(router, dealer):
    dealer.send(Send(b"", hello("bad")))
    source = receive(router)[0].source
    router.send(Send(source, hello("the last word")))
    router.disconnect(source)
    for _ in range(100):
        dealer.send(Send(b"", hello("bad")))
        router.receive(0.0)
    assert receive(dealer)[0].envelope.session == "the last word"


@pytest.mark.parametrize("kind", ["tcp", "ipc"])
def test_an_unwanted_peer_is_disconnected_when_it_speaks_and_others_are_not(kind, tmp_path):
    router = RouterWire("tcp://127.0.0.1:0" if kind == "tcp" else f"ipc://{tmp_path}/socket")
    bad, good = DealerWire(router.address), DealerWire(router.address)
    closed = router._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    try:
        for dealer, name in ((bad, "bad"), (good, "good")):
            dealer.send(Send(b"", hello(name)))
        source = next(e.source for e in receive(router, 2) if e.envelope.session == "bad")
        router.disconnect(source)
        bad.send(Send(b"", hello("bad")))
        good.send(Send(b"", hello("good")))
        assert [event.envelope.session for event in receive(router)] == ["good"]
        until(lambda: (bad.send(Send(b"", hello("bad"))), router.receive(0.0), closed.poll(10))[2])
        good.send(Send(b"", hello("good")))
        assert [event.envelope.session for event in receive(router)] == ["good"]
    finally:
        router._socket.disable_monitor()
        closed.close()
        for wire in (bad, good, router):
            wire.close()


def test_a_descriptor_that_is_no_connection_of_ours_is_left_alone(router):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sockets.shut_down(ours.fileno(), router.address)
        theirs.sendall(b"x")
        assert ours.recv(1) == b"x"
    reader, writer = os.pipe()
    sockets.shut_down(reader, router.address)
    sockets.shut_down(10_000, router.address)
    os.write(writer, b"x")
    assert os.read(reader, 1) == b"x"
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("seconds", [1e300, float("inf")])
def test_a_deadline_may_be_further_away_than_a_poll_can_say(router, dealer, seconds):
    dealer.send(Send(b"", hello("x")))
    router.wait(seconds)
    assert [event.envelope.session for event in router.receive(0.0)] == ["x"]
