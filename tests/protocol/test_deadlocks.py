"""Calls that need what those hold that wait for them, as the coordinator sees them."""

from __future__ import annotations

import pytest
from support import cores
from support.cores import DOUBLE, ended, ids, ok, spec

from jobrunner.backends.failures import error_for
from jobrunner.errors import DeadlockError
from jobrunner.protocol.coordinator import deadlocks
from jobrunner.protocol.coordinator.deadlocks import LOOK_EVERY, PATIENCE
from jobrunner.protocol.coordinator.reservations import RESERVE_AFTER
from jobrunner.protocol.coordinator.task_table import TaskTable
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId

GPU = (("gpu", 1.0),)


@pytest.fixture
def world():
    return cores.Coordinator()


class Desk:
    """A client, whose calls make calls, and a worker with one GPU."""

    def __init__(self, world: cores.Coordinator) -> None:
        self.world = world
        self.client = world.client()
        self.worker = world.worker(slots=9, resources={"gpu": 1.0})
        self._sent = False

    def submit(self, *specs: m.TaskSpec) -> list[str]:
        """Submit them; those that the worker is given."""
        self.client.say(m.Submit(list(specs), [] if self._sent else [DOUBLE]))
        self._sent = True
        return self.given()

    def given(self) -> list[str]:
        return [task for message in self.worker.heard_of(m.Assign) for task in ids(message.tasks)]

    def waits(self, task: str, *calls: str, every: bool = True) -> None:
        self.worker.say(m.Waits([m.Wait(TaskId(task), calls, every)]))

    def refused(self, after: float = PATIENCE + LOOK_EVERY) -> list[str]:
        """Calls that were refused in that time; all of them for that reason."""
        self.world.run(after, self.client, self.worker)
        outcomes = [o for message in self.client.heard_of(m.Outcomes) for o in message.outcomes]
        for outcome in outcomes:
            assert outcome.status in (m.REFUSED, m.UNMET)
            assert outcome.status == m.UNMET or type(error_for(outcome, "f")) is DeadlockError
        return [outcome.id for outcome in outcomes]


@pytest.fixture
def desk(world):
    return Desk(world)


def gpu(number, depth=0, amount=1.0, **options):
    return spec(number, resources=(("gpu", amount),), depth=depth, **options)


def plain(number, depth=0, **options):
    return spec(number, depth=depth, **options)


def test_a_call_that_needs_what_its_caller_holds_is_refused(desk):
    assert desk.submit(gpu("1-s", name="train")) == ["c-1-s"]
    assert desk.submit(gpu(2, 1)) == []
    desk.waits("c-1-s", "c-2")
    desk.world.run(PATIENCE - 0.5, desk.client, desk.worker)
    assert desk.client.heard_of(m.Outcomes) == [], "not at once"
    desk.world.run(1.0, desk.client, desk.worker)
    [outcome] = desk.client.heard_one(m.Outcomes).outcomes
    assert (outcome.id, outcome.status) == ("c-2", m.REFUSED)
    assert outcome.detail == {
        "error": "it was not run: it needs gpu=1 and would wait for ever, because no worker has that beside the"
        " resources of waiting calls: c-1 (train) holds gpu=1 on worker w, and waits for this one. Let the waiting call"
        " require less, or end first, or submit this one outside of it",
        "deadlock": True,
    }
    error = error_for(outcome, "f")
    assert type(error) is DeadlockError


def test_over_levels_that_need_nothing(desk):
    assert desk.submit(gpu(1), plain(2, 1), plain(3, 2)) == ["c-3", "c-2", "c-1"]
    desk.submit(gpu(4, 3))
    desk.waits("c-3", "c-4")
    desk.waits("c-2", "c-3")
    assert desk.refused() == [], "the first one does not wait"
    desk.waits("c-1", "c-2")
    assert desk.refused() == ["c-4"]


def test_all_siblings_without_which_the_caller_cannot_go_on(desk):
    desk.submit(gpu(1))
    desk.submit(gpu(2, 1), gpu(3, 1), gpu(4, 1))
    desk.waits("c-1", "c-2", "c-3")
    assert desk.refused() == ["c-2", "c-3"]


