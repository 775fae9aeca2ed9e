"""Executor.map over a backend that runs calls when the test says so."""

from __future__ import annotations

import gc
import itertools
import sys
from concurrent.futures import CancelledError

import pytest
from support.steps import Steps

from jobrunner import Executor, NotSupportedError, TaskLostError, TaskTimeoutError
from jobrunner.fixed.elements import Input
from jobrunner.mapping import chunk_queue, chunk_runner, packing, progress
from jobrunner.mapping import run as mapping
from jobrunner.protocol.wire.messages import DEFAULT_OPTIONS
from jobrunner.testing.stub_backend import StubBackend

MODULES = [mapping, packing, progress, chunk_queue, chunk_runner]


class Unpicklable:
    def __reduce__(self):
        raise TypeError("not this one")


def double(x):
    return 2 * x


def odd_raises(x):
    if x % 2:
        raise ValueError(x)
    return x


@pytest.fixture
def backend():
    return StubBackend()


@pytest.fixture
def executor(backend):
    opened = Executor(backend)
    yield opened
    opened._lifetime.kill()  # a map that a test left unfinished would keep the interpreter from exiting


def lost(element=None):
    exc = TaskLostError("its process died")
    exc.element = element
    return exc


def spans(backend):
    return [call.span for call in backend.calls]


# --- chunks -------------------------------------------------------------------------------------------------


def test_a_given_chunksize_is_kept_to_exactly(backend, executor):
    results = executor.map(double, range(100), chunksize=20)
    assert spans(backend) == [(0, 20)] * 5
    backend.run_all()
    assert list(results) == list(range(0, 200, 2))


def test_every_call_is_on_its_way_without_iterating(backend, executor):
    seen = []
    executor.map(seen.append, range(50))
    backend.run_all()
    assert seen == list(range(50))


def test_the_default_probes_and_then_grows(backend, executor):
    results = executor.map(double, range(5000))
    assert all(stop - start == 1 for start, stop in spans(backend))
    backend.run_all(1e-5)
    assert list(results) == list(range(0, 10_000, 2))
    assert backend.submitted < 300


def test_slow_calls_travel_one_by_one(backend, executor):
    results = executor.map(double, range(60))
    backend.run_all(0.5)
    assert backend.submitted == 60
    assert list(results) == list(range(0, 120, 2))


def test_only_a_window_of_chunks_is_under_way(backend, executor):
    executor.map(double, range(5000))
    assert len(backend.calls) == 12  # 4 per slot, and 4


def test_large_elements_make_small_packs(backend, executor):
    executor.map(len, [bytes(40_000)] * 20)
    assert max(backend.packs) == 1


def test_a_backend_that_finishes_calls_at_once(executor, backend):
    backend.automatic = True
    assert list(executor.map(double, range(20_000))) == list(range(0, 40_000, 2))


def test_results_out_of_order_come_in_order(backend, executor):
    results = executor.map(double, range(10), chunksize=1)
    while backend.calls:
        backend.calls.pop().run()
    assert list(results) == list(range(0, 20, 2))


def test_elements_are_fixed_when_map_returns(backend, executor):
    data = [[1], [2]]
    results = executor.map(sum, data)
    data[0].append(100)
    backend.run_all()
    assert list(results) == [1, 2]


def test_several_iterables_the_shortest_decides(backend, executor):
    results = executor.map(pow, [2, 3, 4], itertools.count(1))
    backend.run_all()
    assert list(results) == [2, 9, 64]


@pytest.mark.parametrize("iterables", [(), ([],), ([1], [])])
def test_nothing_to_do(executor, iterables, backend):
    assert list(executor.map(double, *iterables)) == []
    assert backend.submitted == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"chunksize": 0}, ValueError),
        ({"chunksize": -3}, ValueError),
        ({"buffersize": 0}, ValueError),
        ({"buffersize": "3"}, TypeError),
        ({"buffersize": 2.0}, TypeError),
    ],
)
def test_bad_sizes(executor, arguments, error):
    with pytest.raises(error):
        executor.map(double, [1], **arguments)


# --- failures -----------------------------------------------------------------------------------------------


