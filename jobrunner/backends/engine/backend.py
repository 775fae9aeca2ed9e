"""The common base of the backends that use another engine (Dask, Ray, MPI).

The engine runs calls as its own tasks, each through `in_worker.run`. All decisions are made here, on one thread of this
process: which call goes to the engine next, what follows the end of an attempt, and when a Future is done. So retries,
dependencies, cancelling and errors are the same on each engine. Nothing polls, because the engine's callbacks, the
callers and timers put events into one queue.

    caller's threads                    this thread                        the engine's threads
    submit (Submission, NewCalls),      Attempts: handle events, take      arrived
    cancel -> Events ------------->     calls from the lines, `_send`  <-- Events
                                        them; UnfinishedCalls: resolve
                                        the Futures

Subclasses pass calls to their engine, and interpret the engine's errors.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

from jobrunner.backends.backend_thread import BackendThread
from jobrunner.backends.base import Backend, BackendSettings
from jobrunner.backends.engine.attempts import AttemptFailure, Attempts, Engine
from jobrunner.backends.engine.call_queue import Call
from jobrunner.backends.engine.events import Events
from jobrunner.backends.engine.in_worker import PROTOCOL, Head, fields_of
from jobrunner.backends.engine.new_calls import NewCalls
from jobrunner.backends.engine.unfinished_calls import UnfinishedCalls
from jobrunner.backends.open_state import OpenState
from jobrunner.backends.pending_calls import PendingCalls
from jobrunner.backends.prepared import PackedElements, Prepared
from jobrunner.backends.submission import Submission
from jobrunner.calls import serialization
from jobrunner.calls.serialization import DumpedFunction
from jobrunner.display.printer import Printer
from jobrunner.errors import ConfigError, NotSupportedError
from jobrunner.fixed.elements import ElementResults
from jobrunner.futures import CancelWaits, Future
from jobrunner.pickling.loading import Held
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.kinds import Chunk
from jobrunner.protocol.wire.payloads import Payload
from jobrunner.system import forks
from jobrunner.system.atexit_hooks import finish_before_exit

STOP_WAIT = 20.0
"""Maximum wait in seconds of `cancel(running=True)` for the confirmed stop."""

KILL_WAIT = 10.0
"""Maximum wait in seconds of `kill` for this backend's thread, which ends what it has started."""


def window_of(settings: BackendSettings) -> int | None:
    """Return the option `window`, or None if it is not given; raise ConfigError for a bad value."""
    window = settings.extra.get("window")
    if window is not None and (not isinstance(window, int) or isinstance(window, bool) or window < 1):
        raise ConfigError(f"window={window!r}: must be an integer above 0, the number of calls")
    return window


