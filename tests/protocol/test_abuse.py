"""Messages of legal size from peers with keys: none costs the coordinator, or others, far more than it has bytes."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest
from support import cores
from support.cores import DOUBLE, bundle, call, client_peer, named, ok, record, results, spec, split

from jobrunner.config import MAX_NAME_LENGTH
from jobrunner.errors import ProtocolError
from jobrunner.protocol.chunks import part_id
from jobrunner.protocol.coordinator import missing_modules, ownership, piece_index, reports, sessions
from jobrunner.protocol.coordinator.accounts import Quota
from jobrunner.protocol.coordinator.dependencies import LOOKED_AT_PER_SWEEP, MAX_PIECES, Dependencies
from jobrunner.protocol.coordinator.dispatcher import LEFT_OVER
from jobrunner.protocol.coordinator.finished_tasks import UnknownTasks
from jobrunner.protocol.coordinator.function_table import FunctionEntry
from jobrunner.protocol.coordinator.orphans import LOOKS_PER_GRACE, ORPHAN_BYTES, Orphans
from jobrunner.protocol.coordinator.outboxes import MAX_UNTAKEN_SLOTS
from jobrunner.protocol.coordinator.peers import WorkerSession
from jobrunner.protocol.coordinator.placement import Lane, ReadyQueue
from jobrunner.protocol.coordinator.task_table import TaskTable
from jobrunner.protocol.effects import Received, ResolveTasks, SubmitRequested, Tick
from jobrunner.protocol.link import EARLY_BYTES, STALLED_AFTER
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.batches import BATCH_BYTES
from jobrunner.protocol.wire.checks import (
    MAX_BUFFERS,
    MAX_DEPENDENCIES,
    MAX_ENTRIES,
    MAX_FRAMES,
    MAX_HEADER_BYTES,
    MAX_MODULES,
    MAX_PARTS,
    MAX_RESOURCES,
    MAX_RETRY_ON_BYTES,
    MAX_TASK_LENGTH,
)
from jobrunner.protocol.wire.codec import SMALL_INLINE_LIMIT, encode
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.wire.kinds import Chunk
from jobrunner.protocol.wire.payloads import BUFFER_BYTES
from jobrunner.protocol.wire.principals import CLIENT, OBSERVER, WORKER, Principal

ANNA = Principal("A" * 43, "anna", CLIENT)
HOST = Principal("W" * 43, "host", WORKER)
ANNAS = named("c", ANNA)


@pytest.fixture
def world() -> cores.Coordinator:
    return cores.Coordinator()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often what costs time is done, by name."""
    counts: Counter[str] = Counter()

    def count(cls: Any, method: str) -> None:
        original = getattr(cls, method)

        def counting(*args: Any) -> Any:
            counts[method] += 1
            return original(*args)

        monkeypatch.setattr(cls, method, counting)

    count(missing_modules, "needed")
    count(ownership, "whole_of")
    count(piece_index, "whole_of")
    count(reports, "index_of_call")
    count(reports, "short_id")
    count(Orphans, "named_later")
    count(TaskTable, "values")
    count(Dependencies, "_is_named_soon")
    count(WorkerSession, "fits")
    count(WorkerSession, "provides_all")
    count(Lane, "head")
    count(UnknownTasks, "__contains__")
    count(FunctionEntry, "__eq__")
    return counts


def header_size(message: m.Message) -> int:
    return len(encode(m.Envelope("s", 1, 0, message))[0])


# --- time ---------------------------------------------------------------------------------------------------------


def test_a_call_that_is_named_very_often_in_a_turn_is_answered_once(world, counted):
    client = world.client(who=ANNA)
    depends_on = tuple(f"{ANNAS}-x{n}" for n in range(1000))
    client.say(m.Submit([spec(1, client=ANNAS)._replace(depends_on=depends_on)], [DOUBLE]))
    assert client.heard_one(m.ResultRequest).ids == list(depends_on)
    counted.clear()
    client.say(m.Submit([spec(1, client=ANNAS)] * 1000))
    assert client.heard_one(m.ResultRequest).ids == list(depends_on)
    assert counted["__contains__"] < 10 * len(depends_on)


def test_it_is_answered_again_in_the_next_turn(world):
    client = world.client(who=ANNA)
    depends_on = (TaskId(f"{ANNAS}-x1"),)
    for _ in range(2):
        client.say(m.Submit([spec(1, client=ANNAS)._replace(depends_on=depends_on)], [DOUBLE]))
        assert client.heard_one(m.ResultRequest).ids == list(depends_on)


def test_very_many_results_of_one_detached_call_are_each_looked_at_once(world, counted):
    client = world.client(who=ANNA)
    depends_on = [TaskId(f"{ANNAS}-x{n}") for n in range(2000)]
    client.say(
        m.Submit([spec(1, client=ANNAS, detach=True)._replace(depends_on=tuple(depends_on))], [DOUBLE])
    )
    client.heard_one(m.ResultRequest)
    counted.clear()
    client.say(m.ResultReply([ok(dependency) for dependency in depends_on]))
    assert client.heard_one(m.Accepted).ids == [f"{ANNAS}-1"]
    assert counted["__contains__"] < 5 * len(depends_on)


def test_a_call_that_is_named_again_asks_once_in_a_session_for_what_it_needs(world):
    client = world.client()
    call = spec(1)._replace(depends_on=(TaskId("c-x-1"), TaskId("c-y-2")))
    client.say(m.Submit([call], [DOUBLE]))
    assert len(client.heard_one(m.ResultRequest).ids) == 2
    for _ in range(9):
        client.say(m.Submit([call], []))
        client.heard()
    client.say(m.Submit([call], []))
    assert client.heard_of(m.ResultRequest) == []
    world.reopen(client)
    client.say(m.Submit([call], [DOUBLE]))
    assert len(client.heard_one(m.ResultRequest).ids) == 2


