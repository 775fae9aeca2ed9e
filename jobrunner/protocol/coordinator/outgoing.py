"""The effects of one event, collected in the order in which the coordinator's parts cause them."""

from __future__ import annotations

from jobrunner.protocol.coordinator.peers import Peer
from jobrunner.protocol.coordinator.rejections import Visitors, printable
from jobrunner.protocol.effects import Effect, Log, Send, Source
from jobrunner.protocol.wire import messages as m


class Outgoing:
    """The effects of the event that is being handled; `begin` is called for each event."""

    def __init__(self) -> None:
        self.effects: list[Effect] = []
        self._visitors = Visitors()

    def begin(self) -> None:
        self.effects = []

    def add(self, effect: Effect) -> None:
        self.effects.append(effect)

    def send(self, peer: Peer, message: m.Message, now: float, size: int = 0) -> None:
        """Send a message within the peer's session; `size` is that of its payloads in bytes."""
        self.effects.append(Send(peer.source, peer.link.send(message, now, size)))

    def reply(self, source: Source, session: str, message: m.Message) -> None:
        """Send a message outside of the order of a session: a welcome, a refusal or a reset."""
        self.effects.append(Send(source, m.Envelope(session, 0, 0, message)))

    def log_about(self, peer: Peer, level: str, text: str, now: float) -> None:
        """Log an action of a peer, within limits, see `rejections.Visitors`."""
        line = self._visitors.line(peer.who.key, peer.who.name, text, now)
        if line:
            self.log(level, line)

    def log(self, level: str, text: str) -> None:
        self.effects.append(Log(level, printable(text)))
