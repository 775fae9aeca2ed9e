"""Framing: messages of every shape, in pieces of every size, over real sockets."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobrunner.workers.channel import BlockingChannel, BufferedChannel, channel_pair
from jobrunner.workers.framing import ChannelError, attach, detach, frame, header, pack, unpack


@pytest.fixture
def ends():
    ours, theirs = channel_pair()
    pair = BufferedChannel(ours), BlockingChannel(theirs)
    yield pair
    for end in pair:
        end.close()


@pytest.fixture
def raw():
    """A BufferedChannel, and the bare socket at its other end."""
    ours, theirs = channel_pair()
    channel = BufferedChannel(ours)
    yield channel, theirs
    channel.close()
    theirs.close()


def receive_all(channel, count):
    messages = []
    while len(messages) < count:
        messages += channel.receive()
        channel.flush()
    return messages


@pytest.mark.parametrize(
    "buffers", [[], [b""], [b"a", b"", b"c"], [bytes(300_000), memoryview(b"x" * 70_000)]]
)
def test_messages_cross_both_ways(ends, buffers):
    buffered, blocking = ends
    expected = [bytearray(buffer) for buffer in buffers]
    for _ in range(2):
        received: list[object] = []
        reader = threading.Thread(target=lambda into=received: into.append(blocking.receive()))
        buffered.send(pack([1, "x"]), buffers)
        reader.start()
        while reader.is_alive():
            buffered.flush()
        assert received == [(pack([1, "x"]), expected)]
        writer = threading.Thread(target=blocking.send, args=(b"", buffers))
        writer.start()
        assert receive_all(buffered, 1) == [(b"", expected)]
        writer.join()


@settings(max_examples=60, deadline=None)
@given(
    messages=st.lists(
        st.tuples(st.binary(max_size=40), st.lists(st.binary(max_size=30), max_size=4)), max_size=6
    ),
    step=st.integers(1, 17),
)
def test_messages_survive_any_cutting(messages, step):
    ours, theirs = channel_pair()
    channel = BufferedChannel(ours)
    stream = b"".join(bytes(piece) for message in messages for piece in frame(*message))
    received = []
    for start in range(0, len(stream), step):
        theirs.sendall(stream[start : start + step])
        received += channel.receive()
    assert received == [(header, [bytearray(b) for b in buffers]) for header, buffers in messages]
    theirs.close()
    assert channel.receive() == []
    assert channel.closed
    channel.close()


def test_a_sender_never_blocks_and_keeps_order(ends):
    buffered, blocking = ends
    for i in range(100):
        buffered.send(header(pack(i)), [bytes([i]) * 100_000])
    assert buffered.pending
    received: list[object] = []
    reader = threading.Thread(target=lambda: received.extend(blocking.receive() for _ in range(100)))
    reader.start()
    while reader.is_alive():
        buffered.flush()
    assert not buffered.pending
    assert [unpack(packed)[0] for packed, _ in received] == list(range(100))
    assert all(buffers[0] == bytes([i]) * 100_000 for i, (_, buffers) in enumerate(received))


def test_more_buffers_than_one_system_call_takes(ends):
    buffered, blocking = ends
    sent = [bytes([i % 256]) for i in range(3000)]
    buffered.send(b"", sent)
    _, buffers = blocking.receive()
    assert [bytes(buffer) for buffer in buffers] == sent


def test_what_was_sent_before_the_end_can_be_read_after_it(raw):
    channel, theirs = raw
    theirs.sendmsg(frame(pack("last"), []))
    theirs.close()
    channel.send(b"into the void")
    assert channel.receive() == [(pack("last"), [])]
    assert channel.closed
    channel.send(b"into the void")
    assert not channel.pending


def test_a_torn_last_message_is_the_end(raw):
    channel, theirs = raw
    theirs.send(bytes(frame(b"header", [])[0])[:-1])
    theirs.close()
    assert channel.receive() == []
    assert channel.closed


def test_the_blocking_end_sees_the_end(ends):
    buffered, blocking = ends
    buffered.close()
    assert blocking.receive() is None


@pytest.mark.parametrize(
    "garbage", [b"\xff" * 8, struct.pack("<II", 10, 2**31), struct.pack("<IIQ", 0, 1, 2**63)]
)
def test_garbage_is_refused_without_allocating_for_it(raw, garbage):
    channel, theirs = raw
    theirs.send(garbage)
    with pytest.raises(ChannelError):
        channel.receive()


@pytest.mark.parametrize("packed", [b"", b"\xc1", b"\x92\x01\xc1", b"\x91\xa2\xff\xff", b"\x01", b"\x90\x90"])
def test_headers_that_are_not_arrays_of_msgpack_are_refused(packed):
    with pytest.raises(ChannelError):
        unpack(packed)


def test_a_header_may_hold_several_items():
    packed = pack([1, b"x"]) + pack({"a": 1}) + pack("\ud800")
    assert unpack(header(packed, 3)) == [[1, b"x"], {"a": 1}, "?"]


def test_payloads_leave_and_enter_items():
    buffers: list[bytes] = []
    fields = [detach(payload, buffers) for payload in (b"small", (b"a", b"b"), b"", (b"c",))]
    assert fields == [b"small", 2, b"", 1]
    parts = iter([bytearray(buffer) for buffer in buffers])
    assert [attach(field, parts) for field in fields] == [b"small", (b"a", b"b"), b"", (b"c",)]


def test_descriptors_are_not_inherited():
    for end in channel_pair():
        assert not end.get_inheritable()
        assert end.family == socket.AF_UNIX
        end.close()


IN_A_PIPELINE = """
import signal
from jobrunner.calls import serialization
from jobrunner.shared_memory.segment_pool import SegmentPool
from jobrunner.workers.channel import BlockingChannel, BufferedChannel, channel_pair

signal.signal(signal.SIGPIPE, signal.SIG_DFL)
pool = SegmentPool(64 << 20, 0)
shared = serialization.dump_call((bytes(1 << 20),), {}, snapshot=True, store=pool.store)
for buffers in [b"short"], [shared]:
    for kind in BufferedChannel, BlockingChannel:
        ours, theirs = channel_pair()
        theirs.close()
        try:
            kind(ours).send(b"", buffers)
        except BrokenPipeError:
            pass
print("goes on")
"""
"""Programs whose output others read have themselves ended by SIGPIPE, to end when nobody reads it any more."""


def test_a_program_that_sigpipe_ends_outlives_a_slot_that_is_gone():
    done = subprocess.run([sys.executable, "-c", IN_A_PIPELINE], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "goes on\n"), done.stderr
