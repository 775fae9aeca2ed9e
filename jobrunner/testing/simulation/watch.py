"""Laws about how long something may last, which are checked now and then instead of at an event."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from jobrunner.testing.simulation.world import World


class Watch(ABC):
    """A check of a world after some of its steps, which changes nothing."""

    interval: ClassVar[float]
    """Minimum virtual time in seconds between two checks."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._looks_at = 0.0

    def look(self) -> None:
        """Check the law, if it is time; call this after each step. Raises Violation."""
        if self._world.now >= self._looks_at:
            self._looks_at = self._world.now + self.interval
            self._check()

    @abstractmethod
    def _check(self) -> None:
        """Raise Violation if the law does not hold at this moment."""
