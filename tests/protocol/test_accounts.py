"""Whose calls they are, and how many one owner may have: the accounts, and what the coordinator does by them."""

from __future__ import annotations

import pytest
from support.cores import DOUBLE, HALVE, Coordinator, bundle, ids, named, ok
from support.cores import spec as any_spec

from jobrunner.protocol.coordinator import accounts as accounts_module
from jobrunner.protocol.coordinator import admission
from jobrunner.protocol.coordinator.accounts import NO_QUOTA, Account, Accounts, Quota
from jobrunner.protocol.coordinator.core import CoordinatorCore
from jobrunner.protocol.coordinator.peers import REF_BYTES
from jobrunner.protocol.coordinator.settings import CoordinatorSettings
from jobrunner.protocol.coordinator.task import SUCCEEDED
from jobrunner.protocol.effects import Received, Revoked, Send
from jobrunner.protocol.journal_records import JournalState, KeptOutcome, Progress
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import ClientId
from jobrunner.protocol.wire.principals import ANYONE, Principal

ALICE = Principal("key-of-alice", "alice", "client")
BOB = Principal("key-of-bob", "bob", "client")
CAROL = Principal("key-of-carol", "carol", "client")
NODE = Principal("key-of-node", "node", "worker")

A, C, D = (named(name, ALICE) for name in "acd")
B, E, N, X = named("b", BOB), named("e", BOB), named("n", NODE), named("x", CAROL)


def spec(number, *, client=C, **options):
    return any_spec(number, client=client, **options)


def submit(client, *tasks):
    client.say(m.Submit(list(tasks), [DOUBLE]))


def refused(client):
    """The ids and errors of the calls that were not taken, since the last call."""
    outcomes = [o for message in client.heard_of(m.Outcomes) for o in message.outcomes]
    return {o.id: o.detail["error"] for o in outcomes if o.status == m.REFUSED and o.detail["quota"]}


# --- accounts -----------------------------------------------------------------------------------------------------


def test_clients_of_a_key_share_an_account_and_others_have_their_own():
    accounts = Accounts()
    one, two = (accounts.open(ClientId(name), ALICE) for name in "ab")
    assert one is two
    assert one.owner == ALICE.key
    nobody, else_ = (accounts.open(ClientId(name), ANYONE) for name in "cd")
    assert nobody is not else_
    assert nobody.owner == ""
    assert len(accounts) == 3


def test_an_account_goes_with_its_last_client_and_what_it_has():
    accounts = Accounts()
    account = accounts.open(ClientId("a"), ALICE)
    accounts.open(ClientId("b"), ALICE)
    account.add(10)
    accounts.close(account)
    accounts.close(account)
    assert len(accounts) == 1, "it has a call here"
    account.remove(10)
    accounts.drop_idle(account)
    assert len(accounts) == 0


def test_what_is_too_much():
    account = Account("x", "x", "alice")
    account.add(60)
    assert account.excess(10**12, NO_QUOTA) == ""
    assert account.excess(40, Quota(2, 100)) == ""
    assert "alice has 1 calls" in account.excess(0, Quota(1, 100))
    assert "quota_bytes" in account.excess(41, Quota(2, 100))


# --- quotas -------------------------------------------------------------------------------------------------------


def test_calls_beyond_the_quota_fail_and_the_others_go_on():
    world = Coordinator(quota=Quota(2, 0))
    client = world.client(who=ALICE)
    submit(client, spec(1), spec(2), spec(3))
    assert list(refused(client)) == [f"{C}-3"]
    assert list(world.core.scheduler.tasks) == [f"{C}-1", f"{C}-2"]
    worker = world.worker(slots=2)
    assert ids(worker.heard_one(m.Assign).tasks) == [f"{C}-1", f"{C}-2"]
    worker.say(m.Outcomes([ok(f"{C}-1")]))
    submit(client, spec(4), spec(5))
    assert list(refused(client)) == [f"{C}-5"], "one has made room"


