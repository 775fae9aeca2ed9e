"""What readers see, and for how long it stays as it is."""

from __future__ import annotations

import gc
import os
import threading

import numpy as np
import pytest
from support.counting import MIB, descriptors, inode, maps

from jobrunner.shared_memory.attachments import Attachments
from jobrunner.shared_memory.shared_payload import PART_START, Label, SharedMemoryError, SharedPayload


def array_in(payload):
    return np.frombuffer(payload.views()[0], dtype=np.uint8)


def test_views_are_writable_and_nobody_else_sees_it(pool, keeper):
    payload = pool.store([b"a" * MIB])
    first, second = array_in(payload), array_in(payload)
    first[:] = 7
    assert (second == ord("a")).all()
    assert (array_in(payload) == ord("a")).all()
    assert os.pread(payload.fileno(), MIB, PART_START) == b"a" * MIB
    assert (first == 7).all()


def test_what_is_read_stays_as_it_is(pool, keeper):
    payload = pool.store([b"a" * MIB])
    array = array_in(payload)
    slice_of_it = array[100:200]
    del payload, array
    others = [pool.store([b"b" * MIB]) for _ in range(3)]
    assert (slice_of_it == ord("a")).all()
    assert len(others) == 3


def test_maps_are_used_again(pool, keeper):
    for turn in range(20):
        content = bytes([turn]) * MIB
        payload = pool.store([content])
        array = array_in(payload)
        assert array.tobytes() == content
        del array, payload
    assert keeper.counts() == (0, 1)
    assert pool.counts() == (0, 1)


def test_a_map_that_was_written_to_is_not_used_again(pool, keeper):
    for turn in range(5):
        payload = pool.store([bytes([turn]) * MIB])
        array = array_in(payload)
        assert (array == turn).all()
        array[MIB // 2] = 99
        del array, payload
        assert keeper.counts() == (0, 0)
    assert pool.counts() == (0, 1)


def test_a_map_follows_a_segment_that_grows(pool, keeper):
    for size in (MIB, MIB + 300_000, 2 * MIB):
        payload = pool.store([b"x" * size])
        assert len(array_in(payload)) == size
        del payload
    assert pool.counts() == (0, 1)


def test_idle_maps_are_bounded_and_let_go_of(pool, keeper):
    before = descriptors()
    payloads = [pool.store([b"x" * (8 * MIB)]) for _ in range(10)]
    arrays = [array_in(payload) for payload in payloads]
    inodes = [inode(payload) for payload in payloads]
    assert maps(*inodes) == 10
    del arrays
    assert keeper.counts() == (0, 7)
    keeper.trim(60.0)
    assert keeper.counts() == (0, 7)
    keeper.trim(0.0)
    assert keeper.counts() == (0, 0)
    del payloads
    pool.trim(0.0)
    assert descriptors() <= before
    assert maps(*inodes) == 0


def test_without_a_user_no_map_is_kept(pool):
    payload = pool.store([b"x" * MIB])
    array = array_in(payload)
    assert maps(inode(payload)) == 1
    del array
    assert maps(inode(payload)) == 0


def test_beyond_a_bound_views_need_no_descriptor(make_pool, keeper):
    pool = make_pool()
    few = Attachments()
    few._most = 2
    before = descriptors()
    payload = pool.store([b"x" * MIB])
    held = [few.views(payload) for _ in range(10)]
    # the segment, and a descriptor for each of two maps
    assert descriptors() <= before + 3
    known = payload.label.segment
    del payload
    assert pool.store([b"y" * MIB]).label.segment != known
    assert all(bytes(parts[0]) == b"x" * MIB for parts in held)
    del held
    again = [pool.store([b"z" * MIB]) for _ in range(2)]
    assert known in [payload.label.segment for payload in again]


def test_a_label_of_another_fill_is_refused(pool, keeper):
    payload = pool.store([b"a" * MIB])
    old = payload.label
    del payload
    payload = pool.store([b"b" * MIB])
    assert payload.label.segment == old.segment
    stale = SharedPayload(payload.fileno(), Label(*old), lambda: None)
    for _ in range(2):
        with pytest.raises(SharedMemoryError):
            stale.views()
    assert keeper.counts() == (0, 0)


def test_a_forked_child_keeps_what_it_can_read(pool, keeper):
    payload = pool.store([b"a" * MIB])
    array = array_in(payload)
    known = payload.label.segment
    wait, go_on = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(go_on)
        os.read(wait, 1)
        os._exit(0 if (array == ord("a")).all() else 1)
    os.close(wait)
    del array, payload
    others = [pool.store([b"b" * MIB]) for _ in range(3)]
    assert known not in [other.label.segment for other in others]
    os.close(go_on)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    del others
    again = [pool.store([b"c" * MIB]) for _ in range(4)]
    assert known in [payload.label.segment for payload in again]


def test_arrays_may_go_in_any_thread_and_in_cycles(pool, keeper):
    wrong = []

    def use(name):
        for turn in range(60):
            content = np.full(MIB // 4, name * 60 + turn, dtype=np.int32)
            payload = pool.store([memoryview(content).cast("B")])
            array = np.frombuffer(payload.views()[0], dtype=np.int32)
            del payload
            if not (array == content).all():
                wrong.append((name, turn))
            if turn % 3 == 0:
                array[5] = 0
            circle = [array]
            circle.append(circle)
            del array

    threads = [threading.Thread(target=use, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert not wrong
    assert keeper.counts()[0] == 0
    assert pool.counts()[0] == 0
