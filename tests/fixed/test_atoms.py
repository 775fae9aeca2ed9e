from __future__ import annotations

import datetime
import decimal
import fractions
import pathlib
import uuid
import zoneinfo

import pytest

from jobrunner.fixed import atoms

NOW = datetime.datetime(2024, 2, 3, 4, 5)


class Text(str):
    pass


class OwnZone(datetime.tzinfo):
    pass


class Decimal:
    """Named as an atom, and none."""


@pytest.mark.parametrize(
    "value",
    [
        1,
        2.5,
        1j,
        True,
        "a",
        b"a",
        None,
        ...,
        range(3),
        (),
        (1, ("a", (None,))),
        tuple(range(20)),
        frozenset((1, "a", (2,))),
        NOW,
        NOW.date(),
        NOW.time(),
        NOW.replace(tzinfo=datetime.UTC),
        NOW.replace(tzinfo=zoneinfo.ZoneInfo("UTC")),
        datetime.timedelta(1),
        decimal.Decimal("1.5"),
        fractions.Fraction(1, 3),
        uuid.UUID(int=7),
        pathlib.PurePosixPath("a/b"),
    ],
)
def test_atoms(value):
    assert atoms.is_atom(value)
    assert atoms.is_atom(value)  # its kind is known now
    assert atoms.travel_together([value], {type(value)})


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        set(),
        bytearray(),
        ([],),
        (1, 2, 3, 4, 5, []),
        Text("a"),
        object(),
        NOW.replace(tzinfo=OwnZone()),
        Decimal(),
        slice(1),
        frozenset((Text("a"),)),
    ],
)
def test_others(value):
    assert not atoms.is_atom(value)


def test_scalars_of_numpy_are_atoms_and_arrays_are_copied():
    numpy = pytest.importorskip("numpy")
    for value in (numpy.float64(1), numpy.int8(2), numpy.bool_(True), numpy.datetime64("2024-01-01")):
        assert atoms.is_atom(value)
    array = numpy.arange(3)
    assert not atoms.is_atom(array)
    copy = atoms.copied(array, type(array))
    assert copy is not array
    assert (copy == array).all()
    objects = numpy.array([[], None], dtype=object)
    assert atoms.copied(objects, type(objects)) is None
    assert atoms.copied(numpy.zeros((1,), dtype=[("a", int)]), numpy.ndarray) is None
    assert not atoms.travel_together([array, objects], {numpy.ndarray})


@pytest.mark.parametrize("value", [[], [1, "a"], list(range(20)), {"a": 1}, {1, 2}])
def test_containers_of_atoms_are_copied(value):
    copy = atoms.copied(value, type(value))
    assert copy == value
    assert copy is not value


@pytest.mark.parametrize("value", [[[]], {"a": []}, {Text("a"): 1}, [1, Text("a")], {Text("a")}, object()])
def test_others_are_not(value):
    assert atoms.copied(value, type(value)) is None


@pytest.mark.parametrize(
    ("column", "together"),
    [
        ([1, "a", None], True),
        ([(1, 2), (3, 4)], True),
        ([(1, 2), 3], True),
        ([[1], [2]], True),
        ([{"a": 1}, {"b": 2}], True),
        ([[1], {"b": 2}], False),
        ([[1], [[2]]], False),
        ([{"a": []}], False),
        ([(1,), ([],)], False),
    ],
)
def test_what_travels_together(column, together):
    assert atoms.travel_together(column, set(map(type, column))) is together