def test_all_clients_of_a_key_share_its_quota():
    world = Coordinator(quota=Quota(2, 0))
    one, two, other = world.client("c", who=ALICE), world.client("d", who=ALICE), world.client("e", who=BOB)
    submit(one, spec(1), spec(2))
    submit(two, spec(1, client=D))
    submit(other, spec(1, client=E))
    assert refused(one) == {}
    assert "alice has 2 calls" in refused(two)[f"{D}-1"]
    assert refused(other) == {}


def test_bytes_count_until_the_call_has_ended():
    world = Coordinator(quota=Quota(0, 10_000))
    client = world.client(who=ALICE)
    submit(client, spec(1, payload=bytes(6000)), spec(2, payload=bytes(6000)))
    assert "bytes of arguments" in refused(client)[f"{C}-2"]
    client.say(m.Cancel([m.CancelRequest(f"{C}-1", False)]))
    submit(client, spec(3, payload=bytes(100)))
    assert refused(client) == {}


def test_functions_count_while_they_are_known():
    world = Coordinator(quota=Quota(0, 10_000))
    client = world.client(who=ALICE)
    account = world.core.scheduler.roster.clients[C].account
    large = HALVE._replace(blob=bytes(8000))
    client.say(m.Submit([spec(1, function=large.key)], [large]))
    client.say(m.Submit([spec(2)], [DOUBLE._replace(blob=bytes(8000))]))
    assert list(refused(client)) == [f"{C}-2"]
    client.say(m.Cancel([m.CancelRequest(f"{C}-1", False)]), m.Submit([], [], [large.key]))
    assert account.bytes == 0
    client.say(m.Submit([spec(3)], [DOUBLE._replace(blob=bytes(8000))]))
    assert refused(client) == {}


def test_a_function_counts_for_each_client_that_may_name_it():
    """One that is here already takes some bytes on the wire, and more at the coordinator."""
    world = Coordinator(quota=Quota(0, 100_000))
    first, second = world.client("c", who=ALICE), world.client("d", who=ALICE)
    functions = [m.FunctionDef(str(number).encode(), "f", b"") for number in range(60)]
    first.say(m.Submit([], functions))
    account = world.core.scheduler.accounts.of(C, ALICE.key)
    one = account.bytes
    second.say(m.Submit([], functions[:10]))
    assert account.bytes == one + 10 * REF_BYTES
    second.say(m.Submit([], [], [functions[0].key]))
    assert account.bytes == one + 9 * REF_BYTES
    second.say(m.Submit([], functions * 2))
    assert account.bytes <= 100_000
    second.say(m.Submit([spec(1, client=D, function=functions[59].key)], functions))
    assert f"{D}-1" in refused(second)
    world.reopen(second)
    assert account.bytes == one
    second.say(m.Submit([], functions[:10]))
    second.say(m.Goodbye())
    assert account.bytes == one


@pytest.mark.parametrize(
    "call",
    [
        spec(1, depends_on=[f"x-{n}" for n in range(40)]),
        spec(1, retry_on=bytes(12_000)),
        spec(1, resources=tuple((f"r{n}", 1.0) for n in range(40))),
    ],
    ids=["depends_on", "retry_on", "resources"],
)
def test_all_that_a_call_brings_counts(call):
    world = Coordinator(quota=Quota(0, 10_000))
    client = world.client(who=ALICE)
    submit(client, call)
    assert list(refused(client)) == [f"{C}-1"]
    account = world.core.scheduler.roster.clients[C].account
    before = account.bytes
    submit(
        client,
        spec(2, depends_on=["x-1"], retry_on=b"some", resources=(("gpu", 1.0),)),
    )
    assert account.bytes > before + 1000
    client.say(m.Cancel([m.CancelRequest(f"{C}-2", False)]))
    assert account.bytes == before


