"""Amounts of resources add up exactly, however they are taken and given back."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cores import DOUBLE, Coordinator, ids, ok, record, spec, worker_peer

from jobrunner.protocol.coordinator.resources import UNIT, exact, requirements_of, shown, units
from jobrunner.protocol.wire import messages as m

decimals = st.integers(0, 5_000_000).map(lambda millionths: float(Fraction(millionths, UNIT)))


@pytest.mark.parametrize(
    ("amount", "exactly"),
    [(1, UNIT), (0.1, 100_000), (0.57, 570_000), (1e-6, 1), (1e-9, 1), (0.0, 0), (1e300, 10**306)],
)
def test_an_amount_is_what_its_text_says_in_millionths(amount, exactly):
    assert units(amount) == exactly


@given(decimals)
def test_every_amount_of_six_decimal_places_is_exact(amount):
    assert Fraction(units(amount), UNIT) == Fraction(repr(amount))


@given(st.integers(1, UNIT))
def test_so_many_parts_fit_into_one(count):
    assert count * units(1 / count) <= UNIT


def test_an_amount_that_is_named_twice_is_the_sum():
    assert requirements_of((("gpu", 0.1), ("cpu", 1), ("gpu", 0.2), ("none", 0))) == (
        ("cpu", UNIT),
        ("gpu", 300_000),
    )
    assert shown(requirements_of((("gpu", 0.3), ("cpu", 2)))) == "cpu=2, gpu=0.3"


@given(
    st.dictionaries(st.sampled_from("ab"), decimals),
    st.lists(st.tuples(st.booleans(), st.lists(st.tuples(st.sampled_from("ab"), decimals), max_size=3))),
)
def test_what_a_worker_has_free_is_what_it_offers_less_what_tasks_hold(provides, steps):
    worker = worker_peer(slots=100, **provides)
    held: list[tuple] = []
    for number, (takes, resources) in enumerate(steps):
        if takes:
            task = record(number, resources=tuple(resources))
            free = {
                name: Fraction(repr(float(provides.get(name, 0))))
                - sum(Fraction(repr(amount)) for _, all_of_it in held for n, amount in all_of_it if n == name)
                for name in "ab"
            }
            wanted = {n: sum(Fraction(repr(x)) for name, x in resources if name == n) for n in "ab"}
            assert worker.fits(task.requirements) == all(wanted[n] <= free[n] for n in "ab")
            if worker.fits(task.requirements):
                worker.take(task)
                held.append((task, resources))
        elif held:
            worker.release(held.pop(0)[0])
    for task, _ in held:
        worker.release(task)
    assert {name: amount for name, amount in worker.free.items() if amount} == {
        name: amount for name, amount in worker.provides.items() if amount
    }


def test_after_fractions_a_whole_resource_is_whole_again():
    world = Coordinator()
    client, worker = world.client(), world.worker(slots=3, resources={"gpu": 1.0})
    parts = [spec(n, resources=(("gpu", amount),)) for n, amount in enumerate((0.1, 0.2, 0.3))]
    client.say(m.Submit(parts, [DOUBLE]))
    assert ids(worker.heard_one(m.Assign).tasks) == ["c-0", "c-1", "c-2"]
    worker.say(m.Outcomes([ok("c-2"), ok("c-1"), ok("c-0")]))
    client.say(m.Submit([spec(3, resources=(("gpu", 1.0),))]))
    assert ids(worker.heard_one(m.Assign).tasks) == ["c-3"]


def test_a_worker_says_its_amounts_exactly_too():
    assert exact([("gpu", 0.3)]) == {"gpu": units(0.1) + units(0.2)}
