"""What a CoreBackend is connected to: the wire to its coordinator, and what is known of its other end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from jobrunner.errors import NotSupportedError
from jobrunner.nested.wait_hooks import Caller
from jobrunner.protocol.effects import CapacityChanged, Connected, ConnectionLost, GiveUp
from jobrunner.system import conditions
from jobrunner.transport.driver import Wire

Text: TypeAlias = "tuple[int, str]"
"""The stream (stdout or stderr), and what a slot has printed."""


class Connection:
    """One for each CoreBackend; each kind of backend has its own class.

    The I/O thread calls `make_wire` first and `close` last, and reports what it hears of the other end.
    """

    key: str = ""
    """The public key under which this end connects; empty if it needs none."""
    same_host: bool
    """Whether all calls certainly run on this host, by slots that were started for this backend alone."""

    def __init__(self, backend: str, peer_timeout: float) -> None:
        """`backend` is the name of the kind, for errors. `peer_timeout` is in seconds, and 0 means no limit."""
        self._backend = backend
        self.peer_timeout = peer_timeout
        self.slots = 0
        """The number of slots at the other end, as it has told."""
        self.connected = conditions.Event()
        """Set once connected, or once it is known that this will not be."""

    def make_wire(
        self, give_up: Callable[[GiveUp], None], show_last_words: Callable[[list[Text]], None]
    ) -> Wire:
        """Return the wire; called on the I/O thread.

        `give_up` may be called on any thread, and ends the backend. `show_last_words` takes what slots print while
        they end.
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
        """What tells a cluster that others can join from others; None where nobody can join."""
        return None

    def first_call(self, caller: Caller) -> None:
        """A call comes, and `caller` had no unfinished one; called with the backend's lock held."""

    def calls_are_sent(self) -> None:
        """Calls are about to leave; called on the I/O thread."""

    def check_resources(self) -> None:
        """Raise NotSupportedError where no worker can ever have a named resource: the call would wait for ever."""

    def check_detach(self) -> None:
        """Raise NotSupportedError unless what runs the calls outlives this program."""
        raise NotSupportedError(
            f'detach=True: nothing of the "{self._backend}" backend outlives this program; use the address of a'
            " cluster, see `jobrunner coordinator start`"
        )

    def described(self, effect: GiveUp) -> str:
        """Return the text of the error with which the connection has ended."""
        return effect.error

    def end_at_once(self) -> None:
        """Do not wait for anything in `close`; any thread may call this."""

    def close(self) -> None:
        """End what was started; called on the I/O thread, after the wire was closed."""

    def on_connected(self, effect: Connected) -> None:
        self.slots = effect.slots
        self.connected.set()

    def on_connection_lost(self, effect: ConnectionLost) -> None:
        """The coordinator does not answer, and is waited for."""

    def on_capacity(self, effect: CapacityChanged) -> None:
        self.slots = effect.slots