def test_the_kinds_of_requirements_are_limited(monkeypatch):
    monkeypatch.setattr(accounts_module, "MAX_KINDS", 3)
    world = Coordinator()
    client = world.client(who=ALICE)
    submit(
        client,
        *[spec(n, resources=(("r", float(n)),)) for n in range(1, 5)],
        spec(5),
        spec(6, resources=(("r", 1.0),)),
    )
    assert list(refused(client)) == [f"{C}-4"]
    client.say(m.Cancel([m.CancelRequest(f"{C}-2", False)]))
    submit(client, spec(7, resources=(("r", 4.0),)))
    assert refused(client) == {}
    client.say(m.Goodbye())
    world.turn()
    assert not world.core.scheduler.accounts


def test_a_function_is_no_larger_than_a_payload():
    world = Coordinator(max_payload=1000)
    client = world.client(who=ALICE)
    client.say(
        m.Submit([spec(1), spec(2, initializer=HALVE.key)], [DOUBLE, HALVE._replace(blob=bytes(2000))])
    )
    assert list(refused(client)) == [f"{C}-2"]


def test_a_call_that_is_here_already_is_not_refused_for_its_function():
    world = Coordinator(quota=Quota(0, 21_000))
    client, worker = world.client(who=ALICE), world.worker()
    submit(client, spec(1, detach=True))
    worker.heard()
    worker.say(m.Outcomes([ok(f"{C}-1", payload=bytes(18_000))]))
    client.heard()
    world.reopen(client)
    client.say(m.Submit([spec(1, detach=True)], [DOUBLE._replace(blob=bytes(5000))]))
    assert [o.status for message in client.heard_of(m.Outcomes) for o in message.outcomes] == [m.OK]


def test_kept_results_count_until_they_are_forgotten():
    world = Coordinator(quota=Quota(1, 0))
    client, worker = world.client(who=ALICE), world.worker()
    submit(client, spec(1, detach=True))
    worker.heard()
    worker.say(m.Outcomes([ok(f"{C}-1")]))
    submit(client, spec(2))
    assert list(refused(client)) == [f"{C}-2"]
    world.query(client, "forget", f"{C}-1")
    submit(client, spec(3))
    assert refused(client) == {}


def held(world):
    """Bytes of results that calls have got and wait with."""
    values = {
        id(v): len(v)
        for r in world.core.scheduler.tasks.values()
        for v in (r.dependency_results or {}).values()
    }
    return sum(values.values())


def arguments(world):
    """Bytes of the calls themselves."""
    return sum(record.size for record in world.core.scheduler.tasks.values())


def supply(client, name, *numbers, size=10_000):
    """Tell how tasks of another client, which is not here, have ended."""
    client.say(m.ResultReply([ok(f"{name}-{number}", payload=bytes(size)) for number in numbers], []))


@pytest.mark.parametrize("here", [True, False])
def test_results_that_would_be_kept_are_refused_where_they_are_too_much(here):
    """Its calls were accepted when nobody knew how large their results would be; their client may have left since."""
    world = Coordinator(quota=Quota(0, 100_000))
    client, worker, other = world.client("c", who=ALICE), world.worker(slots=9), world.client("b", who=BOB)
    submit(client, *[spec(number, detach=True) for number in range(9)])
    worker.heard()
    client.heard()
    if not here:
        client.say(m.Goodbye())
    worker.say(m.Outcomes([ok(f"{C}-{number}", payload=bytes(30_000)) for number in range(9)]))
    told = refused(client)
    other.say(m.Watch([f"{C}-{number}" for number in range(9)]))
    asked = refused(other)
    assert set(asked) == {f"{C}-{number}" for number in range(3, 9)}
    assert told == (asked if here else {})
    assert "its result, of 30,000 bytes, is not kept" in asked[f"{C}-8"]
    assert world.core.scheduler.accounts.of(C, ALICE.key).bytes < 100_000
    world.query(other, "forget", f"{C}-1")
    assert world.core.scheduler.tasks.counts[SUCCEEDED] == 3


