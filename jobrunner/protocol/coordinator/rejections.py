"""The counts of unacceptable messages by peer: they are logged without flooding the log, and tolerated for a while.

A peer's first such message is logged at once; further ones within a minute are only counted, and logged together when
the minute is over. All connections of a key are one peer. Without keys each connection is one, but only a limited
number is remembered at a time, so a flood of new connections is one peer, "others". From `TOLERATED` messages within
the minute on a peer is intolerable, and any of its connections that sends another one is closed.

Correct behaviour does not flood the log either, because the number of lines per minute about the peers of one key is
limited.
"""

from __future__ import annotations

from jobrunner.protocol.effects import Source

QUIET = 60.0
"""Time in seconds between two lines about one peer."""

REMEMBERED = 64
"""Maximum number of peers that are distinguished within that time."""

TOLERATED = 100
"""Maximum number of messages of one peer within that time; a peer of another version that greets again and again sends
fewer."""

MAX_REASON_LENGTH = 200
"""Maximum number of characters of a logged reason, part of which the peer may have written."""

MAX_LINES = 1000
"""Maximum number of lines within that time about correct behaviour of peers of one key, because thousands of workers
may join at once, and somebody may come and leave without end."""

OTHERS = b""
"""The name of all peers beyond REMEMBERED; no connection has this name."""


class Offender:
    """A peer in the minute after its last line in the log."""

    __slots__ = ("count", "reason", "until", "who")

    def __init__(self, who: str, until: float) -> None:
        self.who = who
        self.until = until
        self.count = 0
        """Number of messages since the last line."""
        self.reason = ""
        """The reason of the last message."""


class Rejections:
    """The rejected messages of all peers. `who` names a peer for people."""

    def __init__(self) -> None:
        self.count = 0
        """Number of all messages that were ever rejected."""
        self._offenders: dict[Source, Offender] = {}
        """The peers in the order of `until`, because every line puts its peer at the end."""

    def __len__(self) -> int:
        return len(self._offenders)

    def note(self, source: Source, who: str, reason: str, now: float, *, known: bool = False) -> list[str]:
        """Count a rejected message, and return the lines to log now.

        A peer that is `known` by a key never belongs to the "others".
        """
        lines = self.due(now)
        self.count += 1
        offender = self._offenders.get(source)
        if offender is None and len(self._offenders) >= REMEMBERED and not known:
            source, who = OTHERS, "other connections"
            offender = self._offenders.get(source)
        if offender is None:
            self._offenders[source] = Offender(who, now + QUIET)
            lines.append(printable(f"rejected a message from {who}: {shortened(reason)}"))
        else:
            offender.count += 1
            offender.reason = shortened(reason)
        return lines

    def intolerable(self, source: Source) -> bool:
        """Return whether the peer has continued for too long; of the "others", all after the first ones have."""
        offender = self._offenders.get(source) or self._offenders.get(OTHERS)
        return offender is not None and offender.count >= TOLERATED

    def due(self, now: float) -> list[str]:
        """Return the lines about peers whose minute is over."""
        lines = []
        while self._offenders:
            source = next(iter(self._offenders))
            offender = self._offenders[source]
            if now < offender.until:
                break
            del self._offenders[source]
            if offender.count:
                count = f"{offender.count} more messages"
                lines.append(
                    printable(
                        f"rejected {count} from {offender.who} within {QUIET:g} s; the last: {offender.reason}"
                    )
                )
                offender.count, offender.until = 0, now + QUIET
                self._offenders[source] = offender
        return lines

    def next_deadline(self) -> float | None:
        """Return the time at which `due` has something to do."""
        return next((offender.until for offender in self._offenders.values()), None)


class Visitors:
    """The number of log lines about the arrivals and departures of each key. A minute begins with its first line."""

    def __init__(self) -> None:
        self._minutes: dict[str, tuple[float, int]] = {}

    def line(self, key: str, name: str, text: str, now: float) -> str:
        """Return the text to log instead of `text`, or an empty string if the limit is exceeded."""
        until, lines = self._minutes.get(key, (0.0, 0))
        if now >= until:
            until, lines = now + QUIET, 0
        self._minutes[key] = (until, lines + 1)
        if lines < MAX_LINES:
            return text
        more = (
            f"no more lines about peers with the key {name!r} for {until - now:.0f} s: there were {lines:,}"
        )
        return more if lines == MAX_LINES else ""


def shortened(reason: str) -> str:
    return reason if len(reason) <= MAX_REASON_LENGTH else reason[:MAX_REASON_LENGTH] + "..."


def printable(line: str) -> str:
    """Return the line without control characters, because a peer's text might pass for a line of its own."""
    return line if line.isprintable() else "".join(c if c.isprintable() else "?" for c in line)
