from __future__ import annotations

from collections import Counter

import pytest
from support.cores import DOUBLE, Coordinator, bundle, call, ended, ids, ok, results, spec, split

from jobrunner.protocol.coordinator import core, questions
from jobrunner.protocol.effects import Tick
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.wire.kinds import Chunk
from jobrunner.protocol.wire.principals import Principal


@pytest.fixture
def world():
    return Coordinator(address="tcp://127.0.0.1:7077", host="here", pid=42)


@pytest.fixture
def admin(world):
    return world.client("admin")


def ask(admin, kind, argument=""):
    admin.say(m.Query(3, kind, argument))
    (reply,) = admin.heard_of(m.Reply)
    return reply


def submit(client, *tasks):
    client.say(m.Submit(list(tasks), [DOUBLE]))


def test_status_tells_of_everything(world, admin):
    world.worker("left", slots=2, resources={"gpu": 1.0})
    submit(world.client("c"), *[spec(n) for n in range(5)])
    world.turn(3.0)
    status = world.query(admin, "status")
    assert status["coordinator"] == {
        "id": "coo",
        "version": "1.0",
        "address": "tcp://127.0.0.1:7077",
        "host": "here",
        "pid": 42,
        "uptime": 3.0,
        "draining": False,
        "rejected_messages": 0,
        "stale_outcomes": 0,
        "kept_outcomes": 0,
    }
    assert (status["slots"], status["busy"]) == (2, 2)
    assert {name: count for name, count in status["tasks"].items() if count} == {"assigned": 2, "queued": 3}
    (worker,) = status["workers"]
    assert (worker["name"], worker["busy"], worker["resources"]) == ("left", 2, {"gpu": 1.0})


def test_tasks_are_listed_unfinished_first_then_the_latest(world, admin):
    client, worker = world.client(), world.worker()
    submit(client, *[spec(n) for n in range(4)])
    for n in range(2):
        worker.heard()
        worker.say(m.Outcomes([ok(f"c-{n}")]))
    world.turn()
    assert [task["id"] for task in world.query(admin, "tasks", " 100")] == ["c-2", "c-3", "c-1", "c-0"]
    assert [task["id"] for task in world.query(admin, "tasks", " 1")] == ["c-2"]
    assert [task["id"] for task in world.query(admin, "tasks", "succeeded 100")] == ["c-1", "c-0"]
    assert [task["id"] for task in world.query(admin, "tasks", "queued 100")] == ["c-3"]


@pytest.mark.parametrize(
    ("kind", "argument", "error"),
    [
        ("weather", "", "knows no query 'weather'"),
        ("tasks", "odd 100", "there is no state 'odd'; the states are waiting, queued"),
        ("tasks", " many", "many"),
        ("tasks", " -1", "at most 50000 tasks can be listed at a time, not -1"),
        ("tasks", " 50001", "at most 50000 tasks can be listed at a time"),
        ("task", "c-9", "knows no task 'c-9'"),
        ("cancel", "c-9", "knows no task 'c-9'"),
        ("drain", "right", "there is no worker 'right' here; workers: left"),
    ],
)
def test_what_cannot_be_answered_is_an_error_and_no_more(world, admin, kind, argument, error):
    world.worker("left")
    admin.heard()
    reply = ask(admin, kind, argument)
    assert reply.data is None
    assert error in reply.error
    assert reply.error
    assert admin.heard() == []


def test_a_task_says_who_holds_the_resource_that_it_waits_for(world, admin):
    """A call that waits for one of its own, which needs what it holds itself, can be found at least."""
    client, worker = world.client(), world.worker(slots=3, resources={"gpu": 1.0})
    gpu = (("gpu", 1.0),)
    submit(client, spec("1-s", resources=gpu, name="train"))
    worker.heard()
    worker.say(m.Capacity(4))  # it waits
    submit(client, spec(2, resources=gpu, depth=1), spec(3, resources=gpu))
    held = "no worker has gpu=1 free; it is taken by c-1 (train) on w"
    assert world.query(admin, "task", "c-3")["why"] == held
    inside = "; it was submitted by a call, and neither ever ends if that call is among them and waits for it"
    assert world.query(admin, "task", "c-2")["why"] == held + inside


