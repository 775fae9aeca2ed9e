from __future__ import annotations

import pytest

from jobrunner.calls.serialization import dump_classes
from jobrunner.errors import TaskLostError, TaskTimeoutError
from jobrunner.mapping.repeating import after_failure, after_raising, options_of
from jobrunner.mapping.spans import Pack, Span
from jobrunner.protocol.retry import FINISH, RetryAfter
from jobrunner.protocol.wire.messages import DEFAULT_OPTIONS

PACK = Pack(b"", 100, 20)


def lost(element=None, **detail):
    failure = TaskLostError("its process died")
    failure.element, failure.detail = element, detail
    return failure


def after(span, failure, **options):
    """The chunks that follow, each with its retries; and how many elements have failed."""
    again, failed = after_failure(span, failure, DEFAULT_OPTIONS._replace(**options))
    return [(part.start, part.stop, part.retries) for part in again], failed


def test_the_guilty_element_runs_alone_and_the_others_without_it():
    assert after(Span(PACK, 2, 8, 1), lost(4)) == ([(2, 4, 1), (4, 5, 1), (5, 8, 1)], 0)
    assert after(Span(PACK, 2, 8, 1), lost(7)) == ([(2, 7, 1), (7, 8, 1)], 0)


def test_halves_run_where_nobody_knows_which_is_guilty():
    assert after(Span(PACK, 2, 8, 0), lost()) == ([(2, 5, 0), (5, 8, 0)], 0)
    assert after(Span(PACK, 2, 8, 0), TaskTimeoutError("late")) == ([(2, 5, 0), (5, 8, 0)], 0)


def test_what_may_run_once_fails_if_it_has_begun():
    assert after(Span(PACK, 2, 8, 0), lost(4), at_most_once=True) == ([(5, 8, 0)], 3)
    assert after(Span(PACK, 2, 8, 0), lost(), at_most_once=True) == ([], 6)


def test_a_chunk_beyond_what_a_process_may_make_is_cut_even_if_it_may_run_once():
    assert after(Span(PACK, 2, 7, 0), lost(most_calls=2), at_most_once=True) == (
        [(2, 4, 0), (4, 6, 0), (6, 7, 0)],
        0,
    )


@pytest.mark.parametrize("failure", [lost(2), TaskTimeoutError("late"), ValueError()])
def test_a_single_element_fails_for_its_backend_has_retried_it(failure):
    assert after(Span(PACK, 2, 3, 4), failure) == ([], 1)


def test_the_last_element_of_a_divided_chunk_may_run_out_of_time_again():
    span = Span(PACK, 2, 3, 4, divided=True)
    late = TaskTimeoutError("late")
    assert after(span, late, retries=4) == ([(2, 3, 3)], 0)
    assert after(span, late, retries=4, retry_timeouts=False) == ([], 1)
    assert after(Span(PACK, 2, 3, 0, divided=True), late, retries=4) == ([], 1)
    assert after(Span(PACK, 2, 3, 0, divided=True), late, at_most_once=True) == ([], 1)


def test_what_is_no_loss_fails_the_whole_chunk():
    assert after(Span(PACK, 2, 8, 3), ValueError()) == ([], 6)


def test_a_chunk_has_no_retries_of_its_own_and_the_time_of_its_elements():
    options = DEFAULT_OPTIONS._replace(retries=3, timeout=2.0)
    assert options_of(Span(PACK, 2, 8, 3), options) == options._replace(retries=0, timeout=12.0)
    assert options_of(Span(PACK, 2, 3, 1), options) == options._replace(retries=1)
    assert options_of(Span(PACK, 2, 3, 3), options) is options
    assert options_of(Span(PACK, 2, 8, 0), DEFAULT_OPTIONS) is DEFAULT_OPTIONS


def test_an_exception_is_judged_where_it_raised_if_it_was():
    span = Span(PACK, 2, 8, 1)

    def again(failure, final, classes):
        retry_on = classes and dump_classes(classes)
        options = DEFAULT_OPTIONS._replace(retries=1, retry_on=retry_on)
        return after_raising(span, failure, final, options) is not FINISH

    assert again(ValueError(), None, (ValueError,))
    assert not again(KeyError(), None, (ValueError,))
    assert not again(ValueError(), True, (ValueError,))
    assert again(KeyError(), False, (ValueError,))
    assert again(KeyError(), True, None)


def test_the_pause_of_an_element_grows_with_its_failures_up_to_its_retries():
    options = DEFAULT_OPTIONS._replace(retries=3, backoff=2.0)
    verdicts = [after_raising(Span(PACK, 2, 8, left), ValueError(), None, options) for left in (3, 2, 1, 0)]
    assert verdicts == [RetryAfter(2.0), RetryAfter(4.0), RetryAfter(8.0), FINISH]