def test_workers_that_say_very_often_that_they_are_stuck_make_nobody_look_at_all_calls_each_time(
    world, counted
):
    client, worker = world.client(), world.worker()
    client.say(m.Submit([spec(number, depth=1) for number in range(3)], [DOUBLE]))
    worker.heard()
    counted.clear()
    worker.say(*[m.Stuck("no slot can be started")] * 20)
    world.core.handle(Tick(), world.now)
    assert counted["values"] == 1


def test_a_detached_call_is_accepted_once_and_not_before_what_it_needs_is_here(world):
    client, worker = world.client(), world.worker()
    client.say(m.Submit([spec(1), spec(2, detach=True)._replace(depends_on=("c-x", "c-1"))], [DOUBLE]))
    worker.heard_one(m.Assign)
    assert client.heard_one(m.ResultRequest).ids == ["c-x"]
    client.say(m.ResultReply([ok("c-x")]))
    assert client.heard_one(m.Accepted).ids == ["c-2"]
    worker.say(m.Outcomes([ok("c-1")]))
    assert [type(message) for message in client.heard()] == [m.Outcomes]


def test_a_worker_that_comes_finds_calls_of_strange_pythons_without_comparing_all_with_all(world, counted):
    client = world.client(who=ANNA)
    strange = [m.FunctionDef(b"%d" % n, "f", b"", python="2.7") for n in range(300)]
    calls = [spec(n, client=ANNAS) for n in range(300)]
    strangers = [spec(1000 + n, client=ANNAS, function=b"%d" % n) for n in range(3)]
    client.say(m.Submit([*calls, *strangers], [DOUBLE, *strange]))
    counted.clear()
    world.worker(who=HOST)
    refused = [outcome for message in client.heard_of(m.Outcomes) for outcome in message.outcomes]
    assert {outcome.id for outcome in refused} == {task.id for task in strangers}
    assert counted["__eq__"] < 1000


def test_calls_of_a_strange_python_do_not_look_at_all_workers_each(world):
    class Workers(dict):
        looks = 0

        def values(self):
            self.looks += 1
            return super().values()

    for number in range(3):
        world.worker(f"w{number}", who=HOST)
    roster = world.core.scheduler.roster
    workers = roster.workers = Workers(roster.workers)
    client = world.client(who=ANNA)
    strange = DOUBLE._replace(python="2.7")
    workers.looks = 0
    client.say(m.Submit([spec(n, client=ANNAS) for n in range(100)], [strange]))
    assert workers.looks == 0
    refused = [o for message in client.heard_of(m.Outcomes) for o in message.outcomes]
    assert "the workers have 3.11" in refused[99].detail["error"]
    for worker in list(world.remotes.values())[:3]:
        worker.say(m.Goodbye())
    client.say(m.Submit([spec(200, client=ANNAS)]))
    assert client.heard_of(m.Outcomes) == [], "it may wait for a worker that has it"


def test_tasks_of_parked_clients_are_passed_over_once_and_not_for_each_task_of_others(counted):
    backpressured, other = client_peer("p"), client_peer("o")
    queue = ReadyQueue()
    for number in range(500):
        queue.push(record(number, of=backpressured, priority=number + 1))
        queue.push(record(number, of=other))
    queue.backpressured.add(backpressured.id)
    counted.clear()
    taken = [queue.pop(lambda requirements: True) for _ in range(500)]
    assert [task.id for task in taken] == [f"o-{number}" for number in range(500)]
    assert counted["head"] < 2000


def test_what_was_passed_over_goes_on_when_its_client_does():
    backpressured, other = client_peer("p"), client_peer("o")
    queue = ReadyQueue()
    for number in (1, 2):
        queue.push(record(number, of=backpressured, priority=number))
    queue.backpressured.add(backpressured.id)
    assert queue.pop(lambda requirements: True) is None
    queue.push(record(3, of=other, priority=2))  # into a lane that is asleep
    assert queue.pop(lambda requirements: True).id == "o-3"
    assert queue.pop(lambda requirements: True) is None
    queue.resume(backpressured.id)
    assert [queue.pop(lambda requirements: True).id for _ in range(2)] == ["p-2", "p-1"]
    assert queue.kinds == 0 or queue.pop(lambda requirements: True) is None


def test_what_nobody_offers_is_not_looked_at_for_each_idle_slot_in_each_turn(world, counted):
    client = world.client(who=ANNA)
    for n in range(20):
        world.worker(f"w{n}", who=HOST, slots=2, resources={"gpu": 1.0})
    odd = [spec(n, client=ANNAS, resources=((f"thing {n}", 1.0),)) for n in range(200)]
    client.say(m.Submit([spec("first", client=ANNAS), *odd], [DOUBLE]))
    client.heard()
    counted.clear()
    world.core.check_invariants = lambda: None  # it looks
    world.run(3.0, client)
    assert counted["fits"] == counted["provides_all"] == 0
    late = world.worker("late", who=HOST, resources={"thing 7": 1.0})
    assert cores.ids(late.heard_one(m.Assign).tasks) == [f"{ANNAS}-7"]


def test_where_very_much_waits_for_resources_it_is_not_decided_in_each_turn_who_is_next(world, counted):
    client = world.client(who=ANNA)
    workers = [world.worker(f"w{n}", who=HOST) for n in range(20)]
    workers.append(world.worker("g", who=HOST, slots=2, resources={"gpu": 1.0}))
    whole = spec("whole", client=ANNAS, resources=(("gpu", 1.0),))
    parts = [spec(n, client=ANNAS, resources=(("gpu", 0.5 + n / 1000),)) for n in range(100)]
    client.say(m.Submit([whole], [DOUBLE]))
    assert cores.ids(workers[-1].heard_one(m.Assign).tasks) == [whole.id]
    client.say(m.Submit(parts))
    world.run(2.0, client, *workers)
    reserved = world.core.scheduler.dispatcher.reservations
    assert reserved
    counted.clear()
    for _ in range(50):
        world.turn()
    assert counted["provides_all"] < 50 * 20
    client.say(m.Cancel([m.CancelRequest(part.id, False) for part in parts[1:]]))
    world.turn()
    assert len(reserved._kinds) <= 1  # for what has gone nothing is kept


