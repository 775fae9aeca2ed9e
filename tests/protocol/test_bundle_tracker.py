from __future__ import annotations

import pytest
from support.client_calls import sent, submit
from support.cores import bundle, call, client, ended, ids, ok, results, spec, split

from jobrunner.protocol.effects import (
    AnnounceRunning,
    AnswerCancel,
    BundleSplit,
    CancelRequested,
    ResolveTasks,
)
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId


def cancel(world, *tasks, running=False):
    world.handle(CancelRequested([TaskId(task) for task in tasks], running))


def told(world, outcome):
    """The effects of one outcome."""
    world.say(m.Outcomes([outcome]))
    return world.take()


def cancelled(*tasks):
    return ResolveTasks([m.Outcome(TaskId(task), 0, m.CANCELLED) for task in tasks])


def clean(world):
    """Nothing of any bundle is left."""
    assert world.core._bundle_tracker.leftovers() == []
    world.core.check_invariants()
    return True


THREE = (b"a", b"b", b"c")


@pytest.fixture
def world():
    return client()


def test_a_bundle_that_ends_well_is_resolved_as_one(world):
    sent(world, bundle(1, *THREE))
    outcome = ok("c-1", payload=results(b"x", b"y", b"z"))
    assert told(world, outcome) == [ResolveTasks([outcome])]
    assert clean(world)
    assert not world.core.pending


def test_an_error_of_the_whole_is_told_as_one(world):
    sent(world, bundle(1, *THREE))
    outcome = ended("c-1", m.ERROR)
    assert told(world, outcome) == [ResolveTasks([outcome])]
    assert not world.core.pending


def test_what_a_slot_gives_up_goes_on_as_tasks_of_their_own(world):
    sent(world, bundle(1, *THREE))
    assert told(world, split("c-1", 1, results(b"x"))) == [BundleSplit("c-1", results(b"x"), 1)]
    (message,) = [x for x in world.heard() if type(x) is m.Submit]
    assert message.tasks == [
        spec(1, payload=payload)._replace(id=call("c-1", index)) for index, payload in ((1, b"b"), (2, b"c"))
    ]
    assert list(world.core.pending) == [call("c-1", 1), call("c-1", 2)]
    assert told(world, ok(call("c-1", 1))) == [ResolveTasks([ok(call("c-1", 1))])]


@pytest.mark.parametrize("status", [m.CRASHED, m.LOST, m.REFUSED])
def test_what_ends_a_bundle_alone_ends_none_of_its_calls(world, status):
    sent(world, bundle(1, *THREE))
    assert told(world, ended("c-1", status)) == [BundleSplit("c-1", b"", 0)]
    assert list(world.core.pending) == [call("c-1", 0), call("c-1", 1), call("c-1", 2)]


def test_calls_whose_results_are_too_large_together_are_tried_alone(world):
    sent(world, bundle(1, *THREE))
    told(world, m.quota_exceeded(TaskId("c-1"), 1, "result has", 10, 5))
    assert list(world.core.pending) == [call("c-1", 0), call("c-1", 1), call("c-1", 2)]


def test_calls_whose_arguments_are_too_large_together_are_sent_alone():
    world = client()
    world.core.session.welcome.max_payload = 100
    submit(world, bundle(1, b"a" * 60, b"b" * 60), bundle(2, b"c" * 110))
    effects = world.take()
    assert effects[:2] == [BundleSplit("c-1", b"", 0), BundleSplit("c-2", b"", 0)]
    (refused,) = effects[2].outcomes
    assert (refused.id, refused.detail["too_large"]) == (call("c-2", 0), True)
    (message,) = [x for x in world.heard() if type(x) is m.Submit]
    assert ids(message.tasks) == [call("c-1", 0), call("c-1", 1)]


def test_a_running_announcement_of_a_bundle_is_about_none_of_its_calls(world):
    sent(world, bundle(1, *THREE))
    world.say(m.Running([TaskId("c-1")]))
    assert world.take() == []
    told(world, split("c-1", 0, results()))
    world.say(m.Running([call("c-1", 0)]))
    assert world.take() == [AnnounceRunning([call("c-1", 0)])]


# --- the window ---------------------------------------------------------------------------------------------------


