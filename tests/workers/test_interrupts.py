"""Whom an interrupt hits, and when."""

from __future__ import annotations

import os
import signal
from contextlib import nullcontext

import pytest

from jobrunner.system.descriptors import unnamed_file
from jobrunner.workers.channel import BlockingChannel, channel_pair
from jobrunner.workers.crash_board import CrashBoard
from jobrunner.workers.framing import header, unpack
from jobrunner.workers.interrupts import Interrupts, RunningTask
from jobrunner.workers.outbox import Outbox


class Parts:
    """The interrupts of a slot without a process, and what they use."""

    def __init__(self, board, channel, wake):
        self.board = board
        self.running = RunningTask()
        self.outbox = Outbox(board, channel, wake)
        self.hits = 0
        self.interrupts = Interrupts(self.running, self.outbox, self._hit)

    def _hit(self):
        self.hits += 1


@pytest.fixture
def parts():
    pair = channel_pair()
    reader, writer = os.pipe()
    file = unnamed_file("board", CrashBoard.SIZE)
    board = CrashBoard(file)
    yield Parts(board, BlockingChannel(pair[1]), writer)
    board.close()
    for fd in (file, reader, writer):
        os.close(fd)
    for end in pair:
        end.close()


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
def test_whom_an_interrupt_hits(parts, target, running, interrupted, raises):
    interrupts = parts.interrupts
    interrupts.target, parts.running.number, interrupts.interrupted = target, running, interrupted
    with pytest.raises(KeyboardInterrupt) if raises else nullcontext():
        interrupts.on_sigint(signal.SIGINT, None)
    assert interrupts.target == 0
    assert parts.hits == raises
    assert not interrupts.spoiled


def test_an_interrupt_is_told_from_an_exception_of_the_task(parts):
    interrupts = parts.interrupts
    parts.running.number = 5
    assert not interrupts.is_interrupt(KeyboardInterrupt()), "the task's own"
    with pytest.raises(KeyboardInterrupt) as caught:
        interrupts.on_sigint(signal.SIGINT, None)
    assert interrupts.is_interrupt(caught.value)
    assert not interrupts.is_interrupt(ValueError())
    parts.running.number = 6
    assert not interrupts.is_interrupt(KeyboardInterrupt()), "of the next task"


def test_a_signal_is_sent_for_the_running_task_alone(parts):
    interrupts = parts.interrupts
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


def test_an_interrupt_in_the_middle_of_a_message_waits_for_its_end(parts, monkeypatch):
    parts.running.number = parts.interrupts.target = 5
    add = parts.board.add

    def interrupted_add(entry):
        signal.raise_signal(signal.SIGINT)
        return add(entry)

    monkeypatch.setattr(parts.board, "add", interrupted_add)
    before = signal.signal(signal.SIGINT, parts.interrupts.handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            parts.outbox.put(["whole"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert unpack(header(parts.board.outbox(), parts.board.count)) == [["whole"]]
