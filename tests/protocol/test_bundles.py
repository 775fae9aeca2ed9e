from __future__ import annotations

import tracemalloc

import msgpack
import pytest
from support.cores import call, ended, ok, results, spec, split

from jobrunner.protocol import bundles
from jobrunner.protocol.bundles import (
    Limits,
    Results,
    index_of_call,
    limit,
    outcome_of_call,
    pack_calls,
    pack_results,
    permits,
    place_of_call,
    result_at,
    unpack_calls,
    unpack_results,
)
from jobrunner.protocol.tuning import BUNDLE_MAX_CALLS, BUNDLE_SECONDS, BUNDLE_SMALL_CALL
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.checks import MAX_BUNDLED
from jobrunner.protocol.wire.ids import RIGHT_BYTES, TaskId, call_id, client_of, short_id
from jobrunner.protocol.wire.kinds import SINGLE_CALL, Bundle, Kind


@pytest.mark.parametrize("count", [1, 15, 16, 200, 256])
def test_one_result_is_found_without_making_the_others(count):
    payloads = [bytes(number % 3) + b"r" * (number * 300) for number in range(count)]
    failed = list(range(0, count, 2))
    packed = pack_results(Results(payloads, [number / 4 for number in range(count)], failed))
    for payload in (packed, (packed,), (memoryview(packed),)):
        for index in range(0, count, 7):
            assert result_at(payload, index) == (payloads[index], index / 4, index in failed)
        for index in (-1, count):
            with pytest.raises(ValueError, match="results"):
                result_at(payload, index)


def test_nothing_is_made_of_results_that_are_none():
    """A worker, or a call that has changed its own slot, may send gigabytes of empty maps; anybody may ask for one."""
    count = 1_000_000
    bomb = b"\x93\xdd" + count.to_bytes(4, "big") + b"\x80" * count
    claims = b"\x93\x91\xc6\xff\xff\xff\xff" + bytes(1000)
    sound = pack_results(Results([b"a", b"b"], [0.5, 0.5], [1]))
    infinite = pack_results(Results([b"a"], [float("inf")], []))
    cut = [sound[:size] for size in range(len(sound))]
    tracemalloc.start()
    for payload in (bomb, claims, infinite, b"", (sound, b""), *cut):
        assert outcome_of_call(ok("c-1-r", payload=payload), 0) is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_bundle_is_over_in_a_bounded_time_and_bounded_itself():
    assert limit(BUNDLE_SECONDS / 10) == 10
    assert limit(BUNDLE_SECONDS / 1.5) == 1
    assert limit(0.0) == limit(1e-300) == BUNDLE_MAX_CALLS
    assert limit(1e9) == 1
    assert BUNDLE_MAX_CALLS <= MAX_BUNDLED, "what a client makes, a coordinator takes"


def test_only_plain_calls_are_bundled():
    assert permits(m.TaskOptions())
    assert permits(m.TaskOptions(name="n", priority=3))
    for option in ({"retries": 1}, {"timeout": 1.0}, {"resources": (("gpu", 1.0),)}, {"detach": True}):
        assert not permits(m.TaskOptions(**option)), option


# --- how many go together -----------------------------------------------------------------------------------------


def learned(*outcomes: m.Outcome, kind: Kind = SINGLE_CALL) -> int:
    limits = Limits()
    for outcome in outcomes:
        limits.learn(spec(1, kind=kind), outcome)
    return limits.of(spec(1).body.function)


def test_of_a_function_that_has_never_ended_calls_go_alone():
    assert Limits().of(b"unknown") == 1


def test_short_calls_go_together():
    assert learned(*[ok("c-1", duration=1e-7)] * 20) == BUNDLE_MAX_CALLS
    assert learned(*[ok("c-1", duration=4e-6)] * 40, kind=Bundle(4)) == limit(1e-6)
    assert learned(*[ok("c-1", duration=1.0)] * 3) == 1


@pytest.mark.parametrize(
    "outcome",
    [
        ended("c-1", m.CRASHED),
        ended("c-1", m.ERROR),
        split("c-1", 0, b""),
        ok("c-1", duration=1e-7, payload=bytes(BUNDLE_SMALL_CALL + 1)),
    ],
)
def test_after_anything_else_calls_go_alone_for_a_while(outcome):
    short = [ok("c-1", duration=1e-7)] * 20
    assert learned(*short, outcome) < BUNDLE_MAX_CALLS / 4
    assert learned(*short, outcome, *[ok("c-1", duration=1e-7)] * 60) == BUNDLE_MAX_CALLS


def test_a_client_of_very_many_functions_forgets_their_durations(monkeypatch):
    monkeypatch.setattr(bundles, "MAX_FUNCTIONS", 3)
    limits = Limits()
    for number in range(10):
        for _ in range(20):
            limits.learn(spec(1, function=b"%d" % number), ok("c-1", duration=1e-7))
    assert len(limits._seconds) <= 3
    assert limits.of(b"0") == 1


