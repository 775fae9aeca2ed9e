from __future__ import annotations

import dataclasses

import pytest
from support.cores import (
    DOUBLE,
    HALVE,
    KEY,
    OTHER_KEY,
    Coordinator,
    assignment,
    ended,
    ids,
    named,
    ok,
    spec,
)

from jobrunner.backends.failures import error_for
from jobrunner.config import UNREACHABLE_GRACE
from jobrunner.errors import JobRunnerError
from jobrunner.protocol.coordinator.core import SWEEP_INTERVAL, CoordinatorCore
from jobrunner.protocol.coordinator.outboxes import OUTCOME_WINDOW, OUTPUT_WINDOW
from jobrunner.protocol.coordinator.peers import CLIENT_PATIENCE
from jobrunner.protocol.coordinator.settings import CoordinatorSettings
from jobrunner.protocol.effects import (
    DrainRequested,
    Log,
    Received,
    Send,
    Stop,
    Tick,
    Unreachable,
    WriteJournal,
)
from jobrunner.protocol.journal_records import JournalState, Progress
from jobrunner.protocol.tuning import REST_AFTER_RETURN
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.kinds import Chunk
from jobrunner.protocol.wire.principals import ANYONE, Principal


def submit(client, *tasks, functions=(DOUBLE,)):
    client.say(m.Submit(list(tasks), list(functions)))


def given(worker):
    """The tasks of the one message, an Assign, that the worker has heard, as (id, attempt)."""
    message = worker.heard_one(m.Assign)
    return [(task.id, task.attempt) for task in message.tasks]


def resolved(client):
    """What the client has heard of outcomes, as (id, status)."""
    return [(o.id, o.status) for message in client.heard_of(m.Outcomes) for o in message.outcomes]


@pytest.fixture
def world():
    return Coordinator()


# --- greetings ----------------------------------------------------------------------------------------------------


def test_a_client_is_welcomed_and_told_the_size_of_the_cluster():
    world = Coordinator(window_tasks=7, window_bytes=70, hash_seed=2**32 - 1)
    world.worker(slots=3)
    client = world.client()
    client.greet("again")
    welcome = m.Welcome("coo", "1.0", 3, 7, 70, client.link.session, hash_seed=2**32 - 1)
    assert client.heard() == [welcome]


def test_the_same_greeting_again_is_answered_and_changes_nothing(world):
    client, worker = world.client(), world.worker()
    submit(client, spec(1))
    assert given(worker) == [("c-1", 1)]
    for remote in (client, worker):
        greeting = remote.link.session.partition("/")[0]
        world.give(remote.source, m.Envelope(greeting, 0, 0, remote.hello))
        assert remote.heard() == [m.Welcome("coo", "1.0", 1, 100_000, 256 << 20, remote.link.session)]
    assert len(world.core.scheduler.roster.workers) == len(world.core.scheduler.roster.clients) == 1
    worker.say(m.Outcomes([ok("c-1")]))
    assert resolved(client) == [("c-1", m.OK)]


def test_a_greeting_that_comes_late_is_ignored(world):
    worker = world.worker(serial=2)
    submit(world.client(), spec(1))
    assert given(worker) == [("c-1", 1)]
    late = dataclasses.replace(worker.hello, serial=1)
    world.give(worker.source, m.Envelope("late", 0, 0, late))
    assert worker.heard() == []
    worker.say(m.Outcomes([ok("c-1")]))
    assert worker.heard() == []
    assert not world.core.scheduler.tasks  # so the session goes on, and its outcomes count


def test_a_greeting_that_is_delivered_twice_never_opens_two_sessions_of_one_name(world):
    worker = world.worker(peer_timeout=1.0)
    name = worker.link.session
    greeting = name.partition("/")[0]
    world.run(3.0)  # it is silent, and lost
    assert not world.core.scheduler.roster.workers
    world.give(worker.source, m.Envelope(greeting, 0, 0, worker.hello))
    (welcome,) = [message for message in worker.heard() if type(message) is m.Welcome]
    assert welcome.session != name


def test_whoever_is_unknown_is_reset_and_a_reset_is_not_answered(world):
    for message in (m.Heartbeat(), m.Submit([spec(1)])):
        world.give(b"stranger", m.Envelope("old", 5, 0, message))
        assert world.take() == [Send(b"stranger", m.Envelope("old", 0, 0, m.Reset()))]
    for message in (m.Reset(), m.Goodbye("bye")):
        world.give(b"stranger", m.Envelope("old", 5, 0, message))
        assert world.take() == []


def test_a_message_of_an_old_session_is_reset_without_harm_to_the_new_one(world):
    client = world.client()
    world.give(client.source, m.Envelope("older", 1, 0, m.Heartbeat()))
    (reset,) = client.arrived
    assert reset == m.Reset()
    client.arrived.clear()
    world.client("d")
    submit(client, spec(1))
    assert client.heard() == []
    assert "c-1" in world.core.scheduler.tasks


@pytest.mark.parametrize(
    "message",
    [
        m.Outcomes([ok("c-1")]),
        m.Capacity(5),
        m.Assign([assignment(1)]),
        m.Welcome("x", "1", 1, 1, 1, "s"),
        m.TasksReturned([]),
    ],
    ids=lambda x: type(x).__name__,
)
def test_a_client_that_speaks_as_something_else_loses_its_session(world, message):
    client, worker = world.client(), world.worker()
    submit(client, spec(1))
    given(worker)
    client.say(message)
    assert client.heard() == [m.Reset()]
    assert any("may not send it" in line for line in world.logs)
    assert "c-1" in world.core.scheduler.tasks, "nothing else has happened"
    client.say(m.Heartbeat())
    assert client.heard() == [m.Reset()]


@pytest.mark.parametrize(
    "message", [m.Submit([spec(1)]), m.Cancel([]), m.Query(1, "status"), m.ResubmissionComplete()]
)
def test_a_worker_that_speaks_as_a_client_loses_its_session(world, message):
    worker = world.worker()
    worker.say(message)
    assert worker.heard() == [m.Reset()]