class EngineBackend(Backend):
    """The base class of backends that use another engine, which other packages derive from, too.

    A subclass must be ready to `_send` when it calls this class's `__init__`. All that subclasses use is here, so this
    class has more methods than others; they call its parts.
    """

    name: ClassVar[str]
    can_stop: ClassVar[bool] = False
    """Whether a running call can be stopped, by `cancel(running=True)` and by the option `timeout`."""
    why_not: ClassVar[str] = ""
    """The reason why a running call cannot be stopped, for the error."""
    shares_processes: ClassVar[bool] = False
    """Whether a process of the engine may have several calls when it dies, so that the guilty one is not known."""

    def __init__(self, settings: BackendSettings, *, extra: int | None = 0, ahead: bool = True) -> None:
        """Start the backend's thread.

        `extra` is the number of calls that the engine gets beyond its slots; None gives it all calls. With `ahead`, it
        gets further ones of short calls, which it must not run at the same time.
        """
        self._show_output = settings.config.show_output
        self._initializer: DumpedFunction | None = None
        if settings.initializer is not None:
            self._initializer = serialization.dump_initializer(settings.initializer, settings.initargs)
        # The lock is reentrant, because the garbage collector may shut an executor down in a thread that holds it.
        self._lock = forks.lock()
        self._state = OpenState()
        self._killed = False
        self._events = Events()
        self._cancel_waits = CancelWaits()
        self._pending = PendingCalls(self._lock, self._cancel_waits)
        self._calls = UnfinishedCalls(self._pending, self._cancel_waits)
        self._printer = Printer()
        self._attempts = Attempts(
            Engine(self._slots, self._send, self._stop, self._diagnose, self._let_go, self.shares_processes),
            self._calls,
            self._events,
            self._printer.show,
            crash_limit=settings.config.crash_limit,
            extra=extra,
            ahead=ahead,
        )
        new_calls = NewCalls(
            self._lock, self._state.check, self._calls, self._attempts, self._events, self._cancel
        )
        self._submission = Submission(self._state.check, new_calls.send)
        failed = partial(self._state.fail_by_bug, "the thread of the backend")
        self._thread = BackendThread(self.name, self._handle_events, failed, self._end)
        self._printer.start()
        self._thread.start()
        finish_before_exit(self.shutdown, self.kill)

    # --- for subclasses; all but `_slots` are called on this backend's thread -------------------------------

    @abstractmethod
    def _slots(self) -> int:
        """Return the number of calls that the engine can run at the same time now."""

    @abstractmethod
    def _send(self, calls: Sequence[Call]) -> None:
        """Pass these calls to the engine, and set their `handle`.

        At the end of each call, `arrived` must be called, on any thread. This method may raise any exception of the
        engine; then the engine must not have those of `calls` whose `handle` is None.
        """

    def _stop(self, call: Call, hard: bool) -> None:
        """Stop a call that the engine has, which then ends with `arrived`; `hard` stops it by force."""

    @abstractmethod
    def _diagnose(self, call: Call, error: BaseException) -> AttemptFailure:
        """Return the meaning of an error of the engine."""

    def _check_resources(self, resources: dict[str, float]) -> None:
        """Raise NotSupportedError for resources that can never be provided; called in the callers' threads."""

    def _let_go(self, call: Call) -> None:
        """Drop everything that is kept for this call, whose attempt has ended, or which was cancelled."""

    def _turned(self) -> None:
        """Note that the present events were handled, and that calls were sent."""

    @abstractmethod
    def _close(self, killed: bool) -> None:
        """Close everything that this backend has started, and nothing else."""

    def arrived(self, call: Call, attempt: int, back: Any, error: BaseException | None) -> None:
        """Take the end of an attempt, with the result of `in_worker.run` or the engine's error.

        Subclasses may call this on any thread.
        """
        self._events.post(partial(self._attempts.on_end, call, attempt, back, error))

    def unfinished_calls(self) -> list[Call]:
        """Return all calls that are not done; subclasses may call this on any thread."""
        return list(self._calls.by_id.values())

    def head(self, call: Call, *, apart: bool = False) -> tuple[Any, ...]:
        """Return the first argument of the function that `entry` returns; subclasses call this.

        With `apart`, it does not contain the large parts of its functions, `parts_of(call)`, which must then be passed
        as further arguments after the third.
        """
        options = call.options
        initializer = self._initializer
        return tuple(
            Head(
                PROTOCOL,
                type(self).__module__,
                self.name,
                fields_of(call.function, apart=apart),
                None if initializer is None else fields_of(initializer, apart=apart),
                call.id,
                call.future.name,
                call.attempt,
                (call.kind.start, call.kind.stop) if isinstance(call.kind, Chunk) else None,
                call.depth,
                options.retry_on,
                options.timeout,
                options.at_most_once,
                self._show_output,
            )
        )

    def parts_of(self, call: Call) -> tuple[DumpedFunction, ...]:
        """Return the parts of the call's function and initializer, which other functions may have in common with them.

        Subclasses call this.
        """
        initializer = self._initializer
        return call.function.parts if initializer is None else call.function.parts + initializer.parts

    # --- submitting -----------------------------------------------------------------------------------------

    @property
    def max_workers(self) -> int:
        return max(1, self._slots())

    def prepare(self, fn: Callable[..., Any]) -> Prepared:
        return Prepared(fn)

    def submit(
        self,
        prepared: Prepared,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: m.TaskOptions = m.DEFAULT_OPTIONS,
    ) -> Future[Any]:
        if options is not m.DEFAULT_OPTIONS:
            self._check_options(options)
        return self._submission.submit(prepared, args, kwargs, options)

    copies = True

    def held(self, prepared: Prepared) -> Held | None:
        return prepared.held()

    def pack(self, elements: Any) -> Payload | PackedElements:
        return self._submission.pack(elements)

    def submit_chunk(
        self,
        prepared: Prepared,
        packed: Payload | PackedElements,
        start: int,
        stop: int,
        options: m.TaskOptions = m.DEFAULT_OPTIONS,
    ) -> Future[ElementResults]:
        self._check_options(options)
        return self._submission.submit_chunk(prepared, packed, start, stop, options)

    def _check_options(self, options: m.TaskOptions) -> None:
        if options.timeout is not None and not self.can_stop:
            raise NotSupportedError(
                f'{self.why_not}, so the "{self.name}" backend has no timeout; use "processes" or "cluster"'
            )
        if options.detach:
            raise NotSupportedError(
                f'detach=True: nothing of the "{self.name}" backend outlives this program; use "cluster"'
            )
        if options.resources:
            self._check_resources(dict(options.resources))

    # --- cancelling -----------------------------------------------------------------------------------------

    def _cancel(self, future: Future[Any], running: bool) -> bool:
        if future.cancel_pending():
            self._events.post(partial(self._attempts.drop, future.id))
            return True
        if not running or future.done():
            return False
        if not self.can_stop:
            raise NotSupportedError(
                f'{future.name} runs, and {self.why_not}; use the "processes" or "cluster" backend to cancel'
                " running calls"
            )
        ask = partial(self._events.post, partial(self._attempts.ask_to_stop, future))
        if not self.can_wait:
            ask()
            return False  # this callback runs in the thread that brings the answer, so it cannot wait
        with self._cancel_waits.one_more(future) as wait:
            if not future.done():  # otherwise there may be no thread that answers
                wait.wait(ask, STOP_WAIT, True)
        return future.cancelled()

    def cancel_all(self, futures: Sequence[Future[Any]], *, running: bool = False) -> None:
        for future in futures:
            if future.cancel_pending():
                self._events.post(partial(self._attempts.drop, future.id))
            elif running and self.can_stop and not future.done():
                self._events.post(partial(self._attempts.ask_to_stop, future))

    # --- the end --------------------------------------------------------------------------------------------

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if not self._state.is_of_this_process:
            return  # a forked child has no thread to end
        with self._lock:
            self._state.shut_down()
        self._events.post(self._attempts.cancel_what_waits if cancel_futures else nothing)
        if wait and self.can_wait:
            self._thread.join()

    @property
    def can_wait(self) -> bool:
        return not self._thread.is_current

    def kill(self) -> None:
        """Stop the running calls if the engine can do so; otherwise do not wait for them."""
        if not self._state.is_of_this_process:
            return
        with self._lock:
            self._state.shut_down()
            self._killed = True
        self._events.post(nothing)
        if self.can_wait:
            self._thread.join(KILL_WAIT)

    def status(self) -> dict[str, Any]:
        with self._lock:
            states = [call.future._state for call in self.unfinished_calls()]
        return {
            "backend": self.name,
            "address": self.connection(),
            "max_workers": self.max_workers,
            "running": states.count("RUNNING"),
            "queued": states.count("PENDING"),
        }

    # --- this backend's thread ------------------------------------------------------------------------------

    def _handle_events(self) -> None:
        while not self._killed and not (self._state.is_shut_down and not self._calls.by_id):
            for event in self._events.take():
                event()
                del event  # it may hold a result, which must not live until the next event comes
            self._attempts.dispatch()
            self._turned()

    def _end(self) -> Sequence[Callable[[], object]]:
        """Return the steps of the end, for the BackendThread."""
        return (
            partial(self._pending.take_what_is_left, self._state.shut_down),
            self._stop_what_runs,
            lambda: self._close(self._killed or self._state.failure is not None),
            self._printer.close,
            partial(self._pending.resolve_what_is_left, lambda *call: self._state.failure_anew()),
            self._calls.clear,
            self._cancel_waits.end,
        )

    def _stop_what_runs(self) -> None:
        if self._killed and self.can_stop:
            self._attempts.stop_all()


def nothing() -> None:
    """Do nothing; posted as an event, it wakes the thread that waits for events."""