def test_a_module_that_is_missing_concerns_the_calls_that_need_it(world, counted):
    client = world.client(who=ANNA)
    strange = m.FunctionDef(b"strange", "f", b"", modules=("nowhere",))
    client.say(m.Submit([spec(n, client=ANNAS) for n in range(500)], [DOUBLE, strange]))
    worker = world.worker(who=HOST, slots=1)
    worker.heard()
    client.say(m.Submit([spec("s", client=ANNAS, function=b"strange", priority=1)]))
    worker.say(m.Outcomes([ok(f"{ANNAS}-0")]))
    assert f"{ANNAS}-s" in cores.ids(worker.heard_one(m.Assign).tasks)
    counted.clear()
    worker.say(m.TasksReturned([(TaskId(f"{ANNAS}-s"), 1)], ["nowhere"]))
    refused = [
        o for message in client.heard_of(m.Outcomes) for o in message.outcomes if o.status == m.REFUSED
    ]
    assert cores.ids(refused) == [f"{ANNAS}-s"]
    assert counted["needed"] < 50


def test_modules_of_a_function_are_gone_through_once_and_not_for_each_call(world, counted):
    """A call has fifty bytes, and its function and initializer may name 256 modules each."""
    client = world.client(who=ANNA)
    names = [tuple(f"{letter}{number}" for number in range(MAX_MODULES)) for letter in "ab"]
    function, initializer = (m.FunctionDef(each[0].encode(), "f", b"", modules=each) for each in names)
    client.say(m.Submit([spec(0, client=ANNAS, function=b"a0")], [function, initializer]))
    worker, _ = world.worker("v", who=HOST), world.worker("w", who=HOST)
    (task,) = worker.heard_one(m.Assign).tasks
    worker.say(m.TasksReturned([(task.id, 1)], ["a0"]))
    world.turn()
    counted.clear()
    calls = [spec(n, client=ANNAS, function=b"a0", initializer=b"b0") for n in range(1, 500)]
    client.say(m.Submit(calls))
    assert len(world.core.scheduler.tasks) == 500
    assert counted["needed"] < 5


def test_functions_that_no_call_uses_are_passed_over_where_a_module_is_missing(world, monkeypatch):
    client = world.client(who=ANNA)
    functions = [m.FunctionDef(str(n).encode(), "f", b"", modules=(f"nowhere{n}",)) for n in range(100)]
    client.say(m.Submit([spec(0, client=ANNAS, function=b"0")], functions))
    worker = world.worker(who=HOST)
    (task,) = worker.heard_one(m.Assign).tasks
    looked_at = Counter()
    real = missing_modules.initializer_name
    monkeypatch.setattr(
        missing_modules, "initializer_name", lambda entry: looked_at.update([entry]) or real(entry)
    )
    worker.say(m.TasksReturned([(task.id, 1)], ["nowhere0"]))
    assert client.heard_of(m.Outcomes)
    assert len(looked_at) <= 1


@pytest.mark.parametrize("calls", [0, 1])
def test_nobody_looks_at_others_calls_because_somebody_says_goodbye(world, calls):
    class Tasks(TaskTable):
        looks = 0

        def values(self) -> Any:
            Tasks.looks += 1
            return super().values()

    world.core.scheduler.tasks = Tasks()
    guest = world.client("guest", who=ANNA)
    guest.say(m.Submit([spec(n, client=named("guest", ANNA)) for n in range(calls)], [DOUBLE]))
    world.core.check_invariants = lambda: None  # it looks at them, too
    before = Tasks.looks
    guest.say(m.Goodbye())
    assert Tasks.looks == before
    assert world.core.scheduler.roster.clients == {}


def test_clients_that_come_back_do_not_each_look_at_what_all_others_may_name(world, counted):
    held = [m.Held(TaskId(f"c{n % 50}-{n}-r"), 1, True) for n in range(2000)]
    worker = world.worker(slots=2000, held=held)
    clients = [world.client(f"c{n}") for n in range(50)]
    counted.clear()
    for n, client in enumerate(clients):
        if n % 2:
            client.say(m.ResubmissionComplete())
    assert counted["named_later"] == 1000
    assert len(world.core.scheduler.orphans) == 1000
    fenced = [request.id for message in worker.heard_of(m.Cancel) for request in message.requests]
    assert sorted(fenced) == sorted(entry.id for n, entry in enumerate(held) if n % 2)
    world.core.check_invariants()


def test_who_says_that_it_is_inside_of_a_call_does_not_look_at_all_that_workers_have(world, counted):
    held = [m.Held(TaskId(f"gone-{n}-r"), 1, True) for n in range(10_000)]
    world.worker(who=HOST, held=held)
    counted.clear()
    world.client("inside", who=HOST, within=TaskId("other-1-r"))
    assert counted["whole_of"] < 10


def test_what_nobody_names_is_not_looked_at_in_each_sweep(world, counted):
    world.core.settings = dataclasses.replace(world.core.settings, client_grace=30.0)
    held = [m.Held(TaskId(f"gone-{n}-r"), 1, True) for n in range(100)]
    worker = world.worker(slots=100, held=held)
    counted.clear()
    world.run(29.0, worker)
    assert counted["named_later"] <= 100 * (LOOKS_PER_GRACE + 1)
    assert len(world.core.scheduler.orphans) == 100
    world.run(2.0, worker)
    assert not world.core.scheduler.orphans