def test_a_task_says_what_it_waits_for(world, admin):
    client = world.client()
    submit(client, spec(1), spec(2, resources=(("gpu", 2.0),)), spec(3, retries=1))

    def why(task):
        return world.query(admin, "task", task)["why"]

    assert why("c-1") == "no worker has joined the cluster"
    worker = world.worker(resources={"gpu": 1.0})
    assert why("c-1") == ""
    assert why("c-2") == "no worker provides gpu=2"
    assert why("c-3") == "all slots are taken; 2 tasks are queued"
    worker.say(m.Outcomes([ok("c-1")]))
    world.turn()
    worker.say(m.Outcomes([ended("c-3", m.ERROR, error="oops")]))
    assert why("c-3") == "waits before its next attempt"
    assert list(world.query(admin, "task", "c-3")["history"]) == ["attempt 1 on w: oops"]


def test_a_finished_task_is_described(world, admin):
    client, worker = world.client(), world.worker()
    submit(client, spec(1, name="mine", priority=4), spec(2))
    worker.heard()
    world.turn(2.0)
    worker.say(m.Outcomes([ended("c-1", m.TIMED_OUT, error="too long")]))
    world.turn()
    task = world.query(admin, "task", "c-1")
    assert (task["name"], task["state"], task["error"], task["duration"]) == (
        "mine",
        "failed",
        "too long",
        1.0,
    )
    assert (task["worker"], task["attempt"], task["priority"], task["age"]) == ("w", 1, 4, 2.0)


def test_an_exception_is_called_one_though_only_programs_can_read_it(world, admin):
    client, worker = world.client(), world.worker()
    submit(client, spec(1))
    worker.heard()
    worker.say(m.Outcomes([m.Outcome("c-1", 1, m.ERROR, b"the pickle of an exception")]))
    world.turn()
    task = world.query(admin, "task", "c-1")
    assert (task["state"], task["error"]) == ("failed", "raised an exception")
    assert list(task["history"]) == ["attempt 1 on w: raised an exception"]


def test_a_version_of_python_is_no_amount(world, admin):
    client = world.client()
    world.worker(python="3.11")
    by_value = DOUBLE._replace(python="3.11")
    client.say(m.Submit([spec(1, resources=(("gpu", 2.0),))], [by_value]))
    assert world.query(admin, "task", "c-1")["why"] == "no worker provides gpu=2, Python 3.11"


def test_a_task_that_ended_with_its_client_says_so(world, admin):
    client, other = world.client(), world.client("d")
    submit(client, spec(1))
    submit(other, spec(1, client="d"))
    client.say(m.Goodbye())
    world.turn()
    assert world.query(admin, "cancel", "d-1")["cancelled"]
    ended, cancelled = (world.query(admin, "task", task) for task in ("c-1", "d-1"))
    assert (ended["state"], list(ended["history"])) == (
        "cancelled",
        ["its client has gone, and it was not detached"],
    )
    assert (cancelled["state"], list(cancelled["history"])) == ("cancelled", [])


def test_an_operator_cancels_whoevers_task(world, admin):
    client, worker = world.client(), world.worker()
    submit(client, spec(1), spec(2))
    worker.heard()
    assert world.query(admin, "cancel", "c-2") == {"id": "c-2", "cancelled": True, "state": "cancelled"}
    assert world.query(admin, "cancel", "c-1") == {"id": "c-1", "cancelled": False, "state": "cancelling"}
    assert worker.heard() == [m.Cancel([m.CancelRequest("c-1", True)])]
    (message,) = client.heard()
    assert ids(message.outcomes) == ["c-2"]
    worker.say(m.Outcomes([ok("c-1")]))
    world.turn()
    assert world.query(admin, "cancel", "c-1") == {"id": "c-1", "cancelled": False, "state": "succeeded"}


