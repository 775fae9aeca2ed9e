"""Calls go to workers that can import what they need, and end where there is none."""

from __future__ import annotations

import pytest
from support.cores import DOUBLE, Coordinator, assign, assignment, finish, ids, ok, spec, started, worker

from jobrunner.backends.failures import error_for
from jobrunner.errors import SerializationError
from jobrunner.protocol.coordinator.missing_modules import ANSWER_SECONDS, NEW_ANSWER_SECONDS, lack
from jobrunner.protocol.effects import EndSlot, RunTasks, SlotExited, SlotReady, SpawnSlot
from jobrunner.protocol.wire import messages as m

FRAMES = m.FunctionDef(b"frames", "frames", b"blob", "", ("pandas",))
BOTH = m.FunctionDef(b"both", "both", b"blob", "", ("pandas", "torch"))
INIT = m.FunctionDef(b"init", "init", b"blob", "", ("torch",))
SHIPS = m.FunctionDef(b"ships", "init", b"blob", "", (), ("pandas",))
SHIPS_TOO = SHIPS._replace(key=b"another version")


def call(number, function=FRAMES, initializer=None, **options):
    return spec(number, function=function.key, initializer=initializer and initializer.key, **options)


def give_back(remote, *modules):
    """A worker gives back all that it has just been assigned."""
    tasks = remote.heard_one(m.Assign).tasks
    remote.say(m.TasksReturned([(task.id, task.attempt) for task in tasks], list(modules)))
    return ids(tasks)


# --- the coordinator ------------------------------------------------------------------------------------------------


def test_a_call_goes_on_to_a_worker_that_has_the_module():
    world = Coordinator()
    client = world.client()
    poor = world.worker("poor", slots=4)
    client.say(m.Submit([call(1)], [FRAMES]))
    assert poor.heard_one(m.Assign).functions == [FRAMES]
    rich = world.worker("rich")
    poor.say(m.TasksReturned([("c-1", 1)], ["pandas"]))
    (task,) = rich.heard_one(m.Assign).tasks
    assert (task.id, task.attempt) == ("c-1", 2)
    client.say(m.Submit([call(2), spec(3)], [DOUBLE]))
    assert ids(poor.heard_one(m.Assign).tasks) == ["c-3"], "it is not asked for each call"
    rich.say(m.Outcomes([ok("c-1", 2)]))
    assert ids(rich.heard_one(m.Assign).tasks) == ["c-2"]


def test_all_that_waits_goes_there_when_it_is_known():
    world = Coordinator()
    client = world.client()
    poor = world.worker("poor", slots=2)
    client.say(m.Submit([call(n) for n in range(10)], [FRAMES]))
    rich = world.worker("rich", slots=3)
    assert len(rich.heard_one(m.Assign).tasks) == 3
    assert len(give_back(poor, "pandas")) == 2
    assert poor.heard() == [], "others of this function are not even sent"
    assert world.query(client, "task", "c-9")["why"].startswith("all slots are taken")
    peer = world.core.scheduler.roster.worker_named("rich")
    done = []
    while len(done) < 10:
        running = list(peer.tasks.values())
        assert len(running) in (3, 1)
        done += [record.id for record in running]
        rich.say(m.Outcomes([ok(record.id, record.attempt) for record in running]))
        rich.heard()
    assert sorted(done) == [f"c-{n}" for n in range(10)]


def test_where_no_worker_has_it_the_call_ends_naming_all():
    world = Coordinator()
    client = world.client()
    first = world.worker("a", slots=2)
    client.say(m.Submit([call(1), call(2)], [FRAMES]))
    give_back(first, "pandas")
    outcomes = client.heard_one(m.Outcomes).outcomes
    assert sorted(ids(outcomes)) == ["c-1", "c-2"]
    assert {outcome.status for outcome in outcomes} == {m.REFUSED}
    error = error_for(outcomes[0], "frames")
    assert type(error) is SerializationError
    assert str(error).endswith(
        "worker a lacks the module 'pandas', which frames needs: install it there, or ship it with"
        " Executor(..., ship=[...])"
    )
    assert error.detail["modules"] == ("pandas",)
    assert not world.core.scheduler.tasks
    client.say(m.Submit([call(3)], []))
    assert ids(client.heard_one(m.Outcomes).outcomes) == ["c-3"], "now it is known before anything is sent"


def test_several_modules_and_workers_are_all_named():
    world = Coordinator()
    client = world.client()
    first, second = world.worker("a"), world.worker("b")
    client.say(m.Submit([call(1, BOTH, INIT)], [BOTH, INIT]))
    give_back(first, "pandas", "torch")
    give_back(second, "pandas")
    (outcome,) = client.heard_one(m.Outcomes).outcomes
    assert outcome.detail["error"] == (
        "workers a and b lack the module 'pandas', which both needs, and worker a lacks the module 'torch', which both"
        " needs: install them there, or ship them with Executor(..., ship=[...])"
    )


