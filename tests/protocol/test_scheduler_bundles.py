from __future__ import annotations

import pytest
from support.cores import (
    DOUBLE,
    bundle,
    call,
    client_peer,
    ended,
    ids,
    ok,
    results,
    spec,
    split,
    worker_peer,
)

from jobrunner.protocol.coordinator.dependencies import NAMED_AGAIN_WITHIN
from jobrunner.protocol.coordinator.scheduler import Scheduler
from jobrunner.protocol.coordinator.task import ASSIGNED, CANCELLED, QUEUED, RUNNING, WAITING
from jobrunner.protocol.journal_records import JournalState
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.wire.kinds import Chunk

BUNDLE = TaskId("c-1-0")
FIRST, SECOND, THIRD = (call("c-1-0", n) for n in range(3))
CALLS = (b"a", b"b", b"c")


class Desk:
    """A scheduler with a client "c", whose bundle is with a worker."""

    def __init__(self):
        self.scheduler = Scheduler(crash_limit=3)
        self.client = self.add_client("c")
        self.worker = self.add_worker("w")
        self.submit(bundle("1-0", *CALLS))
        self.place()

    def add_client(self, name):
        client = client_peer(name)
        self.scheduler.roster.add_client(client)
        self.scheduler.client_tasks.resubmission_complete(client.id)
        return client

    def add_worker(self, name):
        worker = worker_peer(name)
        self.scheduler.dispatcher.add_worker(worker)
        self.scheduler.roster.may_have_room(worker)
        return worker

    def submit(self, *tasks, client=None, now=0.0):
        self.scheduler.functions.define(DOUBLE).refs = 1
        for task in tasks:
            assert self.scheduler.submission.submit(client or self.client, task, now)
        self.scheduler.check_invariants()

    def place(self):
        self.scheduler.place(0.0)
        self.scheduler.check_invariants()

    def outcome(self, outcome, worker=None, now=0.0):
        self.scheduler.attempts.outcome(worker or self.worker, outcome, now)
        self.scheduler.check_invariants()

    def told(self, client=None):
        client = client or self.client
        outcomes, client.outcomes = client.outcomes, []
        return outcomes

    def state(self, task):
        record = self.scheduler.tasks[task]
        return record.state, record.worker, record.attempt

    def name_call(self, task=SECOND, now=0.0):
        """The client submits a call of the bundle."""
        self.submit(spec(task.partition("-")[2], payload=b"b"), now=now)


@pytest.fixture
def desk():
    return Desk()


# --- split ----------------------------------------------------------------------------------------------------------


def test_the_call_that_goes_on_is_joined_where_it_runs(desk):
    desk.outcome(split(BUNDLE, 1, results(b"x")))
    assert desk.told() == [split(BUNDLE, 1, results(b"x"))]
    desk.name_call()
    assert desk.state(SECOND) == (ASSIGNED, desk.worker, 1)
    desk.outcome(ok(SECOND))
    assert desk.told() == [ok(SECOND)]
    assert not desk.scheduler.tasks
    assert not desk.scheduler.orphans


def test_what_happens_to_it_before_its_client_names_it_is_not_lost(desk):
    desk.outcome(split(BUNDLE, 1, results(b"x")))
    desk.scheduler.attempts.started(desk.worker, SECOND, 0.0)
    assert desk.scheduler.ownership.client_with_task_at(desk.worker, SECOND) is desk.client, (
        "what it prints is told"
    )
    desk.name_call()
    assert desk.state(SECOND) == (RUNNING, desk.worker, 1)
    assert desk.client.running == [SECOND]


def test_it_may_have_ended_before_its_client_names_it(desk):
    desk.outcome(split(BUNDLE, 1, results(b"x")))
    desk.outcome(ok(SECOND))
    desk.told()
    desk.name_call()
    assert desk.told() == [ok(SECOND)]
    assert not desk.scheduler.orphans