def test_one_call_of_a_bundle_is_cancelled_by_its_client_which_is_asked_to(world, admin):
    client, other = world.client(), world.client("d")
    submit(client, bundle(1, b"a", b"b", b"c"))
    client.say(m.ResubmissionComplete())
    asked = {"id": call("c-1", 1), "cancelled": False, "state": "cancelling"}
    assert world.query(other, "cancel", call("c-1", 1)) == asked
    assert client.heard() == [m.Cancel([m.CancelRequest(call("c-1", 1), True)])]
    assert world.query(other, "cancel", call("c-1", 1) + " queued") == asked | {"state": "queued"}
    assert world.query(other, "cancel", call("c-1", 2) + " queued") == {
        **asked,
        "id": call("c-1", 2),
        "state": "queued",
    }
    assert client.heard() == [m.Cancel([m.CancelRequest(call("c-1", n), False)]) for n in (1, 2)]


def test_a_call_of_a_bundle_that_runs_is_stopped_if_that_is_wanted(world, admin):
    client, worker = world.client(), world.worker()
    submit(client, bundle(1, b"a", b"b"))
    client.say(m.ResubmissionComplete())
    worker.heard()
    worker.say(m.Running([TaskId("c-1")]))
    client.heard()
    told = world.query(admin, "cancel", call("c-1", 1) + " queued")
    assert told == {"id": call("c-1", 1), "cancelled": False, "state": "running"}
    assert client.heard() == []
    assert world.query(admin, "cancel", call("c-1", 1))["state"] == "cancelling"
    assert client.heard() == [m.Cancel([m.CancelRequest(call("c-1", 1), True)])]
    worker.say(m.Outcomes([ok("c-1", payload=results(b"x", b"y", failed=[1]))]))
    client.heard()
    told = world.query(admin, "cancel", call("c-1", 1))
    assert told == {"id": call("c-1", 1), "cancelled": False, "state": "failed"}
    assert client.heard() == []


def test_a_call_is_cancelled_too_while_its_client_has_yet_to_name_it(world, admin):
    client, worker = world.client(), world.worker()
    submit(client, bundle(1, b"a", b"b", b"c"))
    client.say(m.ResubmissionComplete())
    worker.heard()
    worker.say(m.Outcomes([split("c-1", 1, results(b"x"))]))
    assert [type(message) for message in client.heard()] == [m.Outcomes]
    assert world.query(admin, "task", call("c-1", 2))["state"] == "waiting"
    assert world.query(admin, "cancel", call("c-1", 2))["state"] == "cancelling"
    assert world.query(admin, "cancel", call("c-1", 0))["state"] == "succeeded"
    assert client.heard() == [m.Cancel([m.CancelRequest(call("c-1", 2), True)])]


def test_a_client_that_is_away_hears_of_what_is_to_be_cancelled_when_it_is_back(world, admin):
    client = world.client()
    submit(client, bundle(1, b"a", b"b"))
    world.run(61.0, admin)
    assert world.core.scheduler.roster.clients["c"].lost_at is not None
    world.query(admin, "cancel", call("c-1", 1))
    world.reopen(client)
    client.say(m.Submit([bundle(1, b"a", b"b")], [DOUBLE]), m.ResubmissionComplete())
    assert client.heard() == [m.Cancel([m.CancelRequest(call("c-1", 1), True)])]


def test_one_call_of_a_bundle_is_described(world, admin):
    client, worker = world.client(), world.worker()
    submit(client, bundle(1, b"a", b"b"))
    worker.heard()
    found = world.query(admin, "task", call("c-1", 1))
    assert (found["id"], found["elements"], found["state"]) == (call("c-1", 1), 1, "assigned")
    worker.say(m.Outcomes([ok("c-1", payload=results(b"x", b"y"))]))
    world.turn()
    found = world.query(admin, "task", call("c-1", 1))
    assert (found["id"], found["elements"], found["state"]) == (call("c-1", 1), 1, "succeeded")
    assert found["duration"] == 0.5


@pytest.mark.parametrize(
    "task", [call("c-1", 2), "c-1/1", "c-1/1-0123456789abcdef", call("c-2", 0), call("c-3", 1)]
)
def test_a_call_that_no_bundle_has_is_unknown(world, admin, task):
    client = world.client()
    submit(client, bundle(1, b"a", b"b"), spec(2), spec(3, kind=Chunk(0, 2)))
    for kind in ("task", "cancel"):
        admin.say(m.Query(1, kind, task))
        assert "knows no task" in admin.heard_of(m.Reply)[0].error