def test_results_that_a_client_supplies_count_until_the_calls_that_need_them_have_ended():
    world = Coordinator(quota=Quota(0, 100_000))
    client = world.client(who=ALICE)
    account = world.core.scheduler.roster.clients[C].account
    submit(client, *[spec(n)._replace(depends_on=(f"x-{n}",)) for n in range(1, 21)])
    function = account.bytes - arguments(world)
    supply(client, "x", *range(1, 21))
    assert 70_000 < held(world) <= 100_000
    assert account.bytes == function + arguments(world) + held(world) <= 100_000
    failed = refused(client)
    assert len(failed) + len(world.core.scheduler.tasks) == 20
    assert "bytes of arguments, functions and results" in next(iter(failed.values()))
    worker = world.worker(slots=20)
    tasks = [task.id for message in worker.heard_of(m.Assign) for task in message.tasks]
    worker.say(m.Outcomes([ok(task) for task in tasks]))
    assert account.bytes == function


def test_a_result_that_many_calls_need_counts_once():
    world = Coordinator(quota=Quota(0, 30_000))
    client = world.client(who=ALICE)
    account = world.core.scheduler.roster.clients[C].account
    submit(client, *[spec(n)._replace(depends_on=("x-1",)) for n in range(1, 11)])
    function = account.bytes - arguments(world)
    supply(client, "x", 1)
    assert refused(client) == {}
    assert account.bytes == function + arguments(world) + 10_000
    client.say(m.Cancel([m.CancelRequest(f"{C}-{n}", False) for n in range(1, 10)]))
    assert account.bytes == function + arguments(world) + 10_000
    client.say(m.Cancel([m.CancelRequest(f"{C}-10", False)]))
    assert account.bytes == function


@pytest.mark.parametrize("later", [False, True], ids=["known already", "comes later"])
def test_results_of_tasks_count_for_the_calls_that_wait_with_them(later):
    """The coordinator would drop them soon, if no call had them."""
    world = Coordinator(quota=Quota(0, 10_000), result_cache=1 << 20)
    client, worker = world.client(who=ALICE), world.worker()
    needy = spec(2)._replace(depends_on=(f"{C}-1", "x-9"))
    submit(client, spec(1), *[needy] * later)
    worker.heard()
    worker.say(m.Outcomes([ok(f"{C}-1", payload=bytes(9_500))]))
    submit(client, needy)
    assert list(refused(client)) == [f"{C}-2"]
    assert held(world) == 0


def test_whoever_takes_calls_over_is_charged_for_their_results():
    """A client that was taken for dead, and comes back before its call has stopped."""
    world = Coordinator(quota=Quota(0, 100_000), client_grace=1.0)
    client, worker = world.client("c"), world.worker()
    task = any_spec(1)._replace(depends_on=("x-1",))
    client.say(m.Submit([task], [DOUBLE]))
    supply(client, "x", 1)
    worker.heard()
    worker.say(m.Running(["c-1"]))
    client.say(m.Goodbye())
    world.turn()
    again = world.client("c")
    again.say(m.Submit([task], [DOUBLE]))
    world.turn()
    account = world.core.scheduler.roster.clients["c"].account
    assert account.bytes >= 10_000
    worker.say(m.Outcomes([ok("c-1")]))
    world.turn()
    assert account.bytes < 10_000


# --- results that nobody has taken ------------------------------------------------------------------------------------


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("leaves", ["before", "after"])
def test_a_result_does_not_outlive_its_client_and_its_account(leaves, detach):
    """What `jobrunner tasks` still shows of it has no payload."""
    world = Coordinator(result_cache=0)
    client, worker, other = world.client("c", who=ALICE), world.worker(), world.client("b", who=BOB)
    submit(client, spec(1, detach=detach))
    worker.heard()
    if leaves == "before":
        client.say(m.Goodbye())
    worker.say(m.Outcomes([ok(f"{C}-1", payload=bytes(5_000))]))
    client.heard()
    if leaves == "after":
        client.link.received = 0  # it has acknowledged nothing
        client.say(m.Goodbye())
    world.turn()
    world.query(other, "forget", f"{C}-1") if detach else None
    (record,) = world.core.scheduler.tasks.recent
    assert record.outcome.payload == b""
    assert record.client.link.unacked() == record.client.outcomes == []
    assert not world.core.scheduler.accounts.of(C, ALICE.key).bytes


