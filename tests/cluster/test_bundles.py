"""Short calls that travel together, in the hands of others: each is a call as any other."""

from __future__ import annotations

from concurrent.futures import CancelledError

import pytest
from support import calls
from support.daemons import connected

from jobrunner import TaskLostError, gather
from jobrunner.admin import ClusterAdmin
from jobrunner.cli.cancelling import cancel_all, worked
from jobrunner.testing.waiting import BOUND, until


@pytest.fixture
def gate(tmp_path):
    return tmp_path / "gate"


@pytest.fixture
def mine(cluster, address, gate):
    """An Executor whose only slot is taken until there is the gate."""
    cluster.worker(address, "w")
    with connected(address) as executor:
        backend = executor._lifetime.backend
        until(lambda: executor.submit(calls.square, 2).result(BOUND) and bundled(backend) >= 5)
        blocker = executor.submit(calls.wait_for_file, str(gate))
        until(blocker.running)
        yield executor


def bundled(backend):
    """How many calls a bundle of `square` may have; 1 where the machine is so busy that a call took long."""
    return max(backend._outgoing._limits._calls.values(), default=1)


def bundle(executor, count):
    """Calls that travel in one bundle, which waits at the coordinator."""
    while True:
        with executor._lifetime.backend._lock:  # the I/O thread takes what gathers meanwhile
            futures = [executor.submit(calls.square, n) for n in range(count)]
        batch = futures[0]._batch
        if batch is not None and all(future._batch is batch for future in futures):
            return futures
        for future in futures:
            future.cancel()


def test_whoever_has_the_id_of_a_call_cancels_it_and_no_other(mine, address, gate):
    futures = bundle(mine, 5)
    with connected(address) as other:
        theirs = other.future(futures[3].id)
        assert theirs.cancel()
        until(futures[3].done)
        watched = other.future(futures[4].id)
        gate.touch()
        with pytest.raises(CancelledError):
            futures[3].result(BOUND)
        assert [future.result(BOUND) for future in (*futures[:3], futures[4])] == [0, 1, 4, 16]
        assert watched.result(BOUND) == 16


def test_the_command_cancels_one_call(mine, address, gate):
    futures = bundle(mine, 3)
    with ClusterAdmin(address) as admin:
        (answer,) = cancel_all(admin, [futures[1].id])
        assert worked(answer)
        assert answer["id"] == futures[1].id
        until(futures[1].cancelled)
        gate.touch()
        assert [futures[n].result(BOUND) for n in (0, 2)] == [0, 4]


def test_a_call_that_keeps_the_interpreter_is_cancelled_and_holds_nobody_up(cluster, address):
    """Its slot can neither give the others back nor interrupt it; the others run, once each, on the other slot."""
    cluster.worker(address, "w", slots=2)
    with connected(address) as executor, ClusterAdmin(address) as admin:
        for _ in range(3):
            gather([executor.submit(calls.hold_gil, 0) for _ in range(300)], timeout=BOUND)
        futures = [executor.submit(calls.hold_gil, 1000 if n == 50 else 0) for n in range(300)]
        long = futures.pop(50)
        assert gather(futures, timeout=BOUND) == [0] * len(futures)
        until(long.running)
        assert admin.task(long.id)["attempt"] == 1
        (answer,) = cancel_all(admin, [long.id])
        assert worked(answer)
        until(long.cancelled)
        assert executor.submit(calls.square, 3).result(BOUND) == 9


def test_the_id_of_one_call_is_no_right_to_the_others(mine, address, gate):
    futures = bundle(mine, 3)
    shown = futures[1].id
    part, _, digits = shown.rpartition("-")
    right_of_the_bundle = futures[0]._batch.id.rpartition("-")[2]
    assert right_of_the_bundle not in shown
    with connected(address) as other:
        given = other.future(shown)
        guessed = [other.future(guess) for guess in (f"{part[:-1]}2-{digits}", f"{part[:-2]}-{digits}")]
        gate.touch()
        assert given.result(BOUND) == 1
        assert all(isinstance(future.exception(BOUND), TaskLostError) for future in guessed)
        assert other.future(futures[2].id).result(BOUND) == 4