def test_it_is_kept_until_its_client_names_it(desk):
    """What acknowledges the split may come long before what names the call, and ResubmissionComplete in between."""
    desk.outcome(split(BUNDLE, 1, results(b"x")))
    desk.client.resubmission_complete = False
    desk.scheduler.orphans.forget(100.0, 30.0)
    desk.client.resubmission_complete = True
    desk.scheduler.endings.acknowledged(desk.client, desk.told())
    assert not desk.client.done
    desk.scheduler.client_tasks.resubmission_complete(desk.client.id)
    desk.scheduler.orphans.forget(200.0, 30.0)
    desk.name_call()
    assert desk.state(SECOND) == (ASSIGNED, desk.worker, 1)
    assert not desk.client.awaiting_resubmission


def test_it_is_kept_for_a_client_that_is_told_again_in_a_later_session(desk):
    desk.outcome(split(BUNDLE, 1, results(b"x")))
    desk.client.awaiting_resubmission.clear()  # as with each session
    desk.client.outcomes.clear()
    desk.client.resubmission_complete = False
    desk.submit(bundle("1-0", *CALLS))
    desk.told()
    desk.client.done.clear()  # acknowledged, as soon as its resubmission is complete
    desk.scheduler.client_tasks.resubmission_complete(desk.client.id)
    desk.name_call()
    assert desk.state(SECOND) == (ASSIGNED, desk.worker, 1)


def test_it_is_kept_until_a_client_that_has_come_again_has_said_what_it_waits_for(desk):
    desk.outcome(split(BUNDLE, 1, results(b"x")))
    desk.scheduler.endings.acknowledged(desk.client, desk.told())
    desk.client.awaiting_resubmission.clear()  # as with each session
    desk.client.resubmission_complete = False
    desk.scheduler.orphans.forget(200.0, 30.0)
    desk.name_call()
    assert desk.state(SECOND) == (ASSIGNED, desk.worker, 1)


def test_it_is_not_kept_for_a_client_that_is_gone(desk):
    desk.outcome(split(BUNDLE, 1, results(b"x")))
    desk.scheduler.client_tasks.gone(desk.client, 0.0)
    desk.scheduler.orphans.forget(31.0, 30.0)
    assert not desk.scheduler.orphans
    assert desk.worker.cancels == [m.CancelRequest(SECOND, True)]


def test_it_is_not_kept_for_a_client_that_has_come_again_and_does_not_name_it(desk):
    desk.outcome(split(BUNDLE, 1, results(b"x")))
    desk.client.awaiting_resubmission.clear()  # as with each session
    desk.client.outcomes.clear()
    desk.scheduler.client_tasks.resubmission_complete(desk.client.id)
    assert not desk.scheduler.orphans
    assert desk.worker.cancels == [m.CancelRequest(SECOND, True)]


def test_a_worker_that_comes_back_with_it_keeps_it(desk):
    desk.outcome(split(BUNDLE, 1, results(b"x")))
    desk.scheduler.attempts.reattach(desk.worker, [m.Held(SECOND, 1, True)], 0.0)
    assert desk.worker.cancels == []
    desk.name_call()
    assert desk.state(SECOND) == (ASSIGNED, desk.worker, 1)


def test_a_worker_that_is_lost_with_it_lets_it_begin_again(desk):
    desk.outcome(split(BUNDLE, 1, results(b"x")))
    desk.scheduler.attempts.worker_lost(desk.worker, "was lost", 0.0)
    desk.name_call()
    assert desk.state(SECOND) == (QUEUED, None, 0)


def test_of_two_workers_that_run_it_one_is_stopped(desk):
    """The other has it from a time before this coordinator."""
    other = desk.add_worker("v")
    desk.scheduler.attempts.reattach(other, [m.Held(SECOND, 1, True)], 0.0)
    assert SECOND in desk.scheduler.orphans
    desk.outcome(split(BUNDLE, 1, results(b"x")))
    assert other.cancels + desk.worker.cancels == [m.CancelRequest(SECOND, True)]
    desk.name_call()
    _, worker, _ = desk.state(SECOND)
    assert worker is not None
    assert not worker.cancels


@pytest.mark.parametrize("running", [-1, 3, 10**9])
def test_a_call_that_the_bundle_does_not_have_cannot_go_on(desk, running):
    desk.outcome(split(BUNDLE, running, results()))
    (outcome,) = desk.told()
    assert (outcome.id, outcome.status) == (BUNDLE, m.LOST)
    assert not desk.scheduler.orphans