def test_of_a_revoked_key_only_detached_calls_go_on():
    world = Coordinator()
    client, worker = world.client(who=ALICE), world.worker()
    submit(client, spec(1, detach=True), spec(2, detach=True), spec(3))
    worker.heard()
    world.handle(Revoked(ALICE.key))
    worker.say(m.Outcomes([ok(f"{C}-1")]))
    assert ids(worker.heard_one(m.Assign).tasks) == [f"{C}-2"]
    assert list(world.core.scheduler.tasks) == [f"{C}-2"]


def test_a_refused_detached_call_is_not_kept():
    world = Coordinator(quota=Quota(1, 0))
    client = world.client(who=ALICE)
    submit(client, spec(1), spec(2, detach=True))
    assert list(refused(client)) == [f"{C}-2"]
    assert not world.core.scheduler.results.detached


def test_what_clients_of_before_have_here_counts_too():
    kept = {"d-1": KeptOutcome("f", ok("d-1"))}
    state = JournalState(
        {DOUBLE.key: DOUBLE},
        {"c-1": (any_spec(1), Progress())},
        kept,
        {"c": ALICE.key, "d": f"{NODE.key} {ALICE.key}"},
    )
    core = CoordinatorCore(CoordinatorSettings("coo", "1.0"), 0.0, state)
    account = core.scheduler.accounts.of(ClientId("x"), ALICE.key)
    assert account.tasks == 2
    assert account.bytes > 0
    core.check_invariants()


def test_who_asks_for_the_impossible_and_takes_no_answer_is_sent_away():
    world = Coordinator(untaken_outcomes=50)
    client = world.client(who=ALICE)
    for number in range(60):
        submit(client, spec(number))
        client.say(m.Cancel([m.CancelRequest(f"{C}-{number}", False)]))
    assert any(type(message) is m.Reset for message in client.heard())
    assert world.core.offences.count == 1
    assert not world.core.scheduler.roster.clients[C].done


def test_the_bytes_of_answers_count_too(monkeypatch):
    monkeypatch.setattr(admission, "UNTAKEN_BYTES", 10_000)
    world = Coordinator()
    client = world.client(who=ALICE)
    for number in range(100):
        client.say(m.Query(number, "status"))
        client.link.received = 0  # it acknowledges nothing
    assert m.Reset() in client.heard()
    assert world.core.offences.count == 1


def test_an_observer_may_leave_less_and_nothing_of_it_stays(monkeypatch):
    monkeypatch.setattr(admission, "UNTAKEN_REPLIES", 10_000)
    world = Coordinator()
    olga = world.client(who=Principal("key-of-olga", "olga", "observer"))
    for number in range(100):
        olga.say(m.Query(number, "status"))
        olga.link.received = 0  # it acknowledges nothing
    assert m.Reset() in olga.heard()
    (peer,) = world.core.scheduler.roster.clients.values()
    assert peer.link.unacked_bytes == 0


# --- few bytes that ask for many --------------------------------------------------------------------------------------


def test_what_is_watched_counts_until_it_has_ended_or_its_watcher_has_gone():
    world = Coordinator(quota=Quota(0, 10_000))
    alice, bob, worker = world.client("a", who=ALICE), world.client("b", who=BOB), world.worker()
    account = world.core.scheduler.roster.clients[B].account
    submit(alice, spec(1, client=A))
    bob.say(m.Watch([f"{A}-1", f"{A}-1"]), m.Watch([f"{A}-1"]))
    one = account.bytes
    assert one > 0
    bob.say(m.Watch([f"{A}-{n}" for n in range(2, 100)]))
    assert len(refused(bob)) > 80
    assert account.bytes <= 10_000
    assert len(world.core.scheduler.results.unknown_tasks) < 20
    before = account.bytes
    worker.heard()
    worker.say(m.Outcomes([ok(f"{A}-1")]))
    assert account.bytes == before - one
    bob.say(m.Goodbye())
    world.turn()
    assert account.bytes == 0


