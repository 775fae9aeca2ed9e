"""Large arguments and results of slots in shared memory: what goes there, what comes back, and what stays behind."""

from __future__ import annotations

import gc
import os
import resource
import socket
import struct

import numpy as np
import pytest
import zoo

from jobrunner.calls import serialization
from jobrunner.protocol.effects import SlotFinished
from jobrunner.shared_memory import attachments
from jobrunner.shared_memory.segment_pool import SegmentPool, can_share
from jobrunner.shared_memory.shared_payload import SharedPayload
from jobrunner.workers.channel import BlockingChannel, BufferedChannel, channel_pair
from jobrunner.workers.framing import DESCRIPTOR, PREFIX, ChannelError, attach, detach, header, pack, unpack

pytestmark = pytest.mark.skipif(not can_share(), reason="no shared memory here")

MIB = 1 << 20


@pytest.fixture
def pool():
    pool = SegmentPool(64 * MIB, 0)
    yield pool
    pool.close()


@pytest.fixture
def ends():
    ours, theirs = channel_pair()
    pair = BufferedChannel(ours, shares=True), BlockingChannel(theirs, shares=True)
    yield pair
    for end in pair:
        end.close()


@pytest.fixture
def sharing(make_owner):
    """An owner whose slot 1 shares memory."""
    owner = make_owner(shared_idle=64 * MIB)
    owner.ready(1)
    return owner


def arguments(pool, *args):
    payload = serialization.dump_call(args, {}, snapshot=True, store=pool.store)
    assert isinstance(payload, SharedPayload)
    return payload


# --- the channel ------------------------------------------------------------------------------------------


def send(channel, payloads, extra=()):
    buffers = list(extra)
    fields = [detach(payload, buffers) for payload in payloads]
    channel.send(header(pack(fields)), buffers)


def taken(message):
    packed, buffers = message
    parts = iter(buffers)
    return [attach(field, parts) for field in unpack(packed)[0]]


def test_shared_and_other_payloads_cross_both_ways(ends, pool):
    buffered, blocking = ends
    shared = [pool.store([b"pickle", bytes([n]) * MIB]) for n in range(3)]
    payloads = [shared[0], (b"a" * 70_000, b"b"), b"small", shared[1], shared[2], (b"",)]
    send(buffered, payloads)
    there = taken(blocking.receive())
    assert [type(payload) for payload in there] == [
        SharedPayload,
        tuple,
        bytes,
        SharedPayload,
        SharedPayload,
        tuple,
    ]
    send(blocking, there)
    (message,) = buffered.receive()
    back = taken(message)
    assert [bytes(back[n].views()[1]) for n in (0, 3, 4)] == [bytes([n]) * MIB for n in range(3)]
    assert back[1] == (b"a" * 70_000, b"b")
    assert back[2] == b"small"


def test_descriptors_keep_their_messages_when_the_socket_is_full(ends, pool):
    buffered, blocking = ends
    count = 40
    for turn in range(count):
        payload = pool.store([b"%d" % turn])
        send(buffered, [payload, (bytes(100_000),)] if turn % 3 else [payload])
        del payload
    assert buffered.pending
    for turn in range(count):
        first = taken(blocking.receive())[0]
        assert bytes(first.views()[0]) == b"%d" % turn
        buffered.flush()
    assert not buffered.pending


def test_more_than_can_go_along_are_sent_whole(ends, pool):
    buffered, blocking = ends
    payload = pool.store([b"pickle", b"x"])
    send(buffered, [payload] * 203)
    there = taken(blocking.receive())
    assert [type(payload) for payload in there[-4:]] == [SharedPayload, tuple, tuple, tuple]
    assert {bytes(part) for part in there[-1]} == {b"pickle", b"x"}


