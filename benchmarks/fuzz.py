"""Messages that no jobrunner would send: is each one refused, or taken without harm?

    python benchmarks/fuzz.py                              # a million messages, about ten minutes
    python benchmarks/fuzz.py --messages 20000 --seed 7
    python benchmarks/fuzz.py --seed 7 --only 12           # the thirteenth round of that run again, alone

Valid messages of every type are damaged (bytes flipped, cut, spliced; frames doubled and dropped; values replaced by
those of other types and sizes; counts that promise more than there is) or left as they are, and decoded. What can be
decoded is given to a coordinator, a client and a worker in the middle of their work, most of it under the next number
of an open session: outcomes of tasks that nobody has, attempts of the future, messages of another role. The law:

- decoding raises ProtocolError and nothing else;
- a core raises nothing, its invariants hold, and whatever it answers can be encoded and decoded again;
- memory stays flat.

A round is a thousand messages and fresh cores. Exit code 1, and the message, where the law is broken. Needs psutil.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import random
import statistics
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import msgpack
import psutil

from jobrunner.errors import ProtocolError
from jobrunner.ids import ClientId, task_id
from jobrunner.journal import dump_entry, load_entry
from jobrunner.protocol import messages as m
from jobrunner.protocol.client_core import ClientCore
from jobrunner.protocol.codec import INLINE_LIMIT, NUMBERS, VERSION, decode, encode
from jobrunner.protocol.coordinator_core import CoordinatorCore, CoordinatorSettings
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
    SupplyRequested,
    Tick,
    Unreachable,
    WatchRequested,
    WriteJournal,
)
from jobrunner.protocol.journal import JournalState
from jobrunner.protocol.link import Link
from jobrunner.protocol.worker_core import WorkerCore, WorkerSettings

ROUND = 1000
"""Messages per set of cores."""

Frames = list[Any]

KEYS = [b"key %d" % n for n in range(3)]
CLIENTS = ["c", "d", "gone"]
WORKERS = ["w", "v", "lost"]
IDS = [f"{client}-{number}" for client in CLIENTS for number in range(8)] + ["", "nobody-1", "-", "c"]
WORDS = [
    "",
    "a",
    "f",
    "w",
    "status",
    "workers",
    "tasks",
    "task",
    "cancel",
    "drain",
    "forget",
    "ü\ud800",
    "x" * 256,
]
ARGUMENTS = [*IDS, *WORDS, "queued 5", " -1", "running 99999999999999999999", "c-1 queued", "a" * 70_000]


# --- valid messages -----------------------------------------------------------------------------------------------


class Author:
    """Writes valid messages of every type, about the few tasks, functions and peers that the cores know too."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.assigned: deque[tuple[Any, int]] = deque(maxlen=8)
        """Tasks that the coordinator has given away, and the attempts."""

    def many(self, make: Callable[[], Any], most: int = 4) -> list[Any]:
        return [make() for _ in range(self.rng.randrange(most + 1))]

    def id(self) -> Any:
        return self.rng.choice(IDS)

    def key(self) -> bytes:
        return self.rng.choice(KEYS) if self.rng.random() < 0.95 else b"never sent"

    def attempt(self) -> int:
        return self.rng.choice((1, 1, 1, 1, 2, 2, 3, 4, 2**31 - 1))

    def word(self) -> str:
        return self.rng.choice(WORDS)

    def seconds(self) -> float:
        return self.rng.choice((0, 0.0, 0.001, 0.5, 3.0, 1e9, 1.7e308))

    def count(self) -> int:
        return self.rng.choice((0, 1, 2, 3, 10, 1000, 2**31, 2**53))

    def payload(self) -> Any:
        kind = self.rng.random()
        if kind < 0.8:
            return b"p" * self.rng.randrange(30)
        return (b"frame",) * self.rng.randrange(1, 4) if kind < 0.97 else bytes(INLINE_LIMIT + 1)

    def span(self) -> Any:
        return self.rng.choice((None, None, None, (0, 3), (2, 4), (0, 2**53)))

    def options(self) -> m.TaskOptions:
        rng = self.rng
        if rng.random() < 0.5:
            return m.DEFAULT_OPTIONS
        return m.TaskOptions(
            rng.choice((None, "named")),
            rng.choice((0, 1, -1, -(2**31), 2**31 - 1)),
            rng.choice((0, 0, 1, 2**31 - 1)),
            rng.choice((None, None, 0.0, 1.0, 1.7e308)),
            tuple((rng.choice(("gpu", "disk")), self.seconds()) for _ in range(rng.choice((0, 0, 0, 1, 2)))),
            rng.random() < 0.2,
            rng.choice((None, b"classes")),
            rng.random() < 0.5,
            rng.choice((None, 0.0, 1.7e308)),
            rng.random() < 0.2,
        )

    def function(self) -> m.FunctionDef:
        return m.FunctionDef(self.key(), self.word(), b"blob")

    def task(self) -> m.TaskSpec:
        rng = self.rng
        needs = tuple(self.many(self.id, 2)) if rng.random() < 0.2 else ()
        setup = self.key() if rng.random() < 0.1 else None
        return m.TaskSpec(
            self.id(), self.key(), self.payload(), self.span(), self.options(), setup, self.count(), needs
        )

    def tasks(self) -> list[m.TaskSpec]:
        """Of one client, as a rule."""
        tasks, client = self.many(self.task), self.rng.choice(CLIENTS[:2])
        if self.rng.random() < 0.1:
            return tasks
        return [t._replace(id=task_id(ClientId(client), self.rng.randrange(8))) for t in tasks]

    def assignment(self) -> m.Assignment:
        t = self.task()
        values = tuple(self.payload() for _ in t.needs)
        return m.Assignment(t.id, self.attempt(), t.function, *t[2:7], values)

    def detail(self) -> Any:
        rng = self.rng
        facts: dict[str, Any] = {
            "error": self.word(),
            "final": rng.random() < 0.5,
            "stderr": "last words\n",
            "element": self.count(),
            "attempts": ("one", "two"),
            "need": self.id(),
            "need_status": rng.randrange(9),
            "need_detail": rng.choice((None, {"error": "e"})),
            "new": ({"a": (1, b"x")},),
        }
        return {name: facts[name] for name in rng.sample(list(facts), rng.randrange(len(facts)))}

    def outcome(self) -> m.Outcome:
        rng = self.rng
        detail = self.detail() if rng.random() < 0.4 else None
        status = rng.choices(range(8), (6, 6, 3, 3, 3, 0.2, 0.2, 0.2))[0]
        task, attempt = self.id(), self.attempt()
        if self.assigned and rng.random() < 0.4:
            task, attempt = rng.choice(self.assigned)
        return m.Outcome(task, attempt, status, self.payload(), self.seconds(), detail)

    def client_hello(self) -> m.ClientHello:
        who: Any = self.rng.choice(CLIENTS)
        return m.ClientHello(who, "1", "3", self.word(), 1, self.rng.choice((0.05, 1.0, 3600.0)), True, 0)

    def worker_hello(self) -> m.WorkerHello:
        rng = self.rng
        who: Any = rng.choice(WORKERS)
        resources = {"gpu": self.seconds()} if rng.random() < 0.5 else {}
        held = self.many(lambda: m.Held(self.id(), self.attempt(), rng.random() < 0.5))
        slots = rng.choice((1, 2, 2**20))
        return m.WorkerHello(
            who,
            "1",
            "3",
            self.word(),
            self.word(),
            1,
            rng.choice((0.05, 1.0, 3600.0)),
            slots,
            resources,
            held,
            0,
        )

    def message(self, kind: type) -> m.Message:
        rng, ids, functions = self.rng, self.many(self.id), self.many(self.function)
        made: dict[type, Callable[[], m.Message]] = {
            m.ClientHello: self.client_hello,
            m.WorkerHello: self.worker_hello,
            m.Welcome: lambda: m.Welcome(
                "coo", "1", self.count(), 1 + self.count() % 99, 1 << 20, self.word()
            ),
            m.Submit: lambda: m.Submit(self.tasks(), functions, self.many(self.key, 1)),
            m.Reconciled: m.Reconciled,
            m.Cancel: lambda: m.Cancel(self.many(lambda: m.CancelRequest(self.id(), rng.random() < 0.5))),
            m.CancelRefused: lambda: m.CancelRefused(ids),
            m.Query: lambda: m.Query(self.count(), self.word(), rng.choice(ARGUMENTS)),
            m.Reply: lambda: m.Reply(self.count(), self.detail(), self.word()),
            m.Assign: lambda: m.Assign(self.many(self.assignment), functions),
            m.Forget: lambda: m.Forget(self.many(self.key)),
            m.Outcomes: lambda: m.Outcomes(self.many(self.outcome)),
            m.Running: lambda: m.Running(ids),
            m.Returned: lambda: m.Returned(self.many(lambda: (self.id(), self.attempt()))),
            m.Capacity: lambda: m.Capacity(self.count()),
            m.Output: lambda: m.Output(
                self.many(lambda: m.OutputChunk(self.id(), "f", rng.choice((1, 2)), self.word()))
            ),
            m.Drain: m.Drain,
            m.Goodbye: lambda: m.Goodbye(self.word()),
            m.Heartbeat: m.Heartbeat,
            m.Reset: m.Reset,
            m.Refused: lambda: m.Refused(self.word()),
            m.Join: lambda: m.Join(self.word(), self.word(), self.word()),
            m.Joined: lambda: m.Joined(self.word()),
            m.Watch: lambda: m.Watch(ids),
            m.Accepted: lambda: m.Accepted(ids),
            m.Recall: lambda: m.Recall(ids),
            m.Supply: lambda: m.Supply(self.many(self.outcome), ids),
        }
        return made[kind]()

    def envelope(self) -> m.Envelope:
        kind = self.rng.choices(list(NUMBERS), SHARES)[0]
        return m.Envelope("s", self.rng.randrange(4), self.rng.randrange(4), self.message(kind))


