from __future__ import annotations

import itertools

import pytest
from support.cores import record

from jobrunner.protocol.coordinator import task as t
from jobrunner.protocol.wire.kinds import Chunk


def test_every_state_has_a_name_and_a_row():
    assert sorted(t.TRANSITIONS) == list(range(len(t.STATE_NAMES)))
    assert len(set(t.STATE_NAMES)) == len(t.STATE_NAMES)


def test_terminal_states_have_no_way_out_and_all_others_can_reach_one():
    for state, following in t.TRANSITIONS.items():
        assert (not following) == (state in t.TERMINAL)
        seen = {state}
        while more := {after for s in seen for after in t.TRANSITIONS[s]} - seen:
            seen |= more
        assert seen & t.TERMINAL


def test_a_task_that_is_being_cancelled_does_not_go_on_as_if_nothing_had_happened():
    assert not t.TRANSITIONS[t.CANCELLING] & t.ACTIVE


def test_active_states_are_those_that_a_task_enters_by_being_assigned():
    assert t.ASSIGNED in t.ACTIVE
    assert not t.ACTIVE & t.TERMINAL
    entered = {state for state, following in t.TRANSITIONS.items() if t.ASSIGNED in following}
    assert entered == {t.QUEUED, t.WAITING}, "while it waits, a worker may turn out to have it"


@pytest.mark.parametrize(("old", "new"), list(itertools.product(t.TRANSITIONS, t.TRANSITIONS)))
def test_a_task_moves_only_along_the_table(old, new):
    task = record(now=1.0)
    task.state = old
    if new in t.TRANSITIONS[old]:
        task.move(new, 2.0)
        assert (task.state, task.since) == (new, 2.0)
    else:
        with pytest.raises(t.IllegalTransition):
            task.move(new, 2.0)
        assert (task.state, task.since) == (old, 1.0)


def test_an_illegal_move_tells_the_history():
    task = record(5)
    task.attempt = 2
    task.record_event("attempt 1: worker left has left")
    task.move(t.CANCELLED, 0.0)
    with pytest.raises(t.IllegalTransition) as caught:
        task.move(t.RUNNING, 0.0)
    assert str(caught.value) == (
        "task c-5 cannot go from cancelled to running; attempt 2, history: ['attempt 1: worker left has left']"
    )


def test_a_record_knows_its_name_and_its_elements():
    assert record().name == "double"
    assert record(name="mine").name == "mine"
    assert record().elements == 1
    assert record(kind=Chunk(3, 10)).elements == 7


@pytest.mark.parametrize("length", [10, 3 * t.MAX_HISTORY_LINE_LENGTH])
def test_a_long_history_leaves_out_its_middle(length):
    task = record(retries=10**6)
    for number in range(10_000):
        task.record_event(f"attempt {number}: " + "x" * length)
    assert task.history is not None
    assert len(task.history) == (
        t.MAX_HISTORY_LINES if length == 10 else t.MAX_HISTORY_LENGTH // t.MAX_HISTORY_LINE_LENGTH - 1
    )
    assert task.history[0].startswith("attempt 0:")
    assert task.history[-1].startswith("attempt 9999:")
    assert sum(map(len, task.history)) <= t.MAX_HISTORY_LENGTH
