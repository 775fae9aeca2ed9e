"""The other ends of a core: they speak through the real codec and real links, and notice every extra message."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

from jobrunner.protocol.bundles import Results, pack_calls, pack_results
from jobrunner.protocol.client.core import ClientCore
from jobrunner.protocol.coordinator.accounts import Account
from jobrunner.protocol.coordinator.core import CoordinatorCore
from jobrunner.protocol.coordinator.function_table import FunctionEntry
from jobrunner.protocol.coordinator.peers import ClientSession, WorkerSession
from jobrunner.protocol.coordinator.settings import CoordinatorSettings
from jobrunner.protocol.coordinator.task import TaskRecord
from jobrunner.protocol.effects import (
    Effect,
    Event,
    Log,
    Received,
    Rejected,
    RunTasks,
    Send,
    SlotExited,
    SlotFinished,
    SlotOutcome,
    SlotReady,
    SlotReturned,
    SpawnSlot,
    Tick,
)
from jobrunner.protocol.link import Link, welcomed
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.codec import decode, encode
from jobrunner.protocol.wire.ids import ClientId, SlotId, TaskId, WorkerId, bound, call_id
from jobrunner.protocol.wire.kinds import SINGLE_CALL, Bundle, Kind
from jobrunner.protocol.wire.principals import ANYONE, Principal
from jobrunner.protocol.worker.core import WorkerCore
from jobrunner.protocol.worker.settings import WorkerSettings

KEY = b"key of double"
DOUBLE = m.FunctionDef(KEY, "double", b"the bytes of double")
HELLOS = (m.ClientHello, m.WorkerHello)
OTHER_KEY = b"key of halve"
HALVE = m.FunctionDef(OTHER_KEY, "halve", b"the bytes of halve")


def through_the_codec(envelope: m.Envelope) -> m.Envelope:
    """What arrives at the other end, which is what was sent; large payloads become tuples of frames."""
    if isinstance(envelope.message, HELLOS) and not envelope.message.peer_timeout:
        return envelope  # its author is in the coordinator's own process: there is no wire between them
    arrived = decode(encode(envelope))
    assert encode(arrived) == encode(envelope)
    return arrived


def spec(
    number: int | str,
    *,
    client: str = "c",
    function: bytes = KEY,
    payload: Any = b"args",
    kind: Kind = SINGLE_CALL,
    initializer: bytes | None = None,
    depth: int = 0,
    depends_on: Sequence[TaskId] = (),
    **options: Any,
) -> m.TaskSpec:
    """A call; its id is "c-1" for number 1 of a client without a key."""
    body = m.CallBody(function, payload, kind, m.TaskOptions(**options), initializer, depth)
    return m.TaskSpec(TaskId(f"{client}-{number}"), body, tuple(depends_on))


def named(name: str, who: Principal) -> ClientId:
    """The id of `Coordinator.client(name, who=who)`."""
    return ClientId(bound(name, who.key))


def bundle(number: int | str, *calls: bytes, client: str = "c", **options: Any) -> m.TaskSpec:
    """A bundle of these calls' payloads."""
    return spec(number, client=client, payload=pack_calls(list(calls)), kind=Bundle(len(calls)), **options)


def results(*payloads: bytes, failed: Sequence[int] = ()) -> bytes:
    """What a slot tells of the first calls of a bundle."""
    return pack_results(Results(list(payloads), [0.5] * len(payloads), list(failed)))


def split(task: str, running: int, payload: bytes, attempt: int = 1) -> m.Outcome:
    """A bundle that was split; the call with that index goes on."""
    return m.Outcome(TaskId(task), attempt, m.SPLIT, payload, 0.0, {"running": running})


def ok(task: str, attempt: int = 1, payload: bytes = b"result", duration: float = 1.0) -> m.Outcome:
    return m.Outcome(TaskId(task), attempt, m.OK, payload, duration)


def ended(task: str, status: int, attempt: int = 1, **detail: Any) -> m.Outcome:
    return m.Outcome(TaskId(task), attempt, status, b"", 1.0, detail or None)


def call(bundle: str, index: int) -> TaskId:
    """The id of one call of a bundle."""
    return call_id(TaskId(bundle), index)


def ids(tasks: Iterable[Any]) -> list[str]:
    return [task.id for task in tasks]


# --- around a coordinator -----------------------------------------------------------------------------------------


