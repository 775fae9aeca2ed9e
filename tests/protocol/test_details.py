"""What one hop takes the next one takes too: nobody is refused for what somebody else has said."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cores import DOUBLE, Coordinator, spec, through_the_codec

from jobrunner.errors import ProtocolError
from jobrunner.protocol.coordinator.outboxes import OUTPUT_WINDOW
from jobrunner.protocol.wire import checks
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.batches import BATCH_BYTES, of_detail
from jobrunner.protocol.wire.details import DETAIL_BYTES, MAX_FACTS, cut, fits, passable


def nested(levels: int) -> Any:
    value: Any = "inside"
    for _ in range(levels):
        value = (value,)
    return value


DEEP = {"error": "it failed", "new": nested(checks.MAX_DEPTH - 1)}
WIDE = {"error": "it failed", **{str(n): n for n in range(checks.MAX_MAP_ENTRIES - 1)}}
LONG = {"error": "x" * 2 * DETAIL_BYTES, "stderr": "y" * 2 * DETAIL_BYTES}
WITHIN = {
    "error": "it failed",
    "need": "d-1",
    "need_status": m.ERROR,
    "need_detail": {"new": nested(checks.MAX_DEPTH - 3)},
}
DETAILS = pytest.mark.parametrize(
    "detail", [DEEP, WIDE, LONG, WITHIN], ids=["deep", "wide", "long", "within"]
)


def submit(client, *tasks):
    client.say(m.Submit(list(tasks), [DOUBLE]))


@DETAILS
@pytest.mark.parametrize("status", [m.ERROR, m.CRASHED])
def test_what_a_worker_says_of_an_end_reaches_all_who_wait_for_it(detail, status):
    """Through the codec, which refuses what is too deep, too wide, too long."""
    world = Coordinator(crash_limit=1)
    client, other, worker = world.client(), world.client("d"), world.worker()
    submit(client, spec(1), spec(2)._replace(depends_on=("c-1",)), spec(3)._replace(depends_on=("c-2",)))
    other.say(m.Watch(["c-3"]))
    worker.heard()
    worker.say(m.Outcomes([m.Outcome("c-1", 1, status, b"", 1.0, detail)]))
    told = {o.id: o for x in client.heard_of(m.Outcomes) for o in x.outcomes}
    assert told["c-1"].detail["error"][:5] == detail["error"][:5]
    assert told["c-3"].detail["need_detail"]["error"][:5] == detail["error"][:5]
    assert [o.id for x in other.heard_of(m.Outcomes) for o in x.outcomes] == ["c-3"]
    assert len(world.query(client, "tasks", " 10")) == 3


def test_so_does_the_end_of_a_long_chain_of_calls_that_need_each_other():
    world = Coordinator(crash_limit=1)
    client, worker = world.client(), world.worker()
    last = 2 * checks.MAX_DEPTH
    submit(client, spec(1), *(spec(n)._replace(depends_on=(f"c-{n - 1}",)) for n in range(2, last + 1)))
    worker.heard()
    worker.say(m.Outcomes([m.Outcome("c-1", 1, m.ERROR, b"", 1.0, {"error": "it failed"})]))
    told = {o.id: o for x in client.heard_of(m.Outcomes) for o in x.outcomes}
    assert told[f"c-{last}"].detail["need_detail"]["error"]


@DETAILS
def test_so_does_what_a_client_supplies(detail):
    world = Coordinator()
    client, _worker = world.client(), world.worker()
    submit(client, spec(2)._replace(depends_on=("c-1",)))
    assert client.heard_one(m.ResultRequest) == m.ResultRequest(["c-1"])
    client.say(m.ResultReply([m.Outcome("c-1", 1, m.ERROR, b"", 1.0, detail)]))
    (outcome,) = client.heard_one(m.Outcomes).outcomes
    assert (outcome.id, outcome.status) == ("c-2", m.UNMET)
    client.say(m.ResultReply([outcome._replace(id="c-5")]))  # as who shares its Future does


values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=3), values, max_size=2 * MAX_FACTS), st.integers(0, 31))
@settings(max_examples=50)
def test_what_is_cut_fits(facts, levels):
    detail = {"error": "it failed", **facts, "deep": nested(levels)}
    outcome = passable(m.Outcome("c-1", 1, m.ERROR, detail=detail))
    assert outcome.detail is not None
    assert fits(outcome.detail)
    assert outcome.detail["error"] == facts.get("error", "it failed")
    assert passable(outcome) is outcome, "and is not cut again"


def test_what_workers_tell_is_left_as_it_is():
    detail = {
        "error": "it died",
        "stderr": "z" * 100_000,
        "attempts": ("one", "two"),
        "need_detail": {"a": 1},
    }
    outcome = m.Outcome("c-1", 1, m.CRASHED, detail=detail)
    assert passable(outcome) is outcome


def test_however_much_is_said_little_is_left():
    much = {f"{n}": tuple("x" * 5000 for _ in range(50)) for n in range(100)}
    assert of_detail(cut({**much, "need_detail": much})) < BATCH_BYTES


def test_what_is_printed_is_taken_by_the_client_however_many_workers_print_it():
    world = Coordinator()
    client, workers = world.client(), [world.worker(name) for name in "abc"]
    submit(client, *map(spec, range(3)))
    world.turn()
    for number, worker in enumerate(workers):
        text = "\N{SNOWMAN}" * (OUTPUT_WINDOW - 1)
        worker.say(m.Output([m.OutputChunk(f"c-{number}", "f", m.STDOUT, text)]))
    printed = client.heard_one(m.Output)
    assert sum(len(chunk.text) for chunk in printed.chunks) <= OUTPUT_WINDOW


def test_calls_with_much_in_their_options_are_assigned_in_several_messages():
    world = Coordinator()
    client, worker = world.client(), world.worker(slots=3)
    large = bytes(BATCH_BYTES - 1)
    for number in range(3):
        submit(client, spec(number, retry_on=large))
    assert [len(message.tasks) for message in worker.heard_of(m.Assign)] == [1, 1, 1]


@pytest.mark.parametrize(
    "options",
    [
        {"retry_on": bytes(checks.MAX_RETRY_ON_BYTES + 1)},
        {"resources": tuple((str(n), 1.0) for n in range(checks.MAX_RESOURCES + 1))},
    ],
    ids=["retry_on", "resources"],
)
def test_options_that_would_not_fit_into_an_assignment_are_refused_at_once(options):
    with pytest.raises(ProtocolError, match="at most"):
        through_the_codec(m.Envelope("s", 1, 0, m.Submit([spec(1, **options)])))


def test_a_reply_ends_where_it_would_not_fit_into_a_message(monkeypatch):
    monkeypatch.setattr("jobrunner.protocol.coordinator.reports.MAX_BYTES", 2000)
    world = Coordinator()
    client = world.client()
    submit(client, *[spec(n, name="n" * 200) for n in range(20)])
    assert 1 < len(world.query(client, "tasks", " 20")) < 20
