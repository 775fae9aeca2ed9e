"""The announcements of a worker's capacity: how many tasks can run there, and whether it is stuck."""

from __future__ import annotations

from jobrunner.protocol.effects import Effect
from jobrunner.protocol.link import Link
from jobrunner.protocol.session import Session
from jobrunner.protocol.wire import messages as m


class AnnouncedCapacity:
    """The capacity that the coordinator knows, and whether it knows that the worker is stuck."""

    def __init__(self, slots: int, session: Session, effects: list[Effect]) -> None:
        self._session = session
        self._effects = effects
        self._announced = slots
        """The capacity that the coordinator knows; 0 if that is unknown."""
        self._greeted: Link | None = None
        """The session in which `_announced` was announced."""
        self._stuck, self._said_stuck = False, False
        """Whether the coordinator must be told that the worker is stuck, and whether it has been told."""

    def greets(self, capacity: int) -> None:
        """Note that a greeting names this capacity."""
        if self._greeted is not self._session.link:
            self._greeted, self._announced = self._session.link, capacity
        elif capacity != self._announced:
            # only the coordinator knows which greeting counts, so the capacity is announced again
            self._announced = 0

    def note_stuck(self, stuck: bool) -> None:
        """Note, after a start of a slot has failed, whether the worker is stuck, so that it is announced."""
        self._stuck = stuck

    def send(self, capacity: int, stuck: bool, why: str, now: float) -> None:
        """Announce changes; call it only while the session is open.

        `stuck` tells whether the worker is still stuck, and `why` is the reason why no slot can be started.
        """
        unstuck = self._said_stuck and not stuck
        if capacity != self._announced or unstuck:
            self._announced, self._said_stuck = capacity, False
            self._effects.append(self._session.send(m.Capacity(capacity), now))
        if self._stuck:
            self._stuck, self._said_stuck = False, True
            self._effects.append(self._session.send(m.Stuck(why), now))