def test_another_version_is_refused_by_name(world):
    world.reject(b"old one", "the peer speaks protocol version 9, this is version 1", version=True)
    (effect,) = world.take()
    assert effect.destination == b"old one"
    assert effect.envelope == m.Envelope(
        "",
        0,
        0,
        m.Refused(
            "the peer speaks protocol version 9, this is version 1; "
            "this coordinator is jobrunner 1.0: use the same version"
        ),
    )


def test_garbage_is_counted_and_not_answered(world):
    client = world.client()
    world.reject(b"x", "malformed message")
    world.reject(client.source, "malformed message")
    assert world.take() == []
    assert client.heard() == []
    assert world.query(client, "status")["coordinator"]["rejected_messages"] == 2


def test_two_workers_of_one_name_are_told_apart(world):
    client = world.client()
    first = world.worker("w")
    second = m.WorkerHello("another id", "1.0", "3.11", "w", "host", 3, 10.0, 1, {})
    world._join(second, "w", ANYONE)
    assert [worker["name"] for worker in world.query(client, "workers")] == ["w", "w-2"]
    world.reopen(first)
    assert [worker["name"] for worker in world.query(client, "workers")] == ["w", "w-2"]


# --- the way of a task --------------------------------------------------------------------------------------------


def test_a_call_goes_to_a_worker_and_its_outcome_back(world):
    client, worker = world.client(), world.worker()
    call = spec(1, payload=b"args", initializer=OTHER_KEY, priority=3)
    submit(client, call, functions=[DOUBLE, HALVE])
    assert worker.heard() == [m.Assign([m.Assignment("c-1", 1, call.body)], [DOUBLE, HALVE])]
    assert client.heard() == []
    worker.say(m.Running(["c-1"]))
    assert client.heard() == [m.Running(["c-1"])]
    worker.say(m.Outcomes([ok("c-1")]))
    assert client.heard() == [m.Outcomes([ok("c-1")])]
    assert worker.heard() == []
    assert not world.core.scheduler.tasks


def test_a_function_is_sent_to_a_worker_once_and_forgotten_when_nobody_needs_it(world):
    client, worker = world.client(), world.worker()
    submit(client, spec(1))
    assert worker.heard_one(m.Assign).functions == [DOUBLE]
    worker.say(m.Outcomes([ok("c-1")]))
    client.say(m.Submit([spec(2)]))
    assert worker.heard_one(m.Assign).functions == []
    worker.say(m.Outcomes([ok("c-2")]))
    client.say(m.Submit([], [], [KEY]))
    assert worker.heard() == [m.DropFunctions([KEY])]
    submit(client, spec(3))
    assert worker.heard_one(m.Assign).functions == [DOUBLE]


def test_a_call_of_a_function_that_was_never_sent_resets_its_client(world):
    client, worker = world.client(), world.worker()
    submit(client, spec(1), functions=[])
    assert client.heard() == [m.Reset()]
    assert worker.heard() == []


def test_one_message_per_worker_and_turn(world):
    client = world.client()
    left, right = world.worker("left", slots=2), world.worker("right", slots=2)
    submit(client, spec(1), spec(2))
    client.say(m.Submit([spec(3)]))
    world.turn()
    assert sorted(len(x.tasks) for remote in (left, right) for x in remote.heard()) == [1, 2]


def test_a_chunk_whose_process_died_is_reported_at_once(world):
    client, worker = world.client(), world.worker()
    submit(client, spec(1, kind=Chunk(0, 9), retries=5))
    given(worker)
    worker.say(m.Outcomes([ended("c-1", m.CRASHED, element=4, error="died")]))
    (message,) = client.heard()
    (outcome,) = message.outcomes
    assert (outcome.status, outcome.detail["element"]) == (m.CRASHED, 4)
    assert "limit" not in outcome.detail
    assert worker.heard() == []


def test_crashes_are_counted_to_the_limit_and_the_history_is_told(world):
    client, worker = world.client(), world.worker()
    submit(client, spec(1))
    for attempt in (1, 2, 3):
        assert given(worker) == [("c-1", attempt)]
        assert client.heard() == []
        worker.say(m.Outcomes([ended("c-1", m.CRASHED, attempt, error=f"death {attempt}")]))
    (message,) = client.heard()
    (outcome,) = message.outcomes
    assert (outcome.status, outcome.detail["limit"]) == (m.CRASHED, 3)
    assert list(outcome.detail["attempts"]) == [f"attempt {n} on w: death {n}" for n in (1, 2, 3)]
    assert worker.heard() == []


def test_failures_are_tried_again_after_a_pause(world):
    client, worker = world.client(), world.worker()
    submit(client, spec(1, retries=2))
    assert given(worker) == [("c-1", 1)]
    worker.say(m.Outcomes([ended("c-1", m.ERROR)]))
    assert worker.heard() == []
    world.turn(0.09)
    assert worker.heard() == []
    world.now = 100.0 + 0.1
    assert world.core.next_deadline() <= world.now
    assert given(worker) == [("c-1", 2)]
    worker.say(m.Outcomes([ended("c-1", m.TIMED_OUT, 2)]))
    world.turn(0.19)
    assert worker.heard() == []
    world.turn(0.02)
    assert given(worker) == [("c-1", 3)]
    worker.say(m.Outcomes([ended("c-1", m.ERROR, 3)]))
    assert resolved(client) == [("c-1", m.ERROR)]


def test_a_crash_between_two_failures_leaves_both_counts_alone(world):
    client, worker = world.client(), world.worker()
    submit(client, spec(1, retries=1))
    for attempt, status in enumerate([m.CRASHED, m.ERROR, m.CRASHED], 1):
        assert given(worker) == [("c-1", attempt)]
        worker.say(m.Outcomes([ended("c-1", status, attempt)]))
        world.turn(0.2)
    assert given(worker) == [("c-1", 4)]
    worker.say(m.Outcomes([ended("c-1", m.ERROR, 4)]))
    assert resolved(client) == [("c-1", m.ERROR)]