def test_who_asks_a_thousand_times_in_a_turn_is_told_once():
    world = Coordinator()
    client, worker = world.client(who=ALICE), world.worker()
    submit(client, spec(1))
    worker.heard()
    worker.say(m.Outcomes([ok(f"{C}-1")]))
    client.heard()
    for _ in range(3):
        client.say(m.Submit([spec(1)] * 500, []), m.Watch([f"{C}-1"] * 500))
    assert payloads(client) == [b"result"]
    client.say(m.Watch([f"{C}-1"]))
    assert payloads(client) == [b"result"], "in the next turn again"


def test_refused_cancels_are_answers_that_must_be_taken(monkeypatch):
    monkeypatch.setattr(admission, "UNTAKEN_BYTES", 10_000)
    world = Coordinator()
    client = world.client(who=ALICE)
    for turn in range(20):
        client.say(m.Cancel([m.CancelRequest(f"{C}-{turn}-{n}", True) for n in range(100)]))
        world.turn()
        client.link.received = 0  # it acknowledges nothing
    assert m.Reset() in client.heard()


def test_a_cancel_of_what_is_not_here_is_answered_to_who_asked():
    world = Coordinator()
    alice, bob = world.client("a", who=ALICE), world.client("b", who=BOB)
    bob.say(m.Cancel([m.CancelRequest(f"{A}-77", True)]))
    assert alice.heard() == []
    assert bob.heard() == [m.CancelRefused([f"{A}-77"])]


def test_a_worker_is_asked_once_to_stop_a_call():
    world = Coordinator()
    client, worker = world.client(who=ALICE), world.worker()
    submit(client, spec(1))
    worker.heard()
    for _ in range(3):
        client.say(m.Cancel([m.CancelRequest(f"{C}-1", True)] * 100))
        world.turn()
    assert worker.heard() == [m.Cancel([m.CancelRequest(f"{C}-1", True)])]


# --- owners -------------------------------------------------------------------------------------------------------


def test_a_message_to_a_worker_holds_calls_of_one_owner():
    world = Coordinator()
    alice, bob = world.client("c", who=ALICE), world.client("b", who=BOB)
    submit(alice, spec(1), spec(2))
    submit(bob, spec(1, client=B))
    worker = world.worker(slots=3)
    assigned = {message.owner: ids(message.tasks) for message in worker.heard_of(m.Assign)}
    assert assigned == {ALICE.key: [f"{C}-1", f"{C}-2"], BOB.key: [f"{B}-1"]}


def test_what_somebody_sends_under_the_key_of_anothers_function_stays_its_own():
    world = Coordinator()
    bob, alice, worker = world.client("b", who=BOB), world.client("a", who=ALICE), world.worker(slots=2)
    bob.say(m.Submit([], [DOUBLE._replace(blob=b"the bytes of theft", python="9.9")]))
    alice.say(m.Submit([spec(1, client=A)], [DOUBLE]))
    (assign,) = worker.heard_of(m.Assign)
    (definition,) = assign.functions
    assert definition.blob == DOUBLE.blob
    assert assign.tasks[0].body.function == definition.key


@pytest.mark.parametrize("field", ["function", "initializer"])
def test_nobody_can_name_a_function_that_only_somebody_else_has_sent(field):
    world = Coordinator()
    alice, bob = world.client("a", who=ALICE), world.client("b", who=BOB)
    alice.say(m.Submit([spec(1, client=A)], [DOUBLE]))
    bob.say(m.Submit([spec(1, client=B, **{"function": HALVE.key, field: DOUBLE.key})], [HALVE]))
    assert m.Reset() in bob.heard()
    assert list(world.core.scheduler.tasks) == [f"{A}-1"]


