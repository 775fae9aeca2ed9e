"""One session's ordered stream of messages: each arrives once and in order, or the session ends.

The law: a message carries a number from 1 upwards (`seq`) and the highest number received so far without a gap
(`ack`). The sender keeps a message until an `ack` covers it; what stays uncovered is sent again. The receiver drops
what it has seen and holds back what came early. Number 0 is outside the stream: greetings, heartbeats, resets.

The transport below is reliable most of the time (TCP), but loses what was under way whenever a connection breaks,
and says nothing. Everything above may therefore rely on this file and need no acknowledgements of its own: an
outcome, say, is "acknowledged" when its message is.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

from jobrunner.config import HEARTBEATS_PER_TIMEOUT
from jobrunner.protocol.deadlines import earliest
from jobrunner.protocol.wire.messages import Envelope, Heartbeat, Message

LATE = 0.5
"""Delay of a turn in seconds beyond which its process counts as having stood still, because it was stopped, starved,
or kept from running by its program; messages that peers sent meanwhile have not been read yet."""

RETRANSMIT_AFTER = 2.0
"""Time in seconds without an acknowledgement after which a message is sent again; it doubles each time, up to
RETRANSMIT_LIMIT."""

RETRANSMIT_LIMIT = 30.0

RETRANSMIT_BATCH = 64
"""Maximum number of messages that are sent again at a time, because if those arrive, the others most likely did, too.
Each further time the number is halved, so that the transport does not store many copies for a peer that sends but does
not read."""

STALLED_AFTER = 600.0
"""Time in seconds without an acknowledgement, beyond the time that the bytes may take, after which a peer that sends
messages is considered not to acknowledge any more."""

SLOWEST_RATE = 4 * 1024 * 1024
"""Minimum rate of a connection in bytes per second, by which the time for an acknowledgement is extended."""

ACK_DELAY = 0.1
"""Maximum time in seconds that an acknowledgement waits for a message that can carry it."""

STALLED_FOR = 60.0
"""Part of STALLED_AFTER, in seconds, in which the peer has sent messages, so that a peer that stood still and
continues has this time to acknowledge."""

EARLY_LIMIT = 256
"""Maximum number of messages held back because an earlier one is missing; further ones are dropped and sent again."""

EARLY_BYTES = 64 * 1024 * 1024
"""Maximum total size in bytes of the messages that are held back, like EARLY_LIMIT; for all links that share an
EarlyBudget together."""


class EarlyBudget:
    """The bytes that one link holds back, or all links of the peers with one key together."""

    __slots__ = ("__weakref__", "held")

    def __init__(self) -> None:
        self.held = 0
        """An upper bound of the size of the messages that the links hold back, in bytes."""


def welcomed(greeting: str, coordinator: str, number: int) -> str:
    """Return the name of a session after its Welcome; `number` counts the sessions of the coordinator.

    The new name prevents a greeting that is delivered late or twice from opening a second stream under the name of one
    that continues, even if the coordinator has been restarted or has given the peer up meanwhile.
    """
    return f"{greeting}/{coordinator}/{number}"


class Link:
    """Both directions of one session, seen from one end.

    `peer_timeout` is the silence, in seconds, after which the peer counts as lost; 0 where it cannot get lost because
    it is in this process. Heartbeats go out several times in that time.
    """

    __slots__ = (
        "_ack_due",
        "_before",
        "_deaf_since",
        "_early",
        "_early_budget",
        "_early_bytes",
        "_heartbeat",
        "_held",
        "_last_sent",
        "_next_seq",
        "_progress_at",
        "_progress_bytes",
        "_repeated",
        "_retransmit_at",
        "_retransmit_wait",
        "_unacked",
        "last_heard",
        "peer_timeout",
        "received",
        "session",
        "unacked_bytes",
    )

    def __init__(
        self, session: str, now: float, peer_timeout: float, early: EarlyBudget | None = None
    ) -> None:
        self.session = session
        self.received = 0
        self.last_heard = now
        self.unacked_bytes = 0
        self.peer_timeout = peer_timeout
        self._heartbeat = peer_timeout / HEARTBEATS_PER_TIMEOUT if peer_timeout else None
        self._next_seq = 1
        self._unacked: deque[tuple[int, Message, int]] = deque()
        self._early: dict[int, Message] = {}
        self._early_bytes = 0
        """An upper bound of the size of `_early` in bytes, and the part of this link in its budget."""
        self._early_budget = EarlyBudget() if early is None else early
        self._ack_due: float | None = None
        self._held: deque[tuple[int, int]] = deque()
        self._before = 0
        """The number of the last message before those that `receive` returned last."""
        self._last_sent = now
        self._retransmit_wait = RETRANSMIT_AFTER
        self._retransmit_at: float | None = None
        self._repeated = 0
        """The number of repetitions since a message was last acknowledged."""
        self._progress_at = now
        """The time since which the present oldest unacknowledged message is the oldest."""
        self._progress_bytes = 0
        """The number of unacknowledged bytes at `_progress_at`; messages sent since are behind it and extend no
        wait."""
        self._deaf_since: float | None = None
        """The time when the peer first sent a message although it had acknowledged nothing for long."""

    @property
    def is_open(self) -> bool:
        """Whether messages of a session may still come."""
        return bool(self.session)

    def close(self) -> None:
        """Take nothing more: the session has ended, whatever its peer may have sent before it heard so."""
        self.session = ""

    def takes(self, envelope: Envelope) -> bool:
        """Return whether an envelope belongs to this session, which is open."""
        return self.session == envelope.session and self.session != ""

    def send(self, message: Message, now: float, size: int = 0) -> Envelope:
        """Number a message of about `size` payload bytes and keep it until it is acknowledged."""
        seq = self._next_seq
        self._next_seq = seq + 1
        if not self._unacked:
            self._progress_at, self._progress_bytes = now, size
        self._unacked.append((seq, message, size))
        self.unacked_bytes += size
        if self._retransmit_at is None:
            self._retransmit_at = now + self._patience()
        return self._envelope(seq, message, now)

    def outside(self, message: Message, now: float) -> Envelope:
        """Return an envelope for a message outside of the ordered stream, which is not repeated."""
        return self._envelope(0, message, now)

    def receive(self, envelope: Envelope, now: float) -> tuple[list[Message], list[Message]]:
        """Return the messages that are now in order, and our messages that the peer has now acknowledged."""
        self.last_heard = now
        acked = self._drop_acked(envelope.ack, now)
        if self._unacked and self._deaf_since is None and now >= self._progress_at + STALLED_AFTER / 2:
            self._deaf_since = now
        seq = envelope.seq
        if seq == 0:
            return [envelope.message], acked
        if self._ack_due is None:
            self._ack_due = now + ACK_DELAY
        if seq != self.received + 1:
            budget = self._early_budget
            full = len(self._early) >= EARLY_LIMIT or budget.held + envelope.size > EARLY_BYTES
            if seq > self.received and seq not in self._early and not full:
                self._early[seq] = envelope.message
                self._early_bytes += envelope.size
                budget.held += envelope.size
            return [], acked
        self._before = self.received
        self.received = seq
        if not self._early:
            return [envelope.message], acked
        messages = [envelope.message]
        while (early := self._early.pop(self.received + 1, None)) is not None:
            self.received += 1
            messages.append(early)
        if not self._early:
            self.drop_early()
        return messages, acked

    def drop_early(self) -> None:
        """Hold nothing back any more; the peer repeats these messages, if it still has a session."""
        self._early.clear()
        self._early_budget.held -= self._early_bytes
        self._early_bytes = 0

    @property
    def early_bytes(self) -> int:
        """The number of bytes that this link has taken from its budget."""
        return self._early_bytes

    def hold(self, reason: int) -> None:
        """Do not acknowledge the messages of the last `receive`, or later ones, before `release` of `reason`.

        Reasons are rising numbers. The sender keeps, and may repeat, messages that are not acknowledged.
        """
        if not self._held or self._held[-1][1] != reason:
            self._held.append((self._before, reason))

    def release(self, reason: int, now: float) -> None:
        """Acknowledge, at the next opportunity, the messages that were held for this reason or an earlier one."""
        while self._held and self._held[0][1] <= reason:
            self._held.popleft()
            self._ack_due = now

    def due(self, now: float) -> list[Envelope]:
        """Return the messages that are due: repetitions, a late acknowledgement, a heartbeat."""
        envelopes = []
        if self._retransmit_at is not None and now >= self._retransmit_at:
            self._retransmit_wait = min(self._retransmit_wait * 2, RETRANSMIT_LIMIT)
            self._retransmit_at = now + self._patience()
            oldest = islice(self._unacked, max(1, RETRANSMIT_BATCH >> self._repeated))
            self._repeated += 1
            envelopes = [self._envelope(seq, message, now) for seq, message, _ in oldest]
        quiet = self._heartbeat is not None and now >= self._last_sent + self._heartbeat
        if not envelopes and (quiet or (self._ack_due is not None and now >= self._ack_due)):
            envelopes.append(self._envelope(0, Heartbeat(), now))
        return envelopes

    def next_deadline(self) -> float | None:
        """Return the time at which `due` has something to return."""
        quiet_at = None if self._heartbeat is None else self._last_sent + self._heartbeat
        return earliest((self._retransmit_at, self._ack_due, quiet_at))

    def silent(self, now: float) -> bool:
        """Return whether the peer has sent nothing for too long."""
        return self.peer_timeout > 0 and now >= self.last_heard + self.peer_timeout

    def stalled(self, now: float) -> bool:
        """Return whether the peer has acknowledged nothing for too long, even if it sends messages."""
        if not self._unacked or self._deaf_since is None or now < self._deaf_since + STALLED_FOR:
            return False
        return now >= self._progress_at + STALLED_AFTER + 4 * self._progress_bytes / SLOWEST_RATE

    def stood_still(self, seconds: float, now: float) -> None:
        """Note that this end did not run for `seconds`, which does not count as silence of the peer."""
        self.last_heard = min(now, self.last_heard + seconds)
        self._progress_at = min(now, self._progress_at + seconds)

    def retransmit_soon(self, now: float) -> None:
        """Repeat unacknowledged messages soon, because the transport has reported that one could not be delivered."""
        if self._unacked:
            self._retransmit_at = min(self._retransmit_at or now, now + ACK_DELAY)

    @property
    def next_number(self) -> int:
        """Return the number that the next message gets."""
        return self._next_seq

    @property
    def acknowledged(self) -> int:
        """Return the number of the last message that the peer has acknowledged, as all before it."""
        return self._unacked[0][0] - 1 if self._unacked else self._next_seq - 1

    def unacked(self) -> list[Message]:
        """Return the messages that the peer may not have received, oldest first."""
        return [message for _, message, _ in self._unacked]

    def _patience(self) -> float:
        return self._retransmit_wait + self.unacked_bytes / SLOWEST_RATE

    def _envelope(self, seq: int, message: Message, now: float) -> Envelope:
        self._ack_due = None
        self._last_sent = now
        ack = self._held[0][0] if self._held else self.received
        return Envelope(self.session, seq, ack, message)

    def _drop_acked(self, ack: int, now: float) -> list[Message]:
        unacked = self._unacked
        if not unacked or unacked[0][0] > ack:
            return []
        acked = []
        while unacked and unacked[0][0] <= ack:
            _, message, size = unacked.popleft()
            self.unacked_bytes -= size
            acked.append(message)
        self._retransmit_wait = RETRANSMIT_AFTER
        self._repeated = 0
        self._progress_at = now
        self._progress_bytes = self.unacked_bytes
        self._deaf_since = None
        self._retransmit_at = now + self._patience() if unacked else None
        return acked