def test_stale_outcomes_change_nothing_and_are_counted(world):
    client, worker, other = world.client(), world.worker("w"), world.worker("other")
    submit(client, spec(1))
    assert given(worker) == [("c-1", 1)]
    other.say(m.Outcomes([ok("c-1")]))
    worker.say(m.Outcomes([ok("c-1", attempt=2), ok("c-9")]))
    assert client.heard() == []
    worker.say(m.Outcomes([ok("c-1"), ok("c-1"), ended("c-1", m.ERROR)]))
    assert resolved(client) == [("c-1", m.OK)]
    assert world.query(client, "status")["coordinator"]["stale_outcomes"] == 5


def test_tasks_given_back_go_elsewhere_and_lose_nothing(world):
    client, worker = world.client(), world.worker()
    submit(client, spec(1), spec(2))
    assert given(worker) == [("c-1", 1)]
    worker.say(m.TasksReturned([("c-1", 1), ("c-2", 1)]))
    assert worker.heard() == [], "it counts as having a slot, and has none"
    world.turn(REST_AFTER_RETURN)
    assert given(worker) == [("c-1", 2)], "the head of the queue, as a new attempt"
    worker.say(m.TasksReturned([("c-1", 1)]))
    assert worker.heard() == []
    assert client.heard() == []


def test_a_coordinator_that_drains_does_not_wait_for_a_worker_that_rests(world):
    """It places nothing any more, and turned without end when the rest was over."""
    client, worker = world.client(), world.worker()
    submit(client, spec(1), spec(2))
    worker.say(m.TasksReturned([("c-1", 1)]))
    world.handle(DrainRequested())
    world.turn(2 * REST_AFTER_RETURN)
    assert world.core.next_deadline() > world.now


def assigned(worker):
    """Number, and how many before it never began, of all that was assigned since the last call."""
    return [(t.attempt, t.unbegun) for x in worker.heard_of(m.Assign) for t in x.tasks]


def test_what_is_given_back_is_no_attempt(world):
    client, worker = world.client(), world.worker()
    submit(client, spec(1, retries=1))
    assert assigned(worker) == [(1, 0)]
    for number in range(1, 4):
        assert world.query(client, "task", "c-1")["attempt"] == 1
        worker.say(m.TasksReturned([("c-1", number)]))
        world.turn(REST_AFTER_RETURN)
        assert assigned(worker) == [(number + 1, number)], "its number is no other attempt's"
    worker.say(m.Outcomes([ended("c-1", m.ERROR, 4)]))
    world.turn(1.0)
    assert assigned(worker) == [(5, 3)]
    told = world.query(client, "task", "c-1")
    assert told["attempt"] == 2
    assert [line.split(" on ")[0] for line in told["history"]] == ["attempt 1"]


def test_what_a_worker_gives_back_though_it_has_begun_was_an_attempt(world):
    client, worker = world.client(), world.worker()
    submit(client, spec(1))
    assert assigned(worker) == [(1, 0)]
    worker.say(m.TasksReturned([("c-1", 1)], begun=True))
    assert assigned(worker) == [(2, 0)]
    assert world.query(client, "task", "c-1")["attempt"] == 2


def test_what_was_lost_on_its_way_is_no_attempt(world):
    client, worker = world.client(), world.worker()
    submit(client, spec(1))
    assert assigned(worker) == [(1, 0)]
    world.reopen(worker)  # without it
    assert assigned(worker) == [(2, 1)]
    told = world.query(client, "task", "c-1")
    assert (told["attempt"], told["history"]) == (1, ("it was lost on its way to worker w",))


def test_a_late_greeting_does_not_claim_what_was_given_back(world):
    """It tells of the time before."""
    client, worker = world.client(), world.worker()
    submit(client, spec(1))
    assert assigned(worker) == [(1, 0)]
    worker.say(m.TasksReturned([("c-1", 1)]), m.Drain())
    worker.heard()
    worker.hello.held = [m.Held("c-1", 1, False)]
    world.reopen(worker)
    assert assigned(worker) == [(2, 1)]
    worker.say(m.Outcomes([ok("c-1", 1)]))
    assert client.heard_of(m.Outcomes) == []


def test_after_a_restart_a_worker_tells_how_often_its_tasks_had_begun(world):
    worker = world.worker(held=[m.Held("c-1", 7, True, unbegun=5)])
    client = world.client()
    submit(client, spec(1, retries=1))
    assert world.query(client, "task", "c-1")["attempt"] == 2
    worker.say(m.Outcomes([ended("c-1", m.ERROR, 7)]))
    world.turn(1.0)
    assert assigned(worker) == [(8, 5)]


# --- output -------------------------------------------------------------------------------------------------------


def test_what_a_task_prints_goes_to_its_client_alone(world):
    client, other, worker = world.client("c"), world.client("d"), world.worker()
    submit(client, spec(1))
    given(worker)
    chunks = [
        m.OutputChunk("c-1", "double", m.STDOUT, "hello"),
        m.OutputChunk("d-9", "x", m.STDOUT, "nobody's"),
    ]
    worker.say(m.Output(chunks))
    assert client.heard() == [m.Output(chunks[:1])]
    assert other.heard() == []


def test_what_a_task_has_left_running_prints_to_its_client_too(world):
    client, worker, stranger = world.client("c"), world.worker("w"), world.worker("v")
    submit(client, spec(1))
    given(worker)
    worker.say(m.Outcomes([ok("c-1")]))
    client.heard()
    late = m.Output([m.OutputChunk("c-1", "double", m.STDOUT, "late")])
    stranger.say(late)
    assert client.heard() == [], "that worker has had no task of this client"
    worker.say(late)
    assert client.heard() == [late]


def test_a_client_that_does_not_want_to_see_it_is_spared(world):
    client, worker = world.client(show_output=False), world.worker()
    submit(client, spec(1))
    given(worker)
    worker.say(m.Output([m.OutputChunk("c-1", "double", m.STDOUT, "hello")]))
    assert client.heard() == []