def test_what_is_no_bundle_cannot_be_given_up(desk):
    desk.outcome(ok(BUNDLE, payload=results(b"x", b"y", b"z")))
    desk.told()
    desk.submit(spec("2-0"), spec("3-0", kind=Chunk(0, 3)))
    desk.place()
    desk.outcome(split("c-2-0", 0, results()))
    desk.place()
    desk.outcome(split("c-3-0", 0, results()))
    assert [(o.id, o.status) for o in desk.told()] == [("c-2-0", m.LOST), ("c-3-0", m.LOST)]
    assert not desk.scheduler.orphans


def test_a_split_of_another_attempt_or_worker_changes_nothing(desk):
    desk.outcome(split(BUNDLE, 1, results(b"x"), attempt=7))
    desk.outcome(split(BUNDLE, 1, results(b"x")), worker=desk.add_worker("v"))
    assert desk.told() == []
    assert desk.scheduler.attempts.stale_outcomes == 2
    assert not desk.scheduler.orphans


def test_a_bundle_that_is_being_stopped_ends_with_the_call_that_goes_on(desk):
    desk.scheduler.cancellation.cancel(BUNDLE, True, 0.0)
    desk.worker.cancels.clear()
    desk.outcome(split(BUNDLE, 1, results(b"x")))
    assert [(o.id, o.status) for o in desk.told()] == [(BUNDLE, m.CANCELLED)]
    assert desk.worker.cancels == [m.CancelRequest(SECOND, True)]
    assert not desk.scheduler.orphans


def test_a_bundle_that_was_to_be_stopped_and_is_wanted_again_goes_on(desk):
    desk.scheduler.client_tasks.gone(desk.client, 0.0)
    again = desk.add_client("c")
    desk.submit(bundle("1-0", *CALLS), client=again)
    desk.outcome(split(BUNDLE, 1, results(b"x")))
    assert desk.told(again) == [split(BUNDLE, 1, results(b"x"))]
    assert SECOND in desk.scheduler.orphans


# --- a coordinator that was started again ---------------------------------------------------------------------------


@pytest.fixture
def new():
    """Its worker has come back with a bundle; the client has not come yet."""
    desk = Desk.__new__(Desk)
    desk.scheduler = Scheduler(crash_limit=3)
    desk.worker = desk.add_worker("w")
    desk.scheduler.attempts.reattach(desk.worker, [m.Held(BUNDLE, 1, True)], 0.0)
    return desk


def come(desk):
    """The client comes and names the bundle."""
    desk.client = client_peer("c")
    desk.scheduler.roster.clients[desk.client.id] = desk.client
    desk.submit(bundle("1-0", *CALLS))
    desk.scheduler.client_tasks.resubmission_complete(desk.client.id)


def test_a_bundle_may_be_given_up_before_its_client_has_come(new):
    new.outcome(split(BUNDLE, 1, results(b"x")))
    come(new)
    assert new.told() == [split(BUNDLE, 1, results(b"x"))]
    assert not new.worker.cancels
    new.name_call()
    assert new.state(SECOND) == (ASSIGNED, new.worker, 1)


def test_the_call_that_went_on_may_have_ended_before_its_client_has_come(new):
    """It was taken to run still, and waited for for ever."""
    new.outcome(split(BUNDLE, 1, results(b"x")))
    new.outcome(ok(SECOND))
    come(new)
    new.told()
    new.name_call()
    assert new.told() == [ok(SECOND)]
    assert not new.scheduler.tasks


def test_the_worker_may_be_lost_before_the_client_has_come(new):
    new.outcome(split(BUNDLE, 1, results(b"x")))
    new.scheduler.attempts.worker_lost(new.worker, "was lost", 0.0)
    come(new)
    assert new.told() == [split(BUNDLE, 1, results(b"x"))]
    new.name_call()
    assert new.state(SECOND) == (QUEUED, None, 0)


