"""What the backends over other engines (Dask, Ray, MPI) share.

The engine runs our calls as its own tasks, each through `in_worker.run`. Everything else is decided here, on one
thread of this process: which call goes to the engine when, what follows the end of an attempt, and when a Future is
done. So retries, dependencies, cancelling and errors are the same on each engine, and nothing polls: the engine's
callbacks, the callers and timers put events into one queue.

    caller's threads                    this thread                        the engine's threads
    submit (Submission, NewCalls),      Attempts: handle events, take      arrived
    cancel -> Events ------------->     from the lines, `_send` what   <-- Events
                                        was taken; UnfinishedCalls
                                        resolve the Futures

Subclasses carry calls to their engine and say what the engine's errors mean.
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
"""Seconds that `cancel(running=True)` waits for the confirmed stop."""

KILL_WAIT = 10.0
"""Seconds that `kill` waits for this backend's thread, which ends what it started."""


def window_of(settings: BackendSettings) -> int | None:
    """The option `window`. Raises ConfigError."""
    window = settings.extra.get("window")
    if window is not None and (not isinstance(window, int) or isinstance(window, bool) or window < 1):
        raise ConfigError(f"window={window!r}: must be an integer above 0, the number of calls")
    return window


class EngineBackend(Backend):
    """See the module. A subclass is ready to `_send` when it calls this class's `__init__`.

    This class is what other packages derive from, and all that they use of it is here. So it has more methods than
    other classes; what they do is done by its parts.
    """

    name: ClassVar[str]
    can_stop: ClassVar[bool] = False
    """Whether a call that runs can be stopped: `cancel(running=True)`, and the option `timeout`."""
    why_not: ClassVar[str] = ""
    """Why it cannot be, for the error."""
    shares_processes: ClassVar[bool] = False
    """Whether a process of the engine's may have several calls when it dies, and nobody knows which of them ran."""

    def __init__(self, settings: BackendSettings, *, extra: int | None = 0, ahead: bool = True) -> None:
        """`extra`: calls that the engine gets beyond its slots; None: as many as there are.

        `ahead`: it gets more of short calls, which it must not run at the same time.
        """
        self._show_output = settings.config.show_output
        self._initializer: DumpedFunction | None = None
        if settings.initializer is not None:
            self._initializer = serialization.dump_initializer(settings.initializer, settings.initargs)
        # Reentrant: the garbage collector may shut an executor down in a thread that is in here.
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
        """Calls that the engine can run at the same time now."""

    @abstractmethod
    def _send(self, calls: Sequence[Call]) -> None:
        """Hand these to the engine; each ends with `arrived`, which may be called on any thread.

        Set `handle`. Raises whatever the engine raises; then none of `calls` whose `handle` is None was handed over.
        """

    def _stop(self, call: Call, hard: bool) -> None:
        """Stop a call that the engine has; it ends with `arrived`. First softly, and then hard."""

    @abstractmethod
    def _diagnose(self, call: Call, error: BaseException) -> AttemptFailure:
        """What an error of the engine says."""

    def _check_resources(self, resources: dict[str, float]) -> None:
        """Raises NotSupportedError for those that can never be had. Called by callers."""

    def _let_go(self, call: Call) -> None:
        """The call is done: drop what is kept for it."""

    def _turned(self) -> None:
        """Events were handled and calls sent, as far as there were any."""

    @abstractmethod
    def _close(self, killed: bool) -> None:
        """Close what this backend started, and only that."""

    def arrived(self, call: Call, attempt: int, back: Any, error: BaseException | None) -> None:
        """For subclasses, on any thread: the end of an attempt, what `in_worker.run` gave or the engine's error."""
        self._events.post(partial(self._attempts.on_end, call, attempt, back, error))

    def unfinished_calls(self) -> list[Call]:
        """For subclasses, on any thread: all calls that are not done."""
        return list(self._calls.by_id.values())

    def head(self, call: Call, *, apart: bool = False) -> tuple[Any, ...]:
        """For subclasses: the first argument of what `engine_entry` makes.

        `apart`: the large parts of its functions, `parts_of(call)`, are not in it. They are further arguments then,
        after the third.
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
        """For subclasses: what its function and its initializer need, and what others may need as well."""
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
            return (
                False  # a callback: the answer comes through this very thread, so nobody can wait for it here
            )
        with self._cancel_waits.one_more(future) as wait:
            if not future.done():  # else nobody may be left to answer
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
        """What runs is stopped where the engine can; nobody waits for it otherwise."""
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
        """See BackendThread."""
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
    """Wakes a thread that waits for events."""
