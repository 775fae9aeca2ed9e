"""What functions hold, on a worker that is reached over the network."""

from __future__ import annotations

import os
import signal
import sys

import numpy as np
import psutil
import pytest
from support import calls
from support.daemons import connected, free_port

from jobrunner import Executor
from jobrunner.shared_memory.segment_pool import can_share
from jobrunner.testing.waiting import BOUND, until

MIB = 1 << 20


def array_of(number):
    return np.full(MIB, number, dtype=np.int64)


def function_with(array, gate):
    def look():
        """What is in the array, and the file in which it is mapped here."""
        calls.wait_for_file(gate)
        address = array.__array_interface__["data"][0]
        with open("/proc/self/maps") as maps:
            rows = [line.split() for line in maps]
        for span, _, _, _, inode, *_ in rows:
            start, end = (int(number, 16) for number in span.split("-"))
            if start <= address < end:
                return int(array[0]), os.getpid(), inode
        return None

    return look


@pytest.mark.skipif(sys.platform != "linux" or not can_share(), reason="no shared memory here")
def test_the_slots_of_a_remote_worker_have_one_copy(cluster, address, tmp_path):
    cluster.worker(address, "w", slots=2)
    gate = str(tmp_path / "gate")
    with connected(address) as executor:
        look = function_with(array_of(7), gate)
        futures = [executor.submit(look) for _ in range(2)]
        until(lambda: all(future.running() for future in futures))
        open(gate, "w").close()
        found = [future.result(BOUND) for future in futures]
        assert {number for number, _, _ in found} == {7}
        assert len({pid for _, pid, _ in found}) == 2
        assert len({inode for _, _, inode in found}) == 1
        psutil.Process(found[0][1]).kill()
        assert {executor.submit(look).result(BOUND)[::2] for _ in range(8)} == {(7, found[0][2])}


def test_what_functions_hold_survives_client_and_coordinator(cluster, tmp_path):
    port, journal = free_port(), str(tmp_path / "journal")
    first = cluster.coordinator("--journal", journal, port=port)
    array = array_of(3)
    with Executor(first.address) as executor:
        detached = executor.with_options(detach=True)
        one = detached.submit(lambda: int(array.sum()))
        other = detached.submit(lambda: int(array[5]))
    first.send(signal.SIGKILL)
    first.wait()
    again = cluster.coordinator("--journal", journal, port=port)
    assert "2 tasks to do" in again.output
    cluster.worker(again.address, "w")
    with connected(again.address) as executor:
        assert executor.future(one.id).result(BOUND) == 3 * array.size
        assert executor.future(other.id).result(BOUND) == 3


def test_a_program_goes_on_with_a_coordinator_that_was_started_again(cluster, tmp_path):
    port = free_port()
    first = cluster.coordinator("--no-journal", port=port)
    cluster.worker(first.address, "w", slots=2)
    array, gate = array_of(4), str(tmp_path / "gate")
    with connected(first.address) as executor:
        assert executor.submit(lambda: int(array[0])).result(BOUND) == 4
        waiting = [executor.submit(function_with(array, gate)) for _ in range(4)]
        until(waiting[0].running)
        first.send(signal.SIGKILL)
        first.wait()
        cluster.coordinator("--no-journal", port=port)
        open(gate, "w").close()
        assert {future.result(BOUND)[0] for future in waiting} == {4}
        assert executor.submit(lambda: int(array.max())).result(BOUND) == 4