def test_the_initializer_has_needs_of_its_own():
    world = Coordinator()
    client = world.client()
    remote = world.worker("a")
    client.say(m.Submit([call(1, DOUBLE, INIT)], [DOUBLE, INIT]))
    give_back(remote, "torch")
    (outcome,) = client.heard_one(m.Outcomes).outcomes
    assert "worker a lacks the module 'torch', which init needs" in outcome.detail["error"]


def test_what_is_shipped_is_not_needed():
    world = Coordinator()
    client = world.client()
    remote = world.worker("a", slots=2)
    client.say(m.Submit([call(1)], [FRAMES]))
    give_back(remote, "pandas")
    client.heard()
    client.say(m.Submit([call(2, FRAMES, SHIPS)], [SHIPS]))
    assert ids(remote.heard_one(m.Assign).tasks) == ["c-2"]


def test_a_worker_that_could_not_run_it_anyway_says_nothing_about_it():
    world = Coordinator()
    client = world.client()
    gpu = world.worker("gpu", resources={"gpu": 1.0})
    world.worker("plain")
    client.say(m.Submit([call(1, resources=(("gpu", 1.0),))], [FRAMES]))
    give_back(gpu, "pandas")
    (outcome,) = client.heard_one(m.Outcomes).outcomes
    assert "worker gpu lacks" in outcome.detail["error"]
    client.say(m.Submit([call(2)], []))
    assert client.heard() == [], "that one goes to the other"


def test_the_module_may_be_installed_meanwhile():
    world = Coordinator()
    client = world.client()
    remote = world.worker("a")
    client.say(m.Submit([call(1)], [FRAMES]))
    give_back(remote, "pandas")
    client.heard()
    world.turn(NEW_ANSWER_SECONDS + 0.1)
    client.say(m.Submit([call(2)], []))
    assert ids(remote.heard_one(m.Assign).tasks) == ["c-2"], "it is asked again rather than fail at once"
    assert client.heard() == []
    assert not world.core.scheduler.missing_modules.contested_modules


def test_an_answer_is_dropped_in_time():
    world = Coordinator()
    client = world.client()
    poor, rich = world.worker("poor"), world.worker("rich")
    client.say(m.Submit([call(1), call(2), call(3)], [FRAMES]))
    give_back(poor, "pandas")
    world.run(ANSWER_SECONDS - 1, poor, rich, client)
    assert poor.heard() == []
    world.run(2, poor, rich, client)
    assert len(poor.heard_one(m.Assign).tasks) == 1


def test_a_worker_that_leaves_takes_its_answer_along():
    world = Coordinator()
    client = world.client()
    poor, _rich = world.worker("poor"), world.worker("rich")
    client.say(m.Submit([call(1), call(2)], [FRAMES]))
    give_back(poor, "pandas")
    assert world.core.scheduler.missing_modules.contested_modules == {"pandas"}
    poor.say(m.Goodbye())
    world.turn()
    assert not world.core.scheduler.missing_modules.contested_modules


def test_only_what_a_call_needs_is_believed():
    world = Coordinator()
    client = world.client()
    liar = world.worker("liar")
    client.say(m.Submit([call(1)], [FRAMES]))
    liar.heard_one(m.Assign)
    liar.say(m.TasksReturned([("c-1", 1), ("c-7", 1)], ["numpy", "json"]))
    assert liar.heard_one(m.Assign).tasks[0].attempt == 2
    (peer,) = world.core.scheduler.roster.workers.values()
    assert not peer.missing_modules


def test_clients_take_turns_whatever_their_calls_need():
    world = Coordinator()
    first, second = world.client("c"), world.client("d")
    remote = world.worker(slots=1)
    first.say(m.Submit([call(n) for n in range(4)], [FRAMES]))
    second.say(m.Submit([spec(n, client="d") for n in range(4)], [DOUBLE]))
    order = []
    while len(order) < 8:
        for task in [task for message in remote.heard_of(m.Assign) for task in message.tasks]:
            order.append(task.id[0])
            remote.say(m.Outcomes([ok(task.id)]))
    assert order[:6] in (list("cdcdcd"), list("ccdcdc"))


def test_who_needs_the_result_of_a_refused_call_learns_why():
    world = Coordinator()
    client = world.client()
    remote = world.worker("a")
    client.say(m.Submit([call(1)], [FRAMES]))
    give_back(remote, "pandas")
    client.heard()
    client.say(m.Submit([call(2), spec(3)._replace(depends_on=("c-2",))], [DOUBLE]))
    outcomes = {outcome.id: outcome for outcome in client.heard_one(m.Outcomes).outcomes}
    assert outcomes["c-2"].status == m.REFUSED
    assert outcomes["c-3"].status == m.UNMET
    assert "lacks the module 'pandas'" in outcomes["c-3"].detail["error"]


