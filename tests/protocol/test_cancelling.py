from __future__ import annotations

import pytest
from support.client_calls import cancel, sent, submit
from support.cores import client, ids, spec

from jobrunner.protocol.effects import AnswerCancel, CancelRequested, ResolveTasks
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId


def test_an_unsent_task_is_cancelled_here():
    world = client(opened=False)
    submit(world, spec(1), spec(2))
    cancel(world, 1)
    assert world.take() == [ResolveTasks([m.Outcome("c-1", 0, m.CANCELLED)])]
    world.open()
    assert [ids(x.tasks) for x in world.heard() if type(x) is m.Submit] == [["c-2"]]


@pytest.mark.parametrize("running", [False, True])
def test_a_sent_task_is_cancelled_by_the_coordinator(running):
    world = client()
    sent(world, spec(1))
    cancel(world, 1, running=running)
    cancel(world, 77, running=running)
    assert world.take() == []
    assert world.heard() == [m.Cancel([m.CancelRequest("c-1", running)])]
    assert world.heard() == []
    outcome = m.Outcome("c-1", 1, m.CANCELLED)
    world.say(m.Outcomes([outcome]))
    assert world.take() == [ResolveTasks([outcome])]


def test_tasks_that_a_free_slot_can_begin_are_not_cancelled():
    world = client()
    submit(world, spec(1), spec(2), spec(3), spec(4), spec(5, priority=1))
    assert ids(world.heard_one(m.Submit).tasks)[0] == "c-5"
    world.say(m.Running(["c-1"]))
    world.take()
    world.heard()
    world.handle(CancelRequested([TaskId(f"c-{n}") for n in range(1, 6)], False, slots=3))
    # One slot is busy; the others take the urgent one and the oldest. To cancel what runs is refused by its worker.
    assert world.heard() == [m.Cancel([m.CancelRequest(TaskId(f"c-{n}"), False) for n in (1, 3, 4)])]


def test_that_it_runs_is_no_answer_to_who_wants_it_stopped_too():
    """Both arrive in one turn: the refusal of an earlier request, and one to stop what runs."""
    world = client()
    sent(world, spec(1))
    cancel(world, 1)
    world.turn()
    world.heard()
    world.say(m.CancelRefused(["c-1"]))
    cancel(world, 1, running=True)
    assert world.take() == []
    assert world.heard() == [m.Cancel([m.CancelRequest("c-1", True)])]


def test_a_refused_cancel_is_answered():
    world = client()
    sent(world, spec(1))
    cancel(world, 1)
    world.turn()
    world.say(m.CancelRefused(["c-1"]))
    assert world.take() == [AnswerCancel(["c-1"])]
    assert "c-1" in world.core.pending


def test_an_unanswered_cancel_is_asked_again_in_the_next_session():
    world = client()
    sent(world, spec(1), spec(2), spec(3))
    cancel(world, 1)
    cancel(world, 2, running=True)
    cancel(world, 3)
    world.heard()
    world.say(m.CancelRefused(["c-3"]))
    world.take()
    world.lose()
    world.open()
    submitted, resubmission_complete, cancelled = world.heard()
    assert ids(submitted.tasks) == ["c-1", "c-2", "c-3"]
    assert resubmission_complete == m.ResubmissionComplete()
    assert cancelled == m.Cancel([m.CancelRequest("c-1", False), m.CancelRequest("c-2", True)])


def test_the_stronger_of_two_cancels_outlives_the_session():
    world = client()
    sent(world, spec(1))
    cancel(world, 1, running=True)
    cancel(world, 1)
    world.heard()
    world.say(m.CancelRefused(["c-1"]))
    assert world.take() == [], "the answer to the stronger one is still to come"
    world.lose()
    world.open()
    assert world.heard()[-1] == m.Cancel([m.CancelRequest("c-1", True)])


def test_a_cancel_between_two_sessions_is_sent_in_the_next():
    world = client()
    sent(world, spec(1))
    world.lose()
    cancel(world, 1)
    world.take()
    world.open()
    assert world.heard()[-1] == m.Cancel([m.CancelRequest("c-1", False)])
