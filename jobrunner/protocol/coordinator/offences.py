"""Peers that send unacceptable messages: each offence is noted, and a peer that continues is disconnected."""

from __future__ import annotations

from collections.abc import Mapping

from jobrunner.protocol.coordinator.outgoing import Outgoing
from jobrunner.protocol.coordinator.peers import ClientSession, Peer, WorkerSession
from jobrunner.protocol.coordinator.rejections import Rejections
from jobrunner.protocol.effects import Event, JoinAnswered, Received, Rejected, Source
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.principals import Principal


class Offences:
    """The offences of peers. `peers` are the sessions by their connections."""

    def __init__(self, out: Outgoing, peers: Mapping[Source, Peer]) -> None:
        self._out = out
        self._peers = peers
        self._rejections = Rejections()
        self._intolerable: dict[Source, None] = {}
        self._speaker: Principal | None = None
        """The sender of the message, or of the question, that is being handled.

        It is ANYONE also for a key that may not connect any more, and None if the event is neither.
        """

    @property
    def count(self) -> int:
        """The number of all rejected messages: malformed ones, and those that their author may not send."""
        return self._rejections.count

    def begin(self, event: Event) -> None:
        """Note the event that is handled from now on."""
        if isinstance(event, (Received, Rejected)):
            self._speaker = event.who
        else:
            self._speaker = event.request.who if isinstance(event, JoinAnswered) else None

    def note(self, source: Source, reason: str, now: float) -> None:
        peer = self._peers.get(source)
        speaker = self._speaker
        foreign = peer is not None and speaker is not None and speaker.key != peer.who.key
        if foreign:
            peer = None  # a peer is not to blame for what somebody else sends in its name
        if isinstance(peer, WorkerSession):
            who = f"worker {peer.name} on {peer.hello.host}"
        elif isinstance(peer, ClientSession):
            who = f"client {peer.id} on {peer.hello.host}"
        else:
            who = f"connection {source[:4].hex()}"  # the whole name would suffice to take the connection over
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
        """Return the connections to close, because they continued to send unacceptable messages."""
        if not self._intolerable:
            return []
        intolerable, self._intolerable = list(self._intolerable), {}
        return intolerable

    def log_due(self, now: float) -> None:
        """Log the number of repeated offences of those peers whose minute is over."""
        for line in self._rejections.due(now):
            self._out.log("warning", line)

    def next_deadline(self) -> float | None:
        return self._rejections.next_deadline()
