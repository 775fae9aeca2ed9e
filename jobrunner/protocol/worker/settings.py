"""What a worker's core is told about itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from jobrunner.config import EXIT_WAIT, PEER_TIMEOUT
from jobrunner.protocol.wire.ids import WorkerId


def has_all(names: Iterable[str]) -> list[str]:
    """The `missing` of a worker that can import whatever its clients can."""
    return []


@dataclass(frozen=True)
class WorkerSettings:
    """What the core is told about itself. Times in seconds."""

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
    """Seconds that the process of a slot has to end by itself."""
    drain_timeout: float = 60.0
    unacknowledged_bytes: int = 256 * 1024 * 1024
    slot_memory: int | None = None
    """Bytes that each slot may take."""
    max_tasks_per_slot: int | None = None
    """Calls that one process of a slot runs at most."""
    peer_timeout: float = PEER_TIMEOUT
    """0: the coordinator is in this process."""
    missing: Callable[[Iterable[str]], list[str]] = has_all
    """Which of these top-level modules the slots cannot import; it looks for them, and imports nothing."""
