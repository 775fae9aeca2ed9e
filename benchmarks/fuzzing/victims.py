"""The three cores in the middle of their work, and the far ends of their sessions, all in this process."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

from fuzzing.author import KEYS, Author
from jobrunner.coordinator.journal.rows import dump_entry, load_entry
from jobrunner.protocol.client.core import ClientCore
from jobrunner.protocol.coordinator.core import CoordinatorCore
from jobrunner.protocol.coordinator.settings import CoordinatorSettings
from jobrunner.protocol.effects import (
    CancelRequested,
    DrainRequested,
    Effect,
    Event,
    GiveUp,
    JournalFailed,
    JournalWritten,
    QueryRequested,
    Received,
    Rejected,
    ResultReplyRequested,
    RunTasks,
    Send,
    SignalSlot,
    SlotBlocked,
    SlotExited,
    SlotFinished,
    SlotOutcome,
    SlotPrinted,
    SlotReady,
    SlotReturned,
    SpawnSlot,
    Stop,
    SubmitRequested,
    Tick,
    Unreachable,
    WatchRequested,
    WriteJournal,
)
from jobrunner.protocol.journal_records import JournalState
from jobrunner.protocol.link import Link
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.codec import decode, encode
from jobrunner.protocol.worker.core import WorkerCore
from jobrunner.protocol.worker.settings import WorkerSettings


class Peer:
    """The far end of one of a core's sessions."""

    def __init__(self, source: bytes = b"") -> None:
        self.source = source
        self.link = Link("", 0.0, 0.0)

    def wrapped(self, rng: random.Random, envelope: m.Envelope, now: float) -> m.Envelope:
        """Under the next number of the session, most of the time; it is what comes through."""
        chance = rng.random()
        if chance < 0.8:
            return self.link.send(envelope.message, now)
        if chance < 0.9:
            return self.link.outside(envelope.message, now)
        return dataclasses.replace(envelope, session=self.link.session)


class Victim:
    """A core in the middle of its work. What it says is encoded and decoded, as on its way to anybody."""

    core: Any

    def __init__(self, author: Author) -> None:
        self.rng = author.rng
        self.author = author
        self.now = 100.0
        self.ended = False
        self.pending: list[Event] = []
        self.late: list[Event] = []
        """Messages that others have overtaken."""

    def handle(self, event: Event) -> None:
        for effect in self.core.handle(event, self.now):
            if type(effect) is Send:
                assert isinstance(effect, Send)
                self.sent(effect, decode(encode(effect.envelope)))
            elif isinstance(effect, (Stop, GiveUp)):
                self.ended = True
            else:
                self.perform(effect)

    def turn(self, after: float = 0.0) -> None:
        events, self.pending = self.pending, []
        for event in events:
            self.handle(event)
        self.now += after
        self.handle(Tick())
        deadline = self.core.next_deadline()
        assert deadline is None or deadline == deadline, "the next deadline is NaN"

    def attack(self, envelope: m.Envelope) -> None:
        """Give it that message, and now and then time or other events."""
        chance = self.rng.random()
        if chance > 0.9:
            self.late.append(Received(*self.addressed(envelope)))
            return
        self.handle(Received(*self.addressed(envelope)))
        while self.late and (chance > 0.5 or len(self.late) > 3):
            self.handle(self.late.pop())
        if chance < 0.3:
            self.turn(self.rng.choice((0.0, 0.01, 0.3, 0.3, 3.0)))
        if chance < 0.05:
            self.disturb()

    def addressed(self, envelope: m.Envelope) -> tuple[bytes, m.Envelope]:
        raise NotImplementedError

    def sent(self, effect: Send, envelope: m.Envelope) -> None:
        raise NotImplementedError

    def perform(self, effect: Effect) -> None:
        """Do what it asks for."""

    def disturb(self) -> None:
        """Something else than a message happens."""


class CoordinatorVictim(Victim):
    """Two clients and two workers, on four connections, and a journal."""

    def __init__(self, author: Author) -> None:
        super().__init__(author)
        rng = author.rng
        settings = CoordinatorSettings("coo", "1", client_grace=2.0, result_cache=100_000)
        self.core = CoordinatorCore(settings, self.now, JournalState() if rng.random() < 0.5 else None)
        self.peers = {source: Peer(source) for source in (b"c", b"d", b"w", b"v")}
        self.greetings = 0
        for source in self.peers:
            self.greet(source)
        self.turn()

    def greet(self, source: bytes) -> None:
        hello: Any = self.author.client_hello() if source in b"cd" else self.author.worker_hello()
        who = source.decode()
        hello = dataclasses.replace(hello, **{"client" if source in b"cd" else "worker": who})
        if isinstance(hello, m.WorkerHello):
            hello = dataclasses.replace(hello, slots=2, peer_timeout=10.0)
        self.greetings += 1
        self.peers[source].link = Link(f"greeting {self.greetings}", self.now, 0.0)
        self.handle(Received(source, self.peers[source].link.outside(hello, self.now)))

    def addressed(self, envelope: m.Envelope) -> tuple[bytes, m.Envelope]:
        message = envelope.message
        if isinstance(message, m.Submit) and message.tasks and self.rng.random() < 0.9:
            source = b"d" if message.tasks[0].id.startswith("d") else b"c"
        elif self.rng.random() < 0.6:  # the right role, so that it goes deeper
            of_clients = (
                m.Submit,
                m.Watch,
                m.ResultReply,
                m.Cancel,
                m.Query,
                m.ResubmissionComplete,
                m.ClientHello,
            )
            source = self.rng.choice(
                (b"c", b"d") if isinstance(envelope.message, of_clients) else (b"w", b"v")
            )
        else:
            source = self.rng.choice(list(self.peers))
        if isinstance(envelope.message, (m.ClientHello, m.WorkerHello)):
            self.greetings += 1
            self.peers[source].link = Link(f"greeting {self.greetings}", self.now, 0.0)
            return source, self.peers[source].link.outside(envelope.message, self.now)
        return source, self.peers[source].wrapped(self.rng, envelope, self.now)

    def sent(self, effect: Send, envelope: m.Envelope) -> None:
        peer = self.peers.get(effect.destination)
        if peer is None or envelope.session != peer.link.session:
            return
        if isinstance(envelope.message, m.Welcome):
            peer.link.session = envelope.message.session
        elif isinstance(envelope.message, m.Reset):
            peer.link.session = ""  # as the core has it until it is greeted again
        else:
            peer.link.receive(envelope, self.now)
            if isinstance(envelope.message, m.Assign):
                self.author.assigned.extend((task.id, task.attempt) for task in envelope.message.tasks)

    def turn(self, after: float = 0.0) -> None:
        super().turn(after)
        for source, peer in self.peers.items():
            if self.rng.random() < (0.01 if peer.link.session else 0.3):
                self.greet(source)

    def perform(self, effect: Effect) -> None:
        if isinstance(effect, WriteJournal):
            load_entry(dump_entry(effect.entry, 0.0), 0.0)
            good = self.rng.random() < 0.9
            number = effect.number
            self.pending.append(JournalWritten(number) if good else JournalFailed(number, "full"))

    def disturb(self) -> None:
        source = self.rng.choice(list(self.peers))
        self.handle(
            self.rng.choice((Unreachable(source), Rejected(source, "bad"), Rejected(b"x", "bad", True)))
        )
        if self.rng.random() < 0.05:
            self.now += 40.0  # everybody is lost
        elif self.rng.random() < 0.01:
            self.handle(DrainRequested())


