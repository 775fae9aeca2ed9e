from __future__ import annotations

import pickle
import threading

import pytest

from jobrunner.fixed.own_pickles import OwnPickles, SharedClasses, class_numbered, load_own


def loaded(pickles, *streams):
    classes = SharedClasses(pickles.classes) if pickles.classes else None
    return [load_own(stream, (), classes) for stream in streams]


def test_values_share_nothing_and_each_keeps_its_own_shape():
    pickles, shared = OwnPickles(), [1]
    streams = []
    for index in range(3):
        shared.append(index)
        streams.append(pickles.dump((shared, shared)))
    values = loaded(pickles, *streams)
    assert [value[0] for value in values] == [[1, 0], [1, 0, 1], [1, 0, 1, 2]]
    assert all(value[0] is value[1] for value in values)
    assert not pickles.classes


def test_a_class_that_goes_by_value_is_pickled_once():
    class Local:
        def __init__(self, x):
            self.x = x

    pickles = OwnPickles()
    streams = [pickles.dump([Local(x), Local(-x)]) for x in range(5)]
    assert len(pickles.classes) == 1
    assert max(map(len, streams)) < 300
    values = loaded(pickles, *streams)
    assert [(a.x, b.x) for a, b in values] == [(x, -x) for x in range(5)]
    assert len({type(one) for pair in values for one in pair}) == 1


def test_classes_that_turn_up_one_after_the_other():
    kinds = [type(f"Kind{number}", (), {"number": number}) for number in range(12)]
    for kind in kinds:
        kind.__module__ = "__main__"
    values = []
    for round_ in range(3):
        for number, kind in enumerate(kinds[: 4 * (round_ + 1)]):
            one, other = kind(), kinds[number // 2]()
            one.shared = other.shared = [round_, number]
            one.function = (lambda step: lambda: step)(round_) if number % 5 == 0 else None
            values += [one, [one, other], [round_], {"a": kind}]
    pickles = OwnPickles()
    arrived = loaded(pickles, *[pickles.dump(value) for value in values])
    assert len(set(pickles.classes)) == len(pickles.classes)
    assert len(pickles.classes) <= len(kinds) + 1  # cells of closures are of a kind that has no name
    for value, copy in zip(values, arrived, strict=True):
        assert type(copy).__name__ == type(value).__name__
        if isinstance(value, list) and len(value) == 2:
            assert copy[0].shared is copy[1].shared
            assert copy[0].shared == value[0].shared
            assert [one.number for one in copy] == [one.number for one in value]
            assert copy[0].function is None or copy[0].function() == value[0].function()
        elif isinstance(value, dict):
            assert copy["a"].number == value["a"].number


def test_large_buffers_are_beside_the_pickle():
    pickles = OwnPickles()
    large = pickle.PickleBuffer(bytearray(100_000))
    assert len(pickles.dump(large)) < 100
    assert [buffer.nbytes for buffer in pickles.buffers] == [100_000]
    pickles.dump(1)
    assert not pickles.buffers
    assert len(pickles.dump(pickle.PickleBuffer(bytearray(1000)))) > 1000


def test_a_value_that_cannot_be_pickled_leaves_nothing_behind():
    pickles = OwnPickles()
    with pytest.raises(TypeError, match="lock"):
        pickles.dump([bytes(200_000), threading.Lock()])
    assert loaded(pickles, pickles.dump([2])) == [[2]]


def test_a_number_of_a_class_means_nothing_elsewhere():
    with pytest.raises(pickle.UnpicklingError, match="not in it; load it with load_own"):
        class_numbered(0)
