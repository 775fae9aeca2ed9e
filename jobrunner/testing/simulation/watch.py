"""Laws about how long something may last: looked at now and then, and not when a single thing happens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from jobrunner.testing.simulation.world import World


class Watch(ABC):
    """Looks at a world after some of its steps: nothing happens because of it."""

    interval: ClassVar[float]
    """Virtual seconds between two looks, at least."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._looks_at = 0.0

    def look(self) -> None:
        """To be called after each step. Raises Violation."""
        if self._world.now >= self._looks_at:
            self._looks_at = self._world.now + self.interval
            self._check()

    @abstractmethod
    def _check(self) -> None:
        """Raises Violation where the law does not hold at this moment."""
