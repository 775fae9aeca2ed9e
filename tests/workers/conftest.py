"""Real slots, and an owner for them."""

from __future__ import annotations

import os
import select

import pytest
from support.slot_owner import Owner

from jobrunner.system.descriptors import unnamed_file
from jobrunner.workers.channel import BlockingChannel, channel_pair
from jobrunner.workers.crash_board import CrashBoard
from jobrunner.workers.framing import unpack
from jobrunner.workers.interrupts import RunningTask
from jobrunner.workers.outbox import Outbox


@pytest.fixture
def owner():
    owner = Owner()
    yield owner
    owner.pool.close()


@pytest.fixture
def slot(owner):
    """A slot that is ready, number 1."""
    owner.ready(1)
    return 1


@pytest.fixture
def make_owner():
    owners = []

    def make(**options):
        owners.append(Owner(**options))
        return owners[-1]

    yield make
    for owner in owners:
        owner.pool.close()


class SlotParts:
    """The parts of a slot that others build on, without a process, and the worker's end of its data socket."""

    def __init__(self, board, slot_end, worker_end, wake):
        self.board = board
        self.channel = BlockingChannel(slot_end)
        self.worker = BlockingChannel(worker_end)
        self.running = RunningTask()
        self.outbox = Outbox(board, self.channel, wake)

    def said(self):
        """The items that the slot has sent to its worker."""
        items = []
        while select.select([self.worker.fileno()], [], [], 0)[0]:
            items += unpack(self.worker.receive()[0])
        return items


@pytest.fixture
def parts():
    pair = channel_pair()
    reader, writer = os.pipe()
    file = unnamed_file("board", CrashBoard.SIZE)
    board = CrashBoard(file)
    yield SlotParts(board, pair[1], pair[0], writer)
    board.close()
    for fd in (file, reader, writer):
        os.close(fd)
    for end in pair:
        end.close()
