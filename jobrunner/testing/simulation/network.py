"""The network between the coordinator and its peers: every message passes the codec, and may have an accident.

A channel is one direction of one peer's connection, named by the peer's `source`. Without faults it is a TCP
connection: in order and complete. Faults are drawn per message from `Conditions`, or come as partitions: a channel that
is cut loses its messages, or holds them back until it is mended.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobrunner.protocol.effects import Received, Source
from jobrunner.protocol.session import COORDINATOR
from jobrunner.protocol.wire.codec import Frames, decode, encode
from jobrunner.protocol.wire.messages import Envelope

if TYPE_CHECKING:
    from jobrunner.testing.simulation.world import World

CAPTURED = 20
"""Number of messages that are kept for peers that would repeat them."""


@dataclass
class Conditions:
    """The behaviour of the network, with probabilities per message; `latency` and `jitter` are in seconds."""

    latency: float = 0.0003
    jitter: float = 0.0
    """The mean of an additional delay, which is exponentially distributed."""
    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    """The probability that a message does not wait for the ones before it."""
    late: float = 0.0
    """The probability that a message is delayed by up to `latest` seconds."""
    latest: float = 20.0
    unreachable: float = 0.0
    """The probability that the transport loses a message to a living peer, and reports that."""
    silent: float = 0.0
    """The probability that it reports nothing about a message to a dead peer."""

    @property
    def perfect(self) -> bool:
        return not (self.drop or self.duplicate or self.reorder or self.late or self.unreachable)

    def heal(self) -> None:
        self.drop = self.duplicate = self.reorder = self.late = self.unreachable = 0.0


class Channel:
    """One direction of a connection."""

    __slots__ = ("cut", "held", "last", "seqs")

    def __init__(self) -> None:
        self.last = 0.0
        """The time when the last message in order arrives."""
        self.cut = ""
        """The state: empty if it is open, "drop" or "hold" while it is partitioned."""
        self.held: list[Callable[[], None]] = []
        self.seqs: dict[str, int] = {}
        """By session, the highest number sent; messages with lower numbers are repetitions."""


class Network:
    """All channels, and the number of messages that went through them."""

    def __init__(self, world: World, conditions: Conditions) -> None:
        self.world = world
        self.conditions = conditions
        self.last_cut = -math.inf
        """The time when a way was last cut."""
        self._channels: dict[tuple[Source, bool], Channel] = {}
        self.strangers: dict[Source, Callable[[Source, Envelope], None]] = {}
        """Connections of peers that do not belong here, with their listeners."""
        self.captured: deque[tuple[Source, Frames]] = deque(maxlen=CAPTURED)
        """The latest messages to the coordinator, for peers that would repeat them."""
        self._waiting: list[tuple[Source, Frames]] = []
        """Messages that the peers' sockets keep until there is a coordinator again."""
        self.sent = 0
        self.kinds: dict[str, int] = {}
        self.repeated = 0
        self.unreachable = 0

    def channel(self, source: Source, up: bool) -> Channel:
        channel = self._channels.get((source, up))
        if channel is None:
            channel = self._channels[source, up] = Channel()
        return channel

    # --- sending ---

    def to_coordinator(self, source: Source, envelope: Envelope) -> None:
        frames = self._pack(source, True, envelope)
        self.captured.append((source, frames))
        self._carry(source, True, lambda: self._arrive_up(source, frames))

    def to_peer(self, source: Source, envelope: Envelope) -> bool:
        """Send a message to a peer; return False if the transport reports that it cannot be reached."""
        if source in self.strangers:
            listen, taken = self.strangers[source], decode([bytes(frame) for frame in encode(envelope)])
            self.world.at(self.world.now + self.conditions.latency, lambda: listen(source, taken))
            return True
        frames = self._pack(source, False, envelope)
        world, conditions = self.world, self.conditions
        node = world.peers.get(source)
        gone = node is None or not node.alive
        if gone or (conditions.unreachable and world.rng.random() < conditions.unreachable):
            if gone and conditions.silent and world.rng.random() < conditions.silent:
                return True
            self.unreachable += 1
            world.note("network", "unreachable", source)
            return False
        self._carry(source, False, lambda: self._arrive_down(source, frames))
        return True

    def _pack(self, source: Source, up: bool, envelope: Envelope) -> Frames:
        self.sent += 1
        kind = type(envelope.message).__name__
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        channel = self.channel(source, up)
        if envelope.seq:
            if envelope.seq <= channel.seqs.get(envelope.session, 0):
                self.repeated += 1
            else:
                channel.seqs[envelope.session] = envelope.seq
        self.world.note(f"{source.decode()} {'->' if up else '<-'}", "sends", envelope)
        return [bytes(frame) for frame in encode(envelope)]

    def _carry(self, source: Source, up: bool, arrive: Callable[[], None]) -> None:
        channel, conditions, rng = self.channel(source, up), self.conditions, self.world.rng
        if channel.cut == "hold":
            channel.held.append(arrive)
            return
        if channel.cut == "drop":
            return
        if conditions.perfect:
            self._deliver(channel, arrive, True)
            return
        if rng.random() < conditions.drop:
            self.world.note("network", "drops it", source)
            return
        copies = 2 if rng.random() < conditions.duplicate else 1
        for _ in range(copies):
            self._deliver(channel, arrive, rng.random() >= conditions.reorder)

    def _deliver(self, channel: Channel, arrive: Callable[[], None], in_order: bool) -> None:
        world, conditions = self.world, self.conditions
        delay = conditions.latency
        if conditions.jitter:
            delay += world.rng.expovariate(1 / conditions.jitter)
        if conditions.late and world.rng.random() < conditions.late:
            world.at(world.now + world.rng.uniform(0, conditions.latest), arrive)
            return
        at = world.now + delay
        if in_order:
            at = channel.last = max(at, channel.last + 1e-7)
        world.at(at, arrive)

    # --- arriving ---

    def _arrive_up(self, source: Source, frames: Frames) -> None:
        coordinator = self.world.coordinator
        if coordinator is None:
            if self.world.rng.random() < 0.5:
                self._waiting.append((source, frames))
            return
        who = self.world.peers[source].who
        coordinator.post(Received(source, decode(frames), who))

    def _arrive_down(self, source: Source, frames: Frames) -> None:
        node = self.world.peers.get(source)
        if node is not None and node.alive:
            node.post(Received(COORDINATOR, decode(frames)))

    # --- faults ---

    def cut(self, source: Source, *, up: bool, down: bool, how: str) -> None:
        self.last_cut = self.world.now
        for direction, wanted in ((True, up), (False, down)):
            if wanted:
                self.channel(source, direction).cut = how

    def mend(self, source: Source) -> None:
        for direction in (True, False):
            channel = self.channel(source, direction)
            channel.cut = ""
            held, channel.held = channel.held, []
            for arrive in held:
                self._deliver(channel, arrive, True)

    def coordinator_is_back(self) -> None:
        waiting, self._waiting = self._waiting, []
        for source, frames in waiting:
            self._arrive_up(source, frames)

    def heal(self) -> None:
        self.conditions.heal()
        for source in dict.fromkeys(source for source, _ in self._channels):
            self.mend(source)
