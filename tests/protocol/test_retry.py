from __future__ import annotations

import pytest

from jobrunner.protocol.retry import (
    BACKOFF_LIMIT,
    FINISH,
    REQUEUE,
    RetryAfter,
    backoff,
    decide,
    is_split_after,
)
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.kinds import SINGLE_CALL, Bundle, Chunk
from jobrunner.protocol.wire.messages import DEFAULT_OPTIONS, TaskOptions


def test_backoff_doubles_up_to_its_limit():
    assert [backoff(n) for n in (1, 2, 3, 4)] == [0.1, 0.2, 0.4, 0.8]
    assert backoff(9) == 25.6
    assert backoff(10) == backoff(10_000) == BACKOFF_LIMIT


@pytest.mark.parametrize("status", [m.ERROR, m.TIMED_OUT])
@pytest.mark.parametrize("retries", [0, 1, 3])
def test_retries_allow_that_many_failures(status, retries):
    options = TaskOptions(retries=retries)
    verdicts = [decide(options, status, failures=failures) for failures in range(1, retries + 3)]
    pauses = [RetryAfter(backoff(failures)) for failures in range(1, retries + 1)]
    assert verdicts == [*pauses, FINISH, FINISH]


@pytest.mark.parametrize("start", [0.0, 5.0, 100.0])
def test_the_pause_is_that_of_the_option(start):
    options = TaskOptions(retries=9, backoff=start)
    for failures in (1, 2, 9):
        assert decide(options, m.ERROR, failures=failures) == RetryAfter(backoff(failures, start))


@pytest.mark.parametrize("status", [m.CRASHED, m.LOST])
@pytest.mark.parametrize("limit", [1, 3])
def test_the_crash_limit_allows_one_less(status, limit):
    options = TaskOptions(retries=100)
    verdicts = [
        decide(options, status, crashes=crashes, crash_limit=limit) for crashes in range(1, limit + 2)
    ]
    assert verdicts == [REQUEUE] * (limit - 1) + [FINISH, FINISH]


@pytest.mark.parametrize(
    ("failures", "crashes", "after_an_error", "after_a_crash"),
    [
        (1, 2, RetryAfter(0.1), REQUEUE),
        (0, 3, None, FINISH),
        (1, 3, RetryAfter(0.1), FINISH),
        (2, 0, FINISH, REQUEUE),
    ],
)
def test_the_two_counts_do_not_touch_each_other(failures, crashes, after_an_error, after_a_crash):
    def verdict(status):
        options = TaskOptions(retries=1)
        return decide(options, status, failures=failures, crashes=crashes, crash_limit=3)

    if failures:
        assert verdict(m.ERROR) == after_an_error
    assert verdict(m.CRASHED) == after_a_crash


@pytest.mark.parametrize("status", [m.ERROR, m.TIMED_OUT, m.CRASHED, m.LOST])
def test_what_is_final_is_not_run_again(status):
    options = TaskOptions(retries=5)
    assert decide(options, status, failures=1, crashes=1, crash_limit=3) is not FINISH
    assert decide(options, status, failures=1, crashes=1, crash_limit=3, final=True) is FINISH


@pytest.mark.parametrize("status", [m.ERROR, m.TIMED_OUT, m.CRASHED, m.LOST])
def test_what_runs_at_most_once_is_not_run_again(status):
    options = TaskOptions(at_most_once=True)
    assert decide(options, status, failures=1, crashes=1, crash_limit=3) is FINISH


def test_time_limits_are_tried_again_unless_retry_on_leaves_them_out():
    options = TaskOptions(retries=5, retry_timeouts=False)
    assert decide(options, m.TIMED_OUT, failures=1) is FINISH
    assert decide(options, m.ERROR, failures=1) == RetryAfter(0.1)


def test_what_its_client_splits_is_not_run_again_as_a_whole():
    for status in (m.CRASHED, m.LOST):
        assert decide(DEFAULT_OPTIONS, status, crashes=1, crash_limit=3, splits=True) is FINISH
    assert decide(TaskOptions(retries=1), m.ERROR, failures=1, splits=True) == RetryAfter(0.1)


def test_a_chunk_whose_process_died_is_split():
    assert is_split_after(m.CRASHED, Chunk(0, 4), 4)
    assert not is_split_after(m.LOST, Chunk(0, 4), 4), "a lost worker says nothing about an element"
    assert not is_split_after(m.CRASHED, Chunk(3, 4), 1), "a chunk of one cannot be split"


@pytest.mark.parametrize("status", [m.CRASHED, m.LOST])
@pytest.mark.parametrize("calls", [1, 4])
def test_a_bundle_is_split(status, calls):
    assert is_split_after(status, Bundle(calls), calls)


def test_a_call_is_not_split():
    assert not is_split_after(m.CRASHED, SINGLE_CALL, 1)
