from __future__ import annotations

import pytest
from support.cores import DOUBLE, HALVE, KEY, OTHER_KEY, client, ids, ok, spec

from jobrunner.backends.failures import error_for
from jobrunner.errors import QuotaError
from jobrunner.protocol.effects import (
    AnnounceRunning,
    AnswerCancel,
    AnswerQuery,
    CancelRequested,
    CapacityChanged,
    Connected,
    ConnectionLost,
    DrainRequested,
    GiveUp,
    HandshakeFailed,
    QueryRequested,
    ResolveTasks,
    ShowOutput,
    Stop,
    SubmitRequested,
    Unreachable,
)
from jobrunner.protocol.link import ACK_DELAY
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId


def submit(world, *tasks, functions=(DOUBLE,)):
    world.handle(SubmitRequested(list(tasks), list(functions)))


def cancel(world, *numbers, running=False):
    world.handle(CancelRequested([TaskId(f"c-{n}") for n in numbers], running))


def sent(world, *tasks, functions=(DOUBLE,)):
    """Submit, and swallow the one message that results."""
    submit(world, *tasks, functions=functions)
    assert ids(world.heard_one(m.Submit).tasks) == ids(tasks)


# --- submitting ---------------------------------------------------------------------------------------------------


def test_nothing_but_the_greeting_leaves_before_the_session_is_open():
    world = client(opened=False)
    submit(world, spec(1))
    (hello,) = world.heard()
    assert hello == m.ClientHello("c", "1.0", "3.11", "host", 1, 10.0, serial=1)
    world.open(slots=6)
    assert world.take() == [Connected(6)]
    assert world.heard() == [m.ResubmissionComplete(), m.Submit([spec(1)], [DOUBLE])]


def test_calls_of_one_turn_leave_in_one_message_with_their_functions():
    world = client()
    submit(world, spec(1), spec(2))
    submit(world, spec(3, function=OTHER_KEY, initializer=KEY), functions=[HALVE, DOUBLE])
    calls = [spec(1), spec(2), spec(3, function=OTHER_KEY, initializer=KEY)]
    assert world.heard() == [m.Submit(calls, [DOUBLE, HALVE])]
    assert world.heard() == []
    assert world.take() == []


def test_a_function_travels_once_even_if_it_was_not_needed_for_a_while():
    world = client()
    sent(world, spec(1))
    world.say(m.Outcomes([ok("c-1")]))
    assert world.take() == [ResolveTasks([ok("c-1")])]
    submit(world, spec(2))
    assert world.heard_one(m.Submit) == m.Submit([spec(2)])


def test_a_function_that_is_too_large_is_not_sent():
    world = client(opened=False)
    large, ships = (m.FunctionDef(b"%d" % n, "f", bytes(101), "", (), ("a",) * n) for n in (0, 1))
    calls = [spec(1, function=large.key), spec(2, function=KEY, initializer=ships.key), spec(3)]
    submit(world, *calls, functions=[DOUBLE, large, ships])
    world.heard()
    world.open(max_payload=100)
    (_, resolved) = world.take()
    assert isinstance(resolved, ResolveTasks)
    errors = {outcome.id: str(error_for(outcome, "f")) for outcome in resolved.outcomes}
    assert "its function has 101 bytes, and the coordinator takes 100 at most" in errors["c-1"]
    assert (
        "the modules shipped with it (a) have 101 bytes, packed, and the coordinator takes 100"
        in errors["c-2"]
    )
    assert {type(error_for(outcome, "f")) for outcome in resolved.outcomes} == {QuotaError}
    assert world.heard() == [m.ResubmissionComplete(), m.Submit([spec(3)], [DOUBLE])]
    assert list(world.core.pending) == ["c-3"]