def test_of_very_much_that_is_sought_each_sweep_looks_at_a_part(world, counted):
    client = world.client()
    depends_on = [TaskId(f"c-x{n}") for n in range(3 * LOOKED_AT_PER_SWEEP)]
    client.say(m.Submit([spec(1)._replace(depends_on=tuple(depends_on))], [DOUBLE]))
    client.say(m.ResubmissionComplete())
    client.heard_of(m.ResultRequest)
    assert list(world.core.scheduler.tasks) == ["c-1"]
    counted.clear()
    world.turn(0.3)
    assert counted["_is_named_soon"] == 0  # their client was asked, and has not answered
    client.say(m.ResultReply([], [TaskId("c-x5")]))
    world.run(2.0, client)
    (outcome,) = client.heard_one(m.Outcomes).outcomes
    assert outcome.detail["need"] == "c-x5"


def test_a_question_about_a_task_that_is_not_there_costs_little_for_each_that_is(world, counted):
    client = world.client(who=ANNA)
    client.say(m.Submit([spec(n, client=ANNAS) for n in range(500)], [DOUBLE]))
    counted.clear()
    client.say(m.Query(1, "task", f"{ANNAS}-500-x"))
    assert "knows no task" in client.heard_one(m.Reply).error
    assert counted["index_of_call"] == counted["short_id"] == 0


# --- memory -------------------------------------------------------------------------------------------------------


def test_a_question_has_about_the_size_of_an_id(world):
    client = world.client(who=ANNA)
    with pytest.raises(ProtocolError, match="a question is about 100000 characters"):
        client.say(m.Query(1, "task", "x" * 100_000))


def test_what_an_error_repeats_counts_as_unacknowledged(world):
    client = world.client()
    client.say(m.Query(1, "task", "\0" * 1000))
    assert len(client.heard_one(m.Reply).error) > 4000
    assert world.core.scheduler.roster.clients["c"].link.unacked_bytes > 4000


@pytest.mark.parametrize(
    "message",
    [
        lambda count: m.Submit([spec(1)] * count),
        lambda count: m.Watch(["x"] * count),
        lambda count: m.Cancel([m.CancelRequest(f"{ANNAS}-1-r", True)] * count),
        lambda count: m.ResultReply([ok("x", payload=b"")] * count),
        lambda count: m.ResultReply([], ["x"] * count),
    ],
    ids=["Submit", "Watch", "Cancel", "ResultReply", "ResultReply of nothing"],
)
def test_a_message_asks_for_so_many_answers_at_most(message):
    cores.through_the_codec(m.Envelope("s", 1, 0, message(MAX_ENTRIES)))
    with pytest.raises(ProtocolError, match=f"{MAX_ENTRIES + 1} entries, at most {MAX_ENTRIES}"):
        cores.through_the_codec(m.Envelope("s", 1, 0, message(MAX_ENTRIES + 1)))


@pytest.mark.parametrize(
    "kept",
    [
        lambda pieces: m.Submit([spec(1, payload=pieces)], [DOUBLE]),
        lambda pieces: m.Submit([spec(1)], [DOUBLE._replace(blob=pieces)]),
        lambda pieces: m.Submit([spec(1)._replace(depends_on=("c-x",))], [DOUBLE]),
    ],
    ids=["arguments", "function", "results"],
)
def test_buffers_without_bytes_are_not_for_nothing(kept):
    world = cores.Coordinator(quota=Quota(bytes=1_000_000))
    client = world.client()
    pieces = (b"",) * 10_000
    client.say(kept(pieces), m.ResultReply([ok("c-x", payload=pieces)]))
    outcomes = [outcome for message in client.heard_of(m.Outcomes) for outcome in message.outcomes]
    assert [outcome.status for outcome in outcomes] == [m.REFUSED]
    assert world.core.scheduler.roster.clients["c"].account.bytes < 1_000_000


def test_a_key_has_so_many_clients_at_a_time(world, monkeypatch):
    monkeypatch.setattr(sessions, "MAX_OBSERVERS", 3)
    watch = Principal("O" * 43, "watch", OBSERVER)
    observers = [world.client(f"o{n}", who=watch) for n in range(3)]
    hello = m.ClientHello(named("one more", watch), "1.0", "3.11", "host", 1, 10.0)
    world.give(b"source", m.Envelope("greeting", 0, 0, hello), watch)
    (sent,) = world.take()
    assert "3 programs with the key 'watch' are here" in sent.envelope.message.error
    world.reopen(observers[0])  # one of those that are here
    world.client("c", who=ANNA)  # and others
    observers[1].say(m.Goodbye())
    world.client("o4", who=watch)


def test_programs_inside_of_calls_count_among_those_of_their_workers_key(world, monkeypatch):
    """They act for the call's owner, who would else not be let in because a worker says that it runs very many."""
    monkeypatch.setattr(sessions, "MAX_CLIENTS", 3)
    anna, host = world.client("c", who=ANNA), world.worker(who=HOST)
    anna.say(m.Submit([spec(1, client=ANNAS)], [DOUBLE]))
    (task,) = host.heard_one(m.Assign).tasks
    inside = [world.client(f"inside {n}", who=HOST, within=task.id) for n in range(3)]
    hello = m.ClientHello(named("one more", HOST), "1.0", "3.11", "host", 1, 10.0, within=task.id)
    world.give(b"source", m.Envelope("greeting", 0, 0, hello), HOST)
    (sent,) = world.take()
    assert "3 programs with the key 'host' are here" in sent.envelope.message.error
    for number in range(2):
        world.client(f"c{number}", who=ANNA)
    inside[0].say(m.Goodbye())
    world.client("the next", who=HOST)


