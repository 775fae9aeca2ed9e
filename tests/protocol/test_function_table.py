from __future__ import annotations

from support.cores import DOUBLE, HALVE, KEY, OTHER_KEY

from jobrunner.protocol.coordinator.accounts import Account
from jobrunner.protocol.coordinator.function_table import FunctionTable
from jobrunner.protocol.estimates import updated_estimate
from jobrunner.protocol.known_functions import KnownFunctions
from jobrunner.protocol.tuning import ESTIMATE_DECAY, UNKNOWN
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import WorkerId

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
    entry.users, entry.refs = 2, 1
    table.release(entry)
    table.release(entry)
    assert len(table) == 1, "its client may still name it"
    table.drop_ref(KEY)
    assert len(table) == 0
    table.drop_ref(KEY)  # harmless

    entry = table.define(DOUBLE)
    entry.users, entry.refs = 1, 1
    table.drop_ref(KEY)
    assert len(table) == 1, "a task still calls it"
    table.release(entry)
    assert len(table) == 0
    assert (entry.definition.key, entry.definition.blob) == (KEY, b""), "tasks that have ended still name it"


def test_workers_are_told_once_what_they_may_forget():
    table = FunctionTable()
    for definition, workers in ((DOUBLE, {LEFT, RIGHT}), (HALVE, {LEFT})):
        entry = table.define(definition)
        entry.refs = 1
        entry.known_by |= workers
    assert table.take_forgotten() == {}
    table.drop_ref(KEY)
    table.drop_ref(OTHER_KEY)
    assert table.take_forgotten() == {LEFT: [KEY, OTHER_KEY], RIGHT: [KEY]}
    assert table.take_forgotten() == {}


def test_a_worker_that_is_gone_knows_nothing_and_is_told_nothing():
    table = FunctionTable()
    for definition in (DOUBLE, HALVE):
        table.define(definition).refs = 1
        table.define(definition).known_by |= {LEFT, RIGHT}
    table.drop_ref(KEY)
    table.worker_gone(LEFT)
    table.drop_ref(OTHER_KEY)
    assert table.take_forgotten() == {RIGHT: [KEY, OTHER_KEY]}


def definition(key, *parts, size=1):
    return m.FunctionDef(key, "f", bytes(size), parts=tuple(part.key for part in parts))


def test_the_sender_sends_a_function_only_once():
    known = KnownFunctions()
    assert known.use(DOUBLE) == [DOUBLE]
    assert known.use(DOUBLE) == []
    assert KEY in known
    assert known.overflow() == []
    known.clear()
    assert KEY not in known


def test_the_longest_unused_functions_are_forgotten_first():
    known = KnownFunctions(limit=2)
    for key in (b"1", b"2", b"1", b"3", b"4"):
        known.use(definition(key))
    assert known.overflow() == [b"2", b"1"]
    assert known.overflow() == []
    assert known.use(definition(b"2")), "it must be sent again"


def test_a_part_is_sent_before_its_function_and_forgotten_with_the_last_that_has_it():
    known = KnownFunctions(limit=1)
    part, other = definition(b"part"), definition(b"other part")
    first, second = definition(b"first", part), definition(b"second", part, other)
    assert known.use(first, [part]) == [part, first]
    assert known.use(first, [part]) == []
    assert known.use(second, [part, other]) == [other, second]
    assert known.overflow() == [b"first"]
    assert known.use(definition(b"third"))
    assert known.overflow() == [b"second", b"part", b"other part"]
    assert known.use(first, [part]) == [part, first]


def test_the_bytes_of_what_is_known_are_limited_but_for_what_is_named_now():
    known = KnownFunctions(most_bytes=100)
    small, part = definition(b"small"), definition(b"part", size=150)
    large = definition(b"large", part)
    known.use(small)
    assert known.overflow() == []
    assert known.use(large, [part]) == [part, large]
    assert known.overflow(named=2) == []
    assert known.overflow() == [b"small"]
    assert known.use(large, [part]) == []
    assert known.use(small) == [small]
    assert known.overflow() == [b"large", b"part"]
    assert known.overflow() == []


# --- parts at the coordinator ---------------------------------------------------------------------------------------

PART = m.FunctionDef(b"part", "a part", (b"large",))
WHOLE = DOUBLE._replace(parts=(PART.key,))


def test_a_part_stays_as_long_as_a_function_that_has_it():
    table = FunctionTable()
    for each in (PART, WHOLE):
        table.define(each).refs += 1
    table.drop_ref(PART.key)
    table.check_invariants()
    assert table.get(PART.key) is not None
    table.drop_ref(KEY)
    assert len(table) == 0


def test_a_part_goes_with_the_last_function_that_has_it_and_its_bytes_are_counted_once():
    table, account = FunctionTable(), Account("c", "", "c")
    table.define(PART._replace(blob=bytes(10_000)), account)
    first, second = (table.define(WHOLE._replace(key=key), account) for key in (b"1", b"2"))
    assert 10_000 < account.bytes < 15_000
    table.drop_if_idle(first)
    assert 10_000 < account.bytes < 15_000
    table.drop_if_idle(second)
    assert (len(table), account.bytes) == (0, 0)


def test_a_worker_is_told_of_each_part_once():
    table = FunctionTable()
    table.define(PART)
    first, second = table.define(WHOLE), table.define(HALVE._replace(parts=WHOLE.parts))
    assert first.untold(LEFT) == [PART, WHOLE]
    assert first.untold(LEFT) == []
    assert second.untold(LEFT) == [second.definition]
    assert second.untold(RIGHT) == [PART, second.definition]
    table.drop_if_idle(first)
    assert table.take_forgotten() == {LEFT: [KEY]}
    table.drop_if_idle(second)
    assert table.take_forgotten() == {LEFT: [OTHER_KEY, PART.key], RIGHT: [OTHER_KEY, PART.key]}
