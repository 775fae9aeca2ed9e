"""How map cuts its input."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobrunner.mapping.chunking import (
    Chunking,
    around,
    halves,
    window,
)
from jobrunner.protocol.tuning import CHUNK_GROWTH, CHUNK_SECONDS, PACK_BYTES, PACK_LARGEST, PACK_UNMEASURED


def measured(seconds: float, longest: int = 1_000_000) -> Chunking:
    return Chunking(per_call=seconds, longest=longest)


def test_unmeasured_calls_are_probed_one_by_one():
    assert Chunking().chunk_size(slots=4) == 1


def test_slow_calls_travel_one_by_one():
    assert measured(CHUNK_SECONDS).chunk_size(slots=4) == 1
    assert measured(10.0).chunk_size(slots=4, remaining=1_000_000) == 1


def test_chunks_last_the_target_time():
    assert measured(0.001).chunk_size(slots=4) == int(CHUNK_SECONDS / 0.001)


def test_chunks_grow_step_by_step():
    chunking = Chunking()
    sizes = []
    for _ in range(4):
        sizes.append(chunking.chunk_size(slots=2))
        chunking.measured(sizes[-1], 1e-6 * sizes[-1])
    assert sizes == [CHUNK_GROWTH**i for i in range(4)]


def test_chunks_shrink_towards_the_end_but_not_below_the_useful():
    chunking = measured(0.001)
    assert chunking.chunk_size(slots=2, remaining=40) == 10
    assert chunking.chunk_size(slots=2, remaining=4) == 2
    assert measured(1e-6).chunk_size(slots=2, remaining=4) > 4


def test_calls_that_become_slow_are_noticed_at_once():
    chunking = measured(1e-5)
    chunking.measured(100, 100 * 0.1)
    assert chunking.chunk_size(slots=2) == 1


def test_a_clock_that_shows_nothing_is_no_division_by_zero():
    chunking = Chunking()
    chunking.measured(5, 0.0)
    assert chunking.chunk_size(slots=1) >= 1


def test_first_packs_are_small_and_grow():
    chunking = Chunking()
    sizes = []
    for _ in range(60):
        sizes.append(chunking.pack_size())
        chunking.packed(sizes[-1], sizes[-1] * 5)
    assert sizes[0] == 1
    assert sizes == sorted(sizes)
    assert sizes[-1] == PACK_UNMEASURED


def test_packs_of_tiny_calls_are_large():
    chunking = measured(1e-6)
    chunking.packed(100_000, 400_000)
    assert chunking.pack_size() == PACK_LARGEST


def test_packs_are_bounded_in_bytes():
    chunking = measured(1e-6)
    chunking.packed(100, 100 * 1024)
    assert chunking.pack_size() == PACK_BYTES // 1024
    chunking.packed(1, 100 * PACK_BYTES)
    assert chunking.pack_size() == 1


def test_a_short_chunk_does_not_tell_how_many_calls_are_worth_a_pack():
    chunking = Chunking()
    chunking.packed(100_000, 400_000)
    chunking.measured(1, 50e-6)  # most of it went into its loading
    assert chunking.pack_size() == PACK_LARGEST
    chunking.measured(100, 100 * 50e-6)
    assert chunking.pack_size() == pytest.approx(CHUNK_SECONDS / 50e-6, rel=0.01)


def test_every_slot_has_a_next_chunk_at_hand():
    assert window(1) >= 2
    assert window(64) >= 128


@given(
    per_call=st.none() | st.floats(1e-9, 1e3),
    longest=st.integers(1, 10**6),
    slots=st.integers(1, 10_000),
    remaining=st.none() | st.integers(0, 10**9),
    element_bytes=st.just(0.0) | st.floats(1e-3, 1e9),
)
def test_sizes_are_at_least_one(per_call, longest, slots, remaining, element_bytes):
    chunking = Chunking(per_call, longest, element_bytes)
    assert chunking.chunk_size(slots, remaining) >= 1
    assert 1 <= chunking.pack_size() <= PACK_LARGEST


@given(st.integers(0, 100), st.integers(2, 100), st.none() | st.integers(-5, 250))
def test_splits_keep_every_element_and_make_progress(start, count, guilty):
    spans = around(guilty, start, start + count)
    assert [i for begin, end in spans for i in range(begin, end)] == list(range(start, start + count))
    assert all(begin < end and end - begin < count for begin, end in spans)


@pytest.mark.parametrize(
    ("guilty", "spans"),
    [(0, [(0, 1), (1, 4)]), (2, [(0, 2), (2, 3), (3, 4)]), (3, [(0, 3), (3, 4)]), (None, [(0, 2), (2, 4)])],
)
def test_the_guilty_element_is_alone(guilty, spans):
    assert around(guilty, 0, 4) == spans


def test_halves():
    assert halves(3, 6) == [(3, 4), (4, 6)]
