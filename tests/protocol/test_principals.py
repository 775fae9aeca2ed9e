"""Names belong to keys, whatever a coordinator knows of them; and nothing belongs to an observer."""

from __future__ import annotations

import pytest
from support.cores import DOUBLE, Coordinator, named, ok, spec

from jobrunner.protocol.coordinator.core import CoordinatorCore
from jobrunner.protocol.coordinator.rejections import TOLERATED
from jobrunner.protocol.coordinator.settings import CoordinatorSettings
from jobrunner.protocol.effects import Disconnect, Received, Rejected, Send
from jobrunner.protocol.journal_records import JournalState, Progress
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import WorkerId, bound
from jobrunner.protocol.wire.principals import CLIENT, OBSERVER, OPERATOR, WORKER, Principal

ALICE = Principal("key-of-alice", "alice", CLIENT)
BOB = Principal("key-of-bob", "bob", CLIENT)
NODE, OTHER_NODE = (Principal(f"key-of-{name}", name, WORKER) for name in ("node", "other"))
A = named("a", ALICE)
TASK = f"{A}-1-0123456789abcdef"


def client_hello(client=A, serial=1):
    return m.ClientHello(client, "1.0", "3.11", "host", 1, 10.0, serial=serial)


def worker_hello(worker, *held):
    return m.WorkerHello(WorkerId(worker), "1.0", "3.11", "w", "host", 1, 10.0, 1, {}, list(held))


def answers(core, hello, who, source):
    """What somebody gets who greets at this coordinator."""
    effects = core.handle(Received(source, m.Envelope("greeting", 0, 0, hello), who), 100.0)
    core.check_invariants()
    return [effect.envelope.message for effect in effects if type(effect) is Send]


def restarted(journal=None):
    """A coordinator that was started a moment ago."""
    return CoordinatorCore(CoordinatorSettings("coo", "1.0"), 100.0, journal)


def journal():
    """What it may have kept of Alice's."""
    return JournalState(
        {DOUBLE.key: DOUBLE}, {TASK: (spec(1)._replace(id=TASK), Progress())}, {}, {A: ALICE.key}
    )


WITH_AND_WITHOUT = pytest.mark.parametrize("kept", [None, journal()], ids=["knows nothing", "with a journal"])


@WITH_AND_WITHOUT
@pytest.mark.parametrize("role", [CLIENT, OBSERVER, WORKER, OPERATOR])
def test_after_a_restart_a_clients_name_is_still_its_own(kept, role):
    core = restarted(kept)
    (refused,) = answers(core, client_hello(serial=99), BOB._replace(role=role), b"bob")
    assert (type(refused), refused.kind) == (m.Refused, "AuthenticationError")
    (welcome,) = answers(core, client_hello(), ALICE, b"alice")
    assert type(welcome) is m.Welcome, "who came first under the name has not locked its owner out"


def test_after_a_restart_a_workers_name_is_still_its_own():
    core = restarted()
    name = bound("w", NODE.key)
    for thief in (OTHER_NODE, Principal("key-of-root", "root", OPERATOR)):
        (refused,) = answers(core, worker_hello(name), thief, thief.key.encode())
        assert type(refused) is m.Refused
    (welcome,) = answers(core, worker_hello(name), NODE, b"node")
    assert type(welcome) is m.Welcome


def test_a_name_of_an_older_version_is_nobodys():
    """Such a process may not go on: somebody who greets first would have its name."""
    (refused,) = answers(restarted(), client_hello("9f3ac2e1b7d0"), ALICE, b"alice")
    assert "needs the coordinator's version" in refused.error


def test_a_journal_of_an_older_version_is_read():
    task = spec(1)._replace(id="9f3ac2e1b7d0-1-0123456789abcdef")
    kept = JournalState({DOUBLE.key: DOUBLE}, {task.id: (task, Progress())}, {}, {"9f3ac2e1b7d0": ALICE.key})
    core = restarted(kept)
    core.check_invariants()
    assert list(core.scheduler.tasks) == [task.id]
    assert answers(core, client_hello("9f3ac2e1b7d0"), BOB, b"bob")[0].kind == "AuthenticationError"


# --- observers ----------------------------------------------------------------------------------------------------


def demoted(world):
    """Somebody who greets under Alice's name, with her key, which is an observer's by now."""
    olga = world.client("a", who=ALICE._replace(role=OBSERVER))
    assert olga.hello.client == A
    return olga


