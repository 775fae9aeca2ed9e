"""What peers sent that could not be taken: counted, told to the log without flooding it, tolerated for a while.

A peer's first such message is logged at once; what follows within a minute is only counted, and told together when the
minute is over. All connections of a key are one peer; without keys each is one, yet only so many are remembered at a
time: a flood of fresh connections is one peer, "others". From `TOLERATED` messages within the minute on a peer is
intolerable, and whichever of its connections sends another one is to be closed.

What they do rightly does not flood the log either: so many lines a minute are written about the peers of one key.
"""

from __future__ import annotations

from jobrunner.protocol.effects import Source

QUIET = 60.0
"""Seconds between two lines about one peer."""

REMEMBERED = 64
"""Peers told apart within that time."""

TOLERATED = 100
"""Messages of one peer within that time; a peer of another version, which greets again and again, sends fewer."""

MAX_REASON_LENGTH = 200
"""Characters of a reason that are logged; some of it is the peer's own words."""

MAX_LINES = 1000
"""Lines within that time about what peers of one key do, rightly: thousands of workers may join at once, and somebody
may come and leave without end."""

OTHERS = b""
"""Stands for all peers beyond REMEMBERED; no connection has this name."""


class Offender:
    """A peer within the minute after its last line in the log."""

    __slots__ = ("count", "reason", "until", "who")

    def __init__(self, who: str, until: float) -> None:
        self.who = who
        self.until = until
        self.count = 0
        """Messages since the last line."""
        self.reason = ""
        """Of the last of these."""


class Rejections:
    """See the module. `who` names a peer for people."""

    def __init__(self) -> None:
        self.count = 0
        """Of all messages that were ever rejected."""
        self._offenders: dict[Source, Offender] = {}
        """In the order of `until`, since every line puts its peer at the end."""

    def __len__(self) -> int:
        return len(self._offenders)

    def note(self, source: Source, who: str, reason: str, now: float, *, known: bool = False) -> list[str]:
        """Count a rejected message; the lines to log now. Who is `known`, by a key, is never one of a crowd."""
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
        """Whether it went on for too long; of a crowd, whoever comes after the first ones."""
        offender = self._offenders.get(source) or self._offenders.get(OTHERS)
        return offender is not None and offender.count >= TOLERATED

    def due(self, now: float) -> list[str]:
        """The lines about peers whose minute is over."""
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
        """When `due` has something to do."""
        return next((offender.until for offender in self._offenders.values()), None)


class Visitors:
    """How many lines the log gets about those who come and go, by key. A minute begins with its first line."""

    def __init__(self) -> None:
        self._minutes: dict[str, tuple[float, int]] = {}

    def line(self, key: str, name: str, text: str, now: float) -> str:
        """What the log gets instead of `text`; empty: nothing any more."""
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
    """Without control characters, for some of it is the peer's own words, and might pass for a line of its own."""
    return line if line.isprintable() else "".join(c if c.isprintable() else "?" for c in line)