def test_what_is_not_taken_is_closed(ends, pool):
    buffered, blocking = ends
    payload = pool.store([b"x" * MIB])
    known = payload.label.segment
    send(blocking, [payload])
    del payload
    messages = buffered.receive()
    assert pool.store([b"y" * MIB]).label.segment != known
    del messages
    assert known in [one.label.segment for one in (pool.store([b"z" * MIB]), pool.store([b"z" * MIB]))]


def test_a_message_without_its_descriptor():
    ours, theirs = channel_pair()
    channel = BufferedChannel(ours, shares=True)
    head = header(pack([1]))
    theirs.sendall(PREFIX.pack(len(head), 1) + struct.pack("<Q", DESCRIPTOR) + head)
    with pytest.raises(ChannelError):
        channel.receive()
    channel.close()
    theirs.close()


@pytest.mark.parametrize("field", [[b"s" * 16, 1, [5]], [], [1, 2, 3], [b"s" * 16, 1, [-5]]])
def test_descriptors_of_something_else(field):
    ours, theirs = channel_pair()
    channel = BufferedChannel(ours, shares=True)
    head = header(pack([field]))
    fd = os.open("/dev/null", os.O_RDONLY)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fd))]
    theirs.sendmsg([PREFIX.pack(len(head), 1), struct.pack("<Q", DESCRIPTOR), head], rights)
    (message,) = channel.receive()
    with pytest.raises(ChannelError):
        taken(message)
    os.close(fd)
    channel.close()
    theirs.close()


def test_a_channel_that_does_not_share_takes_no_descriptors(pool):
    ours, theirs = channel_pair()
    channel, slot = BufferedChannel(ours), BlockingChannel(theirs)
    send(slot, [pool.store([b"x"])])
    with pytest.raises(ChannelError):
        channel.receive()
    channel.close()
    slot.close()


# --- slots ------------------------------------------------------------------------------------------------


def results(owner):
    return [outcome.payload for event in owner.of(SlotFinished) for outcome in event.outcomes]


def test_large_arguments_and_results_do_not_cross_the_socket(sharing, pool):
    array = np.arange(MIB, dtype=np.int64)
    value = sharing.call(1, zoo.echo, payload=arguments(pool, array))
    assert (value == array).all()
    assert isinstance(results(sharing)[0], SharedPayload)


def test_small_ones_do(sharing):
    assert (sharing.call(1, zoo.echo, np.arange(10_000)) == np.arange(10_000)).all()
    assert isinstance(results(sharing)[0], tuple)


def test_slots_that_do_not_share_send_results_as_ever(owner, slot):
    array = np.arange(MIB, dtype=np.int64)
    assert (owner.call(slot, zoo.echo, array) == array).all()
    assert isinstance(results(owner)[0], tuple)


def test_what_tasks_start_is_not_told(sharing):
    assert sharing.call(1, zoo.environment, "JOBRUNNER_SHARED_IDLE") is None


def open_here():
    return len(os.listdir("/proc/self/fd")), open("/proc/self/maps").read().count("memfd:jobrunner-payload")


def test_the_same_memory_goes_round(sharing, pool, monkeypatch):
    array = np.zeros(MIB, dtype=np.int64)
    maps = attachments.Attachments()  # executors of other tests may use the process's own
    monkeypatch.setattr(attachments, "attachments", maps)
    maps.add_user(64 * MIB)
    counts = []
    for turn in range(30):
        array[:] = turn
        value = sharing.call(1, zoo.echo, payload=arguments(pool, array))
        assert (value == turn).all()
        del value
        sharing.events.clear()
        sharing.outcomes.clear()
        counts.append((sharing.call(1, open_here), pool.counts(), maps.counts()))
    maps.remove_user()
    assert counts[2:] == counts[1:-1]
    assert counts[-1][1:] == ((0, 1), (0, 1))


def write_into(array):
    before = array.copy()
    array[:] = 77
    return before


def test_a_task_may_write_into_its_argument(sharing, pool):
    array = np.arange(MIB, dtype=np.int64)
    payload = arguments(pool, array)
    for _ in range(3):  # as retries do
        assert (sharing.call(1, write_into, payload=payload) == array).all()