FORGED = ok(f"{A}-1", payload=b"forged")


def payloads(client):
    return [o.payload for message in client.heard_of(m.Outcomes) for o in message.outcomes]


@pytest.mark.parametrize("name", ["b", "a"])
def test_nobody_can_say_how_a_call_ends_that_another_key_will_make(name):
    """Not even under the name of a client that is not here yet, or not at the moment."""
    world = Coordinator()
    bob, worker = world.client(name, who=BOB), world.worker()
    bob.say(m.Watch([f"{A}-1"]), m.ResultReply([FORGED]))
    bob.say(m.Goodbye())
    bob.heard()
    alice = world.client("a", who=ALICE)
    submit(alice, spec(1, client=A))
    worker.heard_one(m.Assign)
    worker.say(m.Outcomes([ok(f"{A}-1")]))
    assert payloads(alice) == [b"result"]


def test_what_a_client_says_of_anothers_call_is_for_its_own_tasks_alone():
    world = Coordinator()
    bob, carol, worker = world.client("b", who=BOB), world.client("x", who=CAROL), world.worker(slots=2)
    for client, name in ((bob, B), (carol, X)):
        client.say(m.Submit([spec(1, client=name)._replace(depends_on=(f"{A}-1",))], [DOUBLE]))
        assert client.heard_of(m.ResultRequest) == [m.ResultRequest([f"{A}-1"])]
    bob.say(m.ResultReply([FORGED]))
    assert [task.id for assign in worker.heard_of(m.Assign) for task in assign.tasks] == [f"{B}-1"]
    carol.say(m.ResultReply([ok(f"{A}-1")]))
    (assign,) = worker.heard_of(m.Assign)
    assert assign.tasks[0].values == (b"result",)


def test_calls_of_a_call_are_its_owners():
    world = Coordinator()
    alice, worker = world.client("c", who=ALICE), world.worker(slots=2, who=NODE)
    submit(alice, spec(1))
    assert ids(worker.heard_one(m.Assign).tasks) == [f"{C}-1"]
    inside = world.client("n", who=NODE, within=f"{C}-1")
    submit(inside, spec(1, client=N))
    assert worker.heard_one(m.Assign).owner == ALICE.key


def test_calls_of_a_call_that_travels_in_a_bundle_are_its_owners_too():
    """Nobody but the slot knows which of the bundle's calls runs."""
    world = Coordinator()
    alice, worker = world.client("c", who=ALICE), world.worker(slots=2, who=NODE)
    submit(alice, bundle(1, b"a", b"b", client=C))
    worker.heard_one(m.Assign)
    world.client("n", who=NODE, within=f"{C}-1/1")
    assert world.core.scheduler.roster.clients[N].account.owner == ALICE.key


def greets_inside(world):
    """What a client hears that is inside of Alice's call, with its worker's key."""
    hello = m.ClientHello(N, "1.0", "3.11", "host", 1, 10.0, within=f"{C}-1")
    effects = world.core.handle(Received(b"inside", m.Envelope("greeting", 0, 0, hello), NODE), world.now)
    return [type(effect.envelope.message) for effect in effects if type(effect) is Send]


def test_after_a_restart_calls_of_a_call_wait_until_it_is_known_whose_they_are():
    """They would belong to the worker's key, and run among those of other keys' calls."""
    world = Coordinator()
    world.core.scheduler.orphans.reattach_deadline = world.now + 7.0
    assert greets_inside(world) == []
    worker = world.worker(slots=2, who=NODE, held=[m.Held(f"{C}-1", 1, True)])
    assert greets_inside(world) == []
    alice = world.client("c", who=ALICE)
    submit(alice, spec(1))
    assert greets_inside(world) == [m.Welcome]
    assert world.core.scheduler.roster.clients[N].account.owner == ALICE.key
    assert worker.heard() == []


