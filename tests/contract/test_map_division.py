"""Executor.map, where some elements turn out to take much longer than those before them."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import pytest
import zoo

from jobrunner import TaskLostError, TaskTimeoutError

pytestmark = pytest.mark.divides

PATIENCE = 40.0
"""Seconds that an element waits for others to begin."""


def begin(folder, x):
    """Note that element `x` has begun; it may be so once."""
    with open(Path(folder, str(x)), "x"):
        pass


def await_begun(folder, names):
    deadline = time.monotonic() + PATIENCE
    while not all(Path(folder, str(name)).exists() for name in names):
        if time.monotonic() > deadline:
            raise TimeoutError(f"of {names} only {sorted(os.listdir(folder))} have begun")
        time.sleep(0.002)


def meet_late(folder, first, last, x):
    """Elements from `first` on end when all up to `last` have begun."""
    if x >= first:
        begin(folder, x)
        await_begun(folder, range(first, last))
    return x


def keep_busy(folder, count, slots, x):
    """Ends as soon as no slot is idle, unless all of the `count` elements have begun."""
    begin(folder, x)
    deadline = time.monotonic() + PATIENCE
    while True:
        ended = len(list(Path(folder).glob("*.ended")))
        begun = len(list(Path(folder).iterdir())) - len(list(Path(folder).glob("*.ended")))
        if begun >= min(count, ended + slots):
            Path(folder, f"{x}.ended").touch()
            return x
        if time.monotonic() > deadline:
            raise TimeoutError(f"{begun} of {count} have begun, and {ended} have ended")
        time.sleep(0.002)


@pytest.mark.parametrize("chunksize", [None, 3, 1000])
def test_slow_elements_behind_thousands_of_fast_ones_run_at_the_same_time(make_executor, tmp_path, chunksize):
    late = partial(meet_late, str(tmp_path), 3000, 3003)
    assert list(make_executor(max_workers=3).map(late, range(3003), chunksize=chunksize)) == list(range(3003))


def test_what_was_given_back_is_divided_again(make_executor, tmp_path):
    results = make_executor().map(partial(keep_busy, str(tmp_path), 20, 2), range(20), chunksize=20)
    assert list(results) == list(range(20))


def test_slow_elements_at_the_head_of_an_input(make_executor, tmp_path):
    def meet_early(x):
        return meet_late(str(tmp_path), 0, 2, x) if x < 2 else x

    assert list(make_executor().map(meet_early, range(500), chunksize=500)) == list(range(500))


def test_no_element_begins_twice(make_executor, tmp_path):
    """`begin` would fail."""
    once = make_executor(max_workers=3).with_options(at_most_once=True)
    results = once.map(partial(keep_busy, str(tmp_path), 12, 3), range(12), chunksize=6)
    assert list(results) == list(range(12))


def keep_gil_at_third(folder, x):
    """Until the last one begins."""
    if x == 2:
        zoo.keep_gil_if(folder)
    elif x == 5:
        os.open(f"{folder}/gate", os.O_RDWR)  # open until this process ends
    return x


@pytest.mark.own  # other engines look at a chunk between its elements
def test_an_element_that_keeps_the_interpreter_holds_up_none_behind_it(make_executor, tmp_path):
    os.mkfifo(tmp_path / "gate")
    results = make_executor().map(partial(keep_gil_at_third, str(tmp_path)), range(6), chunksize=6)
    assert list(results) == list(range(6))


def test_elements_that_raise_have_raised_in_their_places(make_executor, tmp_path):
    def fail_at_third(x):
        keep_busy(str(tmp_path), 6, 2, x)
        if x == 3:
            raise KeyError(x)
        return x

    results = make_executor().map(fail_at_third, range(6), chunksize=6)
    assert [next(results), next(results), next(results)] == [0, 1, 2]
    with pytest.raises(KeyError):
        next(results)


@pytest.mark.crashes
def test_the_death_of_what_goes_on_costs_one_element(make_executor, tmp_path):
    def die_at_second(x):
        if x == 2:
            await_begun(str(tmp_path), [3])  # it was given back by then
            os._exit(1)
        begin(str(tmp_path), x) if x > 2 else None
        return x

    results = make_executor().map(die_at_second, range(6), chunksize=6)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(TaskLostError):
        next(results)


@pytest.mark.stops
def test_what_goes_on_has_its_own_time(make_executor, tmp_path):
    """And not that of the elements which it gave back."""

    def hang_at_first(x):
        begin(str(tmp_path), x)
        if x == 0:
            time.sleep(1000)
        return x

    limited = make_executor().with_options(timeout=2.0)
    results = limited.map(hang_at_first, range(1000), chunksize=1000)
    with pytest.raises(TaskTimeoutError):
        next(results)
