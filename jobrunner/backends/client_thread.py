"""The I/O thread of a CoreBackend: it turns the client's core, and ends all that waits for it when it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jobrunner.backends.backend_thread import BackendThread
from jobrunner.backends.connection import Connection, Text
from jobrunner.backends.failures import exception_of
from jobrunner.backends.open_state import OpenState
from jobrunner.backends.pending_calls import PendingCalls
from jobrunner.display.printer import Printer
from jobrunner.errors import InitializerError
from jobrunner.protocol.client.core import ClientCore
from jobrunner.protocol.effects import (
    Accepted,
    DrainRequested,
    Event,
    GiveUp,
    InitializerFailed,
    ResolveTasks,
    ShowOutput,
)
from jobrunner.system import conditions
from jobrunner.system.atexit_hooks import do_all
from jobrunner.transport.driver import Driver
from jobrunner.transport.service import error_named

KILL_WAIT = 5.0
"""Seconds that `kill` waits for the I/O thread: for its orderly end, and once more when it is to leave its work."""

Steps = Sequence[Callable[[], object]]


def nothing() -> None:
    """There is nothing to do yet."""


class ClientThread:
    """It gives its core what is posted, and drains once the backend is shut down and nobody waits for a call.

    What slots print while they end is shown only with `show_output`.
    """

    driver: Driver
    """Made on the thread; it is there when `start` returns."""

    def __init__(
        self,
        name: str,
        state: OpenState,
        pending: PendingCalls,
        connection: Connection,
        *,
        show_output: bool,
    ) -> None:
        self._state = state
        self._pending = pending
        self._connection = connection
        self._show_output = show_output
        self._printer = Printer()
        self._started = conditions.Event()
        self._start_error: BaseException | None = None
        self._close_wire: Callable[[], None] = nothing
        self._finished = False
        """The driver's loop has ended as it should."""
        self._make_driver: Callable[[], None] = nothing
        self._closes: Steps = ()
        self._ends_of_waits: Steps = ()
        self._thread = BackendThread(name, self._run, self._failed, self._end)

    def start(
        self,
        core: ClientCore,
        effects: Mapping[type, Callable[[Any], None]],
        *,
        collect: Callable[[], Iterable[Event]],
        due: Callable[[], float | None],
        closes: Steps,
        ends_of_waits: Steps,
    ) -> None:
        """Return once the thread has its driver, or raise why it has none.

        `effects`, `collect` and `due` are for the Driver. At the end the thread takes the steps `closes`, and then
        `ends_of_waits`, which end every wait for the backend. The latter may be repeated, and two threads may perform
        them at the same time.
        """

        def make_driver() -> None:
            wire = self._connection.make_wire(self.give_up, self._show_last_words)
            self._close_wire = wire.close
            self.driver = Driver(core, wire, effects, collect=collect, due=due)

        self._make_driver = make_driver
        self._closes, self._ends_of_waits = closes, ends_of_waits
        self._thread.start()
        self._started.wait()
        if self._start_error is not None:
            raise self._start_error

    # --- for any thread ---

    def post(self, event: Event) -> None:
        """Give the core an event."""
        self.driver.post(event)

    @property
    def is_current(self) -> bool:
        """Whether this is the calling thread."""
        return self._thread.is_current

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end of the thread for at most `timeout` seconds; return whether it has ended."""
        return self._thread.join(timeout)

    def finish(self) -> None:
        """End soon, since the backend is shut down; called with the backend's lock held."""
        if self._pending.has_only_loose:
            self.driver.post(DrainRequested())
        else:
            self.driver.wake()  # Ctrl-C may have come when a call had been noted, and nobody told of it

    def kill(self) -> None:
        """End now; nobody waits for what runs. The backend is shut down."""
        self.driver.post(DrainRequested())
        if self.is_current or self.join(KILL_WAIT):
            return
        self.driver.abort()
        if not self.join(KILL_WAIT):
            # It is in code of the user's, maybe for ever: a result that is unpickled, or a callback. It changes
            # nothing any more if it comes back.
            do_all(self._take_what_is_left, *self._ends_of_waits)

    def abandon(self) -> None:
        """End, as nobody will have the backend, which is shut down; the thread may not even have been started."""
        if self._started.is_set() and self._start_error is None:  # else the thread will find it so
            self._drain_if_done()

    def give_up(self, effect: GiveUp) -> None:
        """End the backend with this error."""
        self._state.fail(error_named(effect.kind, self._connection.described(effect)))
        self.driver.abort()

    # --- what the core asks for; on the thread ---

    def on_outcomes(self, effect: ResolveTasks) -> None:
        self._pending.resolve_outcomes(effect.outcomes)
        self._drain_if_done()

    def on_accepted(self, effect: Accepted) -> None:
        self._pending.accept(effect.ids)
        self._drain_if_done()

    def on_initializer_failed(self, effect: InitializerFailed) -> None:
        """The executor is broken, as the standard library's pools are then; the end fails what is pending."""
        if self._state.failure is None:
            error = exception_of(effect.outcome, "")
            if not isinstance(
                error, InitializerError
            ):  # one of a version of Python or of jobrunner that is not here
                error = InitializerError(str(error))
            self._state.fail(error)
            self.driver.post(DrainRequested())

    def on_output(self, effect: ShowOutput) -> None:
        self._printer.show([(chunk.stream, chunk.text) for chunk in effect.chunks])

    # --- the thread ---

    def _run(self) -> None:
        self._make_driver()
        self._close_wire = lambda: self.driver.close(orderly=self._finished)
        self._printer.start()
        self._started.set()
        self._drain_if_done()
        self._finished = self.driver.run()

    def _failed(self, exc: BaseException) -> None:
        if not self._started.is_set():
            self._start_error = exc
        else:
            self._state.fail_by_bug("the I/O thread", exc)

    def _drain_if_done(self) -> None:
        if self._state.is_shut_down and self._pending.has_only_loose:
            self.driver.post(DrainRequested())

    def _show_last_words(self, texts: list[Text]) -> None:
        if self._show_output:
            self._printer.show(texts)

    def _end(self) -> Steps:
        return (
            self._take_what_is_left,
            self._close_wire,
            self._connection.close,
            *self._closes,
            self._printer.close,
            *self._ends_of_waits,
            self._started.set,
        )

    def _take_what_is_left(self) -> None:
        self._pending.take_what_is_left(self._state.shut_down)
