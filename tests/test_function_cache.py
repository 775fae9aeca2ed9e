"""Which functions stay, which initializers run, and what they provide."""

from __future__ import annotations

from functools import partial
from types import FunctionType

import pytest

from jobrunner.calls.function_cache import FunctionCache
from jobrunner.calls.initializers import NOTHING


def function(size=1):
    """A loader of functions, and the list of what it has loaded."""
    loads = []

    def load(key):
        loads.append(key)
        return partial(len, key), size

    return load, loads


def test_a_function_is_loaded_once_per_initializer():
    cache = FunctionCache()
    cache.provided[b"i"] = NOTHING
    load, loads = function()
    first = cache.get(b"f", None, load)
    assert cache.get(b"f", None, load) is first
    assert cache.get(b"f", b"i", load) is not first
    assert cache.get(b"f", b"i", load) is cache.get(b"f", b"i", load)
    assert loads == [b"f", b"f"]


def test_a_dropped_function_is_loaded_anew_whatever_its_initializer():
    cache = FunctionCache()
    cache.provided[b"i"] = NOTHING
    load, loads = function()
    for initializer in (None, b"i"):
        cache.get(b"f", initializer, load)
    other = cache.get(b"g", None, load)
    cache.drop(b"f")
    assert cache.get(b"g", None, load) is other
    for initializer in (None, b"i"):
        cache.get(b"f", initializer, load)
    assert loads == [b"f", b"f", b"g", b"f", b"f"]


def test_without_limits_everything_stays():
    cache = FunctionCache()
    load, loads = function(size=2**40)
    for _ in range(2):
        for number in range(1000):
            cache.get(b"%d" % number, None, load)
    assert len(loads) == 1000


def test_limits_drop_the_longest_unused_but_never_the_last_one():
    cache = FunctionCache(2, 100)
    load, loads = function()
    for key in (b"a", b"b", b"a", b"c", b"a", b"b"):
        cache.get(key, None, load)
    assert loads == [b"a", b"b", b"c", b"b"], "b was unused for longest when c came"
    load, loads = function(size=1000)
    for key in (b"x", b"x", b"y", b"y", b"x"):
        cache.get(key, None, load)
    assert loads == [b"x", b"y", b"x"], "one of them has more than all may have"


def test_a_function_that_cannot_be_loaded_is_tried_again():
    cache = FunctionCache()

    def fail(key):
        raise ValueError(key)

    with pytest.raises(ValueError, match="f"):
        cache.get(b"f", None, fail)
    load, loads = function()
    cache.get(b"f", None, load)
    assert loads == [b"f"]


def by_value(code):
    """A function of a module that this process does not have."""
    return FunctionType(code, {"__name__": "elsewhere", "setting": "of submit"})


def set_it():
    global setting
    setting = "of the initializer"


def get_it():
    return setting


def test_what_an_initializer_sets_is_seen_by_the_functions_that_name_it():
    cache = FunctionCache()
    runs = []

    def load_initializer():
        runs.append(1)
        return by_value(set_it.__code__)

    for _ in range(2):
        cache.initialize(b"i", load_initializer, lambda exc: exc)
    assert runs == [1]

    def load(key):
        return by_value(get_it.__code__), 1

    assert cache.get(b"f", b"i", load)() == "of the initializer"
    assert cache.get(b"f", None, load)() == "of submit"


def test_a_failed_initializer_fails_each_time_with_what_its_owner_makes_of_it():
    cache = FunctionCache()
    runs = []

    def fail():
        runs.append(1)
        raise OSError("no licence")

    errors = []
    for _ in range(2):
        with pytest.raises(RuntimeError, match="made of no licence") as caught:
            cache.initialize(b"i", lambda: fail, lambda exc: RuntimeError(f"made of {exc}"))
        errors.append(caught.value)
    assert runs == [1]
    assert errors[0] is errors[1] is cache.failures[b"i"]
    assert b"i" not in cache.provided


def test_an_initializer_that_was_interrupted_runs_again():
    cache = FunctionCache()
    runs = []

    def initializer():
        runs.append(1)
        if len(runs) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.initialize(b"i", lambda: initializer, lambda exc: None)
    assert not cache.failures
    cache.initialize(b"i", lambda: initializer, lambda exc: None)
    cache.initialize(b"i", lambda: initializer, lambda exc: None)
    assert len(runs) == 2
    assert b"i" in cache.provided