class Remote:
    """A client or worker of a `Coordinator`: says messages, and hears what the coordinator has sent since."""

    def __init__(
        self, world: Coordinator, source: bytes, hello: m.ClientHello | m.WorkerHello, who: Principal
    ) -> None:
        self.world = world
        self.who = who
        self.source = source
        self.hello = hello
        self.link = Link("", world.now, 0.0)
        self.arrived: list[m.Message] = []
        self.acked: list[m.Message] = []
        self.heartbeats = 0

    def greet(self, session: str) -> None:
        """Open a new session; the Welcome is the next thing heard."""
        self.link = Link(session, self.world.now, 0.0)
        self.world.give(self.source, self.link.outside(self.hello, self.world.now), self.who)

    def say(self, *messages: m.Message) -> None:
        for message in messages:
            self.world.give(self.source, self.link.send(message, self.world.now), self.who)

    def acknowledge(self) -> None:
        """A bare heartbeat, which covers all that has arrived."""
        self.world.give(self.source, self.link.outside(m.Heartbeat(), self.world.now), self.who)

    def deliver(self, envelope: m.Envelope) -> None:
        if type(envelope.message) is m.Welcome and envelope.session == self.link.session:
            self.link.session = envelope.message.session
            self.arrived.append(envelope.message)
            return
        if envelope.session != self.link.session:
            self.arrived.append(envelope.message)
            return
        messages, acked = self.link.receive(envelope, self.world.now)
        self.heartbeats += messages.count(m.Heartbeat())
        self.arrived += [message for message in messages if type(message) is not m.Heartbeat]
        self.acked += acked

    def heard(self) -> list[m.Message]:
        """Everything but heartbeats since the last call, after the present turn has ended."""
        self.world.turn()
        arrived, self.arrived = self.arrived, []
        return arrived

    def heard_one(self, kind: type[Any]) -> Any:
        """The only message since the last call."""
        (message,) = self.heard()
        assert type(message) is kind, message
        return message

    def heard_of(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.heard() if type(message) is kind]


class Coordinator:
    """A coordinator's core with the clock in hand; Sends go to the remotes, the other effects stay here."""

    def __init__(self, **settings: Any) -> None:
        self.now = 100.0
        self.core = CoordinatorCore(CoordinatorSettings("coo", "1.0", **settings), self.now)
        self.core.scheduler.orphans.reattach_deadline = self.now  # it has been up for a while
        self.remotes: dict[bytes, Remote] = {}
        self.effects: list[Effect] = []
        self.logs: list[str] = []
        self._sessions = 0

    def client(
        self, name: str = "c", peer_timeout: float = 10.0, *, who: Principal = ANYONE, **hello: Any
    ) -> Remote:
        """A client with an open session; its id is `named(name, who)`."""
        return self._join(
            m.ClientHello(named(name, who), "1.0", "3.11", "host", 1, peer_timeout, **hello), name, who
        )

    def worker(
        self,
        name: str = "w",
        slots: int = 1,
        peer_timeout: float = 10.0,
        *,
        who: Principal = ANYONE,
        python: str = "3.11",
        **hello: Any,
    ) -> Remote:
        """A worker with an open session; its id is "id of NAME", bound to its key."""
        hello.setdefault("resources", {})
        return self._join(
            m.WorkerHello(
                WorkerId(bound(f"id of {name}", who.key)),
                "1.0",
                python,
                name,
                "host",
                2,
                peer_timeout,
                slots,
                **hello,
            ),
            name,
            who,
        )

    def _join(self, hello: m.ClientHello | m.WorkerHello, name: str, who: Principal) -> Remote:
        source = name.encode()
        while source in self.remotes:
            source += b"'"
        remote = self.remotes[source] = Remote(self, source, hello, who)
        self.reopen(remote)
        return remote

    def reopen(self, remote: Remote) -> None:
        self._sessions += 1
        remote.greet(f"session {self._sessions}")
        self.turn()
        assert type(remote.arrived.pop(0)) is m.Welcome
        if isinstance(remote.hello, m.ClientHello):
            self._skip_capacity(remote)
        else:
            for other in self.remotes.values():
                self._skip_capacity(other)

    @staticmethod
    def _skip_capacity(remote: Remote) -> None:
        remote.arrived = [message for message in remote.arrived if type(message) is not m.Capacity]

    def give(self, source: bytes, envelope: m.Envelope, who: Principal = ANYONE) -> None:
        self.handle(Received(source, through_the_codec(envelope), who))

    def handle(self, event: Event) -> None:
        self._sort(self.core.handle(event, self.now))

    def turn(self, after: float = 0.0) -> None:
        """End the turn, `after` seconds later."""
        self.now += after
        self.handle(Tick())
        self.core.check_invariants()

    def run(self, seconds: float, *alive: Remote, step: float = 0.25) -> None:
        """Let time pass, with heartbeats from those that are alive."""
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.turn(step)
            for remote in alive:
                remote.acknowledge()
        self.turn()

    def reject(self, source: bytes, reason: str, *, version: bool = False) -> None:
        self.handle(Rejected(source, reason, version))

    def _sort(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Log):
                self.logs.append(effect.text)
            elif isinstance(effect, Send):
                envelope = through_the_codec(effect.envelope)
                remote = self.remotes.get(effect.destination)
                if remote is None:
                    self.effects.append(Send(effect.destination, envelope))
                else:
                    remote.deliver(envelope)
            else:
                self.effects.append(effect)

    def take(self) -> list[Effect]:
        taken, self.effects = self.effects, []
        return taken

    def query(self, remote: Remote, kind: str, argument: str = "") -> Any:
        """Ask, and expect exactly an answer without an error."""
        remote.say(m.Query(7, kind, argument))
        reply = remote.heard_of(m.Reply)[0]
        assert (reply.number, reply.error) == (7, "")
        return reply.data


