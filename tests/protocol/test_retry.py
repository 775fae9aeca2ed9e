from __future__ import annotations

import pytest
from support.cores import record

from jobrunner.protocol.retry import BACKOFF_LIMIT, FINISH, REQUEUE, RETRY, backoff, verdict
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.kinds import Bundle, Chunk


def test_backoff_doubles_up_to_its_limit():
    assert [backoff(n) for n in (1, 2, 3, 4)] == [0.1, 0.2, 0.4, 0.8]
    assert backoff(9) == 25.6
    assert backoff(10) == backoff(10_000) == BACKOFF_LIMIT


@pytest.mark.parametrize("status", [m.ERROR, m.TIMED_OUT])
@pytest.mark.parametrize("retries", [0, 1, 3])
def test_retries_allow_that_many_failures(status, retries):
    task = record(retries=retries)
    verdicts = []
    for failures in range(1, retries + 3):
        task.failures = failures
        verdicts.append(verdict(task, status, 3))
    assert verdicts == [RETRY] * retries + [FINISH, FINISH]


@pytest.mark.parametrize("status", [m.CRASHED, m.LOST])
@pytest.mark.parametrize("limit", [1, 3])
def test_the_crash_limit_allows_one_less(status, limit):
    task = record(retries=100)
    verdicts = []
    for crashes in range(1, limit + 2):
        task.crashes = crashes
        verdicts.append(verdict(task, status, limit))
    assert verdicts == [REQUEUE] * (limit - 1) + [FINISH, FINISH]


def test_the_two_counts_do_not_touch_each_other():
    task = record(retries=1)
    task.failures, task.crashes = 1, 2
    assert verdict(task, m.ERROR, 3) == RETRY
    assert verdict(task, m.CRASHED, 3) == REQUEUE
    task.failures, task.crashes = 0, 3
    assert verdict(task, m.CRASHED, 3) == FINISH
    assert verdict(task, m.ERROR, 3) == RETRY
    task.failures, task.crashes = 2, 0
    assert verdict(task, m.ERROR, 3) == FINISH
    assert verdict(task, m.CRASHED, 3) == REQUEUE


@pytest.mark.parametrize("status", [m.ERROR, m.TIMED_OUT, m.CRASHED, m.LOST])
def test_what_was_to_be_cancelled_is_not_run_again(status):
    task = record(retries=5)
    task.failures = task.crashes = 1
    task.cancel_asked = True
    assert verdict(task, status, 3) == FINISH


def test_a_chunk_whose_process_died_goes_back_to_be_split():
    chunk = record(kind=Chunk(0, 4), retries=5)
    chunk.crashes = 1
    assert verdict(chunk, m.CRASHED, 3) == FINISH
    assert verdict(chunk, m.LOST, 3) == REQUEUE, "a lost worker says nothing about an element"
    assert verdict(record(kind=Chunk(3, 4)), m.CRASHED, 3) == REQUEUE, "a chunk of one cannot be split"


@pytest.mark.parametrize("status", [m.CRASHED, m.LOST])
@pytest.mark.parametrize("calls", [1, 4])
def test_a_bundle_goes_back_to_be_split(status, calls):
    bundle = record(kind=Bundle(calls))
    bundle.crashes = 1
    assert verdict(bundle, status, 3) == FINISH