def test_iteration_raises_at_the_first_failed_element(backend, executor):
    results = executor.map(odd_raises, [0, 2, 3, 4], chunksize=4)
    backend.run_all()
    assert next(results) == 0
    assert next(results) == 2
    with pytest.raises(ValueError, match="3"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


@pytest.mark.parametrize("chunksize", [None, 1, 3, 100])
def test_an_element_that_cannot_be_pickled_fails_alone(backend, executor, chunksize):
    elements = [*range(40), Unpicklable(), *range(5)]
    results = executor.map(double, elements, chunksize=chunksize)
    backend.run_all(1e-6)
    assert list(itertools.islice(results, 40)) == list(range(0, 80, 2))
    with pytest.raises(TypeError, match="not this one"):
        next(results)


def test_a_function_that_cannot_be_prepared_fails_the_iteration(executor):
    results = executor.map(None, [1])
    with pytest.raises(TypeError):
        next(results)
    assert list(executor.map(None, [])) == []


def test_the_inputs_exception_leaves_map_and_what_came_before_it_runs(backend, executor):
    def elements():
        yield 1
        raise OSError("input")

    with pytest.raises(OSError, match="input"):
        executor.map(double, elements())
    assert [call.future.cancelled() for call in backend.calls] == [False]


@pytest.mark.parametrize("known", [True, False])
def test_a_crash_costs_only_the_guilty_element(backend, executor, known):
    results = executor.map(double, range(10), chunksize=10)
    while backend.calls:
        call = backend.calls.pop(0)
        start, stop = call.span
        if start <= 6 < stop:
            call.fail(lost(6 if known else None))
        else:
            call.run()
    assert [next(results) for _ in range(6)] == [0, 2, 4, 6, 8, 10]
    with pytest.raises(TaskLostError):
        next(results)


def test_the_elements_after_the_guilty_one_run_too(backend, executor):
    ran = []
    executor.map(ran.append, range(10), chunksize=10)
    backend.calls.pop(0).fail(lost(6))
    assert spans(backend) == [(0, 6), (6, 7), (7, 10)]
    backend.run_all()
    assert ran == list(range(10))


def test_another_error_of_the_backend_fails_the_whole_chunk(backend, executor):
    results = executor.map(double, range(4), chunksize=2)
    backend.calls.pop(0).fail(OSError("no"))
    assert len(backend.calls) == 1
    with pytest.raises(OSError, match="no"):
        next(results)


def test_only_the_elements_that_raised_run_again(backend, executor):
    failures = {3: 2, 5: 1}
    ran = []

    def flaky(x):
        ran.append(x)
        if failures.get(x, 0) > 0:
            failures[x] -= 1
            raise ValueError(x)
        return x

    results = executor.with_options(retries=2, backoff=0).map(flaky, range(8), chunksize=8)
    assert backend.calls[0].options.retries == 0
    backend.run_next()
    assert spans(backend) == [(3, 4), (5, 6)]
    assert [call.options.retries for call in backend.calls] == [1, 1]
    ran.clear()
    failures.clear()
    backend.run_all()
    assert ran == [3, 5]
    assert list(results) == list(range(8))


def test_a_timeout_is_that_of_a_call(backend, executor):
    limited = executor.with_options(timeout=2)
    limited.map(double, range(40))
    backend.run_all(1e-6)
    assert backend.submitted == 40
    results = limited.map(double, range(4), chunksize=4)
    assert [call.options.timeout for call in backend.calls] == [8.0]
    backend.calls.pop(0).fail(TaskTimeoutError("late"))
    assert [call.options.timeout for call in backend.calls] == [4.0, 4.0]
    backend.run_all()
    assert list(results) == [0, 2, 4, 6]


def test_an_option_that_the_backend_refuses_is_refused_by_map():
    with Executor("threads") as executor, pytest.raises(NotSupportedError):
        executor.with_options(timeout=1).map(double, [1, 2, 3])


# --- the consumer -------------------------------------------------------------------------------------------


def test_timeout_bounds_the_whole(executor):
    results = executor.map(double, range(3), timeout=0)
    with pytest.raises(TimeoutError, match="3 of 3"):
        next(results)


def test_a_result_that_is_there_needs_no_time(backend, executor):
    results = executor.map(double, range(3), timeout=0)
    backend.run_all()
    assert list(results) == [0, 2, 4]


@pytest.mark.parametrize("chunksize", [None, 2])
def test_closing_the_iterator_cancels_what_has_not_started(backend, executor, chunksize):
    ran = []
    results = executor.map(ran.append, range(1000), chunksize=chunksize)
    backend.run_next()
    next(results)
    results.close()
    count = len(ran)
    backend.run_all()
    assert len(ran) == count


def test_dropping_the_iterator_cancels_too(backend, executor):
    results = executor.map(double, range(1000))
    backend.run_next()
    next(results)
    del results
    gc.collect()
    assert all(call.future.cancelled() for call in backend.calls)


def test_a_call_that_is_cancelled_elsewhere(backend, executor):
    results = executor.map(double, range(4), chunksize=2)
    backend.calls[0].future.cancel()
    with pytest.raises(CancelledError):
        next(results)


# --- chunks that are divided while they run -------------------------------------------------------------------


def divide(call, stop):
    """Have a call give back its elements from `stop` on, as a backend does; it goes on with the others."""
    start = call.span[0]
    work = call.work
    call.work = lambda: work().part(0, stop - start)
    call.span = (start, stop)
    call.future.give_back(stop)


def test_what_a_chunk_gives_back_is_submitted_at_once_and_spread(backend, executor):
    results = executor.map(double, range(9), chunksize=9)
    (running,) = backend.calls
    divide(running, 1)
    assert spans(backend)[1:] == [(n, n + 1) for n in range(1, 9)]
    backend.run_all()
    assert list(results) == list(range(0, 18, 2))


def test_a_long_rest_is_cut_so_that_every_slot_has_some_and_is_divided_again(backend, executor):
    results = executor.map(double, range(1000), chunksize=100)
    backend.run_next(1e-4)
    while len(backend.calls) > 1:
        backend.calls.pop().run(1e-4)
    divide(backend.calls[0], 15)
    rest = backend.calls[1:]
    assert [call.span for call in rest] == [(15, 36), (36, 57), (57, 78), (78, 99), (99, 100)]
    divide(rest[0], 16)
    assert spans(backend)[6:] == [(16, 21), (21, 26), (26, 31), (31, 36)]
    backend.run_all()
    assert list(results) == list(range(0, 2000, 2))


def test_what_is_given_back_goes_before_the_rest_of_the_input(backend, executor):
    results = executor.map(double, range(50_000))
    for _ in range(40):
        backend.run_next(1e-4)
    first = backend.calls[0]
    start, stop = first.span
    assert stop - start > 2
    divide(first, start + 1)
    backend.calls.pop(1).run(1e-4)
    assert start + 1 in [call.span[0] for call in backend.calls]
    backend.run_all(1e-4)
    assert list(results) == list(range(0, 100_000, 2))


def test_a_result_of_fewer_elements_gives_back_the_others(backend, executor):
    results = executor.map(double, range(6), chunksize=6)
    call = backend.calls.pop()
    work = call.work
    call.work = lambda: work().part(0, 2)
    call.run(1.0)
    assert spans(backend) == [(2, 3), (3, 4), (4, 5), (5, 6)]
    backend.run_all()
    assert list(results) == list(range(0, 12, 2))


def test_elements_that_raise_in_what_goes_on_run_again_alone(backend, executor):
    ran = []

    def fail_once(x):
        ran.append(x)
        if ran.count(x) < 2:
            raise ValueError(x)
        return x

    results = executor.with_options(retries=1, backoff=0).map(fail_once, range(4), chunksize=4)
    divide(backend.calls[0], 2)
    backend.run_all()
    assert list(results) == [0, 1, 2, 3]


def test_the_death_of_what_goes_on_costs_nothing_that_was_given_back(backend, executor):
    results = executor.map(double, range(6), chunksize=6)
    call = backend.calls[0]
    divide(call, 3)
    backend.calls.remove(call)
    call.fail(lost(2))
    assert sorted(spans(backend)) == [(0, 2), (2, 3), (3, 4), (4, 5), (5, 6)]
    (guilty,) = [one for one in backend.calls if one.span == (2, 3)]
    backend.calls.remove(guilty)
    guilty.fail(lost())
    backend.run_all()
    assert [next(results), next(results)] == [0, 2]
    with pytest.raises(TaskLostError):
        next(results)


def test_at_most_once_what_goes_on_fails_and_what_was_given_back_runs(backend, executor):
    ran = []
    results = executor.with_options(at_most_once=True).map(ran.append, range(6), chunksize=6)
    call = backend.calls.pop()
    divide(call, 3)
    call.fail(lost())
    backend.run_all()
    assert ran == [3, 4, 5]
    with pytest.raises(TaskLostError):
        next(results)


@pytest.mark.parametrize(("retries", "again"), [(0, []), (1, [(0, 1)])])
def test_an_element_that_goes_on_alone_and_runs_out_of_time_has_its_retries(
    backend, executor, retries, again
):
    executor.with_options(timeout=1.0, retries=retries).map(double, range(3), chunksize=3)
    call = backend.calls.pop()
    divide(call, 1)
    backend.run_all()
    call.fail(TaskTimeoutError("it took too long"))
    assert spans(backend) == again
    assert all(one.options.retries == 0 for one in backend.calls)
    backend.run_all()


def test_what_is_given_back_of_a_map_that_was_closed_does_not_run(backend, executor):
    ran = []
    results = executor.map(ran.append, range(12), chunksize=6)
    backend.run_next()
    next(results)
    running = backend.calls[0]
    running.future.set_running_or_notify_cancel()
    results.close()
    divide(running, 3)
    assert backend.calls == [running]
    running.future.set_result(running.work())


# --- buffersize ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("buffersize", [1, 2, 7, 100])
@pytest.mark.parametrize("chunksize", [None, 1, 3, 1000])
def test_no_more_is_taken_than_the_buffer_holds(backend, executor, buffersize, chunksize):
    backend.automatic = True
    taken = itertools.count()
    results = executor.map(double, taken, buffersize=buffersize, chunksize=chunksize)
    handed_out = 0
    for result in itertools.islice(results, 300):
        assert result == 2 * handed_out
        handed_out += 1
        # reading the counter's state does not advance it
        assert int(repr(taken)[6:-1]) <= handed_out + buffersize
    assert handed_out == 300
    results.close()


def test_the_buffer_is_filled_at_once(backend, executor):
    taken = itertools.count()
    executor.map(double, taken, buffersize=4)
    assert next(taken) == 4
    assert len(backend.calls) == 4


def test_a_finite_input_ends(backend, executor):
    backend.automatic = True
    assert list(executor.map(double, range(50), buffersize=8)) == list(range(0, 100, 2))
    assert list(executor.map(double, [], buffersize=8)) == []


def test_the_inputs_exception_while_iterating(backend, executor):
    backend.automatic = True

    def elements():
        yield from range(3)
        raise OSError("input")

    results = executor.map(double, elements(), buffersize=2)
    with pytest.raises(OSError, match="input"):
        list(results)


def test_after_shutdown_nothing_more_is_taken(backend, executor):
    backend.automatic = True
    results = executor.map(double, itertools.count(), buffersize=3)
    executor.shutdown()
    assert [next(results) for _ in range(3)] == [0, 2, 4]
    with pytest.raises(RuntimeError, match="after shutdown"):
        next(results)


def test_results_may_come_at_any_line_while_the_rest_of_the_input_is_taken(backend, executor):
    def bring_results():
        """As another thread does, which waits for the map's lock."""
        if not any(run._lock._is_owned() for run in executor._lifetime._maps):
            backend.run_all(0.0)

    for step in range(1, 2000):
        steps = Steps(MODULES, step, act=bring_results)
        with steps.here():
            results = executor.map(double, iter(range(15)))
        backend.run_all(0.0)
        assert list(results) == list(range(0, 30, 2)), steps.place
        if not steps.place:
            break
    assert step > 100


# --- the executor's end -------------------------------------------------------------------------------------


def test_shutdown_right_after_map_runs_every_element(backend, executor):
    results = executor.map(double, range(500))
    executor.shutdown(wait=False)
    assert not backend.closed
    backend.run_all(0.1)
    assert backend.closed
    assert list(results) == list(range(0, 1000, 2))


def test_a_map_whose_next_element_is_taken_as_the_last_one_ends_is_work_that_shutdown_leaves(
    backend, executor
):
    run, results = executor._begin_map(double, [range(3)], None, None, 1)
    handed_out = []
    run.on_progress = lambda done: handed_out.append(next(results)) if done == 1 else None
    backend.run_next()  # and its consumer asks for more in the moment in which it is known to have ended
    executor.shutdown(wait=False)
    assert not backend.closed
    backend.run_all()
    assert handed_out == [0]


def test_shutdown_with_cancel_futures_cancels_the_rest(backend, executor):
    results = executor.map(double, range(500))
    executor.shutdown(cancel_futures=True)
    assert backend.closed
    with pytest.raises(CancelledError):
        next(results)


@pytest.fixture
def begun(backend, executor):
    """A map that has taken two of the three elements of its input, and its input."""
    run = mapping.MapRun(executor._lifetime, double, DEFAULT_OPTIONS, 2)
    elements = Input([range(3)])
    assert run.take_from(elements, 2) == 2
    return run, elements


def test_results_that_come_while_the_end_of_the_input_is_taken_do_not_end_the_map(backend, begun):
    run, elements = begun

    def look(frame, event, argument):
        if event == "line" and run.complete and run.done < 2 and not run._runner._lock._is_owned():
            backend.run_all()
        return look

    before = sys.gettrace()
    sys.settrace(lambda frame, *_: look if frame.f_code.co_name in ("take_from", "take") else None)
    try:
        assert run.take_from(elements, 2) == 1
    finally:
        sys.settrace(before)
    backend.run_all()
    assert list(run.results(None)) == [0, 2, 4]


def test_an_end_that_is_told_late_is_none_when_the_map_has_begun_anew(backend, executor, begun):
    run, elements = begun

    def go_on(done):
        run.on_progress = None
        run.take_from(elements, 2)

    run.on_progress = go_on
    backend.run_next()
    executor.shutdown(wait=False)
    assert not backend.closed, "it has elements that are not done"
    backend.run_all()
    assert list(run.results(None)) == [0, 2, 4]


def test_progress_shows_and_changes_nothing(backend, executor, capfd):
    backend.automatic = True
    assert list(executor.map(double, range(30), progress=True)) == list(range(0, 60, 2))
    assert list(executor.map(double, range(30), progress=True, buffersize=4)) == list(range(0, 60, 2))
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "30/30" in captured.err