def test_one_of_those_of_which_any_one_would_do(desk):
    desk.submit(gpu(1))
    desk.submit(gpu(2, 1), gpu(3, 1))
    desk.waits("c-1", "c-2", "c-3", every=False)
    assert desk.refused() == ["c-2"]
    assert desk.refused() == [], "the caller goes on with that"
    desk.waits("c-1", "c-3")
    assert desk.refused() == ["c-3"]


def test_nobody_is_refused_where_another_one_ends_the_wait(desk):
    desk.submit(gpu(1))
    assert desk.submit(gpu(2, 1), plain(3, 1)) == ["c-3"]
    desk.waits("c-1", "c-2", "c-3", every=False)
    assert desk.refused() == []


def test_nobody_is_refused_once_the_caller_goes_on(desk):
    desk.submit(gpu(1))
    desk.submit(gpu(2, 1))
    desk.waits("c-1", "c-2")
    desk.world.run(PATIENCE - 0.5, desk.client, desk.worker)
    desk.waits("c-1")
    assert desk.refused() == []


def test_nor_while_the_caller_is_being_stopped(desk):
    desk.submit(gpu(1))
    desk.submit(gpu(2, 1))
    desk.waits("c-1", "c-2")
    desk.client.say(m.Cancel([m.CancelRequest(TaskId("c-1"), True)]))
    assert desk.refused() == []


def test_nor_while_another_worker_is_busy_with_something_else(world, desk):
    other = world.worker("other", resources={"gpu": 1.0})
    desk.submit(gpu(1))
    assert desk.submit(gpu(9)) == []  # it is the other one's
    desk.submit(gpu(2, 1))
    desk.waits("c-1", "c-2")
    assert desk.refused() == []
    other.say(m.Goodbye())
    assert desk.refused(PATIENCE) == [], "what has just changed may change again"
    # Now the other one's call is queued, too; but that is no call of a call, and may wait.
    assert desk.refused(1.0) == ["c-2"]


def test_nor_where_nobody_offers_so_much(world, desk):
    desk.submit(gpu(1))
    desk.submit(gpu(2, 1, amount=2.0))
    desk.waits("c-1", "c-2")
    assert desk.refused() == []
    larger = world.worker("larger", resources={"gpu": 2.0})
    assert ids(larger.heard_one(m.Assign).tasks) == ["c-2"]


def test_a_worker_that_drains_takes_nothing(world, desk):
    other = world.worker("other", resources={"gpu": 1.0})
    desk.submit(gpu(1))
    desk.submit(gpu(9))
    desk.submit(gpu(2, 1))
    desk.waits("c-1", "c-2")
    other.say(m.Drain())
    assert desk.refused() == ["c-2"]


def test_where_the_callers_worker_drains_its_call_waits_for_another_worker(desk):
    desk.submit(gpu(1))
    desk.submit(gpu(2, 1))
    desk.waits("c-1", "c-2")
    desk.worker.say(m.Drain())
    assert desk.refused() == []


def test_what_is_left_beside_the_caller_is_enough(world):
    client, worker = world.client(), world.worker(slots=3, resources={"gpu": 2.0})
    client.say(m.Submit([gpu(1), gpu(8)], [DOUBLE]))
    worker.heard()
    client.say(m.Submit([gpu(2, 1)]))
    worker.say(m.Waits([m.Wait(TaskId("c-1"), (TaskId("c-2"),))]))
    world.run(5.0, client, worker)
    assert client.heard_of(m.Outcomes) == []
    worker.say(m.Outcomes([ok("c-8")]))
    assert ids(worker.heard_one(m.Assign).tasks) == ["c-2"]


