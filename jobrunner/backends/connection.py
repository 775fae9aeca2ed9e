"""The connection of a CoreBackend: the wire to its coordinator, and the knowledge about the other end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from jobrunner.errors import NotSupportedError
from jobrunner.nested.wait_hooks import Caller
from jobrunner.protocol.effects import CapacityChanged, Connected, ConnectionLost, GiveUp
from jobrunner.system import conditions
from jobrunner.transport.driver import Wire

Text: TypeAlias = "tuple[int, str]"
"""The number of the stream (stdout or stderr), and a text that a slot has printed to it."""


class Connection:
    """The connection of one CoreBackend; each kind of backend has its own class.

    The I/O thread calls `make_wire` first and `close` last, and reports what it learns about the other end.
    """

    key: str = ""
    """The public key under which this end connects; empty if it needs none."""
    same_host: bool
    """Whether all calls certainly run on this host, in slots that were started for this backend alone."""

    def __init__(self, backend: str, peer_timeout: float) -> None:
        """Create a connection without a wire.

        `backend` is the name of the kind of backend, for errors. `peer_timeout` is in seconds, and 0 means no limit.
        """
        self._backend = backend
        self.peer_timeout = peer_timeout
        self.slots = 0
        """The number of slots that the other end has reported."""
        self.connected = conditions.Event()
        """An event that is set once there is a connection, or once it is known that there will be none."""

    def make_wire(
        self, give_up: Callable[[GiveUp], None], show_last_words: Callable[[list[Text]], None]
    ) -> Wire:
        """Return the wire; the I/O thread calls this.

        Any thread may call `give_up`, which ends the backend. `show_last_words` takes the output of slots that are
        ending.
        """
        raise NotImplementedError

    @property
    def timeouts(self) -> dict[str, float | None]:
        """The keyword arguments `connect_timeout` and `reconnect_timeout` of ClientCore."""
        return {}

    @property
    def max_workers(self) -> int:
        """The number of calls that can run at the same time now; at least 1."""
        return max(1, self.slots)

    @property
    def cluster(self) -> str | None:
        """A string that identifies the cluster if other processes can join it, or None."""
        return None

    def first_call(self, caller: Caller) -> None:
        """Note that `caller` submits a call and has no unfinished one; called with the backend's lock held."""

    def calls_are_sent(self) -> None:
        """Note that calls are about to be sent; called on the I/O thread."""

    def check_resources(self) -> None:
        """Raise NotSupportedError if no worker can ever have a named resource, so that the call would wait for ever."""

    def check_detach(self) -> None:
        """Raise NotSupportedError unless calls can outlive this program."""
        raise NotSupportedError(
            f'detach=True: nothing of the "{self._backend}" backend outlives this program; use the address of a'
            " cluster, see `jobrunner coordinator start`"
        )

    def described(self, effect: GiveUp) -> str:
        """Return the text of the error with which the connection has ended."""
        return effect.error

    def end_at_once(self) -> None:
        """Let `close` wait for nothing; any thread may call this."""

    def close(self) -> None:
        """End what this connection has started; called on the I/O thread, after the wire was closed."""

    def on_connected(self, effect: Connected) -> None:
        self.slots = effect.slots
        self.connected.set()

    def on_connection_lost(self, effect: ConnectionLost) -> None:
        """Note that the coordinator does not answer, and that the client waits for it."""

    def on_capacity(self, effect: CapacityChanged) -> None:
        self.slots = effect.slots
