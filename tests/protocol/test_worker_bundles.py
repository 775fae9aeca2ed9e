from __future__ import annotations

import pytest
from support.cores import assign, assignment, call, die, finish, ids, results, started, worker

from jobrunner.protocol.bundles import pack_calls
from jobrunner.protocol.effects import (
    InterruptTask,
    RecallTasks,
    SlotAwaits,
    SlotBlocked,
    SlotPrinted,
    SlotReturned,
    SlotSplit,
    SpawnSlot,
)
from jobrunner.protocol.tuning import RECALL_AFTER
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import SlotId, TaskId
from jobrunner.protocol.wire.kinds import Bundle

PLACE = {"worker": "w", "host": "host"}
PACKED = pack_calls([b"a", b"b", b"c"])


def bundle(number, attempt=1):
    return assignment(number, attempt, payload=PACKED, kind=Bundle(3))


def split(world, running, *payloads, slot=1, number=1):
    world.handle(SlotSplit(SlotId(slot), number, results(*payloads), running))


def recalled(world, slot=1):
    world.handle(SlotReturned(SlotId(slot), []))


@pytest.fixture
def world():
    """A worker with one slot, which runs the bundle "c-1"."""
    world = worker()
    assign(world, bundle(1))
    assert started(world) == {1: ["c-1"]}
    return world


def outcome(world):
    (message,) = [x for x in world.heard() if type(x) is m.Outcomes]
    (told,) = message.outcomes
    return told


def test_a_bundle_that_ends_in_time_is_a_task_like_others(world):
    finish(world, 1, 1, payload=results(b"x", b"y", b"z"))
    assert outcome(world) == m.Outcome("c-1", 1, m.OK, results(b"x", b"y", b"z"), 1.0)


def test_a_bundle_that_takes_long_is_recalled_and_goes_on_as_one_of_its_calls(world):
    world.turn(RECALL_AFTER)
    assert world.take() == [RecallTasks(SlotId(1))]
    recalled(world)
    split(world, 1, b"x")
    assert outcome(world) == m.Outcome("c-1", 1, m.SPLIT, results(b"x"), 0.0, {**PLACE, "running": 1})
    assert list(world.core.tasks) == [call("c-1", 1)]
    finish(world, 1, 1, payload=b"y")
    assert outcome(world) == m.Outcome(call("c-1", 1), 1, m.OK, b"y", 1.0)
    assert not world.core.tasks


def test_the_call_that_goes_on_is_announced_and_not_recalled_again(world):
    world.turn(0.1)
    recalled(world)
    split(world, 0)
    world.turn()
    world.take(), world.heard()
    world.turn(1.0)
    assert world.take() == []
    assert [x for x in world.heard() if type(x) is m.Running] == []
    assert world.core.tasks[call("c-1", 0)].announced


def test_a_bundle_that_was_announced_is_announced_again_as_the_call_that_goes_on(world):
    world.turn(0.1)
    assert [x for x in world.heard() if type(x) is m.Running] == [m.Running(["c-1"])]
    split(world, 0)
    assert [x for x in world.heard() if type(x) is m.Running] == [m.Running([call("c-1", 0)])]


def test_a_call_is_announced_behind_the_outcome_that_names_it(world):
    """One turn has both where the worker was held up; before it knows the name, the coordinator takes no news of it."""
    world.turn(0.1)
    world.heard()
    split(world, 0)
    assert [type(message) for message in world.heard()] == [m.Outcomes, m.Running]


def test_what_a_call_waits_for_is_told_under_its_own_name(world):
    world.handle(SlotAwaits(SlotId(1), 1, [TaskId("d-1")], True))
    world.heard()
    split(world, 0)
    (waits,) = [message for message in world.heard() if type(message) is m.Waits]
    assert waits == m.Waits([m.Wait(call("c-1", 0), (TaskId("d-1"),))])


def test_a_bundle_that_cannot_be_given_up_yet_is_not_asked_for_without_a_pause(world):
    """Its function is loaded, say, for seconds: the slot answered, was asked again at once, and so on."""
    asked = 0
    for _ in range(1000):
        world.turn(0.0001)
        if world.take():
            asked += 1
            recalled(world)
    assert 3 <= asked <= 0.1 / RECALL_AFTER
    assert world.core.next_deadline() > world.now


def test_a_call_that_waits_for_others_lets_the_rest_go(world):
    world.handle(SlotBlocked(SlotId(1), True))
    assert world.take() == [RecallTasks(SlotId(1)), SpawnSlot(SlotId(2))]