class Upstream(Victim):
    """What a client and a worker have in common: one session, with a coordinator."""

    def __init__(self, author: Author) -> None:
        super().__init__(author)
        self.peer = Peer()
        self.number = 0

    def addressed(self, envelope: m.Envelope) -> tuple[bytes, m.Envelope]:
        return b"", self.peer.wrapped(self.rng, envelope, self.now)

    def sent(self, effect: Send, envelope: m.Envelope) -> None:
        if isinstance(envelope.message, (m.ClientHello, m.WorkerHello)):
            if self.rng.random() < 0.8:
                self.number += 1
                session = f"session {self.number}"
                welcome = m.Welcome("coo", "1", 4, 50, 1 << 20, session)
                link = Link(envelope.session, self.now, 0.0)
                self.pending.append(Received(b"", link.outside(welcome, self.now)))
                self.peer.link = Link(session, self.now, 0.0)
        elif envelope.session == self.peer.link.session:
            self.peer.link.receive(envelope, self.now)


class ClientVictim(Upstream):
    def __init__(self, author: Author) -> None:
        super().__init__(author)
        hello = dataclasses.replace(self.author.client_hello(), peer_timeout=10.0)
        self.core = ClientCore(hello, self.rng, self.now, reconnect_timeout=100.0)
        self.submitted = 0
        self.disturb()
        self.turn()
        self.turn()

    def disturb(self) -> None:
        self.submitted += 1
        functions = [m.FunctionDef(key, "f", b"blob") for key in KEYS]
        fresh: Any = [f"c-{n}" for n in range(8) if f"c-{n}" not in self.core.pending][:3]
        bodies = [self.author.task().body._replace(function=KEYS[0], initializer=None) for _ in fresh]
        tasks = [m.TaskSpec(task, body) for task, body in zip(fresh, bodies, strict=True)]
        self.handle(SubmitRequested(tasks, functions))
        self.handle(WatchRequested([self.author.id()]))
        self.handle(CancelRequested([self.author.id()], self.rng.random() < 0.5))
        self.handle(QueryRequested(self.submitted, "status"))
        self.handle(
            ResultReplyRequested(self.author.many(self.author.outcome), self.author.many(self.author.id))
        )
        self.handle(Unreachable(b""))
        if self.rng.random() < 0.02:
            self.handle(DrainRequested())


class WorkerVictim(Upstream):
    """Its slots come up, run what they are given, and die now and then."""

    def __init__(self, author: Author) -> None:
        super().__init__(author)
        settings: Any = WorkerSettings("w", "w", "1", "3", "host", 1, 2, {"gpu": 1.0}, stop_grace=0.5)  # type: ignore[arg-type]
        self.core = WorkerCore(settings, self.rng, self.now)
        self.turn()
        self.turn()

    def perform(self, effect: Effect) -> None:
        rng = self.rng
        if isinstance(effect, SpawnSlot):
            self.pending.append(SlotReady(effect.slot, 1))
        elif isinstance(effect, RunTasks):
            for task in effect.tasks:
                if rng.random() < 0.7:
                    outcome = SlotOutcome(task.number, rng.choice((0, 0, 1, 9)), b"r", 0.001)
                    self.pending.append(SlotFinished(effect.slot, [outcome]))
        elif isinstance(effect, SignalSlot):
            self.pending.append(SlotExited(effect.slot, 1, None, "SIGKILL", 1, "", 0, -1))

    def disturb(self) -> None:
        if not self.core.slots:
            return
        slot, rng = self.rng.choice(list(self.core.slots)), self.rng
        event = rng.choice(
            (
                SlotExited(slot, 1, None, "SIGKILL", 1, "", 0, -1),
                SlotReturned(slot, [1, 2, 3]),
                SlotPrinted(slot, [(1, 1, "text")]),
                SlotBlocked(slot, rng.random() < 0.5),
                Unreachable(b""),
                DrainRequested() if rng.random() < 0.1 else Tick(),
            )
        )
        self.handle(event)