def test_calls_that_the_coordinator_has_had_do_not_wait_for_the_window():
    """Who needs them may fill it, or they run already: then a cancel would find nothing to stop."""
    world = client(opened=False)
    world.open(window_tasks=2)
    world.take(), world.heard()
    sent(world, bundle(1, *THREE), spec(2))
    submit(world, spec(3))
    assert world.heard() == []
    told(world, split("c-1", 0, results()))
    (message,) = [x for x in world.heard() if type(x) is m.Submit]
    assert ids(message.tasks) == [call("c-1", 0), call("c-1", 1), call("c-1", 2)]


def test_the_call_that_runs_is_cancelled_where_it_runs_even_in_the_turn_that_names_it(world):
    sent(world, bundle(1, *THREE))
    world.say(m.Outcomes([split("c-1", 0, results())]))
    cancel(world, call("c-1", 0), running=True)
    assert world.take() == [BundleSplit("c-1", results(), 0)]
    assert [type(x) for x in world.heard()] == [m.Submit, m.Cancel]
    assert call("c-1", 0) in world.core.pending


def test_a_session_lost_at_that_moment_names_them_before_its_resubmission_is_complete(world):
    sent(world, bundle(1, *THREE))
    world.say(m.Outcomes([split("c-1", 1, results(b"x"))]))
    world.lose()
    world.heard()
    world.open()
    first, second = [x for x in world.heard() if type(x) in (m.Submit, m.ResubmissionComplete)]
    assert (ids(first.tasks), second) == ([call("c-1", 1), call("c-1", 2)], m.ResubmissionComplete())


def test_who_needs_a_call_is_sent_after_its_bundle():
    world = client(opened=False)
    world.open(window_tasks=1)
    world.take(), world.heard()
    sent(world, spec(1))
    submit(world, bundle(2, *THREE), spec(3, priority=5)._replace(depends_on=(call("c-2", 1),)))
    told(world, ok("c-1"))
    assert ids(world.heard_one(m.Submit).tasks) == ["c-2"]
    told(world, ok("c-2", payload=results(b"x", b"y", b"z")))
    assert ids(world.heard_one(m.Submit).tasks) == ["c-3"]


def test_who_needs_a_call_of_a_bundle_taken_apart_here_is_sent_after_that_call():
    world = client(opened=False)
    world.open(window_tasks=1)
    world.take(), world.heard()
    sent(world, spec(1))
    submit(world, bundle(2, *THREE), spec(3)._replace(depends_on=(call("c-2", 2),)))
    cancel(world, call("c-2", 0))
    order = []
    for task in ("c-1", call("c-2", 1), call("c-2", 2)):
        told(world, ok(task))
        order += ids(world.heard_one(m.Submit).tasks)
    assert order == [call("c-2", 1), call("c-2", 2), "c-3"]


# --- cancelling one call --------------------------------------------------------------------------------------------


def test_a_call_is_taken_out_of_a_bundle_that_has_not_been_sent():
    world = client(opened=False)
    submit(world, bundle(1, *THREE))
    cancel(world, call("c-1", 1))
    assert world.take() == [BundleSplit("c-1", b"", 0), cancelled(call("c-1", 1))]
    assert list(world.core.pending) == [call("c-1", 0), call("c-1", 2)]
    assert clean(world)


def test_a_bundle_that_was_sent_must_be_had_back_first(world):
    sent(world, bundle(1, *THREE))
    cancel(world, call("c-1", 1))
    assert world.heard() == [m.Cancel([m.CancelRequest("c-1", False)])]
    assert told(world, ended("c-1", m.CANCELLED)) == [BundleSplit("c-1", b"", 0), cancelled(call("c-1", 1))]
    submitted, reply = [x for x in world.heard() if type(x) in (m.Submit, m.ResultReply)]
    assert ids(submitted.tasks) == [call("c-1", 0), call("c-1", 2)]
    assert ids(reply.outcomes) == [call("c-1", 1)], "somebody there may wait for it"
    assert clean(world)


def test_a_call_of_a_bundle_that_runs_is_refused(world):
    sent(world, bundle(1, *THREE))
    cancel(world, call("c-1", 1))
    cancel(world, call("c-1", 2), running=True)
    world.heard()
    world.say(m.CancelRefused([TaskId("c-1")]))
    assert world.take() == [AnswerCancel(["c-1", call("c-1", 1)])]
    assert told(world, split("c-1", 0, results())) == [
        BundleSplit("c-1", results(), 0),
        cancelled(call("c-1", 2)),
    ]
    assert list(world.core.pending) == [call("c-1", 0), call("c-1", 1)]
    assert clean(world)