def test_of_two_that_wait_for_what_the_other_holds_one_is_refused(world, desk):
    other = world.worker("other", slots=2, resources={"gpu": 1.0})
    desk.submit(gpu(1), gpu(2))
    here = next(iter(world.core.scheduler.roster.workers.values())).tasks
    mine, theirs = ("c-1", "c-2") if "c-1" in here else ("c-2", "c-1")
    desk.submit(gpu(3, 1), gpu(4, 1))
    desk.waits(mine, "c-3")
    other.say(m.Waits([m.Wait(TaskId(theirs), (TaskId("c-4"),))]))
    [refused] = desk.refused()
    assert desk.refused() == [], "what that one's caller holds is free some time"
    ended_by = {"c-3": mine, "c-4": theirs}[refused]
    teller = desk.worker if ended_by == mine else other
    teller.say(m.Outcomes([ended(ended_by, m.ERROR)]))
    world.turn()
    assert ids(teller.heard_of(m.Assign)[0].tasks) == [({"c-3", "c-4"} - {refused}).pop()]


def test_a_call_that_needs_the_result_of_one_that_cannot_begin(desk):
    desk.submit(gpu(1))
    desk.submit(gpu(2, 1), plain(3, 1)._replace(depends_on=(TaskId("c-2"),)))
    desk.waits("c-1", "c-3")
    assert desk.refused() == ["c-2", "c-3"]


def test_calls_of_which_one_needs_the_result_of_another_and_none_can_begin(desk):
    desk.submit(gpu(1))
    desk.submit(gpu(2, 1), gpu(3, 1)._replace(depends_on=(TaskId("c-2"),)))
    desk.waits("c-1", "c-2", "c-3")
    assert desk.refused() == ["c-2", "c-3"]


def test_another_owners_call_is_not_named():
    world = cores.Coordinator()
    mine, theirs = (cores.Principal(f"key {n}", n, "client") for n in ("a", "b"))
    node = cores.Principal("key n", "n", "worker")
    a, b = world.client("a", who=mine), world.client("b", who=theirs)
    worker = world.worker(slots=4, resources={"gpu": 2.0}, who=node)
    for client in (a, b):
        client.say(m.Submit([gpu(1)._replace(id=TaskId(f"{client.hello.client}-1"))], [DOUBLE]))
    worker.heard()
    tasks = {client: TaskId(f"{client.hello.client}-2") for client in (a, b)}
    for client, task in tasks.items():
        client.say(m.Submit([gpu(1, 1)._replace(id=task)]))
        worker.say(m.Waits([m.Wait(TaskId(f"{client.hello.client}-1"), (task,))]))
    world.run(PATIENCE + 1.0, a, b, worker)
    [outcome] = [o for client in (a, b) for m_ in client.heard_of(m.Outcomes) for o in m_.outcomes]
    error = outcome.detail["error"]
    assert "another's call holds gpu=1 on worker w, and waits for a call that cannot begin either" in error


def test_a_worker_speaks_only_for_its_own_tasks(world, desk):
    liar = world.worker("liar")
    desk.submit(gpu(1))
    desk.submit(gpu(2, 1))
    liar.say(m.Waits([m.Wait(TaskId("c-1"), (TaskId("c-2"),))]))
    assert desk.refused() == []


def test_what_ends_or_is_lost_waits_no_more(world, desk):
    desk.submit(gpu(1))
    desk.submit(gpu(2, 1))
    desk.waits("c-1", "c-2")
    desk.worker.say(m.Outcomes([ok("c-1")]))
    assert desk.given() == ["c-2"]
    desk.waits("c-2", "c-7")
    desk.worker.say(m.Goodbye())
    world.turn()
    assert world.core.scheduler.deadlocks._waiting == {}


def test_a_worker_that_comes_back_tells_it_again(world, desk):
    desk.submit(gpu(1))
    desk.submit(gpu(2, 1))
    desk.waits("c-1", "c-2")
    world.turn()
    desk.worker.hello.held = [m.Held(TaskId("c-1"), 1, True)]
    world.reopen(desk.worker)
    assert desk.refused() == []
    desk.waits("c-1", "c-2")
    assert desk.refused() == ["c-2"]


