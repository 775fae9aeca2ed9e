"""The law about running calls: a client is told in time which of its calls run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobrunner.protocol.wire.ids import TaskId, client_of
from jobrunner.testing.simulation.idleness import HELD
from jobrunner.testing.simulation.scenario import Scenario
from jobrunner.testing.simulation.watch import Watch

if TYPE_CHECKING:
    from jobrunner.testing.simulation.world import World

MAX_UNTOLD_SECONDS = 1.5
"""Maximum time in seconds that a call may run before its client knows.

It includes the time until the call counts as long, until its bundle is split or its chunk is divided, and the way to
the client by three processes, each of which may stall.
"""


def is_lawful(scenario: Scenario) -> bool:
    """Return whether only stalls keep the news from a client, and only a running call keeps its slot."""
    return scenario.profile == "calm" and not (scenario.blocking or scenario.nests)


class AnnouncementWatch(Watch):
    """A watch on the running calls of all slots."""

    interval = 0.05

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._running: dict[tuple[str, TaskId], float] = {}
        """The time when each was first seen, by the place where it runs and its id."""

    def _check(self) -> None:
        world = self._world
        if world.now < world.network.last_cut + world.scenario.peer_timeout:
            self._running.clear()  # lost messages are sent again when the silence is noticed, at the latest
            return
        slots = {
            (node.name, slot.execution.task): slot
            for node in world.workers
            if node.alive
            for slot in node.slots.processes.values()
            if slot.execution is not None and not slot.execution.bundled
        }
        running = {where: self._running.get(where, world.now) for where in slots}
        told = {client.id: client.told_running for client in world.clients if client.alive}
        for (worker, task), since in running.items():
            known = told.get(client_of(task))
            expected = world.truth.expected.get(task)
            if expected is not None and expected.cancelled_at is not None:
                continue  # its client has asked to stop it, and hears how that ends
            longest = MAX_UNTOLD_SECONDS + (HELD if slots[worker, task].call.holds else 0.0)
            world.truth.check(
                known is None or task in known or world.now - since <= longest,
                f"{task} runs on {worker}, and its client has not been told for {longest} s",
            )
        self._running = running