def test_functions_beyond_the_limit_are_forgotten_by_both_ends():
    world = client()
    definitions = [m.FunctionDef(b"%d" % n, f"f{n}", b"blob") for n in range(258)]
    for n, definition in enumerate(definitions[:257]):
        submit(world, spec(n, function=definition.key), functions=[definition])
    assert world.heard_one(m.Submit).drop_functions == [b"0"]
    submit(world, spec(900, function=b"257"), functions=[definitions[257]])
    message = world.heard_one(m.Submit)
    assert (message.functions, message.drop_functions) == ([definitions[257]], [b"1"])
    submit(world, spec(901, function=b"0"), functions=[definitions[0]])
    assert world.heard_one(m.Submit).functions == [definitions[0]], "the coordinator needs it again"


def test_a_function_that_no_call_needs_is_not_kept():
    world = client()
    submit(world, spec(1), functions=[DOUBLE, HALVE])
    assert world.heard_one(m.Submit).functions == [DOUBLE]
    world.say(m.Outcomes([ok("c-1")]))
    world.turn()
    assert world.core._functions == {}


def test_the_window_bounds_the_unfinished_tasks():
    world = client(opened=False)
    submit(world, *[spec(n) for n in range(5)])
    world.open(window_tasks=2)
    assert [ids(x.tasks) for x in world.heard() if type(x) is m.Submit] == [["c-0", "c-1"]]
    assert world.heard() == []
    world.say(m.Outcomes([ok("c-1")]))
    assert ids(world.heard_one(m.Submit).tasks) == ["c-2"]
    world.say(m.Outcomes([ok("c-0"), ok("c-2")]))
    assert ids(world.heard_one(m.Submit).tasks) == ["c-3", "c-4"]


def test_the_window_bounds_their_bytes_too_and_a_giant_goes_alone():
    world = client(opened=False)
    sizes = [40, 50, 20, 500, 1]
    submit(world, *[spec(n, payload=bytes(size)) for n, size in enumerate(sizes)])
    world.open(window_bytes=100)
    assert [ids(x.tasks) for x in world.heard() if type(x) is m.Submit] == [["c-0", "c-1"]]
    world.say(m.Outcomes([ok("c-0")]))
    assert ids(world.heard_one(m.Submit).tasks) == ["c-2"]
    world.say(m.Outcomes([ok("c-1")]))
    assert world.heard() == [], "it waits until nothing else is there, and the small one behind it waits too"
    world.say(m.Outcomes([ok("c-2")]))
    assert ids(world.heard_one(m.Submit).tasks) == ["c-3"]
    world.say(m.Outcomes([ok("c-3")]))
    assert ids(world.heard_one(m.Submit).tasks) == ["c-4"]


def test_the_highest_priority_leaves_first_and_equals_in_order():
    world = client(opened=False)
    submit(world, spec(1), spec(2, priority=5), spec(3, priority=-5), spec(4, priority=5))
    world.open(window_tasks=3)
    assert [ids(x.tasks) for x in world.heard() if type(x) is m.Submit] == [["c-2", "c-4", "c-1"]]
    submit(world, spec(5, priority=9))
    world.say(m.Outcomes([ok("c-1")]))
    assert ids(world.heard_one(m.Submit).tasks) == ["c-5"]


# --- outcomes -----------------------------------------------------------------------------------------------------


def test_an_outcome_is_handed_on_once():
    world = client()
    sent(world, spec(1), spec(2))
    world.say(m.Outcomes([ok("c-1"), ok("c-1"), ok("c-9")]))
    assert world.take() == [ResolveTasks([ok("c-1")])]
    world.say(m.Outcomes([ok("c-1", attempt=2)]))
    assert world.take() == []
    assert list(world.core.pending) == ["c-2"]


def test_what_runs_and_what_prints_is_handed_on():
    world = client()
    sent(world, spec(1))
    chunk = m.OutputChunk("c-1", "double", m.STDOUT, "hello\n")
    world.say(m.Running(["c-1"]), m.Output([chunk]), m.Capacity(9))
    assert world.take() == [AnnounceRunning(["c-1"]), ShowOutput([chunk]), CapacityChanged(9)]
    assert world.heard() == []