def test_an_argument_that_a_task_keeps_stays_as_it_was(sharing, pool):
    def keep(array):
        import builtins

        builtins.kept = [*getattr(builtins, "kept", []), array]
        return [int(one[0]) for one in builtins.kept]

    for turn in range(4):
        payload = arguments(pool, np.full(MIB // 4, turn, dtype=np.int64))
        assert sharing.call(1, keep, payload=payload) == list(range(turn + 1))
        del payload


def test_an_argument_that_a_forked_process_reads_stays_as_it_was(sharing, pool, tmp_path):
    fifo, answer = tmp_path / "fifo", tmp_path / "answer"
    os.mkfifo(fifo)

    def fork_and_return(array):
        if not os.fork():
            with open(fifo) as file:
                file.read()
            answer.write_text(str(int(array.min())))
            os._exit(0)
        return "done"

    payload = arguments(pool, np.full(MIB // 4, 5, dtype=np.int64))
    assert sharing.call(1, fork_and_return, payload=payload) == "done"
    del payload
    for turn in range(3):
        sharing.call(1, zoo.echo, payload=arguments(pool, np.full(MIB // 4, 100 + turn, dtype=np.int64)))
    fifo.write_text("go")
    sharing.until(lambda: answer.exists() and answer.read_text())
    assert answer.read_text() == "5"


def test_a_result_outlives_its_slot(sharing, pool):
    value = sharing.call(1, zoo.echo, payload=arguments(pool, np.full(MIB, 3, dtype=np.int64)))
    sharing.pool.signal(1, "SIGKILL")
    sharing.exited(1)
    assert (value == 3).all()
    value[:] = 4
    assert (value == 4).all()


def test_a_result_is_not_lost_when_its_slot_dies_at_once(sharing, pool):
    number = sharing.run(1, zoo.echo, payload=arguments(pool, np.full(MIB, 9, dtype=np.int64)))
    dying = sharing.run(1, zoo.kill_self)
    sharing.exited(1)
    assert (sharing.value(number) == 9).all()
    assert dying not in sharing.outcomes


def test_a_slot_without_memory_for_results_sends_them(sharing, pool):
    def small_files():
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, limits[1]))

    sharing.call(1, small_files)
    sharing.events.clear()
    array = np.arange(MIB, dtype=np.int64)
    assert (sharing.call(1, zoo.echo, payload=arguments(pool, array)) == array).all()
    assert isinstance(results(sharing)[0], tuple)


def test_idle_memory_is_let_go_of_and_no_descriptor_of_a_task(sharing, pool):
    def take_low():
        import builtins

        os.closerange(3, 400)
        builtins.taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(300)]
        return builtins.taken[0], builtins.taken[-1]

    def still_open():
        import builtins

        return {os.fstat(fd).st_rdev for fd in builtins.taken} == {os.stat(os.devnull).st_rdev}

    array = np.arange(MIB, dtype=np.int64)
    sharing.call(1, zoo.echo, payload=arguments(pool, array))
    first, last = sharing.call(1, take_low)
    assert first == 3
    assert last < 1000
    assert (sharing.call(1, zoo.echo, payload=arguments(pool, array)) == array).all()
    sharing.events.clear()
    sharing.outcomes.clear()
    sharing.until(lambda: not sharing.call(1, open_here)[1])  # after it was idle for some seconds
    assert sharing.call(1, still_open)


def test_payloads_are_let_go_of_when_their_slot_dies(sharing, pool):
    payload = arguments(pool, np.zeros(MIB, dtype=np.int64))
    sharing.run(1, zoo.kill_self)
    sharing.run(1, zoo.echo, payload=payload)
    sharing.exited(1)
    del payload
    gc.collect()
    assert pool.counts() == (0, 1)
    assert pool.store([bytes(MIB * 8)]) is not None
    assert pool.counts() == (0, 1)
