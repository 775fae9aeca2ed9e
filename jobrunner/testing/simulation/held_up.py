"""The law about long calls: none delays the tasks behind it in its slot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobrunner.testing.simulation.idleness import HELD, known_since
from jobrunner.testing.simulation.simulated_slots import SlotProcess
from jobrunner.testing.simulation.watch import Watch

if TYPE_CHECKING:
    from jobrunner.testing.simulation.world import World

MAX_HELD_UP = 0.5
"""Maximum time in seconds that tasks, or calls of a bundle, may wait in a slot behind a running call.

It includes the time until the call counts as long, until another try to split a bundle, and the way to the slot and
back.
"""

MAX_STALL_HELD_UP = 1.5
"""The same limit where the worker may stall at each step."""


class HeldUpWatch(Watch):
    """A watch on slots that hold tasks which have not begun."""

    interval = 0.05

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._longest = MAX_STALL_HELD_UP if world.scenario.stalls else MAX_HELD_UP
        self._known: dict[SlotProcess, tuple[int, float]] = {}
        """The turn of each slot, and when it was first seen to hold something in it."""

    def _check(self) -> None:
        world = self._world
        slots = [s for node in world.workers if node.alive for s in node.slots.processes.values()]
        holding = [slot for slot in slots if slot.task is not None and slot.held_up and not slot.dying]
        self._known = known_since(self._known, holding, world.now)
        for slot, (_, since) in self._known.items():
            longest = self._longest + (HELD if slot.call.holds else 0.0)
            task = None if slot.task is None else slot.task.id
            world.truth.check(
                world.now - since <= longest,
                f"calls wait behind {task} in slot {slot.id} of {slot.node.name}",
            )
