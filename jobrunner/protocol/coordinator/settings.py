"""The settings of a coordinator's core."""

from __future__ import annotations

from dataclasses import dataclass

from jobrunner.config import MAX_PAYLOAD
from jobrunner.protocol.coordinator.accounts import NO_QUOTA, Quota


@dataclass(frozen=True)
class CoordinatorSettings:
    """The settings of a CoordinatorCore; times in seconds, sizes in bytes."""

    id: str
    version: str
    address: str = ""
    host: str = ""
    pid: int = 0
    crash_limit: int = 3
    client_grace: float = 30.0
    drain_timeout: float = 60.0
    window_tasks: int = 100_000
    window_bytes: int = 256 * 1024 * 1024
    max_payload: int = MAX_PAYLOAD
    untaken_outcomes: int = 1_000_000
    quota: Quota = NO_QUOTA
    result_cache: int = 64 * 1024 * 1024
    keep_detached: float = 7 * 24 * 3600.0
    hash_seed: int | None = None
    """The seed of string hashes in all slots of the cluster; None: each slot has its own."""
