"""Pools, and the maps of this process, each left as they were found."""

from __future__ import annotations

import gc

import pytest
from support.counting import MIB

from jobrunner.shared_memory import attachments
from jobrunner.shared_memory.segment_pool import SegmentPool, can_share


@pytest.fixture(autouse=True)
def only_where_it_can_be_had():
    if not can_share():
        pytest.skip("no shared memory here")


@pytest.fixture
def make_pool():
    pools = []

    def make(most_idle=64 * MIB, share_from=0):
        pools.append(SegmentPool(most_idle, share_from))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


@pytest.fixture
def pool(make_pool):
    return make_pool()


@pytest.fixture(autouse=True)
def own_maps(monkeypatch):
    """Maps of this test's own: executors of other tests may still be open."""
    maps = attachments.Attachments()
    monkeypatch.setattr(attachments, "attachments", maps)
    yield maps
    gc.collect()
    maps.trim(0.0)
    assert maps.counts() == (0, 0)


@pytest.fixture
def keeper(own_maps):
    """Has idle maps kept, as an executor does."""
    own_maps.add_user(64 * MIB)
    return own_maps
