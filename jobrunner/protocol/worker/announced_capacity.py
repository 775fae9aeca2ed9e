"""What the coordinator knows of a worker's slots: how many tasks can run, and whether no task here can go on."""

from __future__ import annotations

from jobrunner.protocol.effects import Effect
from jobrunner.protocol.link import Link
from jobrunner.protocol.session import Session
from jobrunner.protocol.wire import messages as m


class AnnouncedCapacity:
    """The capacity that the coordinator knows, and that it was told that the worker is stuck."""

    def __init__(self, slots: int, session: Session, effects: list[Effect]) -> None:
        self._session = session
        self._effects = effects
        self._announced = slots
        """The capacity that the coordinator knows; 0 if that is unknown."""
        self._greeted: Link | None = None
        """The session that `_announced` is about."""
        self._stuck, self._said_stuck = False, False
        """That the worker is stuck is to be told to the coordinator, and was told to it."""

    def greets(self, capacity: int) -> None:
        """A greeting names this capacity."""
        if self._greeted is not self._session.link:
            self._greeted, self._announced = self._session.link, capacity
        elif capacity != self._announced:
            self._announced = 0  # which of the greetings counts, only the coordinator knows: say it again

    def note_stuck(self, stuck: bool) -> None:
        """A start of a slot has failed: say that the worker is stuck, if it is."""
        self._stuck = stuck

    def send(self, capacity: int, stuck: bool, why: str, now: float) -> None:
        """Say what has changed. `stuck`: the worker still is; `why` no slot can be started. Only in a session."""
        unstuck = self._said_stuck and not stuck
        if capacity != self._announced or unstuck:
            self._announced, self._said_stuck = capacity, False
            self._effects.append(self._session.send(m.Capacity(capacity), now))
        if self._stuck:
            self._stuck, self._said_stuck = False, True
            self._effects.append(self._session.send(m.Stuck(why), now))
