"""Whom an interrupt hits, and when."""

from __future__ import annotations

import signal
from contextlib import nullcontext

import pytest

from jobrunner.workers.framing import header, unpack
from jobrunner.workers.interrupts import Interrupts


@pytest.fixture
def hits():
    """A list that grows by one at each interrupt."""
    return []


@pytest.fixture
def interrupts(parts, hits):
    return Interrupts(parts.running, parts.outbox, lambda: hits.append(1))


@pytest.mark.parametrize(
    ("target", "running", "interrupted", "raises"),
    [
        (5, 5, 0, True),
        (5, 5, 4, True),  # an earlier task was interrupted, too
        (0, 5, 0, True),  # not the control thread's: the task's own
        (4, 5, 0, False),  # too late, the next task runs
        (5, 0, 0, False),  # too late, the outcome is being pickled
        (0, 0, 0, False),
        (5, 5, 5, False),  # a second one
    ],
)
def test_whom_an_interrupt_hits(parts, interrupts, hits, target, running, interrupted, raises):
    interrupts.target, parts.running.number, interrupts.interrupted = target, running, interrupted
    with pytest.raises(KeyboardInterrupt) if raises else nullcontext():
        interrupts.on_sigint(signal.SIGINT, None)
    assert interrupts.target == 0
    assert len(hits) == raises
    assert not interrupts.spoiled


def test_an_interrupt_is_told_from_an_exception_of_the_task(parts, interrupts):
    parts.running.number = 5
    assert not interrupts.is_interrupt(KeyboardInterrupt()), "the task's own"
    with pytest.raises(KeyboardInterrupt) as caught:
        interrupts.on_sigint(signal.SIGINT, None)
    assert interrupts.is_interrupt(caught.value)
    assert not interrupts.is_interrupt(ValueError())
    parts.running.number = 6
    assert not interrupts.is_interrupt(KeyboardInterrupt()), "of the next task"


def test_a_signal_is_sent_for_the_running_task_alone(parts, interrupts):
    parts.running.number = 5
    before = signal.signal(signal.SIGINT, interrupts.handler)
    try:
        interrupts.interrupt(4)
        assert (interrupts.target, interrupts.asked_to_stop) == (0, 0)
        with pytest.raises(KeyboardInterrupt):
            interrupts.interrupt(5)
        assert interrupts.asked_to_stop == interrupts.interrupted == 5
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interrupt_in_the_middle_of_a_message_waits_for_its_end(parts, interrupts, monkeypatch):
    parts.running.number = interrupts.target = 5
    add = parts.board.add

    def interrupted_add(entry):
        signal.raise_signal(signal.SIGINT)
        return add(entry)

    monkeypatch.setattr(parts.board, "add", interrupted_add)
    before = signal.signal(signal.SIGINT, interrupts.handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            parts.outbox.put(["whole"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert unpack(header(parts.board.outbox(), parts.board.count)) == [["whole"]]
