"""The "cluster" backend: a coordinator at an address, or one embedded for this executor alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from jobrunner.backends.base import BackendSettings
from jobrunner.backends.core_backend import CoreBackend
from jobrunner.backends.prepared import Prepared
from jobrunner.coordinator.local_cluster import LocalCluster
from jobrunner.errors import CoordinatorLostError, NotSupportedError
from jobrunner.keys.credentials import CLIENT_ROLES, credentials_for
from jobrunner.nested.wait_hooks import first_call
from jobrunner.protocol.effects import Connected, ConnectionLost, Event, GiveUp
from jobrunner.shared_memory.segment_pool import can_share
from jobrunner.system.host import unknown_host
from jobrunner.transport.driver import Wire
from jobrunner.transport.manifests import Sharing
from jobrunner.transport.sockets import DealerWire, check_address

LOGGER = logging.getLogger("jobrunner.cluster")


class ClusterBackend(CoreBackend):
    """Connects to `settings.address`; without one it starts a coordinator and a worker on this host.

    Raises AuthenticationError without a key for the cluster at the address, CoordinatorLostError when nobody answers
    there within `connect_timeout`.
    """

    name = "cluster"

    def __init__(self, settings: BackendSettings) -> None:
        settings.refuse_unknown(self.name)
        self._local: LocalCluster | None = None
        self._said_idle = False
        self._said_lost = False
        try:
            self._address = (
                self._start_local(settings) if settings.address is None else self._given_address(settings)
            )
            self._credentials = credentials_for(
                self._address,
                CLIENT_ROLES,
                configured=settings.config.identity,
                insecure=settings.config.insecure,
            )
            super().__init__(settings)
        except BaseException:
            if self._local is not None:
                self._local.stop()  # there have been no calls, of which anything could be shown
            raise
        try:
            if self._local is not None:
                self._local.when_failed(lambda kind, error: self._give_up(GiveUp(error, kind)))
            else:
                self._connected.wait()
                if self._failure is not None:
                    raise self._failure_anew(self._failure)
        except BaseException:  # nobody will have this object
            self.kill()
            raise

    def _start_local(self, settings: BackendSettings) -> str:
        self._local = LocalCluster(
            settings.max_workers,
            crash_limit=settings.config.crash_limit,
            exit_wait=settings.config.exit_wait,
            max_tasks_per_slot=settings.max_tasks_per_child,
            start_method=settings.start_method,
            interpreter=settings.config.interpreter,
        )
        return self._local.address

    def _given_address(self, settings: BackendSettings) -> str:
        if settings.max_tasks_per_child is not None:
            raise NotSupportedError(
                "max_tasks_per_child: this setting belongs to the workers of the cluster; start them with"
                " `jobrunner worker start --max-tasks-per-slot N`"
            )
        assert settings.address is not None
        return check_address(settings.address)

    @property
    def _key(self) -> str:
        return "" if self._credentials is None else self._credentials.key

    @property
    def max_workers(self) -> int:
        if self._slots == 0 and self._local is not None:
            return self._local.slots
        return super().max_workers

    def prepare(self, fn: Callable[..., Any]) -> Prepared:
        if self._slots == 0 and self._local is None and not self._said_idle:
            # Else a program whose workers were forgotten would stand still without a word.
            self._said_idle = True
            LOGGER.warning(
                "no worker has joined the cluster at %s: calls wait until one does (`jobrunner worker start`)",
                self._address,
            )
        return super().prepare(fn)

    @property
    def same_host(self) -> bool:
        return self._local is not None

    def connection(self) -> str | None:
        return self._address

    @property
    def cluster(self) -> str:
        return self._address

    def _check_resources(self) -> None:
        if self._local is not None:
            raise NotSupportedError(
                "the embedded cluster of this program provides no resources; use a cluster whose workers were started"
                " with `jobrunner worker start --resources`"
            )

    def _check_detach(self) -> None:
        if self._local is not None:
            super()._check_detach()

    def _collect(self) -> list[Event]:
        events = super()._collect()
        if events and self._local is not None:
            self._local.tell()
        return events

    def _make_wire(self) -> Wire:
        wire = DealerWire(self._address, self._credentials)
        if self._shares and can_share():
            wire.share(Sharing(asks=True))
        return wire

    @property
    def _shares(self) -> bool:
        return self._local is not None

    def _first_call(self) -> None:
        if self._local is None:  # else its workers are its own, and wait for no slot of this process
            first_call(self)
        else:
            self._local.begin()

    def unfinished_calls(self) -> list[str]:
        """See `blocking.Caller`. Calls that are submitted from now on are in no bundle with one of these."""
        with self._lock:
            self._builder = None
            return list(self._pending.entries)

    def _timeouts(self) -> dict[str, float | None]:
        return {
            "connect_timeout": self._config.connect_timeout,
            "reconnect_timeout": self._config.reconnect_timeout,
        }

    def _effects(self) -> dict[type, Callable[[Any], None]]:
        return super()._effects() | {ConnectionLost: self._on_connection_lost}

    def _on_connection_lost(self, effect: ConnectionLost) -> None:
        if self._local is not None:
            return  # its own thread tells what went wrong, see `when_failed`
        self._said_lost = True
        limit = self._config.reconnect_timeout
        LOGGER.warning(
            "lost the coordinator at %s: %s; its calls go on, and wait up to %g s for it (reconnect_timeout)",
            self._address,
            effect.reason,
            limit,
        )

    def _on_connected(self, effect: Connected) -> None:
        super()._on_connected(effect)
        if self._said_lost:
            self._said_lost = False
            # A warning, too, because whoever has seen the first one waits for this one.
            LOGGER.warning("the coordinator at %s is back", self._address)

    def _describe_failure(self, effect: GiveUp) -> str:
        described = f"the coordinator at {self._address}: {effect.error}"
        if effect.advises or effect.kind != CoordinatorLostError.__name__:
            return described
        unknown = unknown_host(self._address)
        if unknown:
            described = f"{described}; {unknown}"
        return (
            f"{described}. Is it running, and reachable from here? `jobrunner coordinator start` starts one;"
            " JOBRUNNER_ADDRESS or Executor(ADDRESS) says where it is"
        )

    def kill(self) -> None:
        if self._local is not None:
            self._local.exit_wait = 0.0
        super().kill()

    def _closed(self) -> None:
        if self._local is not None:
            self._local.stop(self._show_last_words)
