"""What a pool fills, and when it fills the same memory again."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import threading

import pytest
from support.counting import MIB, descriptors
from support.steps import Steps

from jobrunner.protocol.wire.payloads import payload_size
from jobrunner.shared_memory import segment_pool as pools
from jobrunner.shared_memory.segment_pool import SegmentPool
from jobrunner.shared_memory.shared_payload import PART_START, Label, check, offsets


def parts_of(payload):
    return [bytes(part) for part in payload.views()]


def segment_of(payload):
    return payload.label.segment


@pytest.mark.parametrize(
    "parts",
    [
        [b"pickle"],
        [b"pickle", b"", b"x" * 100_000],
        [b"pickle", bytes(range(256)) * 1000, b""],
        [b"", bytearray(b"abc"), memoryview(b"z" * (3 * MIB))[::1]],
        [b"x" * (40 * MIB)],
    ],
    ids=["one", "an empty one", "an empty one last", "kinds", "more than a piece"],
)
def test_what_is_stored_is_seen(pool, parts):
    for _ in range(3):  # new memory, then the same again
        payload = pool.store(parts)
        assert parts_of(payload) == [bytes(part) for part in parts]
        assert payload.size == payload_size(payload) == sum(map(len, parts))


def test_parts_are_aligned():
    starts, end = offsets([1, 64, 0, 65])
    assert starts == [PART_START, PART_START + 64, PART_START + 128, PART_START + 128]
    assert end == PART_START + 128 + 65


def test_what_is_small_is_not_shared(make_pool):
    pool = make_pool(share_from=100)
    assert pool.store([b"x" * 50, b"y" * 49]) is None
    assert pool.store([b"x" * 50, b"y" * 50]) is not None


def test_memory_is_filled_again_when_its_payload_is_gone(pool):
    first = pool.store([b"a" * MIB])
    second = pool.store([b"b" * MIB])
    assert segment_of(first) != segment_of(second)
    known = segment_of(first)
    del first
    third = pool.store([b"c" * MIB])
    assert segment_of(third) == known
    assert parts_of(third) == [b"c" * MIB]
    assert pool.counts() == (2, 0)


def test_a_segment_grows(pool):
    known = segment_of(pool.store([b"a" * MIB]))
    larger = pool.store([b"b" * (MIB + MIB // 2)])
    assert segment_of(larger) == known
    assert parts_of(larger) == [b"b" * (MIB + MIB // 2)]


def test_a_small_payload_does_not_take_a_large_segment(pool):
    known = segment_of(pool.store([b"a" * (8 * MIB)]))
    assert segment_of(pool.store([b"b" * MIB])) != known
    assert segment_of(pool.store([b"c" * (8 * MIB)])) == known


def test_memory_that_somebody_reads_is_not_filled(pool):
    payload = pool.store([b"a" * MIB])
    known, fd = segment_of(payload), payload.locked()
    del payload
    assert segment_of(pool.store([b"b" * MIB])) != known
    os.close(fd)
    again = pool.store([b"b" * MIB]), pool.store([b"b" * MIB])
    assert known in map(segment_of, again)


def test_what_is_kept_idle_is_bounded(make_pool):
    pool = make_pool(most_idle=3 * MIB)
    before = descriptors()
    payloads = [pool.store([b"x" * MIB]) for _ in range(6)]
    del payloads
    assert pool.counts() == (0, 2)
    assert descriptors() <= before + 2 * 2
    pool.trim(0.0)
    assert pool.counts() == (0, 0)
    assert not pool.in_use
    assert descriptors() <= before


def test_memory_that_is_used_now_and_then_is_not_trimmed(pool):
    pool.store([b"x" * MIB])
    pool.trim(60.0)
    assert pool.counts() == (0, 1)


def test_a_segment_whose_payload_could_not_be_made_is_closed(pool, monkeypatch):
    def no_memory(*_):
        raise MemoryError

    before = descriptors()
    with monkeypatch.context() as short:
        short.setattr(pools, "SharedPayload", no_memory)
        assert pool.store([b"x" * MIB]) is None
    assert pool.counts() == (0, 0)
    assert descriptors() <= before


def test_a_payload_outlives_its_pool(make_pool):
    before = descriptors()
    pool = make_pool()
    payload = pool.store([b"x" * MIB])
    pool.close()
    assert parts_of(payload) == [b"x" * MIB]
    assert pool.store([b"y" * MIB]) is None
    del payload
    assert descriptors() <= before


def test_payloads_that_are_very_many_go_the_ordinary_way(pool, monkeypatch):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        small = SegmentPool(MIB, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    payloads = [small.store([b"x"]) for _ in range(40)]
    assert sum(payload is not None for payload in payloads) == 32
    payloads.clear()
    assert small.store([b"x"]) is not None
    small.close()


@pytest.fixture
def small_files():
    """As little memory as the system may have: no file, not even one in memory, can be longer than a MiB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_without_memory_nothing_is_stored(pool, small_files):
    before = descriptors()
    assert pool.store([b"x" * (2 * MIB)]) is None
    assert pool.counts() == (0, 0)
    assert descriptors() <= before
    assert pool.store([b"x" * (MIB // 2)]) is not None


def test_without_descriptors_nothing_is_stored(pool):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir("/proc/self/fd"))) + 1
    low = [os.open("/dev/null", os.O_RDONLY) for _ in range(used - descriptors() + 1)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(low) + 1, limits[1]))
    try:
        assert pool.store([b"x" * MIB]) is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in low:
            os.close(fd)
    assert pool.store([b"x" * MIB]) is not None


def test_a_forked_process_is_given_nothing(pool):
    pool.store([b"x" * MIB])
    pid = os.fork()
    if not pid:
        os._exit(0 if pool.store([b"y" * MIB]) is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_segments_cannot_shrink(pool):
    payload = pool.store([b"x" * MIB])
    with pytest.raises(PermissionError):
        os.ftruncate(payload.fileno(), 10)
    assert fcntl.fcntl(payload.fileno(), fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
    check(payload.fileno(), payload.label)


def test_many_threads(pool):
    wrong = []

    def use(name):
        for turn in range(60):
            content = f"{name} {turn} ".encode() * 20_000
            payload = pool.store([content])
            fd = payload.locked()
            label = Label(*payload.label)
            del payload
            check(fd, label)
            if os.pread(fd, len(content), PART_START) != content:
                wrong.append((name, turn))
            os.close(fd)

    threads = [threading.Thread(target=use, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    filled, idle = pool.counts()
    assert filled == 0
    assert idle <= 16


@pytest.mark.parametrize("most_idle", [0, MIB])
def test_at_any_line_of_a_pool_its_thread_may_come_to_store_something_else(make_pool, most_idle):
    """As a finalizer does that the garbage collector calls, or a signal handler."""
    pool = make_pool(most_idle)
    kept = []

    def come():
        kept.append(pool.store([b"a" * 1000]))
        del kept[:-1]  # some other payload is let go of meanwhile

    def use():
        first, second = pool.store([b"b" * 1000]), pool.store([b"c" * 1000])
        assert [parts_of(payload) for payload in (first, second)] == [[b"b" * 1000], [b"c" * 1000]]
        del first
        pool.trim(0.0)

    for step in range(1, 1000):
        steps = Steps([pools], step, act=come)
        with steps.here():
            use()
            assert pool.counts()[0] <= 1
        if not steps.place:
            break
        if kept[-1] is not None:
            assert parts_of(kept[-1]) == [b"a" * 1000]
    assert step > 40
    kept.clear()
    pool.trim(0.0)
    assert pool.counts() == (0, 0)
