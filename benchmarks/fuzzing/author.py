"""Valid messages of every type, about a few tasks, functions and peers."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

from jobrunner.config import MAX_AMOUNT
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.codec import INLINE_LIMIT, NUMBERS
from jobrunner.protocol.wire.ids import TaskId, bound
from jobrunner.protocol.wire.kinds import SINGLE_CALL, Chunk, Kind

KEYS = [b"key %d" % n for n in range(3)]
CLIENTS = ["c", "d", "gone"]
WORKERS = ["w", "v", "lost"]


def ids_of(clients: list[str]) -> list[str]:
    return [f"{client}-{number}" for client in clients for number in range(8)] + ["", "nobody-1", "-", "c"]


IDS = ids_of(CLIENTS)
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


class Author:
    """Writes valid messages of every type, about the few tasks, functions and peers that the cores know too."""

    def __init__(self, rng: random.Random, key: str = "") -> None:
        """`key` is the public key under which all of them connect; empty: none."""
        self.rng = rng
        self.clients = [bound(name, key) for name in CLIENTS]
        self.workers = [bound(name, key) for name in WORKERS]
        self._ids = ids_of(self.clients)
        self.assigned: deque[tuple[Any, int]] = deque(maxlen=8)
        """Tasks that the coordinator has given away, and the attempts."""

    def many(self, make: Callable[[], Any], most: int = 4) -> list[Any]:
        return [make() for _ in range(self.rng.randrange(most + 1))]

    def id(self) -> Any:
        return self.rng.choice(self._ids)

    def key(self) -> bytes:
        return self.rng.choice(KEYS) if self.rng.random() < 0.95 else b"never sent"

    def attempt(self) -> int:
        return self.rng.choice((1, 1, 1, 1, 2, 2, 3, 4, 2**31 - 1))

    def word(self) -> str:
        return self.rng.choice(WORDS)

    def seconds(self) -> float:
        return self.rng.choice((0, 0.0, 0.001, 0.5, 3.0, 1e9, 1.7e308))

    def amount(self) -> float:
        return self.rng.choice((0, 0.0, 1e-6, 0.5, 3.0, MAX_AMOUNT))

    def count(self) -> int:
        return self.rng.choice((0, 1, 2, 3, 10, 1000, 2**31, 2**53))

    def payload(self) -> Any:
        kind = self.rng.random()
        if kind < 0.8:
            return b"p" * self.rng.randrange(30)
        return (b"frame",) * self.rng.randrange(1, 4) if kind < 0.97 else bytes(INLINE_LIMIT + 1)

    def kind(self) -> Kind:
        single = SINGLE_CALL
        return self.rng.choice((single, single, single, Chunk(0, 3), Chunk(2, 4), Chunk(0, 2**53)))

    def options(self) -> m.TaskOptions:
        rng = self.rng
        if rng.random() < 0.5:
            return m.DEFAULT_OPTIONS
        return m.TaskOptions(
            rng.choice((None, "named")),
            rng.choice((0, 1, -1, -(2**31), 2**31 - 1)),
            rng.choice((0, 0, 1, 2**31 - 1)),
            rng.choice((None, None, 0.0, 1.0, 1.7e308)),
            tuple((rng.choice(("gpu", "disk")), self.amount()) for _ in range(rng.choice((0, 0, 0, 1, 2)))),
            rng.random() < 0.2,
            rng.choice((None, b"classes")),
            rng.random() < 0.5,
            rng.choice((None, 0.0, 1.7e308)),
            rng.random() < 0.2,
        )

    def function(self) -> m.FunctionDef:
        python = self.rng.choice(("", "", "", "3", "3.11", "3.99", "x"))
        modules = self.rng.choice(((), (), ("numpy",), ("numpy", "torch"), (self.word(),)))
        ships = self.rng.choice(((), (), (), ("numpy",), (self.word(),)))
        blob = self.rng.choice((b"blob", b"blob", (b"frame",), (b"frame", b"")))
        parts = tuple(dict.fromkeys(self.many(self.key, 2))) if self.rng.random() < 0.2 else ()
        return m.FunctionDef(self.key(), self.word(), blob, python, modules, ships, parts)

    def task(self) -> m.TaskSpec:
        rng = self.rng
        depends_on = tuple(self.many(self.id, 2)) if rng.random() < 0.2 else ()
        initializer = self.key() if rng.random() < 0.1 else None
        task = self.id()
        body = m.CallBody(self.key(), self.payload(), self.kind(), self.options(), initializer, self.count())
        return m.TaskSpec(task, body, depends_on)

    def tasks(self) -> list[m.TaskSpec]:
        """Of one client, as a rule."""
        tasks, client = self.many(self.task), self.rng.choice(self.clients[:2])
        if self.rng.random() < 0.1:
            return tasks
        return [t._replace(id=self.new_id(client)) for t in tasks]

    def new_id(self, client: str) -> TaskId:
        """As `ids.task_id` makes them, but by the seed."""
        return TaskId(f"{client}-{self.rng.randrange(8)}-{self.rng.getrandbits(64):016x}")

    def assignment(self) -> m.Assignment:
        t = self.task()
        values = tuple(self.payload() for _ in t.depends_on)
        attempt = self.attempt()
        return m.Assignment(t.id, attempt, t.body, values, self.rng.randrange(attempt))

    def detail(self) -> Any:
        rng = self.rng
        facts: dict[str, Any] = {
            "error": self.word(),
            "final": rng.random() < 0.5,
            "stderr": "last words\n",
            "element": self.count(),
            "running": rng.randrange(4),
            "stop": rng.randrange(4),
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
        status = rng.choices(range(9), (6, 6, 3, 3, 3, 0.2, 0.2, 0.2, 2))[0]
        task, attempt = self.id(), self.attempt()
        if self.assigned and rng.random() < 0.4:
            task, attempt = rng.choice(self.assigned)
        return m.Outcome(task, attempt, status, self.payload(), self.seconds(), detail)

    def client_hello(self) -> m.ClientHello:
        who: Any = self.rng.choice(self.clients)
        return m.ClientHello(
            who, "1", "3", self.word(), 1, self.rng.choice((0.05, 1.0, 3600.0)), True, 0, self.within()
        )

    def within(self) -> Any:
        return self.id() if self.rng.random() < 0.2 else None

    def held(self) -> m.Held:
        attempt = self.attempt()
        return m.Held(self.id(), attempt, self.rng.random() < 0.5, self.rng.randrange(attempt))

    def wait(self) -> m.Wait:
        return m.Wait(self.id(), tuple(self.many(self.id)), self.rng.random() < 0.5)

    def worker_hello(self) -> m.WorkerHello:
        rng = self.rng
        who: Any = rng.choice(self.workers)
        resources = {"gpu": self.amount()} if rng.random() < 0.5 else {}
        held = self.many(self.held)
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
            m.ResubmissionComplete: m.ResubmissionComplete,
            m.Cancel: lambda: m.Cancel(self.many(lambda: m.CancelRequest(self.id(), rng.random() < 0.5))),
            m.CancelRefused: lambda: m.CancelRefused(ids),
            m.Divide: lambda: m.Divide(ids),
            m.Query: lambda: m.Query(self.count(), self.word(), rng.choice(ARGUMENTS)),
            m.Reply: lambda: m.Reply(self.count(), self.detail(), self.word()),
            m.Assign: lambda: m.Assign(self.many(self.assignment), functions, self.word()),
            m.DropFunctions: lambda: m.DropFunctions(self.many(self.key)),
            m.Outcomes: lambda: m.Outcomes(self.many(self.outcome)),
            m.Running: lambda: m.Running(ids),
            m.TasksReturned: lambda: m.TasksReturned(
                self.many(lambda: (self.id(), self.attempt())),
                rng.choice(([], [], ["numpy"], [self.word()])),
                rng.random() < 0.2,
            ),
            m.Capacity: lambda: m.Capacity(self.count()),
            m.Stuck: lambda: m.Stuck(self.word()),
            m.Waits: lambda: m.Waits(self.many(self.wait)),
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
            m.ResultRequest: lambda: m.ResultRequest(ids),
            m.ResultReply: lambda: m.ResultReply(self.many(self.outcome), ids),
        }
        return made[kind]()

    def envelope(self) -> m.Envelope:
        kind = self.rng.choices(list(NUMBERS), SHARES)[0]
        return m.Envelope("s", self.rng.randrange(4), self.rng.randrange(4), self.message(kind))


BUSY = (
    m.Submit,
    m.Outcomes,
    m.Assign,
    m.Running,
    m.TasksReturned,
    m.Cancel,
    m.CancelRefused,
    m.Watch,
    m.ResultReply,
)
ENDING = (m.Goodbye, m.Reset, m.Refused, m.Drain, m.ClientHello, m.WorkerHello)
SHARES = [5.0 if kind in BUSY else 0.3 if kind in ENDING else 1.0 for kind in NUMBERS]
"""How often messages of each type are sent: those that end something less often, for the rest to go deep."""
