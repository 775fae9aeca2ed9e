"""What the coordinator is told of tasks and slots at a worker: once in a session, and only if it still holds."""

from __future__ import annotations

import random

from support.cores import assignment

from jobrunner.protocol.effects import Send, SlotAwaits
from jobrunner.protocol.session import Session
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.checks import MAX_AWAITED
from jobrunner.protocol.wire.ids import SlotId
from jobrunner.protocol.worker.announced_capacity import AnnouncedCapacity
from jobrunner.protocol.worker.announcements import Announcements
from jobrunner.protocol.worker.slots import WorkerTask


class Told:
    """The announcements of one task, and of two slots."""

    def __init__(self):
        self.task = WorkerTask(assignment(1))
        self.tasks = {self.task.id: self.task}
        self.effects = []
        self.session = Session(lambda serial: m.Heartbeat(), random.Random(1), 0.0, 10.0)
        self.session.begin(0.0)
        self.announcements = Announcements(self.tasks, self.session, self.effects)
        self.capacity = AnnouncedCapacity(2, self.session, self.effects)
        self.capacity.greets(2)

    def sent(self):
        self.announcements.send(1.0)
        messages = [effect.envelope.message for effect in self.effects if type(effect) is Send]
        self.effects.clear()
        return messages

    def awaits(self, *calls, every=True):
        self.announcements.awaits(self.task, SlotAwaits(SlotId(1), 1, list(calls), every))


def test_a_task_is_announced_once_in_a_session():
    told = Told()
    told.announcements.runs(told.task)
    assert told.task.announced
    assert told.sent() == [m.Running(["c-1"])]
    assert told.sent() == []
    told.announcements.session_lost(told.tasks.values())
    assert not told.task.announced


def test_a_task_that_has_ended_in_the_same_turn_is_not_announced():
    told = Told()
    told.announcements.runs(told.task)
    told.awaits("c-2")
    told.tasks.clear()
    assert told.sent() == []


def test_what_a_task_waits_for_is_said_again_in_the_next_session():
    told = Told()
    told.awaits("c-2", "c-3")
    wait = m.Waits([m.Wait("c-1", ("c-2", "c-3"), True)])
    assert told.sent() == [wait]
    told.announcements.session_lost(told.tasks.values())
    assert told.sent() == [wait]
    told.awaits()
    assert told.sent() == [m.Waits([m.Wait("c-1", (), True)])]
    told.announcements.session_lost(told.tasks.values())
    assert told.sent() == [], "it waits for nothing"


def test_of_very_many_calls_some_are_named_only_where_all_are_needed():
    told = Told()
    calls = [f"c-{n}" for n in range(2, MAX_AWAITED + 3)]
    for every, named in ((True, MAX_AWAITED), (False, 0)):
        told.awaits(*calls, every=every)
        assert len(told.task.wait.calls) == named


def test_a_capacity_is_said_when_it_changes():
    told = Told()
    for capacity, said in ((2, []), (1, [m.Capacity(1)]), (1, []), (2, [m.Capacity(2)])):
        told.capacity.send(capacity, False, "", 1.0)
        assert told.sent() == said


def test_a_capacity_is_said_again_where_two_greetings_of_a_session_differ():
    told = Told()
    told.capacity.greets(1)
    told.capacity.send(1, False, "", 1.0)
    assert told.sent() == [m.Capacity(1)]


def test_that_a_worker_is_stuck_is_said_once_and_taken_back_with_its_capacity():
    told = Told()
    told.capacity.note_stuck(True)
    told.capacity.send(2, True, "full", 1.0)
    assert told.sent() == [m.Stuck("full")]
    told.capacity.send(2, True, "full", 1.0)
    assert told.sent() == []
    told.capacity.send(2, False, "", 1.0)
    assert told.sent() == [m.Capacity(2)]