def test_a_key_has_so_many_workers_at_a_time(world, monkeypatch):
    monkeypatch.setattr(sessions, "MAX_WORKERS", 3)
    workers = [world.worker(f"w{n}", who=HOST) for n in range(3)]
    hello = dataclasses.replace(workers[0].hello, worker=named("one more", HOST))
    world.give(b"source", m.Envelope("greeting", 0, 0, hello), HOST)
    (sent,) = world.take()
    assert "3 workers with the key 'host' are here" in sent.envelope.message.error
    world.reopen(workers[0])  # one of those that are here
    world.worker("other", who=HOST._replace(key="V" * 43))
    workers[1].say(m.Goodbye())
    world.worker("w4", who=HOST)


def test_what_a_worker_comes_back_with_is_not_kept_with_its_greeting(world):
    world.worker(who=HOST, held=[m.Held(TaskId(f"{ANNAS}-{number}-1"), 1, False) for number in range(9)])
    (worker,) = world.core.scheduler.roster.workers.values()
    assert len(world.core.scheduler.orphans) == 9
    assert not worker.hello.held


@pytest.mark.parametrize(
    "words",
    [
        lambda task: m.TasksReturned([(task, 1)], [], True),
        lambda task: m.TasksReturned([(task, 1)]),
        lambda task: m.TasksReturned([(task, 1)], ["numpy"]),
        lambda task: m.Outcomes([cores.ended(task, m.CANCELLED)]),
    ],
    ids=["begun", "not begun", "lacks a module", "cancelled"],
)
def test_a_worker_that_is_done_with_what_it_has_not_acknowledged_loses_its_session(world, words):
    """It would be assigned again and again, and each assignment be kept until it is acknowledged."""
    client, worker = world.client(who=ANNA), world.worker(who=HOST)
    client.say(m.Submit([spec(1, client=ANNAS)], [DOUBLE]))
    (task,) = worker.heard_one(m.Assign).tasks
    world.give(worker.source, m.Envelope(worker.link.session, 1, 0, words(task.id)), HOST)
    assert worker.heard_of(m.Reset)
    assert "it has not acknowledged" in world.logs[-1]
    world.reopen(worker)
    worker.heard_one(m.Assign)
    worker.say(m.Outcomes([ok(task.id, attempt=2)]))
    assert world.core.scheduler.tasks.get(task.id) is None


# --- tasks that nobody has named ------------------------------------------------------------------------------------


def unnamed(count: int, name: str = "x") -> list[m.Held]:
    """Tasks of a client that is not here."""
    return [m.Held(TaskId(f"{ANNAS}-{name}{number}-1"), 1, True) for number in range(count)]


def test_tasks_that_nobody_has_named_count_for_the_key_of_their_worker():
    """Else somebody with a worker's key could say without end what it has, and how that ended."""
    world = cores.Coordinator(quota=Quota(0, 100 * ORPHAN_BYTES))
    first = world.worker("first", slots=200, who=HOST, held=unnamed(80))
    second = world.worker("second", slots=200, who=HOST, held=unnamed(80, "y"))
    assert len(world.core.scheduler.orphans) == 100
    assert len(second.heard_one(m.Cancel).requests) == 60
    other = world.worker("other", slots=200, who=HOST._replace(key="V" * 43), held=unnamed(50, "z"))
    assert other.heard() == []
    first.say(m.Goodbye())
    world.reopen(second)
    assert second.heard_of(m.Cancel) == []


def test_how_these_ended_counts_too_and_what_is_too_much_is_as_if_it_had_not_run():
    world = cores.Coordinator(quota=Quota(0, 100_000))
    host = world.worker(slots=9, who=HOST, held=unnamed(9))
    host.say(m.Outcomes([ok(entry.id, payload=bytes(30_000)) for entry in unnamed(9)]))
    world.turn()
    kept = [o for o in map(world.core.scheduler.orphans.get, [e.id for e in unnamed(9)]) if o is not None]
    assert 0 < len(kept) <= 3
    anna = world.client(who=ANNA)
    anna.say(m.Submit([spec(f"x{number}-1", client=ANNAS) for number in range(9)], [DOUBLE]))
    anna.heard()
    assert len(host.heard_one(m.Assign).tasks) == 9 - len(kept)


def test_and_what_these_wait_for():
    world = cores.Coordinator(quota=Quota(0, 100_000))
    host = world.worker(slots=9, who=HOST, held=unnamed(9))
    host.say(m.Waits([m.Wait(entry.id, (TaskId("n" * 250),) * 120) for entry in unnamed(9)]))
    world.turn()
    kept = [o for o in map(world.core.scheduler.orphans.get, [e.id for e in unnamed(9)]) if o and o.wait]
    assert 0 < len(kept) <= 3


def test_who_speaks_and_acknowledges_nothing_loses_its_session(world):
    client = world.client(who=ANNA)
    client.say(m.Query(1, "status"))
    assert client.heard_one(m.Reply).error == ""
    until = world.now + STALLED_AFTER
    while not client.heard_of(m.Reset):
        assert world.now < until + 10
        world.give(client.source, m.Envelope(client.link.session, 0, 0, m.Heartbeat()), ANNA)
        world.turn(0.4)
    assert world.now >= until
    assert world.core.scheduler.roster.clients[ANNAS].link.unacked() == []
    world.reopen(client)


def test_of_calls_that_have_ended_little_is_kept_for_lists(world):
    client, worker = world.client(), world.worker()
    client.say(m.Submit([spec(1)], [DOUBLE]), m.ResubmissionComplete())
    worker.heard()
    facts = {"error": "why", "worker": "w", "host": "h", "stderr": "x" * 100_000, "further": (0.5,) * 10_000}
    worker.say(m.Outcomes([cores.ended("c-1", m.ERROR, **facts)]))
    (outcome,) = client.heard_one(m.Outcomes).outcomes
    assert outcome.detail == facts
    client.acknowledge()
    (record,) = world.core.scheduler.tasks.recent
    assert record.outcome.detail == {"error": "why", "worker": "w", "host": "h"}
    assert world.query(client, "task", "c-1")["error"] == "why"


