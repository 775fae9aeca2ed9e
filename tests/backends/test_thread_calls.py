"""The calls of a pool of threads, without its threads."""

from __future__ import annotations

from jobrunner import Future
from jobrunner.backends.thread_calls import Runner, ThreadCall, ThreadCalls
from jobrunner.backends.thread_chunks import SharedChunk
from jobrunner.testing.stub_backend import StubBackend


def call(number, priority=0, chunk=None):
    return ThreadCall(-priority, number, Future(), int, chunk)


def take(calls):
    """The number of the next call; None if there is none."""
    runner = Runner(StubBackend())
    calls.take_next(runner)
    return None if runner.call is None else runner.call.number


def test_the_most_urgent_call_is_next_and_equals_are_in_order():
    calls = ThreadCalls()
    for one in (call(1), call(2, priority=5), call(3, priority=-5), call(4, priority=5)):
        calls.push(one)
    assert [take(calls) for _ in range(5)] == [2, 4, 1, 3, None]
    assert (calls.queued, calls.unfinished) == (0, 4)
    for number in range(1, 5):
        calls.ended(number)
    assert calls.unfinished == 0


def test_a_held_call_is_no_thread_s_before_it_may_wait():
    calls = ThreadCalls()
    calls.hold(call(1))
    assert take(calls) is None
    assert calls.let_wait(1)
    assert not calls.let_wait(1)
    assert take(calls) == 1


def test_a_call_that_is_released_or_taken_back_does_not_run():
    calls = ThreadCalls()
    for number in (1, 2):
        calls.hold(call(number))
    for number in (3, 4):
        calls.push(call(number))
    assert calls.release(1)
    assert not calls.release(1)
    calls.take_back(2)
    calls.take_back(3)
    assert calls.queued == 1
    assert take(calls) == 4


def test_a_chunk_is_offered_to_others_while_it_has_elements():
    calls = ThreadCalls()
    chunk = SharedChunk(abs, [[1, 2]], 0, 2)
    calls.push(call(1, chunk=chunk))
    assert take(calls) == 1
    assert take(calls) == 1, "another thread helps"
    assert chunk.work()
    assert calls.shared() is None
    assert take(calls) is None


def test_a_chunk_that_was_cancelled_is_skipped():
    calls = ThreadCalls()
    cancelled = call(1, chunk=SharedChunk(abs, [[1]], 0, 1))
    cancelled.future.cancel_pending()
    calls.push(cancelled)
    calls.push(call(2))
    assert take(calls) == 2
    assert take(calls) is None


def test_what_free_threads_are_about_to_begin_is_not_taken_away():
    calls = ThreadCalls()
    queued = [call(1), call(2), call(3, priority=1)]
    for one in queued:
        calls.push(one)
    held = call(4)
    calls.hold(held)
    assert calls.pending() == 4
    calls.drop_beyond(2)
    assert not held.future.cancelled(), "only once the lock is free"
    calls.cancel_dropped()
    assert [one.future.cancelled() for one in (*queued, held)] == [False, True, False, True]
    assert [take(calls) for _ in range(3)] == [3, 1, None]


def test_what_is_queued_may_be_taken_at_once():
    calls = ThreadCalls()
    first, second, held = call(1), call(2), call(3)
    calls.push(first)
    assert calls.take_waiting() == [first]
    calls.push(second)
    calls.hold(held)
    assert calls.take_queued() == [second, held]
    assert calls.queued == 0
