"""What has arrived in a slot, whichever of its threads reads it."""

from __future__ import annotations

import sys

import pytest

from jobrunner.workers.framing import RETURNED, RUN, header, pack
from jobrunner.workers.task_inbox import TaskInbox, ToldProgram


class Functions:
    """Notes what it is told."""

    def __init__(self):
        self.told = []

    def add(self, key, name, blob, parts):
        self.told.append(("add", key, name, blob, parts))

    def drop(self, key):
        self.told.append(("drop", key))


class Worker:
    """The worker of a slot that has nothing but an inbox."""

    def __init__(self, parts):
        self.parts = parts
        self.functions = Functions()
        self.heard = []
        self.inbox = TaskInbox(
            parts.channel, parts.outbox, self.functions, lambda *told: self.heard.append(told)
        )

    def runs(self, *numbers, functions=(), to_drop=(), told=None):
        tasks = [
            [number, "id", "name", 1, b"f", b"payload", [], None, 0, [b"value"], None] for number in numbers
        ]
        item = [RUN, list(functions), list(to_drop), tasks, told]
        self.parts.worker.send(header(pack(item)))

    def queued(self):
        return [fields[0] for fields, _, _ in self.inbox.queue]


@pytest.fixture
def worker(parts):
    return Worker(parts)


def test_tasks_are_queued_in_order_with_their_payloads(worker):
    worker.runs(1, 2)
    worker.runs(3)
    assert worker.inbox.wait()
    assert worker.queued() == [1, 2], "one message at a time: the next one while there is nothing to run"
    assert worker.inbox.wait()
    assert worker.queued() == [1, 2, 3]
    assert [(payload, values) for _, payload, values in worker.inbox.queue] == [(b"payload", [b"value"])] * 3


def test_functions_are_dropped_before_new_ones_come(worker):
    worker.runs(1, functions=[[b"k", "name", b"blob", [b"part"]]], to_drop=[b"k"])
    assert worker.inbox.wait()
    assert worker.functions.told == [("drop", b"k"), ("add", b"k", "name", b"blob", [b"part"])]


def test_what_has_changed_in_the_program_is_heard(worker):
    worker.runs(1, told=[["/a"], b"key", "{}"])
    worker.runs(2)
    for _ in range(2):
        assert worker.inbox.wait()
    assert worker.heard == [(["/a"], b"key", "{}")]


def test_messages_are_read_up_to_a_count_and_no_further(worker):
    for number in (1, 2, 3):
        worker.runs(number)
    assert worker.inbox.read_up_to(2)
    assert worker.queued() == [1, 2]
    assert worker.inbox.read_up_to(1)
    assert worker.queued() == [1, 2]


def test_what_was_not_begun_is_given_back(worker, parts):
    worker.runs(1, 2)
    assert worker.inbox.wait()
    worker.inbox.queue.popleft()
    worker.inbox.give_back()
    worker.inbox.give_back()
    assert parts.said() == [[RETURNED, [2]], [RETURNED, []]]


def test_the_end_of_the_socket_is_the_end(worker, parts):
    worker.runs(1)
    parts.worker.close()
    assert worker.inbox.wait()
    assert worker.queued() == [1]
    assert not worker.inbox.wait()
    assert not worker.inbox.read_up_to(2)


def test_entries_that_calls_have_added_to_the_path_stay_in_front(monkeypatch):
    monkeypatch.setattr(sys, "path", ["/old", "/both"])
    program = ToldProgram()
    sys.path.insert(0, "/of a call")
    program.hear(["/both", "/new"], b"", "")
    assert sys.path == ["/of a call", "/both", "/new"]
    program.hear(["/both", "/new"], b"", "")
    assert sys.path == ["/of a call", "/both", "/new"]