# --- the end of a bundle as a whole ---------------------------------------------------------------------------------


@pytest.mark.parametrize("calls", [CALLS, CALLS[:1]])
def test_a_bundle_is_never_run_again_as_one(calls):
    desk = Desk()
    desk.submit(bundle("2-0", *calls))
    desk.outcome(ended(BUNDLE, m.CRASHED))
    desk.place()
    desk.told()
    desk.scheduler.attempts.worker_lost(desk.worker, "was lost", 0.0)
    assert [(o.id, o.status) for o in desk.told()] == [("c-2-0", m.LOST)]


def test_a_bundle_that_has_surely_not_begun_is_queued_again(desk):
    desk.scheduler.attempts.returned(desk.worker, BUNDLE, 1, 0.0)
    assert desk.state(BUNDLE)[0] == QUEUED


# --- who wants to know of a call ------------------------------------------------------------------------------------


def test_who_asks_for_a_call_before_its_bundle_has_ended_is_told_then(desk):
    other = desk.add_client("d")
    desk.scheduler.dependencies.watch(other, SECOND, 0.0)
    desk.submit(spec("2-0")._replace(depends_on=(THIRD,)))
    assert desk.state("c-2-0") == (WAITING, None, 0)
    desk.outcome(ok(BUNDLE, payload=results(b"x", b"y", b"z")))
    (told,) = desk.told(other)
    assert (told.id, told.status, told.payload) == (SECOND, m.OK, b"y")
    assert desk.state("c-2-0") == (QUEUED, None, 0)
    assert desk.scheduler.tasks["c-2-0"].dependency_results == {THIRD: b"z"}
    assert not desk.scheduler.dependencies.unknown_calls
    assert not desk.scheduler.results.unknown_tasks


def test_who_asks_for_a_call_after_its_bundle_has_ended_is_told_at_once(desk):
    other = desk.add_client("d")
    desk.outcome(ok(BUNDLE, payload=results(b"x", b"y", b"z", failed=[1])))
    desk.scheduler.dependencies.watch(other, SECOND, 0.0)
    (told,) = desk.told(other)
    assert (told.id, told.status, told.payload) == (SECOND, m.ERROR, b"y")
    desk.submit(spec("2-0")._replace(depends_on=(FIRST,)))
    assert desk.scheduler.tasks["c-2-0"].dependency_results == {FIRST: b"x"}


def test_who_asks_for_a_call_before_its_bundle_has_come_is_told_too(desk):
    """It asks a coordinator that was started again: the one who asks may be back before the one who knows."""
    other = desk.add_client("d")
    desk.scheduler.dependencies.watch(other, call("c-2-0", 0), 0.0)
    desk.submit(bundle("2-0", b"a"))
    desk.outcome(ok(BUNDLE, payload=results(b"x", b"y", b"z")))
    desk.place()
    desk.outcome(ok("c-2-0", payload=results(b"w")))
    assert [(o.id, o.payload) for o in desk.told(other)] == [(call("c-2-0", 0), b"w")]


def test_of_a_bundle_that_was_given_up_some_calls_are_known_and_others_will_be(desk):
    other = desk.add_client("d")
    desk.scheduler.dependencies.watch(other, FIRST, 0.0)
    desk.scheduler.dependencies.watch(other, SECOND, 0.0)
    desk.outcome(split(BUNDLE, 1, results(b"x")))
    assert ids(desk.told(other)) == [FIRST]
    desk.name_call()
    desk.outcome(ok(SECOND))
    assert desk.told(other) == [ok(SECOND)]


def test_a_call_that_its_client_names_again_is_waited_for(desk):
    other = desk.add_client("d")
    desk.scheduler.dependencies.watch(other, SECOND, 0.0)
    desk.outcome(ended(BUNDLE, m.CRASHED))
    desk.scheduler.dependencies.stop_looking(3 * NAMED_AGAIN_WITHIN)
    assert desk.told(other) == [], "its client has not heard of the crash yet"
    desk.scheduler.endings.acknowledged(desk.client, desk.told())
    desk.scheduler.dependencies.stop_looking(4 * NAMED_AGAIN_WITHIN - 0.1)
    assert desk.told(other) == []
    desk.name_call(now=4 * NAMED_AGAIN_WITHIN)
    desk.place()
    desk.outcome(ok(SECOND))
    assert desk.told(other) == [ok(SECOND)]


