from __future__ import annotations

import itertools
from typing import Any

import pytest
from support import cores
from support.cores import DOUBLE, ok, spec

from jobrunner.protocol.effects import CancelRequested, SubmitRequested, WatchRequested
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.batches import (
    BATCH_BYTES,
    BATCH_ENTRIES,
    ENTRY_BYTES,
    batches,
    of_detail,
    of_outcome,
    of_task,
)
from jobrunner.protocol.wire.checks import MAX_HEADER_BYTES
from jobrunner.protocol.wire.codec import encode


def test_entries_stay_in_order_and_none_is_lost():
    entries = list(range(2 * BATCH_ENTRIES + 5))
    cut = list(batches(entries, lambda entry: 1))
    assert [len(batch) for batch in cut] == [BATCH_ENTRIES, BATCH_ENTRIES, 5]
    assert list(itertools.chain.from_iterable(cut)) == entries
    assert list(batches([], lambda entry: 1)) == []


def test_large_entries_fill_a_message_sooner():
    half = BATCH_BYTES // 2
    assert [len(batch) for batch in batches("abcde", lambda entry: half)] == [2, 2, 1]
    assert [len(batch) for batch in batches("ab", lambda entry: 10 * half)] == [1, 1]


def header_size(message: Any) -> int:
    return len(encode(m.Envelope("s", 1, 0, message))[0])


@pytest.mark.parametrize(
    "task",
    [
        spec(1, payload=bytes(500)),
        spec(1)._replace(depends_on=tuple(f"9f3ac2e1b7d0-{n}" for n in range(1000))),
        spec(1, retry_on=bytes(5000), name="n" * 100, resources=(("gpu", 1.0),)),
    ],
)
def test_the_size_of_a_task_is_not_underestimated_by_much(task):
    assert header_size(m.Submit([task])) < 1.5 * of_task(task) + ENTRY_BYTES


@pytest.mark.parametrize(
    "detail",
    [
        None,
        {"error": "e" * 1000, "stderr": "s" * 16_000, "attempts": ["a" * 100] * 20},
        {"need": "c-1", "need_status": 2, "need_detail": {"stderr": "ü" * 16_000}},
    ],
)
def test_the_size_of_an_outcome_is_not_underestimated_by_much(detail):
    outcome = ok("c-1")._replace(detail=detail)
    assert header_size(m.Outcomes([outcome])) < 1.5 * of_outcome(outcome)
    assert of_detail({"error": ""}) < 100


def test_what_a_client_has_gathered_leaves_in_messages_that_fit():
    world = cores.client(opened=False)
    depends_on = tuple(f"9f3ac2e1b7d0-{n:06}" for n in range(60_000))
    count = BATCH_ENTRIES + 10
    tasks = [spec(n)._replace(depends_on=depends_on if n < 20 else ()) for n in range(count)]
    world.handle(SubmitRequested(tasks, [DOUBLE]))
    world.open(window_tasks=10 * count, window_bytes=1 << 40)
    submits = [message for message in world.heard() if type(message) is m.Submit]
    assert [task.id for submit in submits for task in submit.tasks] == [task.id for task in tasks]
    assert [len(submit.functions) for submit in submits] == [1] + [0] * (len(submits) - 1)
    assert max(header_size(submit) for submit in submits) < MAX_HEADER_BYTES / 4
    world.handle(CancelRequested([task.id for task in tasks], False))
    world.handle(WatchRequested([f"other-{n}" for n in range(count)]))
    assert [type(message) for message in world.heard()] == [m.Cancel, m.Cancel, m.Watch, m.Watch]


def test_thousands_of_failures_with_long_stories_reach_their_client_in_messages_that_fit():
    world = cores.Coordinator()
    client, worker = world.client(), world.worker()
    count = 1000
    client.say(
        m.Submit([spec(0), *(spec(n)._replace(depends_on=("c-0",)) for n in range(1, count))], [DOUBLE])
    )
    worker.heard()
    history = {"error": "it died", "stderr": "s" * 16_000}
    worker.say(m.Outcomes([m.Outcome("c-0", 1, m.ERROR, detail=history)]))
    outcomes = client.heard_of(m.Outcomes)
    assert sum(len(message.outcomes) for message in outcomes) == count
    assert len(outcomes) > 1
    assert max(header_size(message) for message in outcomes) < MAX_HEADER_BYTES / 4