def test_output_for_a_client_that_does_not_take_it_is_dropped_and_its_outcomes_are_not(world):
    client, worker = world.client(), world.worker()
    submit(client, spec(1))
    given(worker)
    text = "x" * (OUTPUT_WINDOW // 4)
    for _ in range(9):
        worker.say(m.Output([m.OutputChunk("c-1", "double", m.STDOUT, text)]))
        world.turn()
    assert len(client.heard()) == 4
    worker.say(m.Outcomes([ok("c-1")]))
    assert resolved(client) == [("c-1", m.OK)]


def test_a_client_that_does_not_take_its_outcomes_waits_and_others_do_not(world):
    client, worker = world.client(), world.worker(slots=1)
    submit(client, spec(1), spec(2), spec(3))
    given(worker)
    worker.say(m.Outcomes([m.Outcome("c-1", 1, m.OK, (bytes(OUTCOME_WINDOW),), 1.0)]))
    assert given(worker) == [("c-2", 1)]
    worker.say(m.Outcomes([ok("c-2")]))
    assert worker.heard() == []
    admin = world.client("admin")
    assert (
        world.query(admin, "task", "c-3")["why"]
        == "its client does not receive the outcomes that are ready for it"
    )


def test_a_parked_client_goes_on_when_it_has_taken_them(world):
    client, other, worker = world.client("c"), world.client("d"), world.worker()
    submit(client, spec(1), spec(2), spec(3))
    given(worker)
    worker.say(m.Outcomes([m.Outcome("c-1", 1, m.OK, (bytes(OUTCOME_WINDOW),), 1.0)]))
    assert given(worker) == [("c-2", 1)]
    worker.say(m.Outcomes([ok("c-2")]))
    world.turn()
    submit(other, spec(1, client="d"))
    assert given(worker) == [("d-1", 1)]
    worker.say(m.Outcomes([ok("d-1")]))
    assert worker.heard() == []
    client.acknowledge()
    assert given(worker) == [("c-3", 1)]


# --- cancelling ---------------------------------------------------------------------------------------------------


def cancel(client, task, running=False):
    client.say(m.Cancel([m.CancelRequest(task, running)]))


def test_a_queued_task_is_cancelled_here(world):
    client = world.client()
    submit(client, spec(1))
    cancel(client, "c-1")
    assert client.heard() == [m.Outcomes([m.Outcome("c-1", 0, m.CANCELLED)])]
    worker = world.worker()
    assert worker.heard() == []


def test_a_task_with_a_worker_is_asked_for_there(world):
    client, worker = world.client(), world.worker()
    submit(client, spec(1))
    given(worker)
    cancel(client, "c-1")
    assert worker.heard() == [m.Cancel([m.CancelRequest("c-1", False)])]
    assert client.heard() == []
    worker.say(m.CancelRefused(["c-1"]))
    assert client.heard() == [m.CancelRefused(["c-1"])]
    worker.say(m.Outcomes([ended("c-1", m.CRASHED)]))
    assert given(worker) == [("c-1", 2)], "the refused cancel is forgotten"


def test_a_task_that_is_known_to_run_refuses_a_mild_cancel_here(world):
    client, worker = world.client(), world.worker()
    submit(client, spec(1))
    given(worker)
    worker.say(m.Running(["c-1"]))
    client.heard()
    cancel(client, "c-1")
    assert client.heard() == [m.CancelRefused(["c-1"])]
    assert worker.heard() == []


@pytest.mark.parametrize("ending", [m.OK, m.ERROR, m.CANCELLED, m.CRASHED, m.TIMED_OUT])
def test_a_running_task_that_is_stopped_ends_once_however_it_ends(world, ending):
    client, worker = world.client(), world.worker()
    submit(client, spec(1, retries=9))
    given(worker)
    worker.say(m.Running(["c-1"]))
    client.heard()
    cancel(client, "c-1", running=True)
    assert worker.heard() == [m.Cancel([m.CancelRequest("c-1", True)])]
    worker.say(m.Outcomes([ended("c-1", ending)]))
    wanted = m.CANCELLED if ending in (m.CANCELLED, m.CRASHED) else ending
    assert resolved(client) == [("c-1", wanted)]
    world.turn(100.0)
    assert "c-1" not in world.core.scheduler.tasks


def test_a_task_that_was_given_back_while_it_was_being_cancelled_is_cancelled(world):
    client, worker = world.client(), world.worker()
    submit(client, spec(1))
    given(worker)
    cancel(client, "c-1", running=True)
    worker.heard()
    worker.say(m.TasksReturned([("c-1", 1)]))
    assert resolved(client) == [("c-1", m.CANCELLED)]


def test_a_task_that_waits_for_its_next_attempt_is_cancelled(world):
    client, worker = world.client(), world.worker()
    submit(client, spec(1, retries=1))
    given(worker)
    worker.say(m.Outcomes([ended("c-1", m.ERROR)]))
    cancel(client, "c-1")
    assert resolved(client) == [("c-1", m.CANCELLED)]
    world.turn(1.0)
    assert worker.heard() == []


def test_a_finished_task_refuses_once_its_outcome_has_arrived_and_an_unknown_one_at_once(world):
    client, worker = world.client(), world.worker()
    client.say(m.ResubmissionComplete())
    submit(client, spec(1))
    given(worker)
    cancelling = client.link.send(m.Cancel([m.CancelRequest("c-1", False)]), world.now)
    worker.say(m.Outcomes([ok("c-1")]))
    world.turn()
    world.give(client.source, cancelling)
    assert client.heard() == [m.Outcomes([ok("c-1")])], "that is the answer"
    cancel(client, "c-1")
    cancel(client, "c-9")
    assert client.heard() == [m.CancelRefused(["c-1", "c-9"])]


# --- lost workers -------------------------------------------------------------------------------------------------


def test_a_silent_worker_is_lost_after_its_own_timeout(world):
    client, worker, other = (
        world.client(),
        world.worker(peer_timeout=4.0),
        world.worker("other", peer_timeout=60.0),
    )
    submit(client, spec(1), spec(2))
    assert given(worker) == [("c-1", 1)]
    assert given(other) == [("c-2", 1)]
    world.run(3.5, client)
    assert len(world.query(client, "workers")) == 2
    world.run(0.75, client)
    assert [w["name"] for w in world.query(client, "workers")] == ["other"]
    assert any("worker w is lost" in line for line in world.logs)
    other.heard()
    other.say(m.Outcomes([ok("c-2")]))
    assert next(x for x in other.heard() if type(x) is m.Assign).tasks[0][:2] == ("c-1", 2)


def test_a_worker_whose_connection_is_gone_has_a_short_grace(world):
    client, worker = world.client(), world.worker()
    submit(client, spec(1))
    given(worker)
    world.handle(Unreachable(worker.source))
    world.run(UNREACHABLE_GRACE - 0.25, client)
    assert world.query(client, "workers")[0]["state"] == "silent"
    worker.acknowledge()
    world.run(UNREACHABLE_GRACE + 1, client, worker)
    assert world.query(client, "workers")[0]["state"] == "active", "it has come back"
    world.handle(Unreachable(worker.source))
    world.run(UNREACHABLE_GRACE + 0.25, client)
    assert len(world.query(client, "workers")) == 0


def test_a_worker_in_this_process_cannot_be_lost(world):
    client, worker = world.client(peer_timeout=0.0), world.worker(peer_timeout=0.0)
    submit(client, spec(1))
    given(worker)
    worker.acknowledge()
    world.run(5.0)
    assert world.core.next_deadline() is None, "an idle local pool does not wake up at all"
    world.turn(1e6)
    assert len(world.core.scheduler.roster.workers) == 1


def test_a_stall_of_the_coordinator_itself_is_no_silence_of_others(world):
    client, worker = world.client(), world.worker()
    submit(client, spec(1))
    given(worker)
    world.run(1.0, client, worker)
    world.turn(30.0)
    world.run(1.0, client, worker)
    assert len(world.query(client, "workers")) == 1


def test_nor_is_it_a_part_of_the_grace_of_those_that_are_to_come_back(world):
    client, worker = world.client(peer_timeout=1.0), world.worker()
    submit(client, spec(1))
    given(worker)
    world.run(7.0, worker)
    assert any("client c is lost" in line for line in world.logs)
    world.handle(Unreachable(worker.source))
    world.turn(100.0)
    scheduler = world.core.scheduler
    assert (len(scheduler.roster.clients), len(scheduler.roster.workers)) == (1, 1)
    world.run(1.0)
    assert len(scheduler.roster.workers) == 1
    world.run(UNREACHABLE_GRACE)
    assert not scheduler.roster.workers
    world.run(world.core.settings.client_grace)
    assert not scheduler.roster.clients


def test_nor_of_the_time_in_which_workers_of_an_earlier_coordinator_come_back(world):
    world.core.scheduler.orphans.reattach_deadline = world.now + 5.0
    client, worker = world.client(), world.worker()
    client.say(m.Submit([spec(1)], [DOUBLE]))  # and it has yet to say that these are all
    world.turn(60.0)
    assert worker.heard_of(m.Assign) == []
    world.run(5.1, client, worker)
    assert given(worker) == [("c-1", 1)]


def test_a_worker_that_leaves_hands_its_tasks_on_at_once(world):
    client, worker, other = world.client(), world.worker("w"), world.worker("other")
    submit(client, spec(1))
    given(worker)
    worker.say(m.Goodbye())
    assert given(other) == [("c-1", 2)]
    assert client.heard() == [m.Capacity(1)]


def test_workers_that_are_lost_under_a_task_count_as_its_crashes(world):
    client = world.client()
    submit(client, spec(1))
    for n in (1, 2, 3):
        worker = world.worker(f"w{n}")
        assert given(worker) == [("c-1", n)]
        assert resolved(client) == []
        worker.say(m.Goodbye())
    (outcome,) = [o for x in client.heard_of(m.Outcomes) for o in x.outcomes]
    assert (outcome.status, outcome.detail["limit"]) == (m.LOST, 3)
    assert list(outcome.detail["attempts"]) == [f"attempt {n}: worker w{n} has left" for n in (1, 2, 3)]


def test_only_tasks_that_may_have_been_running_count_a_lost_worker(world):
    client, worker = world.client(), world.worker()
    submit(client, spec(0))
    given(worker)
    worker.say(m.Outcomes([ok("c-0", duration=0.0001)]))
    submit(client, spec(1), spec(2))
    assert given(worker) == [("c-1", 1), ("c-2", 1)]
    worker.say(m.Goodbye())
    world.turn()
    assert [r.crashes for r in world.core.scheduler.tasks.values()] == [1, 0]


def test_a_worker_that_was_lost_comes_back_with_outdated_work(world):
    client, worker, other = world.client(), world.worker("w"), world.worker("other", slots=2)
    submit(client, spec(1), spec(2), spec(3))
    assert given(worker) == [("c-1", 1)]
    other.heard()
    world.run(10.5, client, other)
    other.say(m.Outcomes([ok("c-2"), ok("c-3")]))
    other.heard()
    assert ids(world.core.scheduler.tasks.values()) == ["c-1"]
    worker.say(m.Outcomes([ok("c-1")]))
    assert worker.heard() == [m.Reset()]
    client.heard()
    worker.hello.held = [m.Held("c-1", 1, True)]
    world.reopen(worker)
    assert worker.heard() == [m.Cancel([m.CancelRequest("c-1", True)])]
    worker.say(m.Outcomes([ok("c-1", payload=b"late")]))
    assert client.heard_of(m.Outcomes) == []
    other.say(m.Outcomes([ok("c-1", 2, b"new")]))
    assert client.heard_of(m.Outcomes) == [m.Outcomes([ok("c-1", 2, b"new")])]


def test_a_worker_that_comes_back_in_time_keeps_its_tasks(world):
    client, worker = world.client(), world.worker(slots=2)
    submit(client, spec(1), spec(2))
    given(worker)
    worker.hello.held = [m.Held("c-1", 1, True)]
    world.reopen(worker)
    assert given(worker) == [("c-2", 2)], "this one was lost on its way"
    worker.say(m.Outcomes([ok("c-1"), ok("c-2", 2)]))
    assert resolved(client) == [("c-1", m.OK), ("c-2", m.OK)]
    assert all(r.crashes == 0 for r in world.core.scheduler.tasks.recent)


@pytest.mark.parametrize("running", [False, True])
def test_a_cancel_that_was_lost_with_a_session_is_said_again(world, running):
    client, worker = world.client(), world.worker()
    submit(client, spec(1))
    given(worker)
    cancel(client, "c-1", running)
    worker.hello.held = [m.Held("c-1", 1, True)]
    world.reopen(worker)
    assert worker.heard() == [m.Cancel([m.CancelRequest("c-1", running)])]


def test_a_queued_task_turns_out_to_be_with_a_worker_that_was_lost(world):
    client, worker = world.client(), world.worker()
    submit(client, spec(1))
    given(worker)
    world.run(10.5, client)
    worker.hello.held = [m.Held("c-1", 1, False)]
    world.reopen(worker)
    assert worker.heard() == [], "its attempt is joined"
    worker.say(m.Outcomes([ok("c-1")]))
    assert resolved(client) == [("c-1", m.OK)]


def test_an_attempt_that_has_ended_is_not_joined_when_its_outcome_is_sent_again(world):
    client, worker, _other = world.client(), world.worker("w"), world.worker("other")
    submit(client, spec(1, retries=1), spec(2))
    assert given(worker) == [("c-1", 1)]
    worker.say(m.Capacity(0))  # so that the next attempt has to wait in the queue
    worker.say(m.Outcomes([ended("c-1", m.ERROR)]))
    world.turn(0.5)
    worker.hello.held = [m.Held("c-1", 1, False)]  # it does not know that its outcome has arrived
    worker.hello.slots = 1
    world.reopen(worker)
    worker.say(m.Outcomes([ended("c-1", m.ERROR)]))
    assert client.heard_of(m.Outcomes) == [], "one failure was counted, not two"
    assert [(t.id, t.attempt) for x in worker.heard_of(m.Assign) for t in x.tasks] == [("c-1", 2)]


# --- a coordinator that was restarted -----------------------------------------------------------------------------


def test_after_a_restart_workers_keep_what_clients_still_want(world):
    worker = world.worker(
        slots=3, held=[m.Held("c-1", 2, True), m.Held("c-2", 1, True), m.Held("c-3", 5, False)]
    )
    assert worker.heard() == []
    worker.say(m.Outcomes([ok("c-3", 5, b"finished before")]))
    client = world.client()
    submit(client, spec(1), spec(3), spec(4))
    assert resolved(client) == [("c-3", m.OK)]
    assert given(worker) == [("c-4", 1)]
    client.say(m.ResubmissionComplete())
    assert worker.heard() == [m.Cancel([m.CancelRequest("c-2", True)])], "nobody wants it"
    worker.say(m.Outcomes([ok("c-1", 2)]))
    assert resolved(client) == [("c-1", m.OK)]


def test_work_of_clients_that_do_not_come_back_is_stopped_after_a_grace():
    world = Coordinator(client_grace=5.0)
    worker = world.worker(held=[m.Held("c-1", 1, True)])
    world.run(4.9, worker)
    assert worker.heard() == []
    world.run(0.5, worker)
    assert worker.heard() == [m.Cancel([m.CancelRequest("c-1", True)])]


def test_a_task_given_back_before_its_client_comes_is_not_taken_to_be_with_the_worker(world):
    worker = world.worker(held=[m.Held("c-1", 1, False)])
    worker.say(m.TasksReturned([("c-1", 1)]))
    client = world.client()
    submit(client, spec(1))
    world.turn(REST_AFTER_RETURN)
    assert given(worker) == [("c-1", 1)]


def test_a_worker_that_greets_again_without_a_task_does_not_have_it_any_more(world):
    worker = world.worker(held=[m.Held("c-1", 1, False)])
    worker.hello.held = []
    world.reopen(worker)
    client = world.client()
    submit(client, spec(1))
    assert given(worker) == [("c-1", 1)]


@pytest.mark.parametrize("at_most_once", [False, True])
def test_a_task_that_its_worker_has_no_more_may_have_run(world, at_most_once):
    """It may have told the coordinator before this one how it ended, and its first word here may be an old one."""
    worker = world.worker(held=[m.Held("c-1", 1, False)])
    client = world.client()
    submit(client, spec(1, at_most_once=at_most_once))
    worker.hello.held = []
    world.reopen(worker)
    if at_most_once:
        assert resolved(client) == [("c-1", m.LOST)]
        assert worker.heard_of(m.Assign) == []
    else:
        assert given(worker) == [("c-1", 2)]


def test_a_client_that_comes_before_its_worker_does_not_have_its_work_stopped(world):
    client = world.client()
    worker = world.worker(held=[m.Held("c-1", 1, True)])
    assert worker.heard() == [], "the client has not yet said what it wants"
    submit(client, spec(1))
    client.say(m.ResubmissionComplete())
    assert worker.heard() == []
    worker.say(m.Outcomes([ok("c-1")]))
    assert resolved(client) == [("c-1", m.OK)]


# --- lost clients -------------------------------------------------------------------------------------------------

BRISK = 10.0 / CLIENT_PATIENCE
"""The timeout of a client that is lost after 10 s."""


def test_a_lost_client_has_a_grace_and_then_its_tasks_end():
    world = Coordinator(client_grace=20.0)
    client, worker = world.client(peer_timeout=BRISK), world.worker()
    submit(client, spec(1), spec(2))
    assert given(worker) == [("c-1", 1)]
    world.run(10.0 + 19.5, worker)
    assert worker.heard() == []
    admin = world.client("admin")
    assert next(c["state"] for c in world.query(admin, "status")["clients"]) == "lost"
    world.run(1.0, worker, admin)
    assert worker.heard() == [m.Cancel([m.CancelRequest("c-1", True)])]
    worker.say(m.Outcomes([m.Outcome("c-1", 1, m.CANCELLED)]))
    world.turn()
    assert not world.core.scheduler.tasks


def test_a_client_that_comes_back_with_a_new_session_gets_everything():
    world = Coordinator(client_grace=20.0)
    client, worker = world.client(peer_timeout=BRISK), world.worker()
    submit(client, spec(1), spec(2))
    given(worker)
    world.run(12.0, worker)
    worker.say(m.Outcomes([ok("c-1")]))
    world.turn()
    client.arrived.clear()
    world.reopen(client)
    submit(client, spec(1), spec(2))
    client.say(m.ResubmissionComplete())
    assert resolved(client) == [("c-1", m.OK)]
    world.run(60.0, worker, client)
    worker.say(m.Outcomes([ok("c-2")]))
    assert resolved(client) == [("c-2", m.OK)]


def test_a_client_that_speaks_again_in_its_session_is_not_lost_any_more():
    world = Coordinator(client_grace=5.0)
    client, worker = world.client(peer_timeout=BRISK), world.worker()
    submit(client, spec(1))
    given(worker)
    world.run(12.0, worker)
    client.acknowledge()
    assert world.query(client, "status")["clients"][0]["state"] == "active"
    world.run(30.0, worker, client)
    world.run(12.0, worker)
    assert "c-1" in world.core.scheduler.tasks
    assert world.core.scheduler.tasks["c-1"].cancel_asked is False, "each loss has a grace of its own"


def test_a_lost_client_without_work_is_forgotten_at_once(world):
    client, worker = world.client(peer_timeout=BRISK), world.worker()
    client.say(m.ResubmissionComplete())
    submit(client, spec(1))
    given(worker)
    worker.say(m.Outcomes([ok("c-1")]))
    client.heard()
    client.acknowledge()
    world.run(10.5, worker)
    assert world.core.scheduler.roster.clients == {}
    assert len(world.core.scheduler.functions) == 0


def test_a_lost_client_with_outcomes_that_it_has_not_taken_has_its_grace(world):
    client, worker = world.client(peer_timeout=BRISK), world.worker()
    submit(client, spec(1))
    given(worker)
    worker.say(m.Outcomes([ok("c-1")]))
    world.run(12.0, worker)
    client.arrived.clear()
    world.reopen(client)
    submit(client, spec(1))
    assert resolved(client) == [("c-1", m.OK)], "finished work is kept"
    assert [x for x in worker.heard() if type(x) is m.Assign] == []


def test_outcomes_that_a_client_has_do_not_stay_because_an_acknowledgement_was_lost(world):
    client, worker = world.client(peer_timeout=BRISK), world.worker()
    submit(client, spec(1))
    given(worker)
    worker.say(m.Outcomes([ok("c-1")]))
    assert resolved(client) == [("c-1", m.OK)]
    world.reopen(client)
    client.say(m.ResubmissionComplete())
    world.turn()
    assert world.core.scheduler.roster.clients["c"].done == {}


def test_a_client_that_leaves_takes_its_tasks_with_it(world):
    client, worker = world.client(), world.worker()
    submit(client, spec(1), spec(2))
    given(worker)
    client.say(m.Goodbye())
    assert worker.heard() == [m.Cancel([m.CancelRequest("c-1", True)])]
    worker.say(m.Outcomes([m.Outcome("c-1", 1, m.CANCELLED)]))
    assert worker.heard() == [m.DropFunctions([KEY])]
    assert not world.core.scheduler.tasks
    assert len(world.core.scheduler.functions) == 0


def test_a_client_is_given_more_patience_than_a_worker(world):
    """Its program may hold the interpreter's lock for long."""
    world.client(), world.worker()
    world.run(CLIENT_PATIENCE * 10.0 - 0.25)
    assert (len(world.core.scheduler.roster.workers), len(world.core.scheduler.roster.clients)) == (0, 1)
    world.run(0.5)
    assert len(world.core.scheduler.roster.clients) == 0


def test_tasks_are_accepted_once_however_often_they_are_submitted(world):
    client, worker = world.client(), world.worker()
    for _ in range(3):
        submit(client, spec(1), functions=[DOUBLE])
    assert given(worker) == [("c-1", 1)]
    worker.say(m.Outcomes([ok("c-1")]))
    assert resolved(client) == [("c-1", m.OK)]
    world.reopen(client)
    submit(client, spec(1))
    assert resolved(client) == [("c-1", m.OK)], "told again what it does not seem to know"
    assert worker.heard_of(m.Assign) == []


# --- tasks that wait for tasks which no worker has a slot for -------------------------------------------------------


def nested(number, depth):
    return spec(number, depth=depth)


def test_where_no_worker_can_go_on_the_deepest_calls_are_refused_and_no_others(world):
    client, one, two = world.client(), world.worker("one"), world.worker("two")
    submit(client, spec(1), spec(2))
    assert len(given(one) + given(two)) == 2
    submit(client, spec(3), nested(4, 1), nested(5, 2), nested(6, 2))
    one.say(m.Stuck("no descriptors"))
    assert resolved(client) == [], "the other worker may still get them"
    two.say(m.Capacity(1))
    two.say(m.Stuck("no descriptors"))
    outcomes = client.heard_one(m.Outcomes).outcomes
    assert [(outcome.id, outcome.status) for outcome in outcomes] == [("c-5", m.REFUSED), ("c-6", m.REFUSED)]
    assert "no further slot can be started (no descriptors)" in outcomes[0].detail["error"]
    error = error_for(outcomes[0], "f")
    assert type(error) is JobRunnerError
    two.say(m.Stuck("no descriptors"))
    assert resolved(client) == [], "each worker must say it again"
    one.say(m.Stuck("no descriptors"))
    assert resolved(client) == [("c-4", m.REFUSED)]


def test_a_worker_that_goes_on_is_stuck_no_more(world):
    client, one, two = world.client(), world.worker("one"), world.worker("two")
    submit(client, spec(1), spec(2))
    assert len(given(one) + given(two)) == 2
    submit(client, nested(3, 1))
    one.say(m.Stuck("no descriptors"))
    one.say(m.Capacity(1))
    two.say(m.Stuck("no descriptors"))
    assert resolved(client) == []


# --- the size of the cluster, and leaving -------------------------------------------------------------------------


def test_clients_hear_of_the_size_of_the_cluster(world):
    client, worker = world.client(), world.worker(slots=2)
    worker.say(m.Capacity(5))
    assert client.heard() == [m.Capacity(5)]
    worker.say(m.Capacity(5))
    assert client.heard() == []
    worker.say(m.Drain())
    assert client.heard() == [m.Capacity(0)]


def test_a_draining_worker_gets_nothing_new(world):
    client, worker = world.client(), world.worker(slots=2)
    submit(client, spec(1))
    assert given(worker) == [("c-1", 1)]
    worker.say(m.Drain())
    submit(client, spec(2))
    assert worker.heard() == []
    worker.say(m.Outcomes([ok("c-1", duration=0.0001)]))
    assert worker.heard() == []
    assert world.query(client, "workers")[0]["state"] == "draining"


def test_the_coordinator_drains_running_work_and_says_goodbye(world):
    client, worker = world.client(), world.worker()
    submit(client, spec(1), spec(2))
    given(worker)
    world.handle(DrainRequested())
    assert worker.heard() == []
    worker.say(m.Outcomes([ok("c-1")]))
    farewell = m.Goodbye("the coordinator has stopped")
    assert worker.heard() == [farewell]
    assert client.heard() == [m.Outcomes([ok("c-1")]), farewell]
    assert world.take() == [Stop()]
    world.turn(100.0)
    assert world.take() == []


def test_the_coordinators_drain_has_a_limit():
    world = Coordinator(drain_timeout=3.0)
    client, worker = world.client(), world.worker()
    submit(client, spec(1))
    given(worker)
    world.handle(DrainRequested())
    world.run(2.75, client, worker)
    assert world.take() == []
    assert world.core.next_deadline() == 103.0
    world.run(0.25, client, worker)
    assert world.take() == [Stop()]


def test_an_idle_cluster_exchanges_heartbeats_and_nothing_else(world):
    client, worker = world.client(), world.worker()
    world.run(20.0, client, worker)
    for remote in (client, worker):
        assert remote.heard() == []
        assert 12 <= remote.heartbeats <= 21


def test_the_sweep_sets_the_pace_of_an_idle_coordinator(world):
    assert world.core.next_deadline() is None
    world.client()
    assert world.core.next_deadline() == world.now + SWEEP_INTERVAL


# --- who may do what ----------------------------------------------------------------------------------------------

ALICE = Principal("key-of-alice", "alice", "client")
BOB = Principal("key-of-bob", "bob", "client")


def answers(world, source, hello, who, session="greeting"):
    """What somebody gets who greets."""
    effects = world.core.handle(Received(source, m.Envelope(session, 0, 0, hello), who), world.now)
    return [effect.envelope.message for effect in effects if type(effect) is Send]


C = named("c", ALICE)


def greeting(client=C, serial=1):
    return m.ClientHello(client, "1.0", "3.11", "host", 1, 10.0, serial=serial)


def test_a_client_that_greets_under_anothers_name_is_refused(world):
    (welcome,) = answers(world, b"a", greeting(), ALICE)
    assert type(welcome) is m.Welcome
    (refused,) = answers(world, b"b", greeting(serial=2), BOB)
    assert refused.kind == "AuthenticationError"
    assert "was not made with the key 'bob'" in refused.error
    (again,) = answers(world, b"a2", greeting(serial=2), ALICE, "another")
    assert type(again) is m.Welcome


def test_a_message_in_anothers_session_counts_as_rejected_and_changes_nothing(world):
    (welcome,) = answers(world, b"a", greeting(), ALICE)
    submit = m.Envelope(welcome.session, 1, 0, m.Submit([spec(1, client=C)], [DOUBLE]))
    effects = world.core.handle(Received(b"a", submit, BOB), world.now)
    assert [type(effect) for effect in effects] == [Log]
    assert world.core.offences.count == 1
    assert not world.core.scheduler.tasks
    world.core.handle(Received(b"a", submit, ALICE), world.now)
    assert list(world.core.scheduler.tasks) == [f"{C}-1"]


def test_a_task_under_anothers_name_is_not_taken(world):
    client = world.client()
    submit(client, spec(1)._replace(id="d-1"))
    assert not world.core.scheduler.tasks
    assert any(type(message) is m.Reset for message in client.heard())


def test_after_a_restart_a_client_known_from_the_journal_keeps_its_name():
    task = spec(1, client=C)
    state = JournalState({KEY: DOUBLE}, {task.id: (task, Progress())}, {}, {C: ALICE.key})
    core = CoordinatorCore(CoordinatorSettings("coo", "1.0"), 0.0, state)
    for who, kind in ((BOB, m.Refused), (ALICE, m.Welcome)):
        effects = core.handle(Received(who.key.encode(), m.Envelope("g", 0, 0, greeting()), who), 1.0)
        assert [type(e.envelope.message) for e in effects if type(e) is Send] == [kind]


def test_what_is_journaled_says_whose_it_is():
    core = CoordinatorCore(CoordinatorSettings("coo", "1.0"), 0.0, JournalState())
    effects = core.handle(Received(b"a", m.Envelope("g", 0, 0, greeting()), ALICE), 0.0)
    session = next(e.envelope.message.session for e in effects if type(e) is Send)
    submit = m.Envelope(session, 1, 0, m.Submit([spec(1, client=C)], [DOUBLE]))
    core.handle(Received(b"a", submit, ALICE), 0.0)
    (written,) = [e for e in core.handle(Tick(), 0.0) if type(e) is WriteJournal]
    assert written.entry.owners == {C: ALICE.key}


def test_who_ignores_the_quota_is_sent_away():
    world = Coordinator(max_payload=100)
    client, worker = world.client(), world.worker()
    submit(client, spec(1, payload=bytes(101)))
    assert not world.core.scheduler.tasks
    assert [type(message) for message in client.heard()] == [m.Reset]
    client.greet("again")
    submit(client, spec(1, payload=bytes(100)))
    assert given(worker) == [("c-1", 1)]
    worker.say(m.Outcomes([ok("c-1", payload=bytes(101))]))
    assert [type(message) for message in worker.heard()] == [m.Reset]