# --- ids ------------------------------------------------------------------------------------------------------------


def test_a_call_of_a_bundle_has_an_id_that_tells_both():
    for index in (0, 7, BUNDLE_MAX_CALLS - 1, MAX_BUNDLED - 1):
        task = call_id(TaskId("c-1-abcd"), index)
        assert place_of_call(task) == ("c-1", index)
        assert index_of_call(TaskId("c-1-abcd"), task) == index
        assert client_of(task) == "c"
        assert short_id(task) == f"c-1/{index}"


def test_the_id_of_a_call_is_no_right_to_its_bundle_or_to_the_others():
    bundle = TaskId("c-1-abcd")
    ids = [call_id(bundle, index) for index in range(3)]
    rights = {task.rpartition("-")[2] for task in ids}
    assert len(rights) == 3
    assert all(len(right) == 2 * RIGHT_BYTES and "abcd" not in right for right in rights)
    assert index_of_call(bundle, TaskId(ids[0].replace("/0-", "/1-"))) is None
    assert index_of_call(TaskId("c-1-abce"), ids[0]) is None
    assert index_of_call(bundle, bundle) is None


@pytest.mark.parametrize(
    "task",
    ["c-1", "", "/", "c-1/-r", "c-1/x-r", "c-1/-1-r", "c-1/1.0-r", "c-1/99999999999999999-r", "c-1/ 1-r"],
)
def test_other_ids_are_those_of_no_call_of_a_bundle(task):
    assert place_of_call(task) is None


@pytest.mark.parametrize("task", ["c-1/03-r", "c-1/00-r", "c-1/\u0663-r", "c-1/\u00b2-r"])
def test_a_call_has_no_second_id(task):
    """Its outcome would be told under the first, and whoever asked under the second would wait for ever."""
    assert place_of_call(task) is None


# --- what a bundle's payload and outcome say ------------------------------------------------------------------------


def test_calls_and_results_come_back_as_they_were_also_out_of_frames():
    packed = pack_calls([b"a", b"", b"c" * 1000])
    assert unpack_calls(packed) == unpack_calls((packed[:5], packed[5:])) == [b"a", b"", b"c" * 1000]
    told = Results([b"r", b"e"], [0.5, 0.25], [1])
    packed = pack_results(told)
    assert unpack_results(packed) == unpack_results((packed[:3], packed[3:])) == told


def test_each_call_has_its_own_outcome():
    whole = ok("c-1", payload=results(b"a", b"b", failed=[1]))._replace(detail={"worker": "w", "host": "h"})
    location = {"worker": "w", "host": "h"}
    assert outcome_of_call(whole, 0) == m.Outcome(call("c-1", 0), 1, m.OK, b"a", 0.5, location)
    assert outcome_of_call(whole, 1) == m.Outcome(call("c-1", 1), 1, m.ERROR, b"b", 0.5, location)
    assert outcome_of_call(whole, 2) is None


def test_a_bundle_that_was_given_up_tells_of_the_first_calls_alone():
    was_split = split("c-1", 1, results(b"a"))
    assert outcome_of_call(was_split, 0).payload == b"a"
    assert outcome_of_call(was_split, 1) is None


def test_an_error_of_the_whole_is_that_of_each_unless_together_they_were_too_large():
    error = ended("c-1", m.ERROR, error="no such module")
    assert outcome_of_call(error, 5) == error._replace(id=call("c-1", 5))
    assert outcome_of_call(m.quota_exceeded("c-1", 1, "result has", 10, 5), 5) is None
    for status in (m.CRASHED, m.LOST, m.CANCELLED, m.REFUSED):
        assert outcome_of_call(ended("c-1", status), 5) is None


@pytest.mark.parametrize(
    "nonsense",
    [
        b"",
        b"\xc1",
        b"\x93",
        b"\x91" * 5000,
        msgpack.packb(7),
        msgpack.packb([[b"a"], [0.5]]),
        msgpack.packb([[b"a"], [0.5], [], []]),
        msgpack.packb([["text"], [0.5], []]),
        msgpack.packb([[7], [0.5], []]),
        msgpack.packb([b"a", [0.5], []]),
        msgpack.packb([{0: b"a"}, [0.5], []]),
        msgpack.packb([[b"a"], ["text"], []]),
        msgpack.packb([[b"a"], [float("nan")], []]),
        msgpack.packb([[b"a", b"b"], [0.5], []]),
        msgpack.packb([[b"a"], [0.5], 7]),
        msgpack.packb([[b"a"], [0.5], ["0"]]),
        msgpack.packb({"payloads": [], "durations": [], "failed": []}),
        msgpack.packb([[b"a"], [0.5], []]) + b"more",
    ],
)
def test_a_worker_that_sends_nonsense_tells_nothing(nonsense):
    for status in (m.OK, m.SPLIT):
        assert outcome_of_call(m.Outcome("c-1", 1, status, nonsense), 0) is None
