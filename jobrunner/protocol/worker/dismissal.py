"""The choice of idle slots that make way for tasks of other owners. Pure functions.

If tasks of another owner wait without a slot, an idle slot whose owner has nothing queued makes way at once for a new
process. There is one slot for each task, but only as many slots as have work for `START_SECONDS` each, so that two
owners of short calls do not keep starting processes in each other's place. Idle slots of earlier epochs make way for
each task of a later one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

from jobrunner.protocol.tuning import RECALL_AFTER, START_SECONDS, UNKNOWN
from jobrunner.protocol.worker.local_queue import LocalQueue
from jobrunner.protocol.worker.slots import Slot, WorkerTask


def outdated(slots: Iterable[Slot], queue: LocalQueue) -> list[Slot]:
    """Return idle slots of earlier epochs that nobody needs, one for each task of a later epoch without a slot."""
    slots = list(slots)
    free = sum(slot.owner is None for slot in slots)
    found: list[Slot] = []
    for owner in queue.owners:
        if not owner.epoch:
            continue
        wanted = queue.count(owner) - free - len(found)
        older = [
            slot
            for slot in slots
            if slot.idle
            and slot.owner is not None
            and slot not in found
            and owner.replaces(slot.owner)
            and not queue.count(slot.owner)
        ]
        found += older[: max(0, wanted)]
    return found


Estimate: TypeAlias = "Callable[[WorkerTask], float]"
"""A function that returns the expected duration of a task in seconds, or UNKNOWN."""


class Dismissal(NamedTuple):
    """The slots that must make way, and the time at which to check again."""

    slots: list[Slot]
    look_at: float | None


def unneeded(slots: Iterable[Slot], queue: LocalQueue, estimate: Estimate, now: float) -> Dismissal:
    """Return the idle slots whose owner has nothing queued, as many as other owners can use.

    `slots` are those that stay. Tasks that are known to be short wait for slots that already serve their owner, until
    one of these is stuck.
    """
    slots = list(slots)
    idle = [slot for slot in slots if slot.idle and slot.owner is not None and not queue.count(slot.owner)]
    if not idle:
        return Dismissal([], None)
    free = sum(slot.owner is None for slot in slots)
    wanted = 0
    busy: list[Slot] = []
    for owner in queue.owners:
        serving = [slot for slot in slots if slot.serves(owner, now)]
        spare = sum([1.0 - work_for_slots(slot.queue.values(), estimate, 1) for slot in serving])
        most = free + len(idle) + len(serving)
        wanted += math.ceil(max(0.0, work_for_slots(queue.tasks_of(owner), estimate, most) - spare))
        busy += [slot for slot in serving if slot.queue]
    found = sorted(idle, key=lambda slot: slot.progress)[: max(0, wanted - free)]
    look_at = min((slot.progress + RECALL_AFTER for slot in busy), default=None)
    return Dismissal(found, look_at if len(found) < len(idle) else None)


def work_for_slots(tasks: Iterable[WorkerTask], estimate: Estimate, most: int) -> float:
    """Return how many slots these tasks keep busy for START_SECONDS, up to `most`; a task counts as one slot at most.

    A task that has begun before counts as a whole slot. Otherwise tasks that kill their process, one after the other,
    would keep the only slot of their owner starting beside idle slots of others.
    """
    work = 0.0
    for task in tasks:
        work += 1.0 if task.begun_before else share_of_slot(estimate(task))
        if work >= most:
            return float(most)
    return work


def filling(slots: int, tasks: Iterable[WorkerTask], estimate: Estimate) -> int:
    """Return how many of the first tasks will soon be run by this number of starting slots."""
    work, count = 0.0, 0
    for task in tasks:
        work += share_of_slot(estimate(task))
        if work > slots:
            break
        count += 1
    return count


def share_of_slot(seconds: float) -> float:
    """Return the share of START_SECONDS that a task of this expected duration takes."""
    return 1.0 if seconds == UNKNOWN else min(seconds / START_SECONDS, 1.0)