def test_an_operator_drains_a_worker(world, admin):
    worker = world.worker("left")
    assert world.query(admin, "drain", "left")["name"] == "left"
    assert worker.heard() == [m.Drain()]
    assert world.query(admin, "drain", "id of left")["name"] == "left"


OLGA = Principal("key-of-olga", "olga", "observer")


def test_no_text_that_an_observer_sees_holds_a_whole_id(world):
    client, worker, olga = world.client("c"), world.worker("w", slots=4), world.client("o", who=OLGA)
    right = "0123456789abcdef"
    needy = spec(f"2-{right}")._replace(depends_on=(f"c-1-{right}",))
    lost = spec(f"3-{right}")._replace(depends_on=(f"c-9-{right}",))
    submit(client, spec(f"1-{right}"), needy, lost)
    client.say(m.ResubmissionComplete(), m.ResultReply([], [f"c-9-{right}"]))
    world.turn()
    worker.say(m.Outcomes([ended(f"c-1-{right}", m.ERROR)]))
    world.run(1.0, client, worker, olga)
    rows = world.query(olga, "tasks")
    assert [row["state"] for row in rows] == ["failed"] * 3
    assert "needs" in str(rows)
    for seen in (rows, world.query(olga, "status"), [world.query(olga, "task", row["id"]) for row in rows]):
        assert right not in str(seen)


def test_a_name_makes_no_line_of_the_log(world):
    world.worker("w\n12:00:00 INFO jobrunner.coordinator.daemon: all is well")
    assert world.logs
    assert all(line.isprintable() for line in world.logs)


# --- very many questions --------------------------------------------------------------------------------------------

WATCH = Principal("O" * 43, "watch", "observer")


@pytest.fixture
def answers(monkeypatch):
    """How many questions the coordinator has answered, by what they were about."""
    counts = Counter()
    real = core.answer

    def answer(core, who, query, now):
        counts[query.argument] += 1
        return real(core, who, query, now)

    monkeypatch.setattr(core, "answer", answer)
    return counts


def test_a_turn_answers_as_many_questions_as_it_has_time_for(world, admin, answers, monkeypatch):
    """Each may look at all tasks, and a few hundred of them have room in one turn."""
    monkeypatch.setattr(questions, "LOOKED_AT_PER_TURN", 1000)
    client, watcher = world.client("c"), world.client("o", who=WATCH)
    submit(client, *[spec(n) for n in range(400)])
    watcher.say(*[m.Query(number, "tasks", "cancelling 10") for number in range(30)])
    admin.say(m.Query(1, "tasks", " 5"))
    world.handle(Tick())
    assert answers == {"cancelling 10": 2, " 5": 1}, "everybody has a turn"
    assert world.core.next_deadline() <= world.now
    for _ in range(20):
        watcher.acknowledge()
        world.turn()
    assert answers["cancelling 10"] == 30
    assert [reply.number for reply in watcher.heard()] == list(range(30))
    assert world.core.next_deadline() > world.now


def test_who_has_gone_gets_no_answer_and_takes_no_time(world, admin, answers, monkeypatch):
    monkeypatch.setattr(questions, "LOOKED_AT_PER_TURN", 1)
    watcher = world.client("o", who=WATCH)
    watcher.say(*[m.Query(number, "status") for number in range(30)], m.Goodbye())
    admin.say(m.Query(1, "tasks", " 5"))
    world.turn()
    assert answers == {" 5": 1}


def test_so_many_questions_of_a_key_wait_for_their_answers(world, monkeypatch):
    monkeypatch.setattr(questions, "MAX_WAITING", 10)
    watchers = [world.client(f"o{n}", who=WATCH) for n in range(3)]
    for watcher in watchers:
        watcher.say(*[m.Query(number, "status") for number in range(5)])
    assert [bool(watcher.heard_of(m.Reset)) for watcher in watchers] == [False, False, True]
