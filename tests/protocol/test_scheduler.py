from __future__ import annotations

import pytest
from support.cores import DOUBLE, KEY, client_peer, ended, ids, ok, spec, worker_peer

from jobrunner.protocol.coordinator.scheduler import Scheduler
from jobrunner.protocol.coordinator.task import CANCELLED, FAILED, QUEUED, SUCCEEDED
from jobrunner.protocol.coordinator.task_table import RECENT
from jobrunner.protocol.tuning import PREFETCH_SECONDS, REST_AFTER_RETURN
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.kinds import Chunk


class Desk:
    """A scheduler with a client, and what `place` has assigned to each worker."""

    def __init__(self) -> None:
        self.scheduler = Scheduler(crash_limit=3)
        self.client = self.add_client("c")

    def add_client(self, name):
        client = client_peer(name)
        self.scheduler.roster.add_client(client)
        self.scheduler.client_tasks.resubmission_complete(client.id)
        return client

    def add_worker(self, name="w", slots=1, **resources):
        worker = worker_peer(name, slots, **resources)
        self.scheduler.dispatcher.add_worker(worker)
        self.scheduler.roster.may_have_room(worker)
        return worker

    def submit(self, *tasks, client=None, now=0.0):
        for task in tasks:
            self.scheduler.functions.define(DOUBLE).refs = 1
            assert self.scheduler.submission.submit(client or self.client, task, now)

    def placed(self, now=0.0):
        """Per worker's name, the ids of what it has been given now."""
        self.scheduler.place(now)
        self.scheduler.check_invariants()
        found = {}
        for worker in self.scheduler.roster.workers.values():
            if worker.assigned:
                found[worker.name], worker.assigned = ids(worker.assigned), []
        return found

    def finish(self, worker, *tasks, duration=1.0):
        for task in tasks:
            self.scheduler.attempts.outcome(worker, ok(task, duration=duration), 0.0)

    def learn(self, worker, duration):
        """The function is known to take that long."""
        self.submit(spec("lesson"))
        self.placed()
        self.finish(worker, "c-lesson", duration=duration)
        self.client.outcomes.clear()
        self.scheduler.tasks.recent.clear()


@pytest.fixture
def desk():
    return Desk()


def test_idle_slots_are_filled_evenly(desk):
    desk.add_worker("a", slots=3)
    desk.add_worker("b", slots=2)
    desk.submit(*[spec(n) for n in range(4)])
    assert desk.placed() == {"a": ["c-0", "c-2"], "b": ["c-1", "c-3"]}
    desk.submit(*[spec(n) for n in range(4, 9)])
    assert desk.placed() == {"a": ["c-4"]}, "nobody knows how long these take"


def test_short_calls_are_sent_ahead_for_a_bounded_time(desk):
    worker = desk.add_worker(slots=2)
    desk.learn(worker, 0.001)
    desk.submit(*[spec(n) for n in range(500)])
    (tasks,) = desk.placed().values()
    ahead = 2 * PREFETCH_SECONDS / 0.001
    assert ahead - 2 <= len(tasks) <= ahead + 2
    assert desk.placed() == {}
    desk.finish(worker, *tasks[:5], duration=0.001)
    assert 4 <= len(desk.placed()["w"]) <= 6


def test_long_calls_are_never_sent_ahead(desk):
    worker = desk.add_worker()
    desk.learn(worker, PREFETCH_SECONDS * 2)
    desk.submit(spec(1), spec(2))
    assert desk.placed() == {"w": ["c-1"]}


def test_a_long_call_does_not_keep_the_next_short_one_from_being_at_hand(desk):
    worker = desk.add_worker(slots=2)
    desk.submit(spec("long"))
    assert desk.placed() == {"w": ["c-long"]}
    desk.learn(worker, 0.010)
    desk.submit(*[spec(n) for n in range(4)])
    assert desk.placed() == {"w": ["c-0", "c-1"]}
    desk.finish(worker, "c-0", duration=0.010)
    assert desk.placed() == {"w": ["c-2"]}


def test_a_chunk_counts_by_its_elements(desk):
    worker = desk.add_worker()
    desk.learn(worker, 0.001)
    desk.submit(spec(1, kind=Chunk(0, 1000)), spec(2))
    assert desk.placed() == {"w": ["c-1"]}


def test_a_call_with_a_time_limit_waits_for_a_free_slot(desk):
    worker = desk.add_worker()
    desk.learn(worker, 0.0001)
    desk.submit(spec(1), spec(2, timeout=5.0))
    assert desk.placed() == {"w": ["c-1"]}
    desk.finish(worker, "c-1")
    assert desk.placed() == {"w": ["c-2"]}


def test_a_worker_that_gave_tasks_back_gets_none_ahead_until_it_finishes_one(desk):
    worker = desk.add_worker()
    desk.learn(worker, 0.0001)
    desk.submit(spec(1), spec(2))
    assert desk.placed() == {"w": ["c-1", "c-2"]}
    desk.scheduler.attempts.returned(worker, "c-2", 1, 0.0)
    assert desk.placed() == {}
    desk.finish(worker, "c-1", duration=0.0001)
    desk.submit(spec(3))
    assert desk.placed() == {"w": ["c-2", "c-3"]}