def test_the_start_of_a_task_that_is_over_is_not_announced():
    world = client()
    world.say(m.Running(["c-1"]))
    assert world.take() == []


# --- cancelling ---------------------------------------------------------------------------------------------------


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


# --- sessions -----------------------------------------------------------------------------------------------------


def test_after_a_lost_session_first_what_was_sent_then_the_rest():
    world = client(opened=False)
    submit(world, *[spec(n) for n in range(5)])
    world.open(window_tasks=3)
    assert [type(x) for x in world.heard()] == [m.ResubmissionComplete, m.Submit]
    world.say(m.Outcomes([ok("c-1")]))
    world.take()
    world.heard()
    world.handle(QueryRequested(1, "status"))
    assert world.heard_one(m.Query) == m.Query(1, "status")
    world.lose()
    (lost,) = world.take()
    assert isinstance(lost, ConnectionLost)
    assert "does not know this session" in lost.reason
    submit(world, spec(5, priority=9))
    world.heard()

    world.open(window_tasks=1, slots=2)
    assert world.take() == [Connected(2)]
    first, resubmission_complete, query = world.heard()
    assert first == m.Submit([spec(0), spec(2), spec(3)], [DOUBLE]), "whatever the window is now"
    assert resubmission_complete == m.ResubmissionComplete()
    assert query == m.Query(1, "status")
    world.say(m.Outcomes([ok("c-0"), ok("c-2"), ok("c-3")]))
    assert ids(world.heard_one(m.Submit).tasks) == ["c-5"]


def test_silence_ends_the_session_and_the_greetings_begin():
    world = client()
    sent(world, spec(1))
    world.run(9.9)
    world.heard()
    world.now += 0.1
    assert world.heard() == []
    assert world.take() == [ConnectionLost("it has been silent for 10 s")]
    (hello,) = world.heard()
    assert type(hello) is m.ClientHello
    world.open()
    assert [type(x) for x in world.heard()] == [m.Submit, m.ResubmissionComplete]


def test_a_coordinator_that_says_goodbye_is_waited_for():
    world = client(reconnect_timeout=100.0)
    sent(world, spec(1))
    world.say(m.Goodbye("the coordinator has stopped"))
    assert world.take() == [ConnectionLost("it has stopped")]
    assert world.heard() == []
    world.now += 5.0
    assert type(world.heard_one(m.ClientHello)) is m.ClientHello


def test_an_unreachable_coordinator_is_told_again_soon():
    world = client()
    sent(world, spec(1))
    world.handle(Unreachable(b""))
    assert world.core.next_deadline() == world.now + ACK_DELAY
    world.now += ACK_DELAY
    assert world.heard() == [], "the link drops what it has seen already"


# --- giving up ----------------------------------------------------------------------------------------------------


def test_it_gives_up_when_nobody_has_ever_answered_in_time():
    world = client(opened=False, connect_timeout=3.0, reconnect_timeout=99.0)
    world.turn()
    world.run(2.9)
    assert world.take() == []
    assert world.core.next_deadline() == 100.0 + 3.0
    world.now = 100.0 + 3.0
    assert world.take() == [GiveUp("no answer for 3 s", "CoordinatorLostError")]
    assert world.core.next_deadline() is None
    world.turn(5.0)
    assert world.take() == []


def test_it_gives_up_when_a_lost_coordinator_stays_away():
    world = client(connect_timeout=1.0, reconnect_timeout=20.0)
    world.run(10.0)
    assert [type(x) for x in world.take()] == [ConnectionLost]
    world.run(19.9)
    assert world.take() == []
    world.run(0.1)
    assert world.take() == [
        GiveUp("it has been silent for 10 s, and has not come back within 20 s", "CoordinatorLostError")
    ]