def test_why_a_call_waits_that_came_when_there_was_somebody():
    world = Coordinator()
    client = world.client()
    poor, rich = world.worker("poor"), world.worker("rich")
    client.say(m.Submit([call(1), call(2)], [FRAMES]))
    give_back(poor, "pandas")
    rich.say(m.Goodbye())
    world.turn()
    assert "worker poor lacks the module 'pandas'" in world.query(client, "task", "c-1")["why"]
    back = world.worker("another", slots=2)
    assert sorted(ids(back.heard_one(m.Assign).tasks)) == ["c-1", "c-2"]


def test_an_initializer_by_value_goes_where_its_python_is():
    world = Coordinator()
    client = world.client()
    by_value = INIT._replace(python="3.11", modules=())
    world.worker("old", python="3.10")
    client.say(m.Submit([call(1, DOUBLE, by_value)], [DOUBLE, by_value]))
    (outcome,) = client.heard_one(m.Outcomes).outcomes
    assert "function init is sent by value, from Python 3.11" in outcome.detail["error"]
    new = world.worker("new")
    client.say(m.Submit([call(2, DOUBLE, by_value)], []))
    assert ids(new.heard_one(m.Assign).tasks) == ["c-2"]


@pytest.mark.parametrize(
    ("workers", "text"),
    [
        (["a"], "worker a lacks"),
        (["a", "b"], "workers a and b lack"),
        (["a", "b", "c"], "workers a, b and c lack"),
        (list("abcdefg"), "workers a, b, c, d, e and 2 more lack"),
    ],
)
def test_workers_in_words(workers, text):
    assert lack(workers) == text


# --- the worker -----------------------------------------------------------------------------------------------------


def test_a_worker_looks_once_and_gives_back_what_it_cannot_run():
    looked = []

    def missing(names):
        looked.append(list(names))
        return [name for name in names if name == "pandas"]

    world = worker(slots=2, missing=missing)
    assign(world, assignment(1), assignment(2, function=BOTH.key), functions=[DOUBLE, BOTH])
    assert world.heard_one(m.TasksReturned) == m.TasksReturned([("c-2", 1)], ["pandas"])
    assert started(world) == {1: ["c-1"]}
    finish(world, 1, 1)
    has_torch = INIT._replace(key=b"torch")
    assign(world, assignment(3, function=b"torch"), functions=[has_torch])
    assign(world, assignment(4, function=b"torch"))
    assert started(world) == {1: ["c-3"], 2: ["c-4"]}
    assert looked == [["pandas", "torch"], ["pandas"], ["torch"]]


def test_a_worker_looks_again_when_it_is_asked_again():
    installed = []
    world = worker(missing=lambda names: [name for name in names if name not in installed])
    assign(world, assignment(1, function=FRAMES.key), functions=[FRAMES])
    assert world.heard_one(m.TasksReturned).missing_modules == ["pandas"]
    installed.append("pandas")
    assign(world, assignment(1, 2, function=FRAMES.key), functions=[])
    assert started(world) == {1: ["c-1"]}


def test_what_comes_along_is_not_missed():
    world = worker(missing=list)
    call = assignment(1, function=FRAMES.key, initializer=SHIPS.key)
    assign(
        world, call, assignment(2, function=BOTH.key, initializer=SHIPS.key), functions=[FRAMES, BOTH, SHIPS]
    )
    assert world.heard_one(m.TasksReturned) == m.TasksReturned([("c-2", 1)], ["torch"])
    assert started(world) == {1: ["c-1"]}


def test_a_slot_that_has_what_was_shipped_serves_nobody_else():
    world = worker(slots=1)
    assign(world, assignment(1, initializer=SHIPS.key), functions=[DOUBLE, SHIPS])
    assert started(world) == {1: ["c-1"]}
    finish(world, 1, 1)
    assign(world, assignment(2, initializer=SHIPS.key))
    assert started(world) == {1: ["c-2"]}
    finish(world, 1, 2)
    slot = 1
    for number, initializer in ((3, SHIPS_TOO), (4, None)):
        assign(world, assignment(number, initializer=initializer and initializer.key), functions=[SHIPS_TOO])
        assert world.take() == [EndSlot(slot), SpawnSlot(slot + 1)]
        world.handle(SlotExited(slot, 77, 0, None, 1024, "", 0, -1))
        slot += 1
        world.handle(SlotReady(slot, 50))
        (run,) = world.take()
        assert isinstance(run, RunTasks)
        assert (run.slot, ids(run.tasks)) == (slot, [f"c-{number}"])
        finish(world, slot, 1)


def test_an_initializer_alone_takes_no_slot_for_itself():
    world = worker(slots=1)
    assign(world, assignment(1, initializer=INIT.key), functions=[DOUBLE, INIT])
    assert started(world) == {1: ["c-1"]}
    finish(world, 1, 1)
    assign(world, assignment(2))
    assert started(world) == {1: ["c-2"]}
