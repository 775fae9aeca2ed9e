"""The opening side of a session: it greets the coordinator, keeps the link alive, and notices its loss.

The client's and the worker's core both use it. A session ends when the coordinator does not know it (Reset), falls
silent, or says goodbye. The next session starts at once, and then with growing, jittered pauses, so that a thousand
peers do not all greet at the same moment.

Time in which this process itself stood still (see `LATE`) does not count as silence of the coordinator, and does not
shorten the coordinator's time for its first answer.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from jobrunner.protocol.deadlines import earliest
from jobrunner.protocol.effects import Effect, HandshakeFailed, Send
from jobrunner.protocol.link import LATE, Link
from jobrunner.protocol.wire.messages import (
    Envelope,
    Goodbye,
    Message,
    Refused,
    Reset,
    Welcome,
)

FIRST_RETRY = 0.25
"""Time in seconds until the second greeting."""

RETRY_LIMIT = 5.0
"""Maximum pause between two greetings, in seconds."""

COORDINATOR = b""
"""The destination of everything that a client or worker sends."""


class Session:
    """A session; `hello` returns the greeting for the present state and the given number of the session."""

    def __init__(
        self,
        hello: Callable[[int], Message],
        rng: random.Random,
        now: float,
        peer_timeout: float,
    ) -> None:
        self._hello = hello
        self._rng = rng
        self._peer_timeout = peer_timeout
        self.link = Link("", now, peer_timeout)
        self.open = False
        self.welcome: Welcome | None = None
        self.refusal = ""
        """The reason why the coordinator will never accept this peer; empty if it may."""
        self.refusal_kind = "ProtocolError"
        """The name of the error for `refusal`."""
        self.seeking_since = now
        """The time since which there has been no session, plus the time in which this process has stood still
        since."""
        self.loss = ""
        """The reason why there is no session; empty if the coordinator has never sent anything."""
        self.has_other_keys = False
        """Whether something answers at the address that did not prove the key of the cluster."""
        self._pause = FIRST_RETRY
        self._greet_at = now
        self._serial = 0
        self.ran_at = now
        """The time of the last turn."""

    def runs(self, now: float) -> None:
        """Note the beginning of a turn, before its events are handled.

        `next_deadline` is the time at which it was due.
        """
        if now - self.ran_at > LATE:  # else it cannot be late by as much, whatever was planned
            planned = self.next_deadline()
            late = 0.0 if planned is None else now - max(planned, self.ran_at)
            if late > LATE:
                self.link.stood_still(late, now)
                self.seeking_since += late
        self.ran_at = now

    def begin(self, now: float) -> None:
        """End the present session, if there is one, and greet at the next call of `due`."""
        if self.open:
            self.seeking_since = now
        self.open = False
        self._serial += 1
        self.link = Link(f"{self._rng.getrandbits(64):016x}", now, self._peer_timeout)
        self._pause = FIRST_RETRY
        self._greet_at = now

    def send(self, message: Message, now: float, size: int = 0) -> Effect:
        """Return the effect that sends a message; the session must be open."""
        return Send(COORDINATOR, self.link.send(message, now, size))

    def receive(self, envelope: Envelope, now: float) -> tuple[list[Message], list[Message]]:
        """Return the messages in order, and our messages that were acknowledged; a Welcome means a new session."""
        message = envelope.message
        if type(message) is Refused:
            self._refuse(message.error, message.kind)
            return [], []
        if envelope.session != self.link.session:
            return [], []
        if type(message) is Reset:
            self._lose("it does not know this session (it was restarted, or took this peer for lost)", now)
            return [], []
        if not self.open:
            if type(message) is not Welcome or envelope.seq:
                return [], []  # sent again, after the Welcome, which is outside the stream
            self.open, self.has_other_keys = True, False
            self.welcome = message
            self.link.session = message.session
        elif type(message) is Welcome:
            return [], []
        messages, acked = self.link.receive(envelope, now)
        if any(type(message) is Goodbye for message in messages):
            self._lose("it has stopped", now)
            self._greet_at = now + self._jittered(RETRY_LIMIT / 2)
        return messages, acked

    def handshake_failed(self, event: HandshakeFailed) -> None:
        """Note that the handshake has failed, and will fail until something changes at the coordinator."""
        if event.refused:
            self._refuse(event.reason, "AuthenticationError")
        elif not self.open:
            self.loss, self.has_other_keys = event.reason, True

    def _refuse(self, reason: str, kind: str) -> None:
        self.refusal, self.refusal_kind = reason, kind
        self.open, self.loss = False, reason  # also where it had accepted this peer before

    def abandon(self, reason: str, now: float) -> None:
        """Give up this session, in which the coordinator sends senseless messages, and open a new one after a pause."""
        self._lose(reason, now)
        self._greet_at = now + self._jittered(RETRY_LIMIT / 2)

    def unreachable(self, now: float) -> None:
        self.link.retransmit_soon(now)

    def due(self, now: float) -> list[Effect]:
        """Return the greetings, heartbeats and repetitions that are due."""
        if self.open:
            if self.link.silent(now):
                # The greeting comes with the next turn: before, its author takes back what was not acknowledged.
                self._lose(f"it has been silent for {now - self.link.last_heard:.0f} s", now)
                return []
            return [Send(COORDINATOR, envelope) for envelope in self.link.due(now)]
        if now < self._greet_at or self.refusal:
            return []
        if not self.link.session:
            self.begin(now)
        self._greet_at = now + self._jittered(self._pause)
        self._pause = min(self._pause * 2, RETRY_LIMIT)
        return [Send(COORDINATOR, self.link.outside(self._hello(self._serial), now))]

    def next_deadline(self) -> float | None:
        if not self.open:
            return None if self.refusal else self._greet_at
        lost_at = self.link.last_heard + self._peer_timeout if self._peer_timeout else None
        return earliest((self.link.next_deadline(), lost_at))

    def _lose(self, reason: str, now: float) -> None:
        if self.open:
            self.loss = reason
        self.begin(now)

    def _jittered(self, pause: float) -> float:
        return pause * self._rng.uniform(0.75, 1.25)