def test_an_observers_key_gets_nothing_of_calls_that_were_submitted_with_it():
    world = Coordinator()
    worker = world.worker(held=[m.Held(TASK, 1, True)])
    olga = demoted(world)
    olga.say(m.ResubmissionComplete())
    worker.say(m.Running([TASK]), m.Output([m.OutputChunk(TASK, "f", 1, "a secret")]))
    assert olga.heard() == []
    assert worker.heard() == [], "the call goes on, for whoever submitted it"
    worker.say(m.Outcomes([ok(TASK)]))
    assert olga.heard() == []
    olga.say(m.Goodbye())
    world.turn()
    alice = world.client("a", who=ALICE)
    alice.say(m.Submit([spec(1)._replace(id=TASK)], [DOUBLE]), m.ResubmissionComplete())
    (outcomes,) = alice.heard_of(m.Outcomes)
    assert outcomes.outcomes == [ok(TASK)]


def test_an_observers_key_sees_no_whole_id_of_calls_that_were_submitted_with_it():
    world = Coordinator()
    alice = world.client("a", who=ALICE)
    alice.say(m.Submit([spec(1)._replace(id=TASK)], [DOUBLE]))
    (row,) = world.query(demoted(world), "tasks")
    assert TASK.startswith(row["id"])
    assert row["id"] != TASK
    alice.say(m.Query(1, "tasks"))
    assert alice.heard_of(m.Reply)[0].data[0]["id"] == TASK, "and its owner is still there"


def test_who_has_another_role_by_now_greets_again_with_it():
    world = Coordinator()
    alice = world.client("a", who=ALICE)
    alice.who = ALICE._replace(role=OBSERVER)
    alice.say(m.Submit([spec(1)._replace(id=TASK)], [DOUBLE]))
    assert alice.heard() == [m.Reset()]
    assert not world.core.scheduler.tasks
    world.reopen(alice)
    alice.say(m.Submit([spec(1)._replace(id=TASK)], [DOUBLE]))
    assert "is an observer's" in alice.heard()[0].error


# --- the blame --------------------------------------------------------------------------------------------------------


def test_nobody_is_shut_out_for_what_another_says_under_the_name_of_its_connection():
    world = Coordinator()
    alice = world.client("a", who=ALICE)
    for _ in range(3 * TOLERATED):
        world.handle(Received(alice.source, m.Envelope("x", 1, 0, m.Heartbeat()), BOB))
    assert not [effect for effect in world.take() if type(effect) is Disconnect]
    alice.say(m.Submit([spec(1)._replace(id=TASK)], [DOUBLE]))
    assert list(world.core.scheduler.tasks) == [TASK]


def test_nor_where_the_other_has_a_key_that_is_not_known_any_more():
    world = Coordinator()
    alice = world.client("a", who=ALICE)
    for _ in range(3 * TOLERATED):
        world.handle(Rejected(alice.source, "its key may not connect (any more)"))
    assert not [effect for effect in world.take() if type(effect) is Disconnect]
    alice.say(m.Submit([spec(1)._replace(id=TASK)], [DOUBLE]))
    assert list(world.core.scheduler.tasks) == [TASK]


# --- who has left -----------------------------------------------------------------------------------------------------


def goes_on_without_a_session(remote, *words):
    """Its session has been ended, and it goes on as if that one's name were empty; all words are heard in one turn."""
    remote.link.session = ""
    for envelope in reversed([remote.link.send(word, remote.world.now) for word in words]):
        remote.world.give(remote.source, envelope, remote.who)


def test_who_has_left_submits_nothing_more_outside_of_its_account():
    world = Coordinator()
    alice = world.client("a", who=ALICE)
    alice.say(m.Outcomes([]))
    assert alice.heard() == [m.Reset()]
    goes_on_without_a_session(alice, m.Goodbye(), m.Submit([spec(1)._replace(id=TASK)], [DOUBLE]))
    world.turn()
    assert not world.core.scheduler.tasks


def test_no_call_stays_with_a_worker_that_has_left():
    world = Coordinator()
    gone = world.worker("gone", who=NODE)
    gone.say(m.Submit([]))
    assert gone.heard() == [m.Reset()]
    goes_on_without_a_session(gone, m.Goodbye(), m.Capacity(1000))
    alice = world.client("a", who=ALICE)
    alice.say(m.Submit([spec(1)._replace(id=TASK)], [DOUBLE]))
    here = world.worker("here", who=OTHER_NODE)
    world.run(11.0, alice, here)  # until it is missed
    assert here.heard_one(m.Assign).tasks[0].id == TASK
