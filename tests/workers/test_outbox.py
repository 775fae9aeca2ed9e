"""The text streams of a slot, and what they write into."""

from __future__ import annotations

import os
import threading

import pytest

from jobrunner.system.descriptors import unnamed_file
from jobrunner.workers.crash_board import CrashBoard
from jobrunner.workers.framing import PRINTED, unpack
from jobrunner.workers.outbox import Outbox
from jobrunner.workers.streams import SlotWriter


class Items:
    """An outbox that keeps what it is given."""

    def __init__(self):
        self.lock = threading.RLock()
        self.forked = False
        self.texts = []

    def put(self, item):
        self.texts.append(item[3])

    def flush(self):
        pass

    def arm(self):
        pass


@pytest.mark.parametrize("ending", ["\n", "\nrest"])
def test_a_write_within_a_write_repeats_nothing(ending):
    """As by a destructor that prints, called while a line is on its way."""
    inner = iter(["gone", "\n"])
    outbox = Items()

    def current():
        for text in inner:
            writer.write(text)
        return 7

    writer = SlotWriter(1, outbox, current)
    writer.write("300")
    writer.write(ending)
    writer.write("\n")
    text = "".join(outbox.texts)
    assert text.count("300") == text.count("gone") == 1
    assert text.count("\n") == 3


class Channel:
    """A channel that keeps the texts that it is given; `on_send` is called once, as a destructor may be."""

    def __init__(self):
        self.on_send = None
        self.texts = []

    def send(self, header, buffers=()):
        call, self.on_send = self.on_send, None
        if call is not None:
            call()
        self.texts += [item[3] for item in unpack(header) if item[0] == PRINTED]


@pytest.fixture
def board():
    fd = unnamed_file("board", CrashBoard.SIZE)
    board = CrashBoard(fd)
    yield board
    board.close()
    os.close(fd)


def test_what_a_destructor_prints_while_the_outbox_is_sent_is_sent_too(board):
    channel = Channel()
    outbox = Outbox(board, channel, wake=-1)
    outbox.armed = True
    writer = SlotWriter(1, outbox, lambda: 7)
    writer.write("first\n")
    channel.on_send = lambda: writer.write("gone\n")
    outbox.flush()
    assert channel.texts == ["first\n", "gone\n"]


def test_a_destructor_may_print_in_the_thread_that_sends_while_another_prints(board):
    """Neither may hold what the other waits for."""
    printing, sending = threading.Event(), threading.Event()
    channel = Channel()
    outbox = Outbox(board, channel, wake=-1)
    outbox.armed = True

    def current():
        printing.set()
        return 7

    writer = SlotWriter(1, outbox, current)
    writer.write("first\n")
    printing.clear()

    def print_from_a_destructor():
        sending.set()
        # Where the streams wait for the sender before they lock anything, this is in vain, and all is well.
        printing.wait(0.2)
        writer.write("gone\n")

    channel.on_send = print_from_a_destructor
    threads = [threading.Thread(target=outbox.flush, daemon=True)]
    threads[0].start()
    assert sending.wait(30)
    threads.append(threading.Thread(target=writer.write, args=("second\n",), daemon=True))
    threads[1].start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    outbox.flush()
    assert channel.texts == ["first\n", "gone\n", "second\n"]