BUSY = (m.Submit, m.Outcomes, m.Assign, m.Running, m.Returned, m.Cancel, m.CancelRefused, m.Watch, m.Supply)
ENDING = (m.Goodbye, m.Reset, m.Refused, m.Drain, m.ClientHello, m.WorkerHello)
SHARES = [5.0 if kind in BUSY else 0.3 if kind in ENDING else 1.0 for kind in NUMBERS]
"""How often messages of each type are sent: those that end something less often, for the rest to go deep."""


# --- damage -------------------------------------------------------------------------------------------------------


ODD: list[Any] = [
    None, True, 0, 1, -1, 2**31, 2**53, 2**53 + 1, 10**18, 2**63, 2**64 - 1, -(2**63), 0.0, -1.0, 1e308,
    float("nan"), float("inf"), float("-inf"), "", "x", "x" * 257, "x" * 5000, "c-1", b"", b"key 0", bytes(300),
    (), ((),), ((((((),),),),),), (1, 2), {}, {"a": 1}, {"error": 1}, {"a": {"b": {"c": ()}}}, (None,) * 100,
]  # fmt: skip
CLAIMS = [
    b"\xdd\xff\xff\xff\xff",
    b"\xdc\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xdb\x7f\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\x91" * 700,
]


ALIKE: dict[type, list[Any]] = {
    int: [0, 1, 2, 3, 4, 5, 6, 7, 2**20, 2**31 - 1, 2**31, 2**53],
    float: [0.0, 1e-9, 1.0, 1e300],
    str: [*IDS, *WORDS],
    bytes: [b"", *KEYS, b"never sent"],
    bool: [False, True],
    type(None): [(0, 1), b"key 1", 1.0, {}],
}
"""Values that may pass for the one that they replace."""