def test_tasks_that_no_client_has_named_yet(world):
    """As after a restart of the coordinator."""
    worker = world.worker(slots=2, resources={"gpu": 1.0}, held=[m.Held(TaskId("c-1"), 1, True)])
    worker.say(m.Waits([m.Wait(TaskId("c-1"), (TaskId("c-2"),))]))
    client = world.client()
    client.say(m.Submit([gpu(1), gpu(2, 1)], [DOUBLE]))
    world.run(PATIENCE + 1.0, client, worker)
    assert ids(client.heard_of(m.Outcomes)[0].outcomes) == ["c-2"]


def test_nobody_is_refused_before_workers_had_the_time_to_come_back(world, desk):
    desk.submit(gpu(1))
    desk.submit(gpu(2, 1))
    world.core.scheduler.orphans.reattach_deadline = world.now + 7.0
    desk.waits("c-1", "c-2")
    assert desk.refused(7.0) == []
    assert desk.refused() == ["c-2"]


def test_a_coordinator_that_did_not_run_for_long_is_as_patient(world, desk):
    desk.submit(gpu(1))
    desk.submit(gpu(2, 1))
    desk.waits("c-1", "c-2")
    world.run(1.0, desk.client, desk.worker)
    world.core.scheduler.wait_longer(60.0, world.now + 60.0)
    world.now += 60.0
    world.turn()
    assert desk.client.heard_of(m.Outcomes) == []


def test_nothing_is_reserved_where_those_who_wait_hold_too_much(world):
    """What is kept for a more urgent task would be of no use to it, and a call that is waited for could not begin."""
    client, worker = world.client(), world.worker(slots=4, resources={"gpu": 2.0})
    client.say(m.Submit([gpu(1)], [DOUBLE]))
    worker.heard()
    client.say(m.Submit([gpu(8, amount=2.0, priority=5)]))
    worker.say(m.Waits([m.Wait(TaskId("c-1"), (TaskId("c-2"),))]))
    world.run(2 * RESERVE_AFTER, client, worker)
    worker.heard()
    client.say(m.Submit([gpu(2, 1)]))
    assert ids(worker.heard_one(m.Assign).tasks) == ["c-2"]


class Counted(TaskTable):
    """The table of tasks, and how often one was looked for."""

    def __init__(self, tasks):
        super().__init__()
        vars(self).update(vars(tasks))
        self.looks = 0

    def get(self, task):
        self.looks += 1
        return super().get(task)

    def __contains__(self, task):
        self.looks += 1
        return super().__contains__(task)


def layers(desk, *widths):
    """Calls in layers, each of which needs all of the one before; the first wait for a worker. Those of the last."""
    below: tuple[TaskId, ...] = ()
    for number, width in enumerate(widths):
        resources = (("none", 1.0),) if not below else ()
        layer = [spec(f"{number}x{n}", resources=resources, depth=1, depends_on=below) for n in range(width)]
        for start in range(0, width, 100):
            desk.submit(*layer[start : start + 100])
        below = tuple(ids(layer))
    return below


def looks(desk, *waits):
    """How often tasks were looked for in a look for deadlocks."""
    deadlocks = desk.world.core.scheduler.deadlocks
    counted = deadlocks._tasks = Counted(deadlocks._tasks)
    desk.world.core.check_invariants = lambda: None
    desk.worker.say(m.Waits([m.Wait(TaskId("c-1-s"), waits, True)]))
    before = counted.looks
    desk.world.turn(LOOK_EVERY)
    return counted.looks - before


def test_what_many_need_is_gone_through_once(desk):
    """Else a call that waits for many that need many others keeps the coordinator from all else, for minutes."""
    desk.submit(gpu("1-s", name="train"))
    last = layers(desk, 30, 30, 30)
    desk.submit(gpu(2, 1))
    assert looks(desk, *last, "c-2") < 5 * 30 * 30
    assert desk.refused() == ["c-2"]


def test_nobody_is_refused_where_very_much_would_have_to_be_gone_through(desk, monkeypatch):
    monkeypatch.setattr(deadlocks, "MAX_STEPS", 1000)
    desk.submit(gpu("1-s", name="train"))
    last = layers(desk, 100, 100)
    desk.submit(gpu(2, 1))
    assert looks(desk, *last, "c-2") < 2 * 1000
    assert desk.refused() == []
