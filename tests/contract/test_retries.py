"""retries, retry_on and backoff."""

from __future__ import annotations

import pytest
import zoo

from jobrunner import ConfigError, TaskLostError, TaskTimeoutError


class Flaky(ValueError):
    """A module's own exception."""


def fail_with(kind, trace):
    zoo.append_line(trace, "ran")
    raise kind("no")


def runs(trace):
    return len(trace.read_text().split())


@pytest.fixture
def trace(tmp_path):
    return tmp_path / "trace"


@pytest.mark.parametrize(
    ("retry_on", "times"), [(None, 3), (ValueError, 3), ([OSError, LookupError], 1), ((OSError, Flaky), 3)]
)
def test_only_what_is_named_is_tried_again(executor, trace, retry_on, times):
    view = executor.with_options(retries=2, retry_on=retry_on, backoff=0.001)
    with pytest.raises(Flaky):
        view.submit(fail_with, Flaky, str(trace)).result()
    assert runs(trace) == times


def test_with_a_class_that_only_this_program_knows(executor, trace):
    class Own(Exception):
        pass

    view = executor.with_options(retries=1, retry_on=Own, backoff=0)
    assert type(view.submit(fail_with, Own, str(trace)).exception()).__name__ == "Own"
    assert type(view.submit(fail_with, KeyError, str(trace)).exception()) is KeyError
    assert runs(trace) == 3


def test_in_a_map_each_element_has_its_own_retries(executor, tmp_path):
    def odd_ones_fail(number, folder):
        zoo.append_line(f"{folder}/{number}", "ran")
        if number % 2:
            raise Flaky if number == 1 else KeyError
        return number

    view = executor.with_options(retries=2, retry_on=Flaky, backoff=0)
    folder = str(tmp_path)
    with pytest.raises(Flaky):
        list(view.map(odd_ones_fail, [0, 1, 2, 3], [folder] * 4, chunksize=4))
    executor.submit(zoo.nothing).result()
    assert runs(tmp_path / "0") == 1
    assert runs(tmp_path / "1") == 3


@pytest.mark.promise("timeouts")
@pytest.mark.stops
@pytest.mark.parametrize(("retry_on", "times"), [(OSError, 2), (ValueError, 1)])
def test_a_time_limit_counts_as_a_timeout_error(executor, trace, tmp_path, retry_on, times):
    view = executor.with_options(retries=1, retry_on=retry_on, backoff=0, timeout=0.2)
    never = str(tmp_path / "never")
    with pytest.raises(TaskTimeoutError):
        view.submit(zoo.announce_and_wait, str(trace), never).result()
    assert runs(trace) == times


@pytest.mark.parametrize("wrong", [3, "ValueError", int, [ValueError, 3], []])
def test_what_is_no_exception_is_refused(executor, wrong):
    with pytest.raises(ConfigError, match="retry_on="):
        executor.with_options(retry_on=wrong)


def test_at_most_once_and_retries_contradict_each_other(executor):
    with pytest.raises(ConfigError, match="contradict"):
        executor.with_options(retries=1).with_options(at_most_once=True)


@pytest.mark.promise("crashes")
@pytest.mark.crashes
def test_at_most_once_is_not_tried_again_after_a_crash(executor, can, trace):
    def die():
        zoo.append_line(str(trace), "ran")
        zoo.exit_hard(3)

    failure = executor.with_options(at_most_once=True).submit(die).exception()
    assert "exited with code 3" in str(failure) or "tells" not in can
    assert "the task has at_most_once=True, so it is not run again" in str(failure)
    assert runs(trace) == 1


@pytest.mark.promise("crashes")
@pytest.mark.crashes
def test_elements_of_a_map_that_may_run_once_do(executor, tmp_path):
    def die_at_three(number, folder):
        zoo.append_line(f"{folder}/{number}", "ran")
        if number == 3:
            zoo.exit_hard(3)
        return number

    results = executor.with_options(at_most_once=True).map(
        die_at_three, range(8), [str(tmp_path)] * 8, chunksize=8
    )
    with pytest.raises(TaskLostError):
        list(results)
    for number in range(4):
        assert runs(tmp_path / str(number)) == 1
    for number in range(4, 8):  # given up with the map, or run, but once
        assert not (tmp_path / str(number)).exists() or runs(tmp_path / str(number)) == 1