# --- around a client or a worker ----------------------------------------------------------------------------------


class Upstream:
    """The coordinator's end of a core's session, with the clock in hand."""

    def __init__(self, core: ClientCore | WorkerCore) -> None:
        self.core = core
        self.now = 100.0
        self.link = Link("", self.now, 0.0)
        self.arrived: list[m.Message] = []
        self.effects: list[Effect] = []
        self.logs: list[str] = []
        self.hello: Any = None
        """The last greeting of the present session."""

    def open(
        self,
        *,
        slots: int = 4,
        window_tasks: int = 1000,
        window_bytes: int = 1 << 20,
        max_payload: int = 1 << 30,
        hash_seed: int | None = None,
    ) -> None:
        """Answer the last greeting, which may have been heard already."""
        self.turn()
        self.arrived = [x for x in self.arrived if type(x) not in HELLOS]
        assert self.hello is not None, "no greeting has arrived"
        session = welcomed(self.link.session, "coo", 1)
        welcome = m.Welcome("coo", "1.0", slots, window_tasks, window_bytes, session, max_payload, hash_seed)
        self.give(self.link.outside(welcome, self.now))
        if "/" not in self.link.session:
            self.link.session = session

    def lose(self) -> None:
        """The coordinator does not know this session any more."""
        self.give(m.Envelope(self.link.session, 0, 0, m.Reset()))

    def say(self, *messages: m.Message) -> None:
        for message in messages:
            self.give(self.link.send(message, self.now))

    def acknowledge(self) -> None:
        self.give(self.link.outside(m.Heartbeat(), self.now))

    def give(self, envelope: m.Envelope) -> None:
        self.handle(Received(b"", through_the_codec(envelope)))

    def handle(self, event: Event) -> None:
        for effect in self.core.handle(event, self.now):
            if isinstance(effect, Log):
                self.logs.append(effect.text)
            elif isinstance(effect, Send):
                assert effect.destination == b""
                self._arrive(through_the_codec(effect.envelope))
            else:
                self.effects.append(effect)

    def _arrive(self, envelope: m.Envelope) -> None:
        if envelope.session != self.link.session:
            self.link = Link(envelope.session, self.now, 0.0)
            self.hello = None
        if type(envelope.message) in HELLOS:
            self.hello = envelope.message
        self.arrived += self.link.receive(envelope, self.now)[0]

    def turn(self, after: float = 0.0) -> None:
        self.now += after
        self.handle(Tick())
        self.core.check_invariants()

    def run(self, seconds: float) -> None:
        """Let time pass, with a turn whenever the core wants one: a longer pause would be one of its own process."""
        end = self.now + seconds
        while (at := self.core.next_deadline()) is not None and at < end:
            self.turn(max(0.001, at - self.now))
        self.turn(max(0.0, end - self.now))

    def heard(self) -> list[m.Message]:
        """Everything since the last call, after the present turn has ended."""
        self.turn()
        arrived, self.arrived = self.arrived, []
        return arrived

    def heard_one(self, kind: type[Any]) -> Any:
        (message,) = self.heard()
        assert type(message) is kind, message
        return message

    def take(self) -> list[Effect]:
        """The effects since the last call, after the present turn has ended; no Sends and Logs among them."""
        self.turn()
        taken, self.effects = self.effects, []
        return taken

    def take_one(self, kind: type[Any]) -> Any:
        (effect,) = self.take()
        assert type(effect) is kind, effect
        return effect


