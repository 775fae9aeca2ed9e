"""One turn of a core: all events that have come, then a Tick, as every loop around a core does it.

What answers several events leaves the core at the Tick, so that it goes in batches. The loops differ in where events
come from and in how effects are performed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from jobrunner.protocol.effects import Effect, Event, Tick


class Core(Protocol):
    """A state machine without input or output."""

    def handle(self, event: Event, now: float) -> list[Effect]: ...
    def next_deadline(self) -> float | None: ...


def run_turn(core: Core, events: Iterable[Event], now: float) -> list[Effect]:
    """Let the core handle the events and the end of the turn; return its effects in order."""
    handle = core.handle
    effects: list[Effect] = []
    for event in events:
        effects += handle(event, now)
    effects += handle(Tick(), now)
    return effects
