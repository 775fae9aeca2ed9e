"""Peers with a key that is known, in sessions that are open, who send nonsense over real sockets.

Message n of an insider is the same for the same seed, but for what only the coordinator can know: the name of the
session, the numbers in it, and the tasks that a worker was given.

After each burst comes an echo: a sign of life in a session that nobody has, which a coordinator answers with a Reset in
that name. So it is known what it has taken, and who is not listened to any more.
"""

from __future__ import annotations

import dataclasses
import os
import random
import time
from collections import Counter, deque
from typing import Any

import zmq

from fuzzing.author import Author
from fuzzing.vandal import Frames, Vandal
from jobrunner.errors import ProtocolError
from jobrunner.protocol.link import Link
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.codec import NUMBERS, decode, encode
from jobrunner.protocol.wire.ids import TaskId, bound
from jobrunner.transport.curve import Credentials, to_z85

LATEST = 2**53
"""Of greetings: none is taken for one that was delivered late."""

PATIENCE = 0.5
"""Seconds after which what should have been answered counts as lost: a connection that is cut may lose the reason. If
it was only late, nothing is lost but a connection."""

SLOWEST_MS = 500
"""How long a message may wait for room."""

FITTING: dict[str, dict[type, float]] = {
    "client": {
        m.Submit: 6, m.Cancel: 2, m.Query: 2, m.Watch: 2, m.ResultReply: 2, m.ResubmissionComplete: 1, m.Heartbeat: 1,
        m.Goodbye: 0.1, m.ClientHello: 0.3,
    },
    "worker": {
        m.Outcomes: 6, m.Running: 2, m.TasksReturned: 2, m.CancelRefused: 2, m.Capacity: 1, m.Output: 2, m.Heartbeat: 1,
        m.Drain: 0.1, m.Goodbye: 0.1, m.WorkerHello: 0.3, m.ClientHello: 0.1,
    },
    "observer": {m.Query: 4, m.ResubmissionComplete: 1, m.Heartbeat: 1, m.Goodbye: 0.1, m.ClientHello: 0.3},
}  # fmt: skip
"""How often each role sends what it may send; now and then it sends anything."""

OBSERVERS = ["o", "p", "q"]