def test_a_call_that_is_to_be_stopped_is_stopped_when_it_turns_out_to_be_the_one_that_runs(world):
    sent(world, bundle(1, *THREE))
    cancel(world, call("c-1", 1))
    cancel(world, call("c-1", 1), running=True)
    world.heard()
    assert told(world, split("c-1", 1, results(b"x"))) == [BundleSplit("c-1", results(b"x"), 1)]
    submitted, request = [x for x in world.heard() if type(x) in (m.Submit, m.Cancel)]
    assert ids(submitted.tasks) == [call("c-1", 1), call("c-1", 2)]
    assert request == m.Cancel([m.CancelRequest(call("c-1", 1), True)])
    assert clean(world)


def test_a_call_that_is_not_to_be_stopped_and_runs_is_refused_when_that_is_known(world):
    sent(world, bundle(1, *THREE))
    cancel(world, call("c-1", 1))
    effects = told(world, split("c-1", 1, results(b"x")))
    assert effects == [BundleSplit("c-1", results(b"x"), 1), AnswerCancel([call("c-1", 1)])]
    assert clean(world)


def test_a_call_that_has_ended_in_the_meantime_has_ended(world):
    sent(world, bundle(1, *THREE))
    cancel(world, call("c-1", 0), running=True)
    outcome = ok("c-1", payload=results(b"x", b"y", b"z"))
    assert told(world, outcome) == [ResolveTasks([outcome])]
    assert clean(world)


def test_others_who_have_a_right_to_a_call_have_the_coordinator_ask_for_its_cancelling(world):
    sent(world, bundle(1, *THREE))
    world.say(m.Cancel([m.CancelRequest(call("c-1", 1), True), m.CancelRequest(TaskId("d-1"), True)]))
    assert world.heard() == [m.Cancel([m.CancelRequest("c-1", False)])]
    assert told(world, ended("c-1", m.CANCELLED)) == [BundleSplit("c-1", b"", 0), cancelled(call("c-1", 1))]
    world.heard()
    world.say(m.Cancel([m.CancelRequest(call("c-1", 2), True)]))
    assert world.heard() == [m.Cancel([m.CancelRequest(call("c-1", 2), True)])]


def test_a_call_that_is_none_of_the_bundle_cannot_be_cancelled(world):
    sent(world, bundle(1, *THREE))
    cancel(world, call("c-1", 3), call("c-2", 0))
    assert (world.take(), world.heard()) == ([], [])


# --- cancelling all of it -------------------------------------------------------------------------------------------


def test_a_whole_bundle_is_cancelled_as_one(world):
    sent(world, bundle(1, *THREE))
    cancel(world, "c-1")
    assert world.heard() == [m.Cancel([m.CancelRequest("c-1", False)])]
    outcome = ended("c-1", m.CANCELLED)
    assert told(world, outcome) == [ResolveTasks([outcome])]
    assert [x for x in world.heard() if type(x) is m.ResultReply] == [m.ResultReply([outcome], [])]
    assert clean(world)


def test_a_whole_bundle_that_was_not_sent_is_cancelled_at_once():
    world = client(opened=False)
    submit(world, bundle(1, *THREE))
    cancel(world, "c-1")
    assert world.take() == [cancelled("c-1")]
    assert not world.core.pending


def test_of_an_unwanted_bundle_that_runs_only_the_call_that_runs_goes_on(world):
    sent(world, bundle(1, *THREE))
    cancel(world, "c-1")
    world.say(m.CancelRefused([TaskId("c-1")]))
    world.take()
    effects = told(world, split("c-1", 1, results(b"x")))
    assert effects == [
        BundleSplit("c-1", results(b"x"), 1),
        cancelled(call("c-1", 2)),
        AnswerCancel([call("c-1", 1)]),
    ]
    assert list(world.core.pending) == [call("c-1", 1)]
    assert clean(world)


def test_an_unwanted_bundle_that_crashes_is_not_begun_again(world):
    sent(world, bundle(1, *THREE))
    cancel(world, "c-1")
    effects = told(world, ended("c-1", m.CRASHED))
    assert effects == [BundleSplit("c-1", b"", 0), cancelled(call("c-1", 0), call("c-1", 1), call("c-1", 2))]
    assert not world.core.pending
    assert clean(world)