DEEP = b"stands for what is too deep to be written by msgpack"
ODD += [DEEP, DEEP, {"error": "deep", "new": DEEP}]


def replaced(rng: random.Random, value: Any) -> Any:
    """The same with one value, somewhere in it, that is another."""
    if type(value) in ALIKE and rng.random() < 0.5:
        return rng.choice(ALIKE[type(value)])
    if isinstance(value, (list, tuple)) and value and rng.random() < 0.85:
        items = list(value)
        match rng.random():
            case x if x < 0.85:
                at = rng.randrange(len(items))
                items[at] = replaced(rng, items[at])
            case x if x < 0.9:
                del items[rng.randrange(len(items))]
            case x if x < 0.95:
                items.append(rng.choice(items))
            case _:
                rng.shuffle(items)
        return items
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        return {**value, key: replaced(rng, value[key])}
    return rng.choice(ODD)


class Vandal:
    """Damages the frames of a message, once or a few times."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.before: Frames = [b""]
        """An earlier message, to be spliced with."""
        self.kinds: list[Callable[[Frames], Frames]] = [
            self.flip, self.cut, self.grow, self.splice, self.claim, self.double_frame, self.drop_frame,
            self.replace, self.replace, self.replace, self.replace, self.noise,
        ]  # fmt: skip

    def damaged(self, frames: Frames) -> Frames:
        original = frames
        for _ in range(self.rng.choice((1, 1, 1, 2, 3))):
            frames = self.rng.choice(self.kinds)(list(frames) or [b""])
        self.before = original
        return frames

    def flip(self, frames: Frames) -> Frames:
        at = self.rng.randrange(len(frames))
        frame = bytearray(frames[at]) or bytearray(1)
        for _ in range(self.rng.randrange(1, 4)):
            frame[self.rng.randrange(len(frame))] = self.rng.randrange(256)
        frames[at] = bytes(frame)
        return frames

    def cut(self, frames: Frames) -> Frames:
        frames[0] = frames[0][: self.rng.randrange(len(frames[0]) + 1)]
        return frames

    def grow(self, frames: Frames) -> Frames:
        frames[0] = bytes(frames[0]) + self.rng.randbytes(self.rng.randrange(1, 9))
        return frames

    def splice(self, frames: Frames) -> Frames:
        other = bytes(self.before[0])
        mine, theirs = self.rng.randrange(len(frames[0]) + 1), self.rng.randrange(len(other) + 1)
        return [bytes(frames[0][:mine]) + other[theirs:], *frames[1:]]

    def claim(self, frames: Frames) -> Frames:
        at = self.rng.randrange(len(frames[0]) + 1)
        claims = self.rng.choice(CLAIMS) * self.rng.choice((1, 1, 300))
        frames[0] = bytes(frames[0][:at]) + claims + bytes(frames[0][at:])
        return frames

    def double_frame(self, frames: Frames) -> Frames:
        at = self.rng.randrange(len(frames))
        frames.insert(at, frames[at])
        return frames

    def drop_frame(self, frames: Frames) -> Frames:
        del frames[self.rng.randrange(len(frames))]
        return frames

    def noise(self, frames: Frames) -> Frames:
        return [self.rng.randbytes(self.rng.randrange(60)) for _ in range(self.rng.randrange(3))]

    def replace(self, frames: Frames) -> Frames:
        try:
            head = msgpack.unpackb(frames[0], unicode_errors="surrogatepass", strict_map_key=False)
            start = 5 if self.rng.random() < 0.8 and len(head) > 5 else 1
            head = [*head[:start], *replaced(self.rng, head[start:] or [0])]
            packed: bytes = msgpack.packb(head, unicode_errors="surrogatepass")
            levels = self.rng.choice((20, 40, 600, 1000))
            return [packed.replace(msgpack.packb(DEEP), b"\x91" * levels + b"\xc0"), *frames[1:]]
        except (ValueError, TypeError, msgpack.UnpackException):
            return frames  # what has been damaged before has no values any more


# --- the victims --------------------------------------------------------------------------------------------------


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
            of_clients = (m.Submit, m.Watch, m.Supply, m.Cancel, m.Query, m.Reconciled, m.ClientHello)
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
            peer.link.session = "lost"
        else:
            peer.link.receive(envelope, self.now)
            if isinstance(envelope.message, m.Assign):
                self.author.assigned.extend((task.id, task.attempt) for task in envelope.message.tasks)

    def turn(self, after: float = 0.0) -> None:
        super().turn(after)
        for source, peer in self.peers.items():
            if peer.link.session == "lost" or self.rng.random() < 0.01:
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
        tasks = [self.author.task()._replace(id=task, function=KEYS[0], setup=None) for task in fresh]
        self.handle(SubmitRequested(tasks, functions))
        self.handle(WatchRequested([self.author.id()]))
        self.handle(CancelRequested([self.author.id()], self.rng.random() < 0.5))
        self.handle(QueryRequested(self.submitted, "status"))
        self.handle(SupplyRequested(self.author.many(self.author.outcome), self.author.many(self.author.id)))
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


# --- the run ------------------------------------------------------------------------------------------------------


class LawBroken(Exception):
    """What was sent, to whom, and what happened."""


class Round:
    """A thousand messages, the same for the same seed."""

    def __init__(self, seed: str, every: int = 20) -> None:
        self.rng = random.Random(seed)
        self.every = every
        """Messages between two looks at the invariants."""
        self.author = Author(self.rng)
        self.vandal = Vandal(self.rng)
        self.kinds: list[type[Victim]] = [CoordinatorVictim, ClientVictim, WorkerVictim]
        self.victims = [kind(self.author) for kind in self.kinds]
        self.taken: Counter[str] = Counter()
        """What was done with the messages."""

    def run(self, messages: int = ROUND) -> None:
        for number in range(messages):
            frames: Frames = encode(self.author.envelope())
            if self.rng.random() < 0.7:
                frames = self.vandal.damaged(frames)
            self.taken["messages"] += 1
            try:
                envelope = decode(frames)
            except ProtocolError:
                self.taken["refused"] += 1
                continue
            except BaseException as exc:
                raise LawBroken(f"message {number}, decode: {describe(frames)}") from exc
            self.taken["decoded"] += 1
            self.taken[type(envelope.message).__name__] += 1
            for index, victim in enumerate(self.victims):
                try:
                    victim.attack(envelope)
                    if number % self.every == 0:
                        victim.turn()
                        victim.core.check_invariants()
                    if victim.ended:
                        self.victims[index] = self.kinds[index](self.author)
                        self.taken["cores that ended"] += 1
                except BaseException as exc:
                    who = type(victim).__name__
                    raise LawBroken(f"message {number}, {who}: {envelope!r:.1500}") from exc


def describe(frames: Frames) -> str:
    return f"{[bytes(frame)[:200] for frame in frames]} (version {VERSION})"


def flat(samples: list[float]) -> bool:
    """Whether the last quarter is no higher than the second one, but for a tenth and 10 MB."""
    quarter = len(samples) // 4
    if quarter < 3:
        return True
    before, after = statistics.median(samples[quarter : 2 * quarter]), statistics.median(samples[-quarter:])
    return after <= 1.1 * before + 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--only", type=int, help="a round to run alone")
    arguments = parser.parse_args()
    rounds = range(max(1, arguments.messages // ROUND))
    if arguments.only is not None:
        rounds = range(arguments.only, arguments.only + 1)
    total: Counter[str] = Counter()
    memory: list[float] = []
    process = psutil.Process()
    began = time.monotonic()
    for number in rounds:
        round_ = Round(f"{arguments.seed}/{number}")
        try:
            round_.run()
        except LawBroken as exc:
            traceback.print_exception(exc)
            print(f"\nagain: python benchmarks/fuzz.py --seed {arguments.seed} --only {number}")
            return 1
        total += round_.taken
        if number % 5 == 4:
            del round_
            gc.collect()
            memory.append(process.memory_info().rss / 1e6)
        if number % 50 == 49:
            rate = total["messages"] / (time.monotonic() - began)
            print(f"{total['messages']:,} messages, {rate:,.0f} a second, {memory[-1]:.0f} MB", flush=True)
    for name, count in total.most_common():
        print(f"{name:20} {count:12,}")
    if memory:
        print(f"memory, MB: first {memory[0]:.0f}, highest {max(memory):.0f}, last {memory[-1]:.0f}")
    if not flat(memory):
        print("memory has grown")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
