"""Calls that need what only those calls hold that wait for them; and such as look like that, and are none."""

from __future__ import annotations

import re

import pytest
from support import calls, nested_calls
from support.daemons import connected

from jobrunner import DeadlockError, DependencyError
from jobrunner.protocol.wire.ids import short_id
from jobrunner.testing.waiting import BOUND, until

NAMES = "abcdefghijkl"
"""Resources: each of the calls that are made at the same time has one to itself."""

OFFERED = ",".join(f"{name}=1" for name in NAMES)


@pytest.fixture
def executor(cluster, address):
    cluster.worker(address, "one", "--resources", OFFERED, slots=len(NAMES))
    with connected(address) as executor:
        yield executor


def holding(executor, name, fn, *args):
    """A call that holds all there is of a resource, whose name it is given."""
    return executor.with_options(resources={name: 1}).submit(fn, name, *args)


def deadlock(future):
    """What the error says with which that call ends."""
    error = future.exception(BOUND)
    assert type(error) is DeadlockError, repr(error)
    assert error.detail["deadlock"] is True
    return str(error)


def test_a_call_that_needs_what_its_caller_holds_fails(executor):
    names = iter(NAMES)
    plain = holding(executor, next(names), nested_calls.ask, 2)
    direct = [
        holding(executor, next(names), nested_calls.ask_with_gather),
        holding(executor, next(names), nested_calls.ask_with_map),
        holding(executor, next(names), nested_calls.ask_for_a_detached_one, 2),
    ]
    twice = holding(executor, next(names), nested_calls.ask_twice)
    chains = [holding(executor, next(names), nested_calls.ask_in_a_chain, levels) for levels in (1, 3)]
    needing = holding(executor, next(names), nested_calls.ask_for_the_result_of_another)
    name = next(names)
    chunks = executor.with_options(resources={name: 1}).map(
        nested_calls.ask_with_map, [name] * 2, chunksize=2
    )

    message = deadlock(plain)
    assert "it needs a=1 and would wait for ever, because no worker has that beside the resources" in message
    assert f"{short_id(plain.id)} (ask) holds a=1 on worker one, and waits for this one" in message
    assert "require less, or end first, or submit this one outside of it" in message
    for future in direct:
        assert re.search(r"holds .=1 on worker one, and waits for this one", deadlock(future))
    assert twice.result(BOUND) == ["DeadlockError"] * 2
    for future in chains:
        assert re.search(r"in_a_chain\) holds .=1 on .* waits for it through others", deadlock(future))
    error = needing.exception(BOUND)
    assert type(error) is DependencyError
    assert "holds h=1 on worker one, and waits for it through others" in str(error)
    with pytest.raises(DeadlockError, match="holds i=1 on worker one, and waits for this one"):
        list(chunks)
    again = [executor.with_options(resources={name: 1}).submit(calls.square, 3) for name in NAMES]
    assert [future.result(BOUND) for future in again] == [9] * len(NAMES), "nothing is held any more"


def test_no_call_fails_that_could_still_begin(cluster, address, executor, tmp_path):
    names = iter(NAMES)
    gate = str(tmp_path / "gate")
    cluster.worker(address, "other", "--resources", "a=1")
    busy = executor.with_options(resources={"a": 1}).submit(calls.wait_for_file, gate)
    until(busy.running)
    waits_for_the_busy_one = holding(executor, next(names), nested_calls.ask, 5)
    going_on = [
        holding(executor, next(names), nested_calls.go_on, gate),
        holding(executor, next(names), nested_calls.ask_for_the_first_of_two, gate),
        holding(executor, next(names), nested_calls.ask_with_limits, gate),
    ]
    waits_for_a_worker = holding(executor, next(names), nested_calls.ask_for_two, 6)
    until(lambda: all(f.running() for f in (*going_on, waits_for_the_busy_one, waits_for_a_worker)))
    until(lambda: executor.status()["tasks"]["queued"] == 5)
    # The others have waited for longer than one that cannot begin, when that has ended.
    deadlock(holding(executor, NAMES[-1], nested_calls.ask, 2))
    assert executor.status()["tasks"]["queued"] == 5
    cluster.worker(address, "large", "--resources", "e=2")
    open(gate, "w").close()
    assert waits_for_the_busy_one.result(BOUND) == 25
    assert [future.result(BOUND).result(BOUND) for future in going_on] == [16, 4, 9]
    assert waits_for_a_worker.result(BOUND) == 36


def test_of_two_that_wait_for_what_the_other_holds_one_fails(cluster, address, executor, tmp_path):
    cluster.worker(address, "two", "--resources", "a=1", slots=2)
    futures = [
        holding(executor, "a", nested_calls.ask_when_both_run, str(tmp_path), side)
        for side in ("left", "right")
    ]
    errors = [future.exception(BOUND) for future in futures]
    assert sorted(type(error).__name__ for error in errors) == ["DeadlockError", "NoneType"]
    [message] = [str(error) for error in errors if error is not None]
    assert "waits for this one" in message
    assert "waits for a call that cannot begin either" in message
    assert [f.result() for f, error in zip(futures, errors, strict=True) if error is None] == [4]


def test_a_coordinator_that_is_started_again_finds_it_too(cluster, tmp_path):
    journal = ["--journal", str(tmp_path / "journal")]
    first = cluster.coordinator(*journal)
    port = int(first.address.rpartition(":")[2])
    cluster.worker(first.address, "one", "--resources", "a=1", slots=2)
    with connected(first.address) as executor:
        caller = holding(executor, "a", nested_calls.ask, 2)
        until(lambda: executor.status()["tasks"]["queued"] == 1)
        first.end()
        cluster.coordinator(*journal, port=port)
        assert "(ask) holds a=1 on worker one, and waits for this one" in deadlock(caller)