def test_nor_what_only_their_beginning_needed(world):
    client, worker = world.client(), world.worker(slots=2)
    client.say(m.Submit([spec("failing")], [DOUBLE]), m.ResubmissionComplete())
    worker.heard()
    large = spec(1, retry_on=b"r" * 10_000, resources=(("gpu", 1.0),), name="f", priority=3)
    client.say(m.Submit([large._replace(depends_on=(TaskId("c-failing"), TaskId("c-failing")))]))
    worker.say(m.Outcomes([m.Outcome(TaskId("c-failing"), 1, m.ERROR, b"x" * 10_000, 1.0)]))
    assert {o.status for message in client.heard_of(m.Outcomes) for o in message.outcomes} == {
        m.ERROR,
        m.UNMET,
    }
    (ended,) = [record for record in world.core.scheduler.tasks.recent if record.id == "c-1"]
    assert ended.body.options == m.TaskOptions(name="f", priority=3), "in nobody's account, taken or not"
    assert (ended.depends_on, ended.amounts, ended.requirements, ended.failed_dependency) == (
        (),
        (),
        (),
        None,
    )


def test_of_functions_nobody_needs_their_names_are_left(world):
    client, worker = world.client(), world.worker()
    definition = m.FunctionDef(b"k", "f", b"blob", "3.11", ("a", "b"), ("c",))
    client.say(m.Submit([spec(1, function=b"k")], [definition], [b"k"]))
    worker.heard()
    worker.say(m.Outcomes([ok("c-1")]))
    world.turn()
    (ended,) = world.core.scheduler.tasks.recent
    assert ended.function.definition == m.FunctionDef(b"k", "f", b"")


# --- what has gone ---------------------------------------------------------------------------------------------------


def in_queue(world: cores.Coordinator) -> int:
    lanes = [
        lane for lanes in world.core.scheduler.dispatcher.queue._lanes.values() for lane in lanes.values()
    ]
    return sum(len(queue) for lane in lanes for queue in lane.clients.values())


def come_and_go(client: cores.Remote, calls: list[m.TaskSpec]) -> None:
    client.say(m.Submit(calls), m.Cancel([m.CancelRequest(each.id, True) for each in calls]))
    client.heard()
    client.acknowledge()


@pytest.mark.parametrize("resources", [(), (("gpu", 1.0),)])
def test_what_was_cancelled_behind_others_that_wait_is_not_kept_in_the_queue(world, resources):
    client, worker = world.client(), world.worker()
    first, second = spec("a", resources=resources), spec("b", resources=resources)
    client.say(m.Submit([first, second], [DOUBLE]), m.ResubmissionComplete())
    worker.heard()
    for round_ in range(20):
        come_and_go(client, [spec(f"{round_}-{n}", resources=resources) for n in range(1000)])
    assert in_queue(world) <= 2 * LEFT_OVER
    worker.say(m.Outcomes([ok("c-a")]))
    assert [task.id for a in worker.heard_of(m.Assign) for task in a.tasks] == ([] if resources else ["c-b"])


def test_what_was_cancelled_before_its_next_attempt_is_not_kept(world):
    client, worker = world.client(), world.worker(slots=1000)
    client.say(m.Submit([], [DOUBLE]), m.ResubmissionComplete())
    for round_ in range(10):
        calls = [spec(f"{round_}-{n}", retries=1, backoff=1e9) for n in range(1000)]
        client.say(m.Submit(calls))
        worker.heard()
        worker.say(m.Outcomes([cores.ended(each.id, m.ERROR) for each in calls]))
        client.heard()
        come_and_go(client, calls)
    assert world.core.scheduler.dispatcher.delayed <= 3 * LEFT_OVER


def test_what_was_cancelled_while_it_lacked_a_result_is_not_kept_with_what_that_comes_of(world):
    client, _ = world.client(), world.worker()
    client.say(m.Submit([spec("a")], [DOUBLE]), m.ResubmissionComplete())
    world.turn()
    for round_ in range(10):
        depends_on = (TaskId("c-a"), TaskId("c-unknown"))
        come_and_go(client, [spec(f"{round_}-{n}")._replace(depends_on=depends_on) for n in range(1000)])
    assert not world.core.scheduler.tasks[TaskId("c-a")].interest.dependents


def test_who_has_gone_watches_no_more(world):
    owner, _ = world.client(who=ANNA), world.worker(who=HOST)
    owner.say(m.Submit([spec("a", client=ANNAS)], [DOUBLE]))
    world.turn()
    task = TaskId(f"{ANNAS}-a")
    for number in range(3):
        other = world.client(f"other {number}", who=ANNA)
        other.say(m.Watch([task, TaskId(f"{ANNAS}-unknown")]))
        other.heard()
        other.say(m.Goodbye())
        world.turn()
    scheduler = world.core.scheduler
    assert not scheduler.tasks[task].interest.watchers
    assert not scheduler.results.unknown_tasks[TaskId(f"{ANNAS}-unknown")].watchers


def test_who_acknowledges_nothing_is_not_told_each_size_of_the_cluster(world):
    client, worker = world.client(), world.worker()
    for slots in range(2, 500):
        worker.say(m.Capacity(slots))
        world.turn()
    assert len(world.core.scheduler.roster.clients["c"].link.unacked()) == MAX_UNTAKEN_SLOTS
    client.heard()
    client.acknowledge()
    assert client.heard_one(m.Capacity) == m.Capacity(499)


def test_bundles_that_are_never_taken_up_again_are_promised_up_to_a_limit():
    world = cores.Coordinator(untaken_outcomes=3)
    client, worker = world.client(), world.worker()
    client.say(m.Submit([], [DOUBLE]), m.ResubmissionComplete())
    for number in range(5):
        client.say(m.Submit([bundle(number, b"a", b"b")]))
        if any(type(message) is m.Reset for message in client.heard()):
            break
        worker.heard()
        worker.say(m.Outcomes([split(f"c-{number}", 0, results())]))
        worker.say(m.Outcomes([ok(call(f"c-{number}", 0))]))
        client.heard()
        client.acknowledge()
    assert number == 4
    assert len(world.core.scheduler.roster.clients["c"].awaiting_resubmission) <= 4