class Insider:
    """One connection at a time, in a session whenever the coordinator lets it have one.

    `damage` is the share of messages that are damaged; the others are well-formed nonsense. With a `mark`, no more
    messages than that wait here to be sent, or to be read.
    """

    def __init__(
        self,
        address: str,
        credentials: Credentials,
        role: str,
        number: int,
        seed: str,
        damage: float = 0.7,
        mark: int = 0,
    ) -> None:
        self.role = role
        self.taken: Counter[str] = Counter()
        """What was sent, and what became of it."""
        self.errors: Counter[str] = Counter()
        """Why it was refused."""
        self._settled = True
        """The last burst has been taken, or will never be."""
        self._address = address
        self._credentials = credentials
        self._seed = f"{seed}/{role}/{number}"
        self._damage = damage
        self._mark = mark
        self._rng = random.Random()
        self._author = author = Author(self._rng, credentials.key)
        observers = [bound(name, credentials.key) for name in OBSERVERS]
        names = {"client": author.clients, "worker": author.workers, "observer": observers}[role]
        self._names = names[number:] + names[:number]
        self._vandal = Vandal(self._rng)
        self._assigned: deque[tuple[Any, int]] = deque(maxlen=8)
        self._context = zmq.Context.instance()
        self._number = self._greetings = 0
        self._refusable = 0
        """Messages of the last burst that cannot be decoded."""
        self._echo: str | None = None
        self._connect()

    @property
    def name(self) -> Any:
        """The id under which it greets at present."""
        return self._names[0]

    # --- the connection and the session ---

    def _connect(self) -> None:
        """With an identity of its own, so that the coordinator knows nothing of it."""
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        for option in (zmq.SNDHWM, zmq.RCVHWM):
            self.socket.setsockopt(option, self._mark)
        self.socket.setsockopt(zmq.SNDTIMEO, SLOWEST_MS)
        self.socket.setsockopt(zmq.IDENTITY, os.urandom(12))
        self.socket.curve_serverkey = to_z85(self._credentials.server)
        self.socket.curve_publickey, self.socket.curve_secretkey = map(to_z85, self._credentials.pair)
        self.socket.connect(self._address)
        self.taken["connections"] += 1
        self._greet()

    def _reconnect(self) -> None:
        self.socket.close(linger=0)
        self._settled = True
        self._connect()

    def _greet(self) -> None:
        """Ask for a session, in order and in good form."""
        who = self.name
        self._rng.seed(f"{self._seed}/greeting")
        hello: Any = self._author.worker_hello() if self.role == "worker" else self._author.client_hello()
        if isinstance(hello, m.WorkerHello):
            hello = dataclasses.replace(
                hello, worker=who, slots=2, peer_timeout=10.0, serial=LATEST, resources={"gpu": 1.0}
            )
        else:
            hello = dataclasses.replace(hello, client=who, peer_timeout=10.0, serial=LATEST)
        self._ask(hello)

    def _ask(self, hello: Any) -> None:
        now = time.monotonic()
        self._greetings += 1
        self.link = Link(f"greeting {self._greetings} {os.urandom(4).hex()}", now, 0.0)
        self.open = False
        self._asked = now
        self.send(encode(self.link.outside(hello, now)))

    def ready(self) -> bool:
        """Whether the session is open. If it does not come, ask again under another name: some are taken."""
        self._receive()
        if not self.open and time.monotonic() > self._asked + PATIENCE:
            self.taken["greetings without an answer"] += 1
            self._names.append(self._names.pop(0))
            self._reconnect()
        return self.open

    # --- nonsense ---

    def burst(self, count: int) -> None:
        self._refusable = 0
        for _ in range(count):
            self.send(self._dressed(*self.next_message()))
        self.taken["messages"] += count
        self._echo = f"echo {self._number} {os.urandom(4).hex()}"
        self._settled = False
        self._asked = time.monotonic()
        self.send(encode(m.Envelope(self._echo, 0, 0, m.Heartbeat())))

    def flood(self, messages: list[m.Message]) -> None:
        """As fast as they are taken, and without a look at what becomes of them."""
        for message in messages:
            self.send(encode(self.link.send(message, 0.0)))
        self.taken["messages"] += len(messages)

    def next_message(self) -> tuple[Frames, m.Envelope | None]:
        """Its frames, and what they mean; None: nothing."""
        self._number += 1
        self._rng.seed(f"{self._seed}/{self._number}")
        weights = FITTING[self.role]
        if self._rng.random() < 0.05:
            weights = dict.fromkeys(NUMBERS, 1.0)
        message = self._author.message(self._rng.choices(list(weights), list(weights.values()))[0])
        if isinstance(message, m.Submit) and self._rng.random() < 0.95:
            message.tasks = [t._replace(id=self._own_id(at)) for at, t in enumerate(message.tasks)]
        frames: Frames = encode(m.Envelope("s", self._rng.randrange(4), self._rng.randrange(4), message))
        if self._rng.random() < self._damage:
            frames = self._vandal.damaged(frames)
        try:
            return frames, decode(frames)
        except ProtocolError:
            return frames, None

    def _own_id(self, at: int) -> TaskId:
        """Every other one is new; the others are those that other messages name, too."""
        chance, number = self._rng.random(), self._rng.randrange(8)
        return TaskId(f"{self._names[0]}-{number if chance < 0.5 else 10 * self._number + at}")

    def _dressed(self, frames: Frames, envelope: m.Envelope | None) -> Frames:
        """As a message of the present session, most of the time, so that it gets past the first gate."""
        rng, now = self._rng, time.monotonic()
        if envelope is None:
            self.taken["not decodable"] += 1
            self._refusable += 1
            return frames
        self.taken[type(envelope.message).__name__] += 1
        message = envelope.message
        if isinstance(message, (m.ClientHello, m.WorkerHello)):
            self.link = Link(f"odd greeting {self._number} {os.urandom(4).hex()}", now, 0.0)
            return encode(self.link.outside(message, now))
        if isinstance(message, m.Outcomes) and self._assigned:
            message.outcomes = [self._of_own_task(outcome) for outcome in message.outcomes]
        chance = rng.random()
        if chance < 0.85:
            return encode(self.link.send(message, now))
        if chance < 0.95:
            return encode(self.link.outside(message, now))
        if chance < 0.96:  # whatever has come before in its session may have ended that
            return encode(dataclasses.replace(self.link.send(message, now), session=""))
        return encode(dataclasses.replace(envelope, session=self.link.session))

    def _of_own_task(self, outcome: m.Outcome) -> m.Outcome:
        """Of a task that it really has, every other time."""
        if self._rng.random() < 0.5:
            return outcome
        task, attempt = self._rng.choice(self._assigned)
        return outcome._replace(id=task, attempt=attempt)

    def send(self, frames: Frames) -> None:
        try:
            self.socket.send_multipart(frames or [b""])
        except zmq.Again:  # it is not read from any more
            self.taken["not sent"] += 1

    # --- what the coordinator says ---

    def has_settled(self) -> bool:
        """Whether the coordinator has taken the last burst, or never will."""
        self._receive()
        if not self._settled and time.monotonic() > self._asked + PATIENCE:
            self.taken["bursts without an answer"] += 1
            self._reconnect()
        return self._settled

    def _receive(self) -> None:
        while self.socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
            self._take(decode(self.socket.recv_multipart()))

    def _take(self, envelope: m.Envelope) -> None:
        message = envelope.message
        if isinstance(message, m.Refused):
            self.errors[f"{message.kind}: {message.error[:60]}"] += 1
            self.taken["times refused"] += 1
            if "use the same version" not in message.error:  # else it means that one message
                if not self.open:
                    self._names.append(self._names.pop(0))
                self._reconnect()
        elif envelope.session == self._echo:
            self.taken["certainly rejected"] += self._refusable
            self._settled = True
            self._echo = None
        elif envelope.session == self.link.session:
            if isinstance(message, m.Welcome):
                self.open = True
                self.link.session = message.session
                self.taken["sessions"] += 1
            elif isinstance(message, m.Reset):
                self.taken["times reset"] += 1
                self._greet()
            else:
                self._listen(envelope)

    def _listen(self, envelope: m.Envelope) -> None:
        """Take it in order, as everybody does, else the coordinator would say it over and over."""
        received, _ = self.link.receive(envelope, time.monotonic())
        for message in received:
            if isinstance(message, m.Assign):
                self._assigned.extend((task.id, task.attempt) for task in message.tasks)
                self.taken["tasks given to it"] += len(message.tasks)
            elif isinstance(message, m.Outcomes):
                self.taken["outcomes given to it"] += len(message.outcomes)

    def close(self) -> None:
        self.socket.close(linger=0)
