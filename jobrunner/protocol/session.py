"""The opening side of a session: greet the coordinator until it answers, keep the link alive, notice its loss.

Used by the client's and the worker's core alike. A session ends when the coordinator does not know it (Reset), falls
silent, or says goodbye; the next one starts at once and then with growing, jittered pauses, so that a thousand peers do
not all knock at the same moment.

Time in which this process itself stood still (see `LATE`) is no silence of the coordinator's, nor a part of the time
that it has for its first answer.
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
"""Seconds until the second greeting."""

RETRY_LIMIT = 5.0
"""Longest pause between two greetings, in seconds."""

COORDINATOR = b""
"""The destination of everything that a client or worker sends."""


class Session:
    """`hello` makes the greeting, from what is true at that moment and the number of the session that it asks for."""

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
        """Why the coordinator will never accept this peer; empty if it might."""
        self.refusal_kind = "ProtocolError"
        """The name of the error for that."""
        self.seeking_since = now
        """Since when there has been no session; later by as much as this process has stood still since."""
        self.loss = ""
        """Why there is no session; empty if nothing has ever come from the coordinator."""
        self._pause = FIRST_RETRY
        self._greet_at = now
        self._serial = 0
        self.ran_at = now
        """When the last turn was."""

    def runs(self, now: float) -> None:
        """A turn begins, and none of its events has been handled: `next_deadline` says when it should have come."""
        if now - self.ran_at > LATE:  # else it cannot be late by as much, whatever was planned
            planned = self.next_deadline()
            late = 0.0 if planned is None else now - max(planned, self.ran_at)
            if late > LATE:
                self.link.stood_still(late, now)
                self.seeking_since += late
        self.ran_at = now

    def begin(self, now: float) -> None:
        """End the present session, if any, and greet as soon as `due` is asked."""
        if self.open:
            self.seeking_since = now
        self.open = False
        self._serial += 1
        self.link = Link(f"{self._rng.getrandbits(64):016x}", now, self._peer_timeout)
        self._pause = FIRST_RETRY
        self._greet_at = now

    def send(self, message: Message, now: float, size: int = 0) -> Effect:
        """Only while the session is open."""
        return Send(COORDINATOR, self.link.send(message, now, size))

    def receive(self, envelope: Envelope, now: float) -> tuple[list[Message], list[Message]]:
        """Messages in order, and ours that were acknowledged. A Welcome among them means: newly open."""
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
            self.open = True
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
        """There is no connection, and will be none unless something changes there."""
        if event.refused:
            self._refuse(event.reason, "AuthenticationError")
        elif not self.open:
            self.loss = event.reason

    def _refuse(self, reason: str, kind: str) -> None:
        self.refusal, self.refusal_kind = reason, kind
        self.open, self.loss = False, reason  # also where it had accepted this peer before

    def abandon(self, reason: str, now: float) -> None:
        """What the coordinator says makes no sense in this session. A new one may; but not at once, over and over."""
        self._lose(reason, now)
        self._greet_at = now + self._jittered(RETRY_LIMIT / 2)

    def unreachable(self, now: float) -> None:
        self.link.retransmit_soon(now)

    def due(self, now: float) -> list[Effect]:
        """Greetings, heartbeats, repetitions."""
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