# --- what comes to others -----------------------------------------------------------------------------------------


def test_an_id_leaves_room_for_those_of_its_parts(world):
    """Else the worker's words about these are none that a coordinator takes: it would be disconnected for them."""
    client, worker = world.client(who=ANNA), world.worker(who=HOST)
    longest = TaskId(f"{ANNAS}-{'1' * (MAX_TASK_LENGTH - len(ANNAS) - 3)}-r")
    assert len(longest) == MAX_TASK_LENGTH
    client.say(m.Submit([bundle(1, b"a", b"b", client=ANNAS)._replace(id=longest)], [DOUBLE]))
    worker.heard_one(m.Assign)
    worker.say(m.Outcomes([split(longest, 1, results(b"a"))]), m.Running([call(longest, 1)]))
    worker.say(m.Outcomes([ok(call(longest, 1))]))
    with pytest.raises(ProtocolError, match=f"a call's id has {MAX_TASK_LENGTH + 1} characters"):
        client.say(m.Submit([spec(1)._replace(id=TaskId(longest + "r"))]))


def test_parts_of_parts_do_not_grow_out_of_what_a_worker_takes(world):
    """One that fails is run again as a whole, and may be divided again; its id would become longer each time."""
    client, worker = world.client(who=ANNA), world.worker(who=HOST)
    part, stop = TaskId(f"{ANNAS}-{'1' * (MAX_TASK_LENGTH - len(ANNAS) - 3)}-r"), 2**53
    client.say(
        m.Submit([m.TaskSpec(part, spec(1, kind=Chunk(0, stop)).body)], [DOUBLE]),
        m.ResubmissionComplete(),
    )
    while TaskId(part) in world.core.scheduler.tasks:
        world.turn()
        stop -= 1
        worker.say(m.Outcomes([m.Outcome(part, 1, m.SPLIT, b"", 0.0, {"stop": stop})]))
        if part_id(part, stop) not in world.core.scheduler.tasks:
            break
        part = part_id(part, stop)
    assert MAX_TASK_LENGTH < len(part) <= MAX_NAME_LENGTH
    worker.say(m.Goodbye())
    second = world.worker("other", who=HOST)
    second.heard()
    second.say(m.Running(list(world.core.scheduler.tasks)))
    assert second.heard_of(m.Divide) == []
    assert client.heard_of(m.Outcomes)


def test_a_call_that_needs_as_much_as_may_be_reaches_its_worker(world):
    client = world.client(who=ANNA)
    depends_on = [TaskId(f"{ANNAS}-{n}") for n in range(MAX_DEPENDENCIES)]
    retry_on = b"r" * (8 * 1024 * 1024)
    large = spec("large", client=ANNAS, retry_on=retry_on)
    client.say(m.Submit([spec("small", client=ANNAS)], [DOUBLE]))
    client.say(m.Submit([large._replace(depends_on=tuple(depends_on))]))
    for start in range(0, MAX_DEPENDENCIES, 16_384):
        client.say(
            m.ResultReply(
                [ok(dependency, payload=b"x" * 512) for dependency in depends_on[start : start + 16_384]]
            )
        )
    worker = world.worker(who=HOST, slots=2)
    assert [len(message.tasks) for message in worker.heard_of(m.Assign)] == [1, 1]


def test_one_that_needs_more_is_refused_by_its_own_client():
    world = cores.client()
    depends_on = tuple(f"x-{n}" for n in range(MAX_DEPENDENCIES + 1))
    world.handle(SubmitRequested([spec(1)._replace(depends_on=depends_on)], [DOUBLE]))
    assert world.heard() == []
    (finished,) = [effect for effect in world.take() if isinstance(effect, ResolveTasks)]
    assert "needs the results of 65,537 other calls" in finished.outcomes[0].detail["error"]


