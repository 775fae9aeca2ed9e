"""The effects of one event, collected in the order in which the coordinator's parts cause them."""

from __future__ import annotations

from jobrunner.protocol.coordinator.peers import Peer
from jobrunner.protocol.coordinator.rejections import Visitors, printable
from jobrunner.protocol.effects import Effect, Log, Send, Source
from jobrunner.protocol.wire import messages as m


class Outgoing:
    """`begin` with each event; `effects` are the ones of the event that is being handled."""

    def __init__(self) -> None:
        self.effects: list[Effect] = []
        self._visitors = Visitors()

    def begin(self) -> None:
        self.effects = []

    def add(self, effect: Effect) -> None:
        self.effects.append(effect)

    def send(self, peer: Peer, message: m.Message, now: float, size: int = 0) -> None:
        """A message within the peer's session; `size` is that of its payloads, in bytes."""
        self.effects.append(Send(peer.source, peer.link.send(message, now, size)))

    def reply(self, source: Source, session: str, message: m.Message) -> None:
        """A message outside of the order of a session: a welcome, a refusal, a reset."""
        self.effects.append(Send(source, m.Envelope(session, 0, 0, message)))

    def log_about(self, peer: Peer, level: str, text: str, now: float) -> None:
        """Log what a peer does, but not without end: see `rejections.Visitors`."""
        line = self._visitors.line(peer.who.key, peer.who.name, text, now)
        if line:
            self.log(level, line)

    def log(self, level: str, text: str) -> None:
        self.effects.append(Log(level, printable(text)))
