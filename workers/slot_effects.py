"""The table of effects on slots: the method of the pool for each effect of the worker's core."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jobrunner.protocol.effects import (
    DivideChunk,
    EndSlot,
    InterruptTask,
    RecallTasks,
    RetractTasks,
    RunTasks,
    SignalSlot,
    SpawnSlot,
)
from jobrunner.workers.slot_pool import SlotPool


def slot_effects(pool: SlotPool) -> dict[type, Callable[[Any], None]]:
    """Return the table of the effects on slots, which `pool` performs."""
    return {
        SpawnSlot: lambda e: pool.spawn(e.slot, e.hash_seed),
        RunTasks: lambda e: pool.run(e.slot, e.tasks, e.functions, e.drop_functions),
        RecallTasks: lambda e: pool.recall(e.slot, bundle=e.bundle),
        RetractTasks: lambda e: pool.retract(e.slot, e.chunks),
        DivideChunk: lambda e: pool.divide(e.slot, e.number),
        InterruptTask: lambda e: pool.interrupt(e.slot, e.number),
        EndSlot: lambda e: pool.end(e.slot),
        SignalSlot: lambda e: pool.signal(e.slot, e.signal),
    }
