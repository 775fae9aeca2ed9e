"""The settings of a worker's core."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from jobrunner.config import EXIT_WAIT, PEER_TIMEOUT
from jobrunner.protocol.wire.ids import WorkerId


def has_all(names: Iterable[str]) -> list[str]:
    """Return the missing modules of a worker that can import whatever its clients can: none."""
    return []


@dataclass(frozen=True)
class WorkerSettings:
    """The settings of a worker's core. Times are in seconds."""

    id: WorkerId
    name: str
    version: str
    python: str
    host: str
    pid: int
    slots: int
    resources: Mapping[str, float] = field(default_factory=dict)
    stop_grace: float = 5.0
    exit_wait: float = EXIT_WAIT
    """The maximum time that a slot's process has to end by itself."""
    drain_timeout: float = 60.0
    unacknowledged_bytes: int = 256 * 1024 * 1024
    slot_memory: int | None = None
    """Maximum memory of each slot in bytes."""
    max_tasks_per_slot: int | None = None
    """Maximum number of calls that one process of a slot runs."""
    peer_timeout: float = PEER_TIMEOUT
    """The silence after which the coordinator counts as lost; 0 means that it is in this process."""
    missing: Callable[[Iterable[str]], list[str]] = has_all
    """A function that returns those of these top-level modules that slots cannot import; it imports nothing."""