def client(*, opened: bool = True, seed: int = 1, peer_timeout: float = 10.0, **options: Any) -> Upstream:
    """A client's core "c" with an open session."""
    hello = m.ClientHello(ClientId("c"), "1.0", "3.11", "host", 1, peer_timeout)
    world = Upstream(ClientCore(hello, random.Random(seed), 100.0, **options))
    if opened:
        world.open()
        assert world.heard() == [m.ResubmissionComplete()]
        world.take()
    return world


def worker(*, slots: int = 1, ready: bool = True, **settings: Any) -> Upstream:
    """A worker's core "w" with an open session and slots that are up, numbered from 1."""
    core = WorkerCore(
        WorkerSettings(WorkerId("id of w"), "w", "1.0", "3.11", "host", 2, slots, **settings),
        random.Random(1),
        100.0,
    )
    world = Upstream(core)
    world.open()
    spawned = world.take()
    assert spawned == [SpawnSlot(SlotId(n + 1)) for n in range(slots)]
    assert world.heard() == []
    if ready:
        for effect in spawned:
            world.handle(SlotReady(effect.slot, 50 + effect.slot))
        assert world.take() == []
    return world


def assignment(number: int | str, attempt: int = 1, **call: Any) -> m.Assignment:
    task = spec(number, **call)
    return m.Assignment(task.id, attempt, task.body)


def assign(
    world: Upstream, *tasks: m.Assignment, functions: Sequence[m.FunctionDef] = (DOUBLE,), owner: str = ""
) -> None:
    world.say(m.Assign(list(tasks), list(functions), owner))


def started(world: Upstream) -> dict[int, list[str]]:
    """The tasks given to slots in this turn, by slot; nothing else was done."""
    effects = world.take()
    assert all(type(effect) is RunTasks for effect in effects), effects
    return {effect.slot: ids(effect.tasks) for effect in effects}


def finish(
    world: Upstream,
    slot: int,
    *numbers: int,
    status: int = m.OK,
    payload: bytes = b"r",
    duration: float = 1.0,
) -> None:
    """Tasks of a slot end."""
    outcomes = [SlotOutcome(number, status, payload, duration) for number in numbers]
    world.handle(SlotFinished(SlotId(slot), outcomes))


def die(world: Upstream, slot: int, number: int = 0, *, element: int = -1, code: int | None = None) -> None:
    """A slot's process ends: by SIGKILL, or with an exit code."""
    signal = "SIGKILL" if code is None else None
    world.handle(SlotExited(SlotId(slot), 77, code, signal, 1024, "last words", number, element))


def teach(world: Upstream, seconds: float, *, key: bytes = KEY) -> None:
    """Let one call finish, so that the function's duration is known."""
    assign(world, assignment("lesson", function=key), functions=[DOUBLE, HALVE])
    ((slot, _),) = started(world).items()
    finish(world, slot, world.core.slots[slot].running().number, duration=seconds)
    assert ids(world.heard_one(m.Outcomes).outcomes) == ["c-lesson"]


def returned(world: Upstream, slot: int, *numbers: int) -> None:
    """A slot gives tasks back that it was asked for."""
    world.handle(SlotReturned(SlotId(slot), list(numbers)))


# --- without a core -----------------------------------------------------------------------------------------------


def client_peer(name: str = "c") -> ClientSession:
    hello = m.ClientHello(ClientId(name), "1.0", "3.11", "host", 1, 10.0)
    return ClientSession(hello, name.encode(), Link("s", 0.0, 0.0), Account(name, "", name))


def worker_peer(name: str = "w", slots: int = 1, **resources: float) -> WorkerSession:
    hello = m.WorkerHello(WorkerId(f"id of {name}"), "1.0", "3.11", name, "host", 2, 10.0, slots, resources)
    return WorkerSession(hello, name, name.encode(), Link("s", 0.0, 0.0))


def record(
    number: int | str = 1,
    *,
    of: ClientSession | None = None,
    kind: Kind = SINGLE_CALL,
    depth: int = 0,
    now: float = 0.0,
    **options: Any,
) -> TaskRecord:
    """The coordinator's record of a queued task of client `of`."""
    peer = of or client_peer()
    task = TaskId(f"{peer.id}-{number}")
    function = FunctionEntry(DOUBLE)
    body = m.CallBody(DOUBLE.key, b"args", kind, m.TaskOptions(**options), None, depth)
    return TaskRecord(task, peer, body, function, None, now)
