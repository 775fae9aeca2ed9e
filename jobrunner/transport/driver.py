"""The loop of a client, a coordinator and a worker's daemon: wait, hand events to the core, do what it asks.

One turn takes all that has arrived, lets the core handle each event, ends the turn with a `Tick` (so that answers
leave in batches), and performs the effects in order. The thread sleeps only in `wire.wait`, until something arrives or
the core's next deadline; another thread that posts an event wakes it only if it sleeps.

Cores that live behind a wire in this very process are turned by it: see `backends.local_wire` and
`workers.in_process_worker`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from jobrunner.protocol.effects import Effect, Event, Send, Stop
from jobrunner.protocol.link import LATE
from jobrunner.protocol.turn import Core, run_turn
from jobrunner.transport.wakeup import Wakeup

CATCH_UP = 0.1
"""Time in seconds that the transport then has to deliver messages that have arrived meanwhile."""


MAX_WAIT = 3600.0
"""Maximum duration of one poll in seconds, because a poll accepts no larger number; a deadline may be later."""


def milliseconds(timeout: float | None) -> int | None:
    """Return the argument of a poll of at most `timeout` seconds; None means no limit."""
    return None if timeout is None else max(0, int(min(timeout, MAX_WAIT) * 1000 + 0.999))


class Wire(Protocol):
    """The transport of messages: a ZeroMQ socket, or cores in the same process."""

    def register(self, fd: int) -> None: ...
    def next_deadline(self) -> float | None: ...
    def wait(self, timeout: float | None) -> set[int]: ...
    def receive(self, now: float) -> list[Event]: ...
    def send(self, effect: Send) -> Event | None: ...
    def close(self, *, orderly: bool = False) -> None: ...


class Driver:
    """Runs one core on one wire.

    `perform` maps the type of an effect to the function that performs it; Send and Stop are built in. `collect`
    returns, in each turn, events that have gathered elsewhere; code that adds to them calls `wake`. `due` is the time
    at which `collect` is to be called even if nothing has happened.
    """

    def __init__(
        self,
        core: Core,
        wire: Wire,
        perform: Mapping[type, Callable[[Any], None]],
        *,
        collect: Callable[[], Iterable[Event]] = tuple,
        due: Callable[[], float | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._core = core
        self._wire = wire
        self._perform = dict(perform)
        self._collect = collect
        self._due = due
        self._clock = clock
        self._sources: dict[int, Callable[[], Iterable[Event]]] = {}
        self._inbox: deque[Event] = deque()
        self._wakeup = Wakeup()
        self._asleep = False
        self._woken = False
        self._aborted = False
        self._stopped = False
        self._turned = clock()
        wire.register(self._wakeup.fileno())

    def add_source(self, fd: int, read: Callable[[], Iterable[Event]]) -> None:
        """Call `read` for events whenever the descriptor `fd` is readable."""
        self._sources[fd] = read
        self._wire.register(fd)

    def post(self, event: Event) -> None:
        """Give the core an event; any thread and any signal handler may call this."""
        self._inbox.append(event)
        self.wake()

    def wake(self) -> None:
        """Make the loop turn soon; any thread may call this, and it costs nothing while the loop is awake."""
        self._woken = True
        if self._asleep:
            try:
                self._asleep = False
                self._wakeup.set()
            except BaseException:  # Ctrl-C between the two: nobody would wake the loop any more
                self._wakeup.set()
                raise

    def abort(self) -> None:
        """Leave the loop at once, without finishing anything; any thread and any signal handler may call this."""
        self._aborted = True
        self._wakeup.set()

    def run(self) -> bool:
        """Turn until the core stops, which returns True, or until `abort` is called, which returns False."""
        while not self._stopped and not self._aborted:
            self.turn()
        return not self._aborted

    def turn(self) -> None:
        """Wait until there is something to do, then do all of it."""
        timeout = self._timeout()
        ready = self._wire.wait(timeout)
        self._asleep = self._woken = False
        if self._wakeup.fileno() in ready:
            self._wakeup.clear()
        now = self._clock()
        if timeout is not None and now - self._turned > timeout + LATE:
            # Stopped, suspended or starved. Peers have spoken meanwhile, but ZeroMQ's thread was asleep as well and
            # has not read them yet: with a pause the core hears them before it judges anybody's silence.
            time.sleep(CATCH_UP)
            now = self._clock()
        self._turned = now
        self._do(run_turn(self._core, self._take_events(ready, now), now), now)

    def close(self, *, orderly: bool = False) -> None:
        """Close the wire; the loop must have ended."""
        self._wire.close(orderly=orderly)
        self._wakeup.close()

    def _timeout(self) -> float | None:
        self._asleep = True
        if self._woken or self._inbox or self._aborted:
            return 0.0
        deadlines = [self._core.next_deadline(), self._wire.next_deadline(), self._due()]
        times = [t for t in deadlines if t is not None]
        return max(0.0, min(times) - self._clock()) if times else None

    def _take_events(self, ready: set[int], now: float) -> list[Event]:
        """Return all events that have come: collected, posted, received, and read from sources."""
        posted = len(
            self._inbox
        )  # before collecting, so that nothing posted overtakes what was collected before it
        events = list(self._collect())
        events += [self._inbox.popleft() for _ in range(posted)]
        events += self._wire.receive(now)
        for fd in ready:
            read = self._sources.get(fd)
            if read is not None:
                events += read()
        return events

    def _do(self, effects: list[Effect], now: float) -> None:
        for effect in effects:
            kind = type(effect)
            if kind is Send:
                assert isinstance(effect, Send)
                failed = self._wire.send(effect)
                if failed is not None:
                    self._do(self._core.handle(failed, now), now)
            elif kind is Stop:
                self._stopped = True
            else:
                self._perform[kind](effect)
