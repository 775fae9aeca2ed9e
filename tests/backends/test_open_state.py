"""Whether a backend accepts calls, and what it says if not."""

from __future__ import annotations

import os
import traceback

import pytest

from jobrunner.backends.open_state import OpenState
from jobrunner.errors import JobRunnerError


def test_an_open_backend_accepts_calls():
    state = OpenState()
    state.check()
    assert state.usable
    assert state.failure_anew() is None


def test_one_that_was_shut_down_says_what_the_standard_pools_say():
    state = OpenState()
    state.shut_down()
    assert not state.usable
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        state.check()


def test_a_failure_comes_before_a_shutdown_and_each_one_gets_an_error_of_its_own():
    state, failure = OpenState(), JobRunnerError("the cluster is gone")
    failure.__cause__ = OSError("no route")
    state.shut_down()
    state.fail(failure)
    raised = []
    for _ in range(2):
        with pytest.raises(JobRunnerError, match="the cluster is gone") as info:
            state.check()
        raised.append(info.value)
    assert raised[0] is not raised[1]
    assert failure.__traceback__ is None, "it would hold on to the frames of whoever has asked"
    assert [error.__cause__ for error in raised] == [failure.__cause__] * 2
    assert not state.usable


def test_an_exception_that_nobody_expected_is_told_as_a_bug():
    state, cause = OpenState(), KeyError("x")
    state.fail_by_bug("the thread", cause)
    with pytest.raises(JobRunnerError, match=r"the thread failed: KeyError\('x'\); this is a bug") as info:
        state.check()
    assert info.value.__cause__ is cause


def test_a_forked_process_has_no_part_in_it():
    state = OpenState()
    child = os.fork()
    if not child:
        code = 1
        try:
            assert not state.is_of_this_process
            assert not state.usable
            with pytest.raises(RuntimeError, match="belongs to the process that forked this one"):
                state.check()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert state.usable
