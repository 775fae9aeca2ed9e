"""A malicious peer that has a key; and the law about names and rights.

It knows the names of all clients and workers and the short ids of all tasks, as any observer does. It also knows the
messages of others and the names of their connections, which is more than it could know. It has nobody else's key, and
does not use the last part of a task's id, which gives the right to the task.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from jobrunner.protocol.effects import Received, Rejected, Revoked, Source
from jobrunner.protocol.link import Link
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.codec import decode, encode
from jobrunner.protocol.wire.ids import ClientId, TaskId, bound, task_id
from jobrunner.protocol.wire.principals import CLIENT, OBSERVER, WORKER, Principal
from jobrunner.testing.simulation.watch import Watch

if TYPE_CHECKING:
    from jobrunner.testing.simulation.nodes import PeerNode
    from jobrunner.testing.simulation.world import World

PAUSE = 0.1
"""Maximum time in seconds between two of its moves."""

LATENCY = 0.0003
"""Latency of its messages in seconds."""

LATEST = 2**40
"""A session's number that is higher than any that its owner has asked for."""

MAX_NUMBERS = 30
"""Maximum number of tasks of each client whose ids it guesses."""

FLOOD = 120
"""Number of messages of a kind that a coordinator does not tolerate from one peer."""

WRONG = "1"
"""The last part of the ids that it invents; all real ids in a simulation have another one."""


def forged(ids: list[TaskId]) -> list[m.Outcome]:
    return [m.Outcome(each, 1, m.OK, b"forged") for each in ids]


Word: TypeAlias = "Callable[[list[TaskId]], m.Message]"

HARMLESS: tuple[Word, ...] = (
    m.Watch,
    lambda ids: m.Cancel([m.CancelRequest(each, True) for each in ids]),
    lambda ids: m.ResultReply(forged(ids), []),
    lambda ids: m.ResultReply([], ids),
    lambda ids: m.ResubmissionComplete(),
)
"""Messages that a client may send, whatever follows."""

OFFENCES: tuple[Word, ...] = (
    lambda ids: m.Submit([m.TaskSpec(ids[0], m.CallBody(b"function", b""))], []),
    lambda ids: m.Outcomes(forged(ids)),
    lambda ids: m.Goodbye(),
)
"""Messages that end its session."""