def test_a_call_that_nobody_names_again_is_given_up(desk):
    other = desk.add_client("d")
    desk.scheduler.dependencies.watch(other, SECOND, 0.0)
    desk.outcome(ended(BUNDLE, m.CRASHED))
    desk.scheduler.endings.acknowledged(desk.client, desk.told())
    desk.scheduler.dependencies.stop_looking(NAMED_AGAIN_WITHIN)
    (told,) = desk.told(other)
    assert (told.id, told.status, told.detail["unknown"]) == (SECOND, m.LOST, True)


def test_a_call_that_was_cancelled_where_it_was_had_back_is_told_as_cancelled(desk):
    other = desk.add_client("d")
    desk.scheduler.dependencies.watch(other, SECOND, 0.0)
    desk.scheduler.dependencies.watch(other, THIRD, 0.0)
    desk.outcome(ended(BUNDLE, m.CRASHED))
    desk.scheduler.dependencies.take_reply(desk.client, [ended(SECOND, m.CANCELLED)], [], 0.0)
    assert [(o.id, o.status) for o in desk.told(other)] == [(SECOND, m.CANCELLED)]
    desk.scheduler.dependencies.take_reply(desk.client, [ended(BUNDLE, m.CANCELLED)], [], 0.0)
    assert [(o.id, o.status) for o in desk.told(other)] == [(THIRD, m.CANCELLED)]
    assert not desk.scheduler.results.unknown_tasks


def test_nobody_cancels_the_bundles_of_others(desk):
    other = desk.add_client("d")
    desk.scheduler.dependencies.watch(other, SECOND, 0.0)
    desk.scheduler.dependencies.take_reply(other, [ended(BUNDLE, m.CANCELLED)], [], 0.0)
    assert desk.told(other) == []


def test_nonsense_in_a_bundles_outcome_is_told_to_nobody_but_its_client(desk):
    other = desk.add_client("d")
    desk.scheduler.dependencies.watch(other, SECOND, 0.0)
    desk.outcome(ok(BUNDLE, payload=b"nonsense"))
    assert desk.told(other) == []
    desk.scheduler.dependencies.watch(other, FIRST, 0.0)
    assert desk.told(other) == []


def test_a_client_that_is_gone_takes_what_was_sought_of_its_bundles_with_it(desk):
    other = desk.add_client("d")
    desk.scheduler.dependencies.watch(other, SECOND, 0.0)
    desk.scheduler.client_tasks.gone(desk.client, 0.0)
    assert desk.scheduler.tasks[BUNDLE].cancel_asked
    desk.outcome(ended(BUNDLE, m.CANCELLED))
    assert not desk.scheduler.dependencies.unknown_calls
    desk.scheduler.dependencies.stop_looking(NAMED_AGAIN_WITHIN)
    assert [(o.id, o.status) for o in desk.told(other)] == [(SECOND, m.LOST)]
    assert desk.scheduler.tasks.counts[CANCELLED] == 3


# --- at most once ---------------------------------------------------------------------------------------------------


def test_the_doubt_whether_a_task_has_run_outlives_a_second_coordinator():
    """The journal of the one after that knew nothing of it, and had it run again."""
    second = Scheduler(crash_limit=3, journaling=True)
    second.orphans.reattach_deadline = 10.0
    second.functions.define(DOUBLE).refs = 1
    client = client_peer("c")
    second.roster.add_client(client)
    second.submission.submit(client, spec("1-0", at_most_once=True), 0.0)
    state = JournalState(functions={DOUBLE.key: DOUBLE})
    state.apply(second.journal_gate.take_entry(second.functions).entry)
    third = Scheduler(crash_limit=3, journaling=True)
    third.orphans.reattach_deadline = 10.0
    third.submission.restore(state, 0.0)
    third.due(11.0)
    (record,) = third.tasks.recent
    assert record.outcome.status == m.LOST
