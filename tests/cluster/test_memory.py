"""A slot's memory limit, and what an error tells after a death."""

from __future__ import annotations

import sys

import pytest
from support import calls
from support.daemons import connected

from jobrunner import Executor, TaskLostError
from jobrunner.cli.app import main
from jobrunner.testing.waiting import BOUND

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the kernel limits memory on Linux only")


@linux_only
def test_a_call_that_takes_too_much_gets_a_memory_error(cluster, address):
    cluster.worker(address, "w", "--slot-memory", "256M")
    with connected(address) as executor:
        failure = executor.submit(calls.take_memory, 400).exception(BOUND)
        assert isinstance(failure, MemoryError)
        assert "the memory limit of this slot, 256 MiB, was reached" in str(failure)
        assert executor.submit(calls.take_memory, 100).result(BOUND) == 100


@linux_only
def test_a_process_that_dies_of_it_is_no_mystery(cluster, address):
    cluster.worker(address, "w", "--slot-memory", "256M")
    with connected(address) as executor:
        view = executor.with_options(at_most_once=True)
        failure = view.submit(calls.die_without_memory, 230).exception(BOUND)
        assert isinstance(failure, TaskLostError)
        assert "it had taken nearly all of its slot's memory, 256 MiB" in str(failure)
        assert failure.detail["out_of_memory"]
        assert failure.detail["signal"] == "SIGABRT"


@linux_only
def test_an_argument_for_which_there_is_no_memory_is_a_memory_error():
    with Executor("processes", max_workers=1) as executor:
        executor.submit(calls.leave_memory, 8).result(BOUND)
        failure = executor.submit(len, bytes(40_000_000)).exception(BOUND)
        assert type(failure) is MemoryError, "there is nothing wrong with the value"
        assert list(executor.map(len, [b"a", b"bc"])) == [1, 2]
        with pytest.raises(MemoryError) as caught:
            list(executor.map(len, [bytes(40_000_000)]))
        assert caught.type is MemoryError


def test_an_error_tells_where_the_process_died(cluster, address):
    cluster.worker(address, "w")
    with connected(address) as executor:
        failure = executor.submit(calls.crash_deep_down, 3).exception(BOUND)
        text = str(failure)
        assert "SIGSEGV" in text
        assert "where it was:" in text
        assert "in crash_deep_down" in text
        assert "a last word" in text
        assert text.count("attempt ") >= 3
        assert "peak memory" in text
        assert failure.detail["traceback"].startswith("Fatal Python error: Segmentation fault")


@pytest.mark.parametrize("size", ["12", "much", "1M", "-1G"])
def test_a_limit_that_cannot_be_is_refused(capfd, size):
    assert main(["worker", "start", "--slot-memory", size]) == 2
    assert "slot_memory" in capfd.readouterr().err
