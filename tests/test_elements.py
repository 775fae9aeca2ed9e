from __future__ import annotations

import itertools

from jobrunner.fixed.elements import ElementResults, Input, all_failed, rows, run_elements


def test_an_input_is_read_in_parts_and_the_shortest_iterable_decides():
    two = Input(["abcde", range(3)])
    assert two.take(2) == [["a", "b"], [0, 1]]
    assert two.take(2) == [["c"], [2]]
    assert two.take(2) == []
    one = Input([itertools.count()])
    assert one.take(3) == [[0, 1, 2]]
    assert one.take(1) == [[3]]
    assert Input([]).take(5) == []


def test_rows_are_the_argument_tuples_of_a_part():
    assert list(rows([[1, 2, 3], "abc"], 1, 3)) == [(2, "b"), (3, "c")]


def test_what_raises_costs_only_its_element():
    results = run_elements(lambda x: 12 // x, [(1,), (0,), (3,)])
    assert results.values == [12, None, 4]
    assert [type(failure) for failure in results.failures.values()] == [ZeroDivisionError]
    assert list(results.failures) == [1]


def test_parts_keep_their_failures():
    failure = ValueError("no")
    results = ElementResults([0, None, 2, None], {1: failure, 3: failure})
    assert results.part(1, 3) == ElementResults([None, 2], {0: failure})
    assert results.part(2, 3) == ElementResults([2])
    assert all_failed(failure, 2) == ElementResults([None, None], {0: failure, 1: failure})
    assert len(results) == 4
