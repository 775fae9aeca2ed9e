from __future__ import annotations

import enum
import logging
import re

import pytest
import zoo

from jobrunner.calls.serialization import dump_function, load_function, payloads_of
from jobrunner.fixed import FixingInput, calls, dump_elements, load_elements
from jobrunner.fixed.elements import Input
from jobrunner.fixed.held import HeldObjects


class Colour(enum.Enum):
    RED = 1


class Holder:
    def __init__(self, held):
        self.held = held

    def has(self, value):
        return value is self.held

    def first(self, value, *_):
        return value[0] is self.held


def taken(method, *columns):
    dumped = dump_function(method)
    fixed, failures = FixingInput(Input(columns), dumped.held).take(100)
    assert not failures
    return dumped, fixed


def results(method, *columns):
    dumped, fixed = taken(method, *columns)
    fn = load_function(dumped.blob, payloads_of(dumped))
    elements = load_elements(dump_elements(fixed, snapshot=True))
    items, call = calls(fn, elements, 0, len(elements))
    return [call(item) for item in items], fixed.together


def test_only_what_shares_an_object_refers_to_it():
    held = zoo.Box([1])
    values = [(held, [1]), (zoo.Box([1]), [1]), (held, [held])]
    assert results(Holder(held).first, values) == ([True, False, True], {0, 2})
    assert results(Holder(held).first, iter(values), range(3)) == ([True, False, True], {0, 2})


@pytest.mark.parametrize("held", [[1], {"a": 1}, {1, 2}])
def test_containers_of_atoms_that_are_shared(held):
    values = [held, held.copy(), held]
    assert results(Holder(held).has, values) == ([True, False, True], {0, 2})
    assert results(Holder(held).has, iter(values)) == ([True, False, True], {0, 2})


@pytest.mark.parametrize(
    "held", [Colour.RED, logging.getLogger("jobrunner.tests"), re.compile("a"), Holder, len, ("a", 1), "text"]
)
def test_what_comes_out_as_itself_is_shared_by_nobody(held):
    """With an element that refers to it goes nothing of what is called."""
    _, fixed = taken(Holder([held]).has, [zoo.Box(held), zoo.Box([held])])
    assert not fixed.together


def test_a_kind_of_numbers_is_shared_by_nobody():
    numpy = pytest.importorskip("numpy")
    _, fixed = taken(Holder(numpy.zeros(3)).has, [zoo.Box(numpy.zeros(3))])
    assert not fixed.together


def test_large_arrays_of_both():
    numpy = pytest.importorskip("numpy")
    held = numpy.zeros(100_000)
    values = [(held, numpy.ones(20_000)), (numpy.ones(100_000), held)]
    assert results(Holder(held).first, values) == ([True, False], {0, 1})


def test_what_plain_pickle_refuses_shares_nothing():
    held = zoo.Box([1])
    objects = HeldObjects(dump_function(Holder(held).has).held)
    assert objects.dump([held, lambda: 1], []) is None
    assert objects.has(held)
    assert not objects.has(zoo.Box([1]))


def test_a_part_of_the_elements_knows_which_of_its_rows_share():
    held = zoo.Box([1])
    _, fixed = taken(Holder(held).has, [zoo.Box(1), held, zoo.Box(2), held])
    assert fixed.part(1, 3).together == {0}
