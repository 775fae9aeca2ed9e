"""Peers that send what cannot be taken: each offence is noted, and who goes on is cut off."""

from __future__ import annotations

from collections.abc import Mapping

from jobrunner.protocol.coordinator.outgoing import Outgoing
from jobrunner.protocol.coordinator.peers import ClientSession, Peer, WorkerSession
from jobrunner.protocol.coordinator.rejections import Rejections
from jobrunner.protocol.effects import Event, JoinAnswered, Received, Rejected, Source
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.principals import Principal


class Offences:
    """Who is to blame for a message that cannot be taken. `peers` are the sessions by their connections."""

    def __init__(self, out: Outgoing, peers: Mapping[Source, Peer]) -> None:
        self._out = out
        self._peers = peers
        self._rejections = Rejections()
        self._intolerable: dict[Source, None] = {}
        self._speaker: Principal | None = None
        """Who sent the message, or asked for the answer, that is being handled: ANYONE also for a key that may not
        connect any more. None if the event is neither."""

    @property
    def count(self) -> int:
        """Messages that were ever rejected: malformed, or not what their author may send."""
        return self._rejections.count

    def begin(self, event: Event) -> None:
        """This event is handled from now on."""
        if isinstance(event, (Received, Rejected)):
            self._speaker = event.who
        else:
            self._speaker = event.request.who if isinstance(event, JoinAnswered) else None

    def note(self, source: Source, reason: str, now: float) -> None:
        peer = self._peers.get(source)
        speaker = self._speaker
        foreign = peer is not None and speaker is not None and speaker.key != peer.who.key
        if foreign:
            peer = None  # who has that connection is not to blame for what somebody else says in its name
        if isinstance(peer, WorkerSession):
            who = f"worker {peer.name} on {peer.hello.host}"
        elif isinstance(peer, ClientSession):
            who = f"client {peer.id} on {peer.hello.host}"
        else:
            who = f"connection {source[:4].hex()}"  # the whole name would do to take it over
        key = peer.who.key if peer is not None else "" if speaker is None else speaker.key
        label = key.encode() or source
        for line in self._rejections.note(label, who, reason, now, known=bool(key)):
            self._out.log("warning", line)
        if self._rejections.intolerable(label) and not foreign:
            self._intolerable[source] = None

    def refuse(self, source: Source, session: str, error: str, now: float) -> None:
        self.note(source, error, now)
        self._out.reply(source, session, m.Refused(error, "AuthenticationError"))

    def take_intolerable(self) -> list[Source]:
        """Connections to be cut off, because they went on sending what cannot be taken."""
        if not self._intolerable:
            return []
        intolerable, self._intolerable = list(self._intolerable), {}
        return intolerable

    def log_due(self, now: float) -> None:
        """Log how often offences were repeated, for those whose minute is over."""
        for line in self._rejections.due(now):
            self._out.log("warning", line)

    def next_deadline(self) -> float | None:
        return self._rejections.next_deadline()
