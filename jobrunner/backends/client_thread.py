"""The I/O thread of a CoreBackend, which drives the client's core, and ends all waits for the core when it ends."""

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
"""Maximum wait in seconds of `kill` for the orderly end of the I/O thread, and again after its work was aborted."""

Steps = Sequence[Callable[[], object]]


def nothing() -> None:
    """Do nothing; this stands for steps that are not known yet."""


class ClientThread:
    """The I/O thread. It passes posted events to its core, and drains after the shutdown once no call is waited for.

    Output of slots that are ending is shown only with `show_output`.
    """

    driver: Driver
    """The driver of the core, which the thread creates before `start` returns."""

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
        """True once the driver's loop has ended in an orderly way."""
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
        """Start the thread, and return once it has its driver; raise the error if the driver cannot be created.

        `effects`, `collect` and `due` are passed to the Driver. At the end the thread performs the steps `closes`, and
        then `ends_of_waits`, which end every wait for the backend. The latter may be repeated, and two threads may
        perform them at the same time.
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
        """Pass an event to the core."""
        self.driver.post(event)

    @property
    def is_current(self) -> bool:
        """Whether this is the calling thread."""
        return self._thread.is_current

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end of the thread for at most `timeout` seconds; return whether it has ended."""
        return self._thread.join(timeout)

    def finish(self) -> None:
        """End the thread once no call is waited for; call this after the shutdown, with the backend's lock held."""
        if self._pending.has_only_loose:
            self.driver.post(DrainRequested())
        else:
            self.driver.wake()  # Ctrl-C may have come after a call was noted and before the thread was woken for it

    def kill(self) -> None:
        """End the thread now, without a wait for running calls; call this after the shutdown."""
        self.driver.post(DrainRequested())
        if self.is_current or self.join(KILL_WAIT):
            return
        self.driver.abort()
        if not self.join(KILL_WAIT):
            # The thread runs code of the user, perhaps for ever: the unpickling of a result, or a callback. If it comes
            # back, it has no effect any more.
            do_all(self._take_what_is_left, *self._ends_of_waits)

    def abandon(self) -> None:
        """End the thread of a backend that could not be opened; the thread may not even have been started.

        Call this after the shutdown.
        """
        if self._started.is_set() and self._start_error is None:  # otherwise it sees the end at its start
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
        """Break the executor, as the standard library's pools do; its end fails the pending calls."""
        if self._state.failure is None:
            error = exception_of(effect.outcome, "")
            if not isinstance(
                error, InitializerError
            ):  # the error has a class of another version of Python or jobrunner, which does not exist here
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
