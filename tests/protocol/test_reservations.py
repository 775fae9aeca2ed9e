"""No task waits for ever because smaller ones take what it needs, one after the other."""

from __future__ import annotations

import pytest
from protocol.test_scheduler import Desk
from support.cores import spec

from jobrunner.protocol.coordinator.reservations import MAX_RESERVED, RESERVE_AFTER

GPU, BOTH = (("gpu", 1.0),), (("gpu", 2.0),)


@pytest.fixture
def desk():
    return Desk()


def busy(desk, **more):
    """A worker one of whose two GPUs is taken, and the other one is free."""
    worker = desk.add_worker("w", slots=4, gpu=2.0, **more)
    desk.submit(spec("runs", resources=GPU))
    assert desk.placed() == {"w": ["c-runs"]}
    return worker


@pytest.mark.parametrize("priority", [0, 100])
def test_after_some_time_a_worker_is_reserved(desk, priority):
    worker = busy(desk)
    desk.submit(spec("large", resources=BOTH, priority=priority))
    desk.submit(spec("small", resources=GPU))
    assert desk.placed(RESERVE_AFTER / 2) == {"w": ["c-small"]}, "for a while it is let pass"
    desk.submit(*[spec(n, resources=GPU) for n in range(3)], now=RESERVE_AFTER)
    desk.finish(worker, "c-small")
    assert desk.placed(RESERVE_AFTER) == {}
    desk.finish(worker, "c-runs")
    assert desk.placed(RESERVE_AFTER) == {"w": ["c-large"]}
    desk.finish(worker, "c-large")
    assert desk.placed(RESERVE_AFTER) == {"w": ["c-0", "c-1"]}


def test_what_is_more_urgent_passes(desk):
    busy(desk)
    desk.submit(spec("large", resources=BOTH, priority=1))
    desk.submit(spec("urgent", resources=GPU, priority=2), spec("other", resources=GPU), now=RESERVE_AFTER)
    assert desk.placed(RESERVE_AFTER) == {"w": ["c-urgent"]}


def test_what_takes_nothing_that_is_reserved_passes(desk):
    busy(desk, licence=1.0)
    desk.submit(spec("large", resources=BOTH, priority=1))
    later = [spec("plain"), spec("licence", resources=(("licence", 1.0),)), spec("small", resources=GPU)]
    desk.submit(*later, now=RESERVE_AFTER)
    assert sorted(desk.placed(RESERVE_AFTER)["w"]) == ["c-licence", "c-plain"]


def test_what_leaves_enough_of_it_passes(desk):
    desk.add_worker("w", slots=9, gpu=3.0, licence=1.0)
    desk.submit(spec("runs", resources=(("licence", 1.0),)))
    desk.placed()
    desk.submit(spec("large", resources=(("gpu", 2.0), ("licence", 1.0))))
    desk.submit(spec(1, resources=GPU), spec(2, resources=GPU), now=RESERVE_AFTER)
    assert desk.placed(RESERVE_AFTER) == {"w": ["c-1"]}, "of the three, two are kept"


def test_one_worker_is_reserved_and_stays_it(desk):
    workers = [desk.add_worker(name, slots=4, gpu=2.0) for name in "ab"]
    desk.submit(*[spec(n, resources=GPU) for n in range(4)])
    held = desk.placed()
    assert sorted(map(len, held.values())) == [2, 2]
    desk.submit(spec("large", resources=BOTH, priority=9))
    desk.submit(*[spec(f"later{n}", resources=GPU) for n in range(9)], now=RESERVE_AFTER)
    desk.finish(workers[0], held["a"][0])
    assert desk.placed(RESERVE_AFTER) == {}, "a has more of it free than b"
    desk.finish(workers[1], held["b"][0])
    assert desk.placed(RESERVE_AFTER) == {"b": ["c-later0"]}
    desk.finish(workers[0], held["a"][1])
    assert desk.placed(RESERVE_AFTER) == {"a": ["c-large"]}


def test_no_worker_is_reserved_for_what_none_offers(desk):
    busy(desk)
    desk.submit(spec("impossible", resources=(("gpu", 3.0),), priority=9))
    desk.submit(spec("small", resources=GPU), now=RESERVE_AFTER)
    assert desk.placed(RESERVE_AFTER) == {"w": ["c-small"]}


def test_a_worker_that_leaves_is_reserved_no_more(desk):
    worker = busy(desk)
    desk.submit(spec("large", resources=BOTH, priority=9), spec("small", resources=GPU, priority=-1))
    assert desk.placed(0.5) == {"w": ["c-small"]}
    desk.submit(spec("later", resources=GPU), now=RESERVE_AFTER)
    assert desk.placed(RESERVE_AFTER) == {}
    desk.scheduler.attempts.worker_lost(worker, "was lost", RESERVE_AFTER)
    desk.add_worker("v", slots=4, gpu=2.0)
    assert desk.placed(2 * RESERVE_AFTER)["v"] == ["c-large"]


def test_so_many_kinds_have_workers_reserved(desk):
    for n in range(MAX_RESERVED + 3):
        desk.add_worker(f"w{n}", slots=4, **{f"r{n}": 1.0, "gpu": 1.0})
    desk.submit(*[spec(n, resources=((f"r{n}", 1.0),)) for n in range(MAX_RESERVED + 3)])
    desk.placed()
    desk.submit(*[spec(f"again{n}", resources=((f"r{n}", 1.0),)) for n in range(MAX_RESERVED + 3)])
    desk.placed(RESERVE_AFTER)
    assert len(desk.scheduler.dispatcher.reservations._workers) == MAX_RESERVED
