from __future__ import annotations

from protocol.support import DOUBLE, HALVE, KEY, OTHER_KEY

from jobrunner.ids import WorkerId
from jobrunner.protocol.functions import (
    ESTIMATE_DECAY,
    FunctionTable,
    KnownFunctions,
    updated_estimate,
)
from jobrunner.protocol.placement import UNKNOWN

LEFT, RIGHT = WorkerId("left"), WorkerId("right")


def test_an_estimate_rises_at_once_and_falls_slowly():
    estimate = updated_estimate(UNKNOWN, 0.5)
    assert estimate == 0.5
    assert updated_estimate(estimate, 2.0) == 2.0
    assert updated_estimate(2.0, 0.001) == 2.0 * ESTIMATE_DECAY
    assert updated_estimate(2.0, 1.9) == 1.9
    assert updated_estimate(UNKNOWN, 0.0) == 0.0, "a call that took no time is known, too"


def test_a_function_is_defined_once():
    table = FunctionTable()
    entry = table.define(DOUBLE)
    assert table.define(DOUBLE._replace(blob=b"other")) is entry
    assert table.get(KEY) is entry
    assert entry.definition.blob == DOUBLE.blob
    assert list(table.entries()) == [entry]
    assert table.get(OTHER_KEY) is None


def test_a_function_goes_when_neither_a_task_nor_a_client_needs_it():
    table = FunctionTable()
    entry = table.define(DOUBLE)
    entry.users, entry.pins = 2, 1
    table.release(entry)
    table.release(entry)
    assert len(table) == 1, "its client may still name it"
    table.unpin(KEY)
    assert len(table) == 0
    table.unpin(KEY)  # harmless

    entry = table.define(DOUBLE)
    entry.users, entry.pins = 1, 1
    table.unpin(KEY)
    assert len(table) == 1, "a task still calls it"
    table.release(entry)
    assert len(table) == 0


def test_workers_are_told_once_what_they_may_forget():
    table = FunctionTable()
    for definition, workers in ((DOUBLE, {LEFT, RIGHT}), (HALVE, {LEFT})):
        entry = table.define(definition)
        entry.pins = 1
        entry.known_by |= workers
    assert table.take_forgotten() == {}
    table.unpin(KEY)
    table.unpin(OTHER_KEY)
    assert table.take_forgotten() == {LEFT: [KEY, OTHER_KEY], RIGHT: [KEY]}
    assert table.take_forgotten() == {}


def test_a_worker_that_is_gone_knows_nothing_and_is_told_nothing():
    table = FunctionTable()
    for definition in (DOUBLE, HALVE):
        table.define(definition).pins = 1
        table.define(definition).known_by |= {LEFT, RIGHT}
    table.unpin(KEY)
    table.worker_gone(LEFT)
    table.unpin(OTHER_KEY)
    assert table.take_forgotten() == {RIGHT: [KEY, OTHER_KEY]}


def test_the_sender_sends_a_function_only_once():
    known = KnownFunctions()
    assert known.use(KEY)
    assert not known.use(KEY)
    assert KEY in known
    assert known.overflow() == []


def test_the_longest_unused_functions_are_forgotten_first():
    known = KnownFunctions(limit=2)
    for key in (b"1", b"2", b"1", b"3", b"4"):
        known.use(key)
    assert known.overflow() == [b"2", b"1"]
    assert known.overflow() == []
    assert known.use(b"2"), "it must be sent again"


def test_discard_names_those_that_the_other_end_knew():
    known = KnownFunctions()
    known.use(KEY)
    assert known.discard([OTHER_KEY, KEY]) == [KEY]
    assert known.use(KEY)
    known.clear()
    assert KEY not in known