class Attacker:
    """The attacker. All its moves are drawn from the seed, by a generator of its own."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self._rng = random.Random(f"attacker {number} of {world.seed}")
        self.name = f"attacker{number}"
        self._joined = 0
        self._serial = 0
        self.over = False
        self.who = self._new_key()
        self._links: dict[Source, Link] = {}
        """By connection, its sessions that are open or requested."""
        self.moves = 0
        self.refusals = 0
        """Number of times that it was told that a name is not its own, or that it may not do something."""
        self._arrange()

    def _new_key(self) -> Principal:
        """Join the cluster in some role.

        Sometimes the attacker has a key with which another client's calls were submitted and which is an observer's
        now.
        """
        self._joined += 1
        clients = self._world.clients
        if clients and self._rng.random() < 0.2:
            return self._rng.choice(clients).who._replace(role=OBSERVER)
        role = self._rng.choice((CLIENT, CLIENT, OBSERVER, OBSERVER, WORKER))
        return Principal(f"{self.name}-key-{self._joined}", self.name, role)

    def _arrange(self) -> None:
        self._world.at(self._world.now + self._rng.uniform(0, PAUSE), self._move)

    def _move(self) -> None:
        if not self.over:
            self._rng.choice(
                (
                    self.pounce,
                    *[self._greet_as_itself] * 2,
                    *[self._speak] * 8,
                    self._replay,
                    self._speak_as_another,
                    self._join_again,
                )
            )()
            self._arrange()

    def stop(self) -> None:
        """Leave the cluster."""
        for source, link in self._links.items():
            self._send(source, link.send(m.Goodbye(), self._world.now))
        self.over = True

    # --- what it does ---

    def pounce(self, *, at_once: bool = False) -> None:
        """Greet under names of others: at any time, and before all others when a coordinator has been started."""
        for node in self._rng.sample(self._honest(), min(3, len(self._honest()))):
            self._greet(self._hello_as(node), at_once=at_once)

    def _greet_as_itself(self) -> None:
        name = self._rng.choice(("me", "myself"))
        self._greet(self._client_hello(ClientId(bound(name, self.who.key))))

    def _speak(self) -> None:
        """Ask, in a session of its own, for things that are not its own."""
        if not self._links:
            self._greet_as_itself()
            return
        source, link = self._rng.choice(list(self._links.items()))
        for _ in range(self._rng.randint(1, 5)):
            ids = self._guesses()
            draw = self._rng.random()
            if draw < 0.5 or (not self.who.submits and draw < 0.95):
                query = self._rng.choice(("status", "workers", "tasks", "task", "cancel", "forget", "drain"))
                argument = {"tasks": " 1000", "drain": "w0"}.get(query, self._rng.choice(ids))
                message: m.Message = m.Query(1, query, argument)
            else:
                message = self._rng.choice(HARMLESS if draw < 0.9 else OFFENCES)(list(ids))
            self._send(source, link.send(message, self._world.now))

    def _replay(self) -> None:
        """Repeat, on a connection of its own, messages of others."""
        captured = self._world.network.captured
        for _, frames in self._rng.sample(captured, min(3, len(captured))):
            self._send(self._connection(), decode(frames))

    def _linger(self, source: Source, link: Link) -> None:
        """Continue in a session that has ended and has no name any more: leave, and then send more.

        The coordinator handles all of it at once, because the message that it must handle first arrives last.
        """
        link.session = ""
        words = (m.Goodbye(), *[word(list(self._guesses())) for word in HARMLESS])
        for envelope in reversed([link.send(word, self._world.now) for word in words]):
            self._send(source, envelope)

    def _speak_as_another(self) -> None:
        """Send in somebody else's session, on a connection with that peer's name; seldom without end.

        The names of connections are secrets, and one that the coordinator does not know could be anybody's. So this is
        about a name that it knows: a message on a connection is its holder's only if the key is.
        """
        if not self._world.network.captured:
            return
        source, frames = self._rng.choice(list(self._world.network.captured))
        envelope = decode(frames)
        node = self._world.peers[source]
        if node.who.key == self.who.key:
            return  # a peer with the same key may do so
        goodbye = m.Envelope(node.core.session.link.session, 0, 0, m.Goodbye())
        for _ in range(FLOOD if self._rng.random() < 0.05 else 1):
            for said in (envelope, goodbye):
                self._send(source, said)

    def _join_again(self) -> None:
        """Join with another key and the same names, because its key was revoked or has become worthless."""
        old, self.who = self.who, self._new_key()
        if old.key not in {node.who.key for node in self._honest()} and self._world.coordinator is not None:
            self._world.coordinator.post(Revoked(old.key))
        if self._rng.random() < 0.5:
            self._greet(self._client_hello(ClientId(bound("me", old.key))))

    # --- what it says ---

    def _honest(self) -> list[PeerNode[Any]]:
        return [*self._world.clients, *self._world.workers]

    def _hello_as(self, node: PeerNode[Any]) -> m.Message:
        if node in self._world.clients and (self.who.role != WORKER or self._rng.random() < 0.5):
            return self._client_hello(ClientId(node.own_id))
        names = [worker.core.settings.id for worker in self._world.workers]
        return m.WorkerHello(
            self._rng.choice(names), "1", "3", "w0", "host", 1, 10.0, 4, {}, [], serial=LATEST
        )

    def _client_hello(self, client: ClientId) -> m.ClientHello:
        within = self._rng.choice((None, *self._guesses()))
        return m.ClientHello(client, "1", "3", "host", 1, 10.0, serial=LATEST + self._serial, within=within)

    def _guesses(self) -> tuple[TaskId, ...]:
        """Return ids of tasks, as far as it can know them."""
        if not self._world.clients:
            return (TaskId("nobody-1-1"),)
        client = ClientId(self._rng.choice(self._world.clients).own_id)
        whole = task_id(client, self._rng.randint(1, MAX_NUMBERS), WRONG)
        return whole, TaskId(whole.rpartition("-")[0])

    # --- connections ---

    def _connection(self) -> Source:
        """Return a new connection."""
        self._serial += 1
        source = f"{self.name}/{self._serial}".encode()
        self._world.network.strangers[source] = self._hear
        return source

    def _greet(self, hello: m.Message, *, at_once: bool = False) -> None:
        source = self._connection()
        link = self._links[source] = Link(f"{source.decode()} greets", self._world.now, 0.0)
        self._send(source, link.outside(hello, self._world.now), at_once=at_once)

    def _send(self, source: Source, envelope: m.Envelope, *, at_once: bool = False) -> None:
        who = self.who
        self.moves += 1
        frames = [bytes(frame) for frame in encode(envelope)]

        def arrive() -> None:
            coordinator = self._world.coordinator
            if coordinator is None or (
                source in self._world.peers and source not in coordinator.core.sessions.peers
            ):
                return
            if who.key == self.who.key:
                coordinator.post(Received(source, decode(frames), who))
            else:
                coordinator.post(Rejected(source, "its key may not connect (any more)"))

        self._world.note(f"{self.name} ({who.role})", "says", (source, envelope))
        if at_once:
            arrive()
        else:
            self._world.at(self._world.now + LATENCY, arrive)

    def _hear(self, source: Source, envelope: m.Envelope) -> None:
        """Take a message from a coordinator."""
        check_told(self._world, self.name, envelope)
        message = envelope.message
        link = self._links.get(source)
        if isinstance(message, m.Refused):
            self.refusals += 1
            self._links.pop(source, None)
        elif link is None or envelope.session != link.session:
            return
        elif isinstance(message, m.Welcome):
            link.session = message.session
            self._send(source, link.send(m.ResubmissionComplete(), self._world.now))
        elif isinstance(message, m.Reset):
            self._linger(source, self._links.pop(source))
        else:
            link.receive(envelope, self._world.now)


# --- the law ------------------------------------------------------------------------------------------------------

TOLD_TO_OTHERS = (m.Welcome, m.Refused, m.Reset, m.Reply, m.Capacity, m.Heartbeat, m.CancelRefused, m.Goodbye)
"""The messages that a peer to which nothing belongs may receive, if it asks."""


def check_told(world: World, name: str, envelope: m.Envelope) -> None:
    """Check that a peer is told nothing of tasks to which it has no right: no whole id, no result, no output."""
    message = envelope.message
    told = f"{name} is told {message!r:.300}"
    if isinstance(message, m.Outcomes):  # those of ids that it has invented
        whole = [o for o in message.outcomes if o.id in world.truth.expected or o.status == m.OK]
        world.truth.check(not whole, told)
    else:
        world.truth.check(isinstance(message, TOLD_TO_OTHERS), told)
    rights = re.search(r"[cn]\d+[0-9a-f]{16}-\d+-0(?!\d)", repr(message))
    world.truth.check(rights is None, f"{told}, with a whole id")


class NameWatch(Watch):
    """A watch for peers that are known under somebody else's name, or whose name leads to another connection."""

    interval = 0.001

    def _check(self) -> None:
        world = self._world
        coordinator = world.coordinator
        if coordinator is None:
            return
        scheduler = coordinator.core.scheduler
        nodes: list[PeerNode[Any]] = [*world.clients, *world.nested, *world.workers]
        owners = {node.own_id: node for node in nodes}
        known: list[tuple[str, Source, str]] = [
            (c.id, c.source, c.who.key) for c in scheduler.roster.clients.values()
        ]
        known += [(w.id, w.source, w.who.key) for w in scheduler.roster.workers.values()]
        for name, source, key in known:
            node = owners.get(name)
            if node is None:
                world.truth.check(source not in world.peers, f"{source!r} is known as {name}, not as itself")
            else:
                own = source in (b"", node.source) and key == node.who.key
                world.truth.check(own, f"{name} is known as {source!r} with {key}, it is {node.source!r}")
