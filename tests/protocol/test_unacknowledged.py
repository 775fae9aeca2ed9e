"""What a worker keeps until the coordinator has it: nothing is lost with a session but output."""

from __future__ import annotations

import random

import pytest

from jobrunner.protocol.effects import Send
from jobrunner.protocol.session import Session
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.worker.unacknowledged import OUTPUT_CHARACTERS, OUTPUT_LIMIT, Unacknowledged


@pytest.fixture
def effects():
    return []


@pytest.fixture
def kept(effects):
    session = Session(lambda serial: m.Heartbeat(), random.Random(1), 0.0, 10.0)
    session.begin(0.0)
    return Unacknowledged(session, effects, 10)


def outcome(number, payload=b"r"):
    return m.Outcome(f"c-{number}", 1, m.OK, payload, 1.0)


def sent(effects):
    messages = [effect.envelope.message for effect in effects if type(effect) is Send]
    effects.clear()
    return messages


def test_outcomes_leave_once_and_behind_what_was_printed(kept, effects):
    kept.add(outcome(1))
    kept.add_output(("c-1", "f"), m.STDOUT, "text")
    kept.send(1.0)
    assert sent(effects) == [
        m.Output([m.OutputChunk("c-1", "f", m.STDOUT, "text")]),
        m.Outcomes([outcome(1)]),
    ]
    kept.send(1.0)
    assert sent(effects) == []


def test_outcomes_of_a_lost_session_open_the_next_one(kept, effects):
    kept.add(outcome(2))
    kept.session_lost([m.Heartbeat(), m.Outcomes([outcome(1)])])
    kept.add(outcome(3))
    assert kept.undelivered()
    assert [held.id for held in kept.held()] == ["c-1", "c-2", "c-3"]
    kept.session_opened()
    kept.send(1.0)
    assert sent(effects) == [m.Outcomes([outcome(1), outcome(2), outcome(3)])]
    assert not kept.undelivered()


def test_output_is_lost_with_its_session(kept, effects):
    kept.add_output(("c-1", "f"), m.STDOUT, "text")
    kept.session_lost([])
    kept.send(1.0)
    assert sent(effects) == []


def test_output_is_bounded(kept):
    kept.add_output(("c-1", "f"), m.STDOUT, "x" * OUTPUT_CHARACTERS)
    kept.add_output(("c-1", "f"), m.STDOUT, "more")
    assert len(kept.leftovers()) == 1
    kept.session_lost([])
    for _ in range(OUTPUT_LIMIT):
        kept.add_output(("c-1", "f"), m.STDOUT, "x")
    assert kept.takes_output()
    kept.add_output(("c-1", "f"), m.STDOUT, "x")
    assert not kept.takes_output()


def test_there_is_room_until_the_payloads_are_too_many_wherever_they_are(kept):
    kept.add(outcome(1, b"12345"))
    assert kept.has_room()
    kept.session_lost([m.Outcomes([outcome(2, b"12345")])])
    assert kept.has_room()
    kept.add(outcome(3, b"1"))
    assert not kept.has_room()
    kept.session_opened()
    kept.send(1.0)
    assert not kept.has_room(), "the link has them, unacknowledged"
