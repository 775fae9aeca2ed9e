"""The laws about idle slots.

No slot stays idle while elements that it could run wait behind a running one. No slot stays idle while a call waits
that its worker could run, whoever owned the slot before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from jobrunner.protocol.coordinator.peers import WorkerSession
from jobrunner.protocol.coordinator.scheduler import Scheduler
from jobrunner.protocol.coordinator.task import ASSIGNED, QUEUED, TaskRecord
from jobrunner.protocol.tuning import ANSWER_WITHIN
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.wire.kinds import Chunk
from jobrunner.protocol.wire.messages import TaskSpec
from jobrunner.testing.simulation.scenario import Scenario
from jobrunner.testing.simulation.simulated_slots import SlotProcess
from jobrunner.testing.simulation.watch import Watch

if TYPE_CHECKING:
    from jobrunner.testing.simulation.world import World

HELD = 2 * ANSWER_WITHIN
"""Additional time in seconds if a call keeps its process from answering: tasks are retracted then, at the second try at
the latest."""

MAX_IDLE_SECONDS = 0.5
"""Maximum time in seconds that a slot may be idle beside a chunk that could be divided.

It includes the time until the chunk counts as long, the way of the division to the slot, the client, the coordinator
and the idle slot, and an earlier request in vain.
"""


def is_lawful(scenario: Scenario) -> bool:
    """Return whether every slot could run everything, and only the work itself keeps slots idle."""
    return (
        scenario.profile == "calm"
        and not (scenario.resources or scenario.missing_modules or scenario.blocking or scenario.nests)
        and scenario.owners <= 1
        and scenario.max_tasks_per_slot is None
        and not (scenario.journal_delay or scenario.start_failures or scenario.stalls)
        and scenario.has_wide_windows
    )


class IdleWatch(Watch):
    """A watch on idle slots, and on slots that hold elements which have not begun."""

    interval = 0.02

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._idle: dict[SlotProcess, tuple[int, float]] = {}
        """The turn of each slot, and when it was first seen to be idle in it."""
        self._waiting: dict[SlotProcess, tuple[int, float]] = {}
        """The same for slots that hold elements which have not begun."""

    def _check(self) -> None:
        world = self._world
        slots = [s for node in world.workers if node.alive for s in node.slots.processes.values()]
        could = [slot for slot in slots if self._could_be_divided(slot)]
        self._waiting = known_since(self._waiting, could, world.now)
        idle = [slot for slot in slots if slot.idle] if self._waiting else []
        self._idle = known_since(self._idle, idle, world.now)
        for slot, (_, waits) in self._waiting.items():
            for other, (_, idles) in self._idle.items():
                task = None if slot.task is None else slot.task.id
                longest = MAX_IDLE_SECONDS + (HELD if slot.call.holds else 0.0)
                where = f"slot {other.id} of {other.node.name} is idle"
                world.truth.check(
                    world.now - max(waits, idles) <= longest, f"{where} beside elements of {task}"
                )

    def _could_be_divided(self, slot: SlotProcess) -> bool:
        task, execution = slot.task, slot.execution
        if task is None or execution is None or not isinstance(task.kind, Chunk) or slot.dying:
            return False
        expected = self._world.truth.expected.get(execution.task)
        if expected is None or expected.cancelled_at is not None or is_strange(expected.spec):
            return False
        return slot.element() + 1 < task.kind.stop


MAX_WAIT = 0.5
"""Maximum time in seconds that a call may wait beside an idle slot, beyond the start of a process.

It includes the time until the calls before it count as long, and the ways to the worker and back.
"""

MAX_STALLED_WAIT = 2.0
"""The same limit where each process on these ways may stall."""


def is_conserving(scenario: Scenario) -> bool:
    """Return whether only the work itself keeps calls from slots that could run them.

    If a process may make few calls, short ones take as long as its start, which no estimate tells.
    """
    return (
        scenario.profile == "calm"
        and scenario.max_tasks_per_slot is None
        and not (scenario.journal_delay or scenario.start_failures)
    )


class ConservationWatch(Watch):
    """A watch on calls that wait although an idle slot could run them."""

    interval = 0.05

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._idle: dict[SlotProcess, tuple[int, float]] = {}
        """The turn of each slot, and when it was first seen to be idle in it."""
        self._waiting: dict[tuple[TaskId, str], float] = {}
        """By call and worker, when the call was first seen to wait although that worker had an idle slot for it."""
        longest = MAX_STALLED_WAIT if world.scenario.stalls else MAX_WAIT
        self._longest = longest + 2 * world.scenario.slot_start + (HELD if world.scenario.holds else 0.0)

    def _check(self) -> None:
        world = self._world
        idle = [slot for node in world.workers for slot in node.slots.processes.values() if slot.idle]
        self._idle = known_since(self._idle, idle, world.now)
        self._waiting = {pair: self._waiting.get(pair, world.now) for pair in self._pairs()}
        idle_since: dict[str, float] = {}
        for slot, (_, since) in self._idle.items():
            idle_since[slot.node.name] = min(since, idle_since.get(slot.node.name, since))
        for (task, worker), waits in self._waiting.items():
            world.truth.check(
                world.now - max(waits, idle_since[worker]) <= self._longest,
                f"{task} waits while a slot of {worker} is idle",
            )

    def _pairs(self) -> Iterator[tuple[TaskId, str]]:
        coordinator = self._world.coordinator
        if coordinator is None or not self._idle:
            return
        scheduler = coordinator.core.scheduler
        running = {
            task.id
            for node in self._world.workers
            for slot in node.slots.processes.values()
            for task in (slot.task, None if slot.bundle is None else slot.bundle.task)
            if task is not None
        }
        waiting = [r for r in scheduler.tasks.values() if r.id not in running and could_begin(scheduler, r)]
        for node in dict.fromkeys(slot.node for slot in self._idle):
            worker = scheduler.roster.workers.get(node.core.settings.id)
            if worker is not None:
                could = [record for record in waiting if could_run(scheduler, worker, record)]
                yield from ((record.id, node.name) for record in could)


def could_begin(scheduler: Scheduler, record: TaskRecord) -> bool:
    """Return whether a call that does not run waits for nothing but a slot."""
    if record.state not in (QUEUED, ASSIGNED) or record.cancel_asked:
        return False
    return record.client.id not in scheduler.dispatcher.queue.backpressured


def could_run(scheduler: Scheduler, worker: WorkerSession, record: TaskRecord) -> bool:
    """Return whether a worker has what a call needs and need not keep it for others, or keeps it for this call."""
    if record.state == ASSIGNED and record.worker is worker:
        return True
    rank = (-record.body.options.priority, -record.body.depth)
    return worker.fits(record.requirements) and scheduler.dispatcher.reservations.permit(
        worker, rank, record.requirements
    )


def known_since(
    known: dict[SlotProcess, tuple[int, float]], slots: list[SlotProcess], now: float
) -> dict[SlotProcess, tuple[int, float]]:
    """Return the turn of each of these slots, and since when it is known; `known` is the previous result."""
    return {s: known[s] if s in known and known[s][0] == s.turn else (s.turn, now) for s in slots}


def is_strange(spec: TaskSpec) -> bool:
    """Return whether it is a chunk that `map` never creates."""
    return bool(spec.depends_on) or spec.body.options.detach