def test_calls_of_a_call_that_nobody_claims_are_their_workers():
    world = Coordinator(client_grace=1.0)
    worker = world.worker(slots=2, who=NODE, held=[m.Held(f"{C}-1", 1, True)])
    assert greets_inside(world) == []
    world.run(2.0, worker)
    assert greets_inside(world) == [m.Welcome]
    assert world.core.scheduler.roster.clients[N].account.owner == NODE.key


def test_only_the_worker_that_runs_a_call_can_act_for_its_owner():
    world = Coordinator()
    alice, worker = world.client("c", who=ALICE), world.worker(slots=2, who=NODE)
    submit(alice, spec(1))
    worker.heard()
    for number, (who, within) in enumerate(
        (
            (BOB, f"{C}-1"),
            (NODE._replace(key="key-of-another-node"), f"{C}-1"),
            (NODE._replace(role="client"), f"{C}-1"),
            (NODE, f"{C}-2"),
            (NODE, C),
        )
    ):
        name = f"i{number}"
        liar = world.client(name, who=who, within=within)
        submit(liar, spec(1, client=named(name, who)))
        assert world.core.scheduler.roster.clients[named(name, who)].account.owner == who.key


def test_the_journal_says_for_whom_a_call_is_made():
    core = CoordinatorCore(CoordinatorSettings("coo", "1.0"), 0.0, JournalState())
    world = Coordinator()
    world.core = core
    alice, worker = world.client("c", who=ALICE), world.worker(slots=2, who=NODE)
    submit(alice, spec(1))
    worker.heard()
    inside = world.client("n", who=NODE, within=f"{C}-1")
    submit(inside, spec(1, client=N))
    written = core.scheduler.journal_gate.take_entry(core.scheduler.functions)
    assert written.entry.owners == {N: f"{NODE.key} {ALICE.key}"}


# --- versions of Python -------------------------------------------------------------------------------------------


BY_VALUE = m.FunctionDef(b"by value", "f", b"blob", "3.11")


def by_value(number, **options):
    return any_spec(number, function=BY_VALUE.key, **options)


def test_a_function_by_value_goes_where_its_python_is():
    world = Coordinator()
    client = world.client()
    old, new = world.worker("old", slots=4, python="3.10"), world.worker("new", slots=1, python="3.11")
    client.say(m.Submit([by_value(1), by_value(2), any_spec(3)], [BY_VALUE, DOUBLE]))
    assert ids(new.heard_one(m.Assign).tasks) == ["c-1"]
    assert ids(old.heard_one(m.Assign).tasks) == ["c-3"]
    new.say(m.Outcomes([ok("c-1")]))
    assert ids(new.heard_one(m.Assign).tasks) == ["c-2"]


def test_where_no_worker_has_it_the_call_is_refused_with_both_versions():
    world = Coordinator()
    client = world.client()
    world.worker(python="3.12")
    client.say(m.Submit([by_value(1), any_spec(2)], [BY_VALUE, DOUBLE]))
    (outcome,) = client.heard_one(m.Outcomes).outcomes
    assert (outcome.id, outcome.status) == ("c-1", m.REFUSED)
    assert "from Python 3.11, and the workers have 3.12" in outcome.detail["error"]
    assert list(world.core.scheduler.tasks) == ["c-2"]


def test_what_was_submitted_before_a_worker_came_is_refused_then():
    world = Coordinator()
    client = world.client()
    client.say(m.Submit([by_value(1), any_spec(2)], [BY_VALUE, DOUBLE]))
    assert client.heard() == []
    world.worker(python="3.12", slots=2)
    (outcome,) = client.heard_one(m.Outcomes).outcomes
    assert outcome.detail["python"]
    world.worker("right", python="3.11")
    client.say(m.Submit([by_value(3)], []))
    assert client.heard() == []