def test_a_bundle_that_is_being_stopped_ends_as_a_whole_though_it_was_given_up(world):
    world.say(m.Cancel([m.CancelRequest("c-1", True)]))
    assert world.take() == [InterruptTask(SlotId(1), 1)]
    split(world, 1, b"x")
    assert [x for x in world.heard() if type(x) is m.Outcomes] == []
    finish(world, 1, 1, payload=b"y")
    told = outcome(world)
    assert (told.id, told.status, told.payload) == ("c-1", m.CANCELLED, b"")


def test_a_bundle_that_is_being_stopped_and_ends_before_it_is_hit_has_ended(world):
    world.say(m.Cancel([m.CancelRequest("c-1", True)]))
    world.take()
    finish(world, 1, 1, payload=results(b"x", b"y", b"z"))
    assert outcome(world).status == m.OK


def test_the_call_that_goes_on_is_stopped_under_its_own_name(world):
    split(world, 1, b"x")
    outcome(world)
    world.say(m.Cancel([m.CancelRequest(call("c-1", 1), True)]))
    assert world.take() == [InterruptTask(SlotId(1), 1)]
    finish(world, 1, 1, status=m.ERROR)
    told = outcome(world)
    assert (told.id, told.status) == (call("c-1", 1), m.CANCELLED)


def test_a_process_that_dies_takes_only_the_call_that_goes_on_with_it(world):
    split(world, 1, b"x")
    assert outcome(world).status == m.SPLIT
    die(world, 1, 1, element=1)
    told = outcome(world)
    assert (told.id, told.attempt, told.status) == (call("c-1", 1), 1, m.CRASHED)
    assert "element" not in told.detail, "it is no chunk, of which elements could be told apart"


def test_a_process_that_dies_takes_the_bundle_with_it_that_was_not_given_up(world):
    die(world, 1, 1, element=1)
    assert (outcome(world).id, world.core.tasks) == ("c-1", {})


def test_what_is_given_up_too_late_or_twice_or_is_no_bundle_changes_nothing(world):
    split(world, 1, b"x")
    outcome(world)
    split(world, 2, b"x", b"y")
    split(world, 0, number=7)
    split(world, 0, slot=7)
    finish(world, 1, 1)
    outcome(world)
    split(world, 2, b"x", b"y")
    assign(world, assignment(2))
    started(world)
    split(world, 0, number=2)
    assert [x for x in world.heard() if type(x) is m.Outcomes] == []
    assert list(world.core.tasks) == ["c-2"]


def test_of_a_bundle_of_before_and_a_call_that_was_named_since_one_is_stopped():
    world = worker()
    assign(world, bundle(1))
    started(world)
    assign(world, assignment(1, payload=b"b")._replace(id=call("c-1", 1)))
    split(world, 1, b"x")
    assert InterruptTask(SlotId(1), 1) in world.take()
    world.core.check_invariants()
    finish(world, 1, 1, status=m.ERROR)
    assert started(world) == {1: [call("c-1", 1)]}
    assert [(o.id, o.status) for o in [outcome(world)]] == [("c-1", m.CANCELLED)]


def test_results_that_are_too_large_together_are_never_sent(world):
    world.core.session.welcome.max_payload = 10
    split(world, 1, bytes(100))
    told = outcome(world)
    assert (told.id, told.status, told.detail["too_large"]) == ("c-1", m.ERROR, True)
    assert InterruptTask(SlotId(1), 1) in world.take(), "its client begins with all calls again"
    finish(world, 1, 1, status=m.ERROR)
    assert (outcome(world).id, world.core.tasks) == (call("c-1", 1), {})


def test_a_lost_session_keeps_both(world):
    world.turn(0.1)
    split(world, 1, b"x")
    world.heard()
    world.lose()
    world.turn()
    held = {(entry.id, entry.attempt) for entry in world.hello.held}
    assert held == {("c-1", 1), (call("c-1", 1), 1)}
    world.open()
    assert ids(outcomes(world)) == ["c-1"]


def outcomes(world):
    return [o for x in world.heard() if type(x) is m.Outcomes for o in x.outcomes]


def test_what_a_call_prints_carries_its_own_name_once_it_goes_on(world):
    world.handle(SlotPrinted(SlotId(1), [(1, m.STDOUT, "one\n")]))
    split(world, 1, b"x")
    world.handle(SlotPrinted(SlotId(1), [(1, m.STDOUT, "two\n")]))
    chunks = [chunk for x in world.heard() if type(x) is m.Output for chunk in x.chunks]
    assert [(chunk.id, chunk.text) for chunk in chunks] == [
        (TaskId("c-1"), "one\n"),
        (call("c-1", 1), "two\n"),
    ]