def test_it_names_no_silence_when_something_else_answers():
    """The advice is about keys then; to start a coordinator would be the wrong one."""
    world = client(opened=False, connect_timeout=3.0)
    world.turn()
    world.handle(HandshakeFailed("another cluster answers", refused=False))
    world.run(3.0)
    assert world.take() == [GiveUp("another cluster answers", "CoordinatorLostError", advises=True)]


def test_time_in_which_its_own_process_stood_still_is_no_wait_for_an_answer():
    """The program may keep the I/O thread from running before it has greeted anybody, and after."""
    world = client(opened=False, connect_timeout=3.0)
    world.turn(60.0)
    assert world.take() == []
    world.run(1.0)
    world.turn(60.0)
    world.run(1.0)
    assert world.take() == []
    world.run(2.0)
    assert [type(x) for x in world.take()] == [GiveUp]


def test_nor_is_it_silence_of_the_coordinator():
    world = client(peer_timeout=10.0)
    world.run(5.0)
    world.turn(60.0)
    assert world.take() == []
    world.run(3.0)
    assert world.take() == []
    world.run(2.5)
    assert [type(x) for x in world.take()] == [ConnectionLost]


def test_the_time_begins_anew_with_each_loss():
    world = client(reconnect_timeout=20.0)
    for _ in range(3):
        world.lose()
        world.turn(15.0)
        world.open()
    world.heard()
    assert {type(x) for x in world.take()} == {ConnectionLost, Connected}


def test_without_a_limit_it_goes_on_trying():
    world = client(opened=False)
    for _ in range(50):
        world.turn(100.0)
    assert world.take() == []
    assert world.core.next_deadline() is not None


def test_a_refusal_is_the_end():
    world = client(opened=False)
    world.turn()
    world.give(m.Envelope("", 0, 0, m.Refused("use the same version")))
    assert world.take() == [GiveUp("use the same version", "ProtocolError")]
    assert world.core.next_deadline() is None


def test_who_is_shut_out_in_the_middle_hears_of_it_at_once():
    """Not when the coordinator has been silent for long enough."""
    world = client()
    world.give(m.Envelope(world.link.session, 0, 0, m.Refused("the key was revoked", "AuthenticationError")))
    assert world.take() == [GiveUp("the key was revoked", "AuthenticationError")], (
        "nobody waits for it any more"
    )
    assert world.core.next_deadline() is None


# --- queries and the end ------------------------------------------------------------------------------------------


def test_a_query_is_answered_once():
    world = client()
    world.handle(QueryRequested(3, "task", "c-1"))
    assert world.heard() == [m.Query(3, "task", "c-1")]
    world.say(m.Reply(3, {"state": "queued"}), m.Reply(3, {}), m.Reply(4, {}))
    assert world.take() == [AnswerQuery(3, {"state": "queued"}, "")]


def test_a_query_before_the_session_waits_for_it():
    world = client(opened=False)
    world.handle(QueryRequested(1, "status"))
    world.open()
    assert world.heard() == [m.ResubmissionComplete(), m.Query(1, "status")]


def test_it_leaves_with_a_goodbye_after_all_else():
    world = client()
    submit(world, spec(1))
    world.handle(DrainRequested())
    assert [type(x) for x in world.heard()] == [m.Submit, m.Goodbye]
    assert world.take() == [Stop()]
    assert world.core.next_deadline() is None
    world.turn(100.0)
    assert (world.heard(), world.take()) == ([], [])


def test_without_a_session_it_just_leaves():
    world = client(opened=False)
    world.turn()
    world.heard()
    world.handle(DrainRequested())
    assert world.take() == [Stop()]
    assert world.heard() == []


def test_an_idle_client_sends_heartbeats_and_nothing_else():
    world = client(peer_timeout=10.0)
    for _ in range(40):
        world.acknowledge()
        world.turn(0.5)
    assert world.heard() == [m.Heartbeat()] * 20
