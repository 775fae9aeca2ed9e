"""The law about idle slots: none stays idle while elements wait behind a running one that it could run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobrunner.protocol.messages import TaskSpec
from jobrunner.testing.simulation.scenario import Scenario
from jobrunner.testing.simulation.slots import SlotProcess
from jobrunner.testing.simulation.watch import Watch

if TYPE_CHECKING:
    from jobrunner.testing.simulation.world import World

LONGEST_IDLE = 0.5
"""Seconds that a slot may be idle beside a chunk that could be divided: until it is known to take long, for the way of
the division to the slot, to the client, to the coordinator and to the idle slot, and for asking in vain before."""


def is_lawful(scenario: Scenario) -> bool:
    """Whether every slot could run everything, and nothing but the work itself keeps slots idle."""
    defaults = Scenario()
    return (
        scenario.profile == "calm"
        and not (scenario.resources or scenario.lacks or scenario.blocking)
        and scenario.owners <= 1
        and scenario.max_tasks_per_slot is None
        and not (scenario.journal_delay or scenario.start_failures or scenario.stalls)
        and (scenario.window_tasks, scenario.window_bytes) == (defaults.window_tasks, defaults.window_bytes)
    )


class IdleWatch(Watch):
    """Looks at all slots for idle ones, and for those that hold what has not begun."""

    interval = 0.02

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._idle: dict[SlotProcess, tuple[int, float]] = {}
        """Its turn, and when it was first seen to be idle in it."""
        self._waiting: dict[SlotProcess, tuple[int, float]] = {}
        """As `_idle`, of those that hold elements which have not begun."""

    def _check(self) -> None:
        world = self._world
        slots = [s for node in world.workers if node.alive for s in node.slots.processes.values()]
        self._waiting = self._since(self._waiting, [slot for slot in slots if self._could_be_divided(slot)])
        self._idle = self._since(self._idle, [slot for slot in slots if slot.idle]) if self._waiting else {}
        for slot, (_, waits) in self._waiting.items():
            for other, (_, idles) in self._idle.items():
                task = None if slot.task is None else slot.task.id
                where = f"slot {other.id} of {other.node.name} is idle"
                world.truth.check(
                    world.now - max(waits, idles) <= LONGEST_IDLE, f"{where} beside elements of {task}"
                )

    def _since(
        self, known: dict[SlotProcess, tuple[int, float]], slots: list[SlotProcess]
    ) -> dict[SlotProcess, tuple[int, float]]:
        now = self._world.now
        return {s: known[s] if s in known and known[s][0] == s.turn else (s.turn, now) for s in slots}

    def _could_be_divided(self, slot: SlotProcess) -> bool:
        task, execution = slot.task, slot.execution
        if task is None or execution is None or not isinstance(task.span, tuple) or slot.dying:
            return False
        expected = self._world.truth.expected.get(execution.task)
        if expected is None or expected.cancelled_at is not None or is_strange(expected.spec):
            return False
        return slot.element() + 1 < task.span[1]


def is_strange(spec: TaskSpec) -> bool:
    """Whether it is a chunk as `map` makes none."""
    return bool(spec.needs) or spec.options.detach
