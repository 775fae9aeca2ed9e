from __future__ import annotations

from support.cores import client_peer, record, worker_peer

from jobrunner.config import UNREACHABLE_GRACE
from jobrunner.protocol.coordinator.peers import CLIENT_PATIENCE
from jobrunner.protocol.coordinator.resources import UNIT
from jobrunner.protocol.tuning import UNKNOWN


def test_a_worker_is_lost_by_silence():
    worker = worker_peer()
    worker.link.peer_timeout = 10.0
    assert not worker.lost(9.9)
    assert worker.lost(10.0)
    worker.link.last_heard = 5.0
    assert not worker.lost(14.9)


def test_a_client_may_be_silent_for_longer():
    client = client_peer()
    client.link.peer_timeout = 10.0
    assert not client.lost(CLIENT_PATIENCE * 10.0 - 0.1)
    assert client.lost(CLIENT_PATIENCE * 10.0)


def test_whoever_is_unreachable_is_lost_after_a_grace():
    for peer in (worker_peer(), client_peer()):
        peer.unreachable_since = 3.0
        assert not peer.lost(3.0 + UNREACHABLE_GRACE - 0.1)
        assert peer.lost(3.0 + UNREACHABLE_GRACE)
        peer.unreachable_since = None
        assert not peer.lost(9.0)


def test_a_worker_counts_its_tasks_time_and_resources():
    worker = worker_peer("w", 2, gpu=1.0)
    task = record(resources=(("gpu", 1.0),))
    task.estimate = 0.015625
    assert worker.fits(())
    assert worker.fits(task.requirements)
    assert not worker.fits((("gpu", 3 * UNIT // 2),))
    assert not worker.fits((("licence", 1),))
    worker.take(task)
    assert task.worker is worker
    assert (worker.assigned_seconds, worker.free["gpu"]) == (0.015625, 0)
    assert not worker.fits(task.requirements)
    worker.release(task)
    assert (worker.tasks, worker.assigned_seconds, worker.free["gpu"]) == ({}, 0.0, UNIT)


def test_long_tasks_are_counted_apart():
    worker = worker_peer("w", 2)
    short, long, unknown = record(1), record(2), record(3)
    short.estimate, long.estimate, unknown.estimate = 0.01, 5.0, UNKNOWN
    for task in (short, long, unknown):
        worker.take(task)
    assert (worker.long, worker.assigned_seconds) == (2, 0.01)
    worker.release(long)
    assert worker.long == 1
    worker.release(short)
    assert worker.assigned_seconds == 0.0
    worker.release(unknown)
    assert worker.long == 0
