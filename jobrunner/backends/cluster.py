"""The "cluster" backend, which uses a coordinator at an address, or embeds one for a single executor."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from jobrunner.backends.base import BackendSettings
from jobrunner.backends.connection import Connection, Text
from jobrunner.backends.core_backend import CoreBackend
from jobrunner.backends.prepared import Prepared
from jobrunner.coordinator.local_cluster import LocalCluster
from jobrunner.errors import CoordinatorLostError, NotSupportedError
from jobrunner.keys.credentials import CLIENT_ROLES, credentials_for
from jobrunner.nested.wait_hooks import Caller, first_call
from jobrunner.protocol.effects import Connected, ConnectionLost, GiveUp
from jobrunner.shared_memory.segment_pool import can_share
from jobrunner.system.host import unknown_host
from jobrunner.transport.driver import Wire
from jobrunner.transport.manifests import Sharing
from jobrunner.transport.sockets import DealerWire, check_address

LOGGER = logging.getLogger("jobrunner.cluster")


class ClusterConnection(Connection):
    """The connection to the coordinator at `settings.address`, or to an embedded cluster if no address is given.

    An embedded cluster is a coordinator and a worker that are started on this host. Raises AuthenticationError if there
    is no key for the cluster at the address.
    """

    def __init__(self, settings: BackendSettings) -> None:
        config = settings.config
        super().__init__("cluster", config.peer_timeout)
        self._config = config
        self._local: LocalCluster | None = None
        self._has_had_calls = False
        """Whether somebody waits for a call, as the commands that only ask do not."""
        self._said_lost = False
        try:
            self.address = (
                self._start_local(settings) if settings.address is None else given_address(settings)
            )
            self._credentials = credentials_for(
                self.address, CLIENT_ROLES, configured=config.identity, insecure=config.insecure
            )
            self.key = "" if self._credentials is None else self._credentials.key
            self.same_host = self._local is not None
        except BaseException:
            self.abandon()
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

    def abandon(self) -> None:
        """Stop an embedded cluster that has had no calls, and that therefore has no output to show."""
        if self._local is not None:
            self._local.stop()

    def make_wire(
        self, give_up: Callable[[GiveUp], None], show_last_words: Callable[[list[Text]], None]
    ) -> Wire:
        self._show_last_words = show_last_words
        wire = DealerWire(self.address, self._credentials)
        if self.same_host and can_share():
            wire.share(Sharing(asks=True))
        return wire

    def wait(self, give_up: Callable[[GiveUp], None]) -> None:
        """Wait until the cluster at the address has answered, or until it is known that it will not.

        There is no wait for an embedded cluster, which starts soon; if it fails, it calls `give_up`.
        """
        if self._local is not None:
            self._local.when_failed(lambda kind, error: give_up(GiveUp(error, kind)))
        else:
            self.connected.wait()

    @property
    def timeouts(self) -> dict[str, float | None]:
        return {
            "connect_timeout": self._config.connect_timeout,
            "reconnect_timeout": self._config.reconnect_timeout,
        }

    @property
    def max_workers(self) -> int:
        if self.slots == 0 and self._local is not None:
            return self._local.slots
        return super().max_workers

    @property
    def is_idle(self) -> bool:
        """Whether the cluster at the address has no worker, so that calls wait until somebody starts one."""
        return self.slots == 0 and self._local is None

    @property
    def cluster(self) -> str:
        return self.address

    def first_call(self, caller: Caller) -> None:
        self._has_had_calls = True
        if self._local is None:  # an embedded cluster has its own workers, which need no slot of this process
            first_call(caller)
        else:
            self._local.begin()

    def calls_are_sent(self) -> None:
        if self._local is not None:
            self._local.tell()

    def check_resources(self) -> None:
        if self._local is not None:
            raise NotSupportedError(
                "the embedded cluster of this program provides no resources; use a cluster whose workers were started"
                " with `jobrunner worker start --resources`"
            )

    def check_detach(self) -> None:
        if self._local is not None:
            super().check_detach()

    def on_connection_lost(self, effect: ConnectionLost) -> None:
        if self._local is not None:
            return  # the thread of the embedded cluster reports what went wrong, see `when_failed`
        if not self._has_had_calls:
            return  # nobody waits for it
        self._said_lost = True
        limit = self._config.reconnect_timeout
        LOGGER.warning(
            "lost the coordinator at %s: %s; its calls go on, and wait up to %g s for it (reconnect_timeout)",
            self.address,
            effect.reason,
            limit,
        )

    def on_connected(self, effect: Connected) -> None:
        super().on_connected(effect)
        if self._said_lost:
            self._said_lost = False
            # This is a warning, too, because everybody who has seen the first one waits for it.
            LOGGER.warning("the coordinator at %s is back", self.address)

    def described(self, effect: GiveUp) -> str:
        described = f"the coordinator at {self.address}: {effect.error}"
        if effect.advises or effect.kind != CoordinatorLostError.__name__:
            return described
        unknown = unknown_host(self.address)
        if unknown:
            described = f"{described}; {unknown}"
        return (
            f"{described}. Is it running, and reachable from here? `jobrunner coordinator start` starts one;"
            " JOBRUNNER_ADDRESS or Executor(ADDRESS) says where it is"
        )

    def end_at_once(self) -> None:
        if self._local is not None:
            self._local.exit_wait = 0.0

    def close(self) -> None:
        if self._local is not None:
            self._local.stop(self._show_last_words)


def given_address(settings: BackendSettings) -> str:
    """Return the address of the settings; raise NotSupportedError for settings that only its workers can have."""
    if settings.max_tasks_per_child is not None:
        raise NotSupportedError(
            "max_tasks_per_child: this setting belongs to the workers of the cluster; start them with"
            " `jobrunner worker start --max-tasks-per-slot N`"
        )
    assert settings.address is not None
    return check_address(settings.address)


class ClusterBackend(CoreBackend):
    """The backend for a cluster at `settings.address`, or for an embedded one if no address is given.

    Raises AuthenticationError if there is no key for the cluster at the address, and CoordinatorLostError if no
    coordinator answers there within `connect_timeout`.
    """

    name = "cluster"

    def __init__(self, settings: BackendSettings) -> None:
        settings.refuse_unknown(self.name)
        self._said_idle = False
        self._cluster = ClusterConnection(settings)
        try:
            super().__init__(settings, self._cluster)
        except BaseException:
            self._cluster.abandon()
            raise
        try:
            self._cluster.wait(self._thread.give_up)
            failure = self._state.failure_anew()
            if failure is not None:
                raise failure
        except BaseException:  # no caller gets this object, so nobody else could end it
            self.kill()
            raise

    def prepare(self, fn: Callable[..., Any]) -> Prepared:
        if self._cluster.is_idle and not self._said_idle:
            # Otherwise a program whose user forgot to start workers would hang without a message.
            self._said_idle = True
            LOGGER.warning(
                "no worker has joined the cluster at %s: calls wait until one does (`jobrunner worker start`)",
                self._cluster.address,
            )
        return super().prepare(fn)

    def connection(self) -> str | None:
        return self._cluster.address