def test_resources_are_counted_out_and_back(desk):
    worker = desk.add_worker("gpu", slots=4, gpu=2.0)
    desk.add_worker("plain", slots=4)
    two, one = {"resources": (("gpu", 2.0),)}, {"resources": (("gpu", 1.0),)}
    desk.submit(spec(1, **one), spec(2, **two), spec(3, **one), spec(4, **one))
    assert desk.placed() == {"gpu": ["c-1", "c-3"]}
    assert worker.free["gpu"] == 0
    desk.finish(worker, "c-1")
    assert desk.placed() == {"gpu": ["c-4"]}
    desk.finish(worker, "c-3", "c-4")
    assert desk.placed() == {"gpu": ["c-2"]}
    desk.finish(worker, "c-2")
    assert worker.free["gpu"] == worker.provides["gpu"]


def test_deeper_tasks_first(desk):
    desk.submit(spec(1), spec(2))
    desk.submit(spec(1, client="d", depth=1), client=desk.add_client("d"))
    desk.add_worker(slots=2)
    assert desk.placed() == {"w": ["d-1", "c-1"]}


def test_the_counts_of_states_stay_right(desk):
    worker = desk.add_worker(slots=2)
    desk.submit(spec(1), spec(2), spec(3))
    desk.placed()
    desk.finish(worker, "c-1")
    desk.scheduler.attempts.outcome(worker, ended("c-2", m.ERROR), 0.0)
    desk.scheduler.cancellation.cancel("c-3", False, 0.0)
    counts = desk.scheduler.tasks.counts
    assert (counts[SUCCEEDED], counts[FAILED], counts[CANCELLED], counts[QUEUED]) == (1, 1, 1, 0)
    assert sum(counts) == 3
    desk.scheduler.check_invariants()


def test_memory_returns_to_its_baseline(desk):
    worker = desk.add_worker(slots=4)
    for n in range(RECENT + 50):
        desk.submit(spec(n, payload=bytes(100)))
        desk.placed()
        desk.finish(worker, f"c-{n}")
        desk.scheduler.endings.acknowledged(desk.client, [ok(f"c-{n}")])
    scheduler = desk.scheduler
    assert not scheduler.tasks
    assert desk.client.done == worker.tasks == {}
    scheduler.functions.drop_ref(KEY)
    assert len(scheduler.functions) == 0
    assert len(scheduler.tasks.recent) == RECENT
    assert all(r.body.payload == b"" and r.outcome.payload == b"" for r in scheduler.tasks.recent)
    assert worker.assigned_seconds == 0.0


def test_a_hundred_thousand_queued_tasks_are_accepted_and_cancelled(desk):
    desk.submit(*[spec(n) for n in range(100_000)])
    assert desk.scheduler.tasks.counts[QUEUED] == 100_000
    for n in range(100_000):
        desk.scheduler.cancellation.cancel(f"c-{n}", False, 0.0)
    desk.add_worker()
    assert desk.placed() == {}
    assert desk.scheduler.dispatcher.queue.pop(lambda requirements: True) is None


# --- workers that hand a task back ---------------------------------------------------------------------------------


def test_a_worker_that_hands_a_task_back_gets_none_for_a_while(desk):
    """It may be stopping an attempt in the slot that counts as free: the task went to and fro ten times a second."""
    worker = desk.add_worker("a")
    desk.submit(spec(1))
    assert desk.placed() == {"a": ["c-1"]}
    desk.scheduler.attempts.returned(worker, "c-1", 1, 1.0)
    desk.scheduler.dispatcher.rest(worker, 1.0)
    assert desk.placed(1.0) == {}
    assert desk.scheduler.dispatcher.next_placement() == 1.0 + REST_AFTER_RETURN
    assert desk.placed(1.0 + REST_AFTER_RETURN) == {"a": ["c-1"]}


def test_another_worker_gets_what_was_handed_back_at_once(desk):
    worker = desk.add_worker("a")
    desk.submit(spec(1))
    desk.placed()
    desk.add_worker("b")
    desk.scheduler.attempts.returned(worker, "c-1", 1, 1.0)
    desk.scheduler.dispatcher.rest(worker, 1.0)
    assert desk.placed(1.0) == {"b": ["c-1"]}


@pytest.mark.parametrize("ended", ["c-1", "c-stale"])
def test_an_outcome_says_that_a_slot_of_it_is_free(desk, ended):
    worker = desk.add_worker("a", slots=2)
    desk.submit(spec(1), spec(2))
    desk.placed()
    desk.scheduler.attempts.returned(worker, "c-2", 1, 1.0)
    desk.scheduler.dispatcher.rest(worker, 1.0)
    assert desk.placed(1.0) == {}
    desk.scheduler.attempts.outcome(worker, ok(ended), 1.1)
    assert desk.placed(1.1) == {"a": ["c-2"]}