def test_results_of_too_many_pieces_do_not_come_to_one_call(world):
    client, worker = world.client(who=ANNA), world.worker(who=HOST)
    depends_on = (TaskId(f"{ANNAS}-x"),) * (MAX_PIECES // 1000 + 1)
    client.say(m.Submit([spec(1, client=ANNAS)._replace(depends_on=depends_on)], [DOUBLE]))
    client.heard()
    client.say(m.ResultReply([ok(depends_on[0], payload=(b"",) * 1000)]))
    (outcome,) = client.heard_one(m.Outcomes).outcomes
    assert outcome.status == m.REFUSED
    assert "525,000 buffers" in outcome.detail["error"]
    assert worker.heard() == []
    client.say(m.Submit([spec(2, client=ANNAS)._replace(depends_on=depends_on)]))  # they are here already
    (outcome,) = client.heard_one(m.Outcomes).outcomes
    assert outcome.status == m.REFUSED


def test_nor_does_a_function_of_too_many_pieces(world):
    client = world.client(who=ANNA)
    half = (b"",) * (MAX_BUFFERS // 2)
    parts = [m.FunctionDef(b"%d" % n, "part", half) for n in range(3)]
    whole = DOUBLE._replace(parts=tuple(part.key for part in parts))
    for part in parts:
        client.say(m.Submit([], [part]))
    client.say(m.Submit([spec(1, client=ANNAS)], [whole]))
    (outcome,) = client.heard_one(m.Outcomes).outcomes
    assert outcome.status == m.REFUSED
    assert "196,608 buffers" in outcome.detail["error"]


def test_functions_with_very_many_modules_come_to_a_worker_in_several_messages(world):
    client = world.client(who=ANNA)
    modules = tuple(f"{n:0256}" for n in range(250))
    functions = [m.FunctionDef(b"%d" % n, "f", b"", modules=modules) for n in range(200)]
    for function in functions:
        client.say(m.Submit([], [function]))
    client.say(m.Submit([spec(n, client=ANNAS, function=b"%d" % n) for n in range(200)]))
    worker = world.worker(who=HOST, slots=200)
    assigned = worker.heard_of(m.Assign)
    assert sum(len(message.tasks) for message in assigned) == 200
    assert max(map(header_size, assigned)) < 12 * 1024 * 1024


def test_what_a_stuck_worker_says_is_not_repeated_at_length(world):
    client, worker = world.client(), world.worker()
    client.say(m.Submit([spec(1), spec(2, depth=1), spec(3, depth=1)], [DOUBLE]))
    worker.say(m.Stuck("x" * 1_000_000))
    for message in client.heard_of(m.Outcomes):
        assert header_size(message) < 10_000


def test_outcomes_of_very_many_pieces_come_to_their_client_in_messages_that_it_takes(world):
    client, worker = world.client(), world.worker(slots=20)
    client.say(m.Submit([spec(n) for n in range(20)], [DOUBLE]))
    worker.heard()
    pieces = (b"",) * (BATCH_BYTES // BUFFER_BYTES // 2)
    worker.say(m.Outcomes([ok(f"c-{n}", payload=pieces) for n in range(20)]))
    assert [len(message.outcomes) for message in client.heard_of(m.Outcomes)] == [2] * 10


def test_what_one_call_may_have_fits_into_one_message():
    others = 2 * BATCH_BYTES // BUFFER_BYTES
    call, function, initializer = MAX_BUFFERS, MAX_BUFFERS, MAX_BUFFERS
    assert call + function + initializer + MAX_PIECES + others < MAX_FRAMES
    values, parts = (
        MAX_DEPENDENCIES * (SMALL_INLINE_LIMIT + 5),
        MAX_PARTS * (SMALL_INLINE_LIMIT + 4 * MAX_NAME_LENGTH + 80),
    )
    modules = 2 * MAX_MODULES * 4 * MAX_NAME_LENGTH
    assert (
        values + 2 * (parts + modules) + MAX_RETRY_ON_BYTES + MAX_RESOURCES * 4 * MAX_NAME_LENGTH
        < MAX_HEADER_BYTES
    )


# --- messages that come early ----------------------------------------------------------------------------------------


def says_early(remote, size):
    """Whether the coordinator holds back a message of so many bytes, that comes before the ones ahead of it."""
    link = remote.world.core.sessions.peers[remote.source].link
    before = link.early_bytes
    envelope = m.Envelope(remote.link.session, 1000 + before, 0, m.Heartbeat(), size)
    remote.world.handle(Received(remote.source, envelope, remote.who))
    return link.early_bytes == before + size


def test_all_sessions_of_a_key_hold_back_as_much_as_one(world):
    """A key may have 100,000 of them, and what they hold back is in no account."""
    clients = [world.client(f"c{number}", who=ANNA) for number in range(5)]
    held = [number for number, client in enumerate(clients) if says_early(client, EARLY_BYTES // 2)]
    assert held == [0, 1]
    other = world.client("other", who=ANNA._replace(key="B" * 43))
    assert says_early(other, EARLY_BYTES // 2)
    clients[0].say(m.Goodbye())
    assert says_early(clients[2], EARLY_BYTES // 2)
    world.core.check_invariants()


def test_what_a_worker_held_back_goes_with_it(world):
    first, second = [world.worker(name, who=HOST) for name in ("first", "second")]
    assert says_early(first, EARLY_BYTES)
    assert not says_early(second, 1)
    first.say(m.Goodbye())
    assert says_early(second, 1)
    world.core.check_invariants()


def test_a_session_that_begins_anew_holds_back_nothing(world):
    client = world.client(who=ANNA)
    assert says_early(client, EARLY_BYTES)
    world.reopen(client)
    assert says_early(client, EARLY_BYTES)
    world.core.check_invariants()


# --- replies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["status", "workers"])
def test_workers_that_offer_very_much_do_not_make_a_reply_that_nobody_can_take(world, kind):
    """It would be said again and again, and keep all behind it from who has asked."""
    for number in range(20):
        offered = {chr(0x10000 + n) * MAX_NAME_LENGTH: 1.0 for n in range(4000)}
        world.worker(f"w{number}", who=HOST, resources=offered)
    observer = world.client("o", who=ANNA._replace(role=OBSERVER))
    observer.say(m.Query(1, kind))
    (reply,) = observer.heard_of(m.Reply)
    assert len(reply.data["workers"] if kind == "status" else reply.data) == 20


@pytest.mark.parametrize("what", ["clients", "workers"])
def test_nor_do_very_many_peers(world, what, monkeypatch):
    monkeypatch.setattr(reports, "MAX_PEER_BYTES", 3000)
    for number in range(100):
        if what == "workers":
            world.worker(f"w{number}", who=HOST)
            continue
        client = world.client(f"c{number}", who=ANNA)
        client.say(m.Submit([spec(1, client=named(f"c{number}", ANNA))], [DOUBLE]))
    observer = world.client("o", who=ANNA._replace(role=OBSERVER))
    observer.say(m.Query(1, "status"))
    (reply,) = observer.heard_of(m.Reply)
    assert 0 < len(reply.data[what]) < 100
    assert header_size(reply) < 2 * 3000


def test_an_error_names_a_few_of_the_versions_that_there_are(world):
    for number in range(100):
        world.worker(f"w{number}", who=HOST, python=f"3.{number}{'x' * 200}")
    client = world.client(who=ANNA)
    strange = DOUBLE._replace(python="2.7")
    client.say(m.Submit([spec(1, client=ANNAS)], [strange]))
    (ended,) = client.heard_one(m.Outcomes).outcomes
    assert len(ended.detail["error"]) < 5000
