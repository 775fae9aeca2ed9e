"""Functions with large parts in real slots: one copy for all of them, each function with its own view of it."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from jobrunner.backends.prepared import Prepared
from jobrunner.calls import serialization
from jobrunner.protocol.effects import SlotTask
from jobrunner.protocol.wire.kinds import SINGLE_CALL
from jobrunner.protocol.wire.payloads import payload_size
from jobrunner.shared_memory.segment_pool import SegmentPool, can_share
from jobrunner.shared_memory.shared_payload import SharedPayload
from jobrunner.testing.waiting import until

MIB = 1 << 20
needs_sharing = pytest.mark.skipif(not can_share(), reason="no shared memory here")


@pytest.fixture
def pool():
    pool = SegmentPool(0)
    yield pool
    pool.close()


def adder(array):
    def add(number):
        """The sum of the array, which it then changes."""
        total = int(array.sum()) + number
        array[:] = 0
        return total

    return add


def maps(array):
    def count():
        return int(array[0]), Path("/proc/self/maps").read_text().count("memfd:jobrunner-payload")

    return count


def run(owner, slot, whole, *args, functions=None, to_drop=()):
    """Gives a slot one call of a prepared function, with the definitions that it has not seen; its number."""
    number = next(owner.numbers)
    owner.kinds[number] = SINGLE_CALL
    payload = serialization.dump_call(args, {}, snapshot=True)
    task = SlotTask(number, f"client-{number}", "name", 1, whole.definition.key, payload, SINGLE_CALL, None)
    owner.pool.run(slot, [task], whole.definitions if functions is None else functions, to_drop)
    return number


def result(owner, *call, **options):
    return owner.value(run(owner, *call, **options))


def test_a_large_array_of_a_function_is_a_part_of_it_and_a_small_one_is_not():
    large = serialization.dump_function(adder(np.ones(MIB // 8)))
    (part,) = large.parts
    assert payload_size(part.blob) == MIB
    assert payload_size(large.blob) < 10_000
    again = serialization.dump_function(maps(np.ones(MIB // 8)))
    assert again.parts[0].key == part.key, "the same bytes are the same part, whatever has it"
    assert serialization.dump_function(adder(np.zeros(MIB // 8))).key != large.key
    assert serialization.dump_function(adder(np.ones(1000))).parts == ()


def test_a_function_has_its_parts_to_itself(owner, slot):
    array = np.ones(MIB // 8)
    first = Prepared(adder(array))
    assert result(owner, slot, first, 1) == MIB // 8 + 1
    assert result(owner, slot, first, 2, functions=[]) == 2, "as it has left it"
    other = Prepared(lambda: float(array.sum()))
    assert result(owner, slot, other, functions=[other.definition]) == MIB // 8


@needs_sharing
def test_slots_map_one_copy_of_a_part_and_the_later_ones_too(make_owner, pool):
    owner = make_owner(shared_idle=0)
    array = np.full(4 * MIB // 8, 7)
    whole = Prepared(maps(array), pool.store)
    assert isinstance(whole.definitions[:-1][0].blob, SharedPayload)
    assert pool.counts() == (1, 0)
    for slot in (1, 2):
        owner.ready(slot)
        assert result(owner, slot, whole) == (7, 1)
    owner.pool.signal(1, "SIGKILL")
    owner.ready(3)
    assert result(owner, 3, whole) == (7, 1)


@needs_sharing
def test_a_part_that_nobody_keeps_leaves_the_host(make_owner, pool):
    owner = make_owner(shared_idle=0)
    owner.ready(1)
    whole = Prepared(maps(np.full(4 * MIB // 8, 7)), pool.store)
    plain = Prepared(lambda: Path("/proc/self/maps").read_text().count("memfd:jobrunner-payload"))
    assert result(owner, 1, whole) == (7, 1)
    owner.pool.run(1, [], [], [definition.key for definition in whole.definitions])
    until(lambda: result(owner, 1, plain) == 0)
    del whole
    gc.collect()
    assert pool.counts() == (0, 0)
