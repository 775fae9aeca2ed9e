"""What the backends over other engines (Dask, Ray, MPI) share.

The engine runs our calls as its own tasks, each through `engine_worker.run`. Everything else is decided here, on one
thread of this process: which call goes to the engine when, what follows the end of an attempt, and when a Future is
done. So retries, dependencies, cancelling and errors are the same on each engine, and nothing polls: the engine's
callbacks, the callers and timers put events into one queue.

    caller's threads                    this thread                        the engine's threads
    submit, cancel -> _post ----->  handle events, take from the     <----- arrived
                                    lines, `_send` what was taken

Subclasses carry calls to their engine and say what the engine's errors mean.
"""

from __future__ import annotations

import os
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

from jobrunner.backends.base import Backend, BackendSettings
from jobrunner.backends.dependency_results import with_placeholders
from jobrunner.backends.engine.call_queue import Call, Line, Suspects
from jobrunner.backends.engine.events import Events
from jobrunner.backends.engine.in_worker import PROTOCOL, Head, fields_of, unwrapped
from jobrunner.backends.failures import exception_of
from jobrunner.backends.futures_in_arguments import AnyFuture, may_hold_futures
from jobrunner.backends.prepared import PackedElements, Prepared, chunk, pack
from jobrunner.backends.threads import result_of_dependency
from jobrunner.calls import serialization
from jobrunner.calls.serialization import DumpedFunction
from jobrunner.display.printer import Printer
from jobrunner.errors import (
    ConfigError,
    CoordinatorLostError,
    JobRunnerError,
    NotSupportedError,
    SerializationError,
)
from jobrunner.fixed import load_element_results
from jobrunner.fixed.elements import ElementResults
from jobrunner.futures import Future, resolve
from jobrunner.nested.wait_hooks import depth
from jobrunner.pickling.loading import Held
from jobrunner.protocol.retry import backoff
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import ClientId, TaskId, random_token, task_id
from jobrunner.protocol.wire.payloads import Payload
from jobrunner.script import per_thread as threads
from jobrunner.system import conditions, forks
from jobrunner.system.atexit_hooks import do_all, finish_before_exit

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


class AttemptFailure(NamedTuple):
    """What an engine's error says of the end of an attempt."""

    status: m.Status
    """m.CRASHED, m.LOST, m.CANCELLED or m.TIMED_OUT."""
    text: str
    detail: m.Detail
    """See `m.Outcome`; "unable": the engine cannot run it, however often it tries; "engine_lost": nor anything else."""


class EngineBackend(Backend):
    """See the module. A subclass is ready to `_send` when it calls this class's `__init__`."""

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
        self._extra = extra
        self._ahead = ahead
        self._crash_limit = settings.config.crash_limit
        self._show_output = settings.config.show_output
        self._pid = os.getpid()
        self._client = ClientId(random_token())
        self._initializer: DumpedFunction | None = None
        if settings.initializer is not None:
            self._initializer = serialization.dump_initializer(settings.initializer, settings.initargs)
        # Reentrant: the garbage collector may shut an executor down in a thread that is in here.
        self._lock = forks.lock()
        self._number = 0
        self._calls: dict[str, Call] = {}
        self._shut_down = False
        self._killed = False
        self._failure: JobRunnerError | None = None
        """Why this backend's thread has ended before its time."""
        self._ended = False
        self._resolved: list[Call] = []
        """Those whose Future is being resolved, and are in `_calls` no more."""
        self._left: list[Call] = []
        """At the end: what was not resolved by then."""
        self._events = Events()
        self._lines: dict[tuple[tuple[str, float], ...], Line] = {}
        self._suspects = Suspects(self._crash_limit)
        self._stops: dict[str, conditions.Event] = {}
        self._printer = Printer()
        self._printer.start()
        self._thread = threading.Thread(target=self._run, name=f"jobrunner-{self.name}", daemon=True)
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
        """For subclasses, on any thread: the end of an attempt, what `engine_worker.run` gave or the engine's error."""
        self._post(partial(self._on_end, call, attempt, back, error))

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
                call.span,
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
        self._check_options(options)
        futures: list[AnyFuture] = []
        try:
            args, kwargs = prepared.arguments(args, kwargs)
            if may_hold_futures(args, kwargs):
                args, kwargs, futures = with_placeholders(args, kwargs)
            names: dict[str, None] = {}
            payload = serialization.dump_call(
                args,
                kwargs,
                snapshot=True,
                names=names,
                held=len(prepared.args),
                function=prepared.dumped.name,
            )
            if names or (futures and serialization.script_has_classes()):
                prepared = prepared.with_names(names)
        except SerializationError as exc:
            self._check_open()
            failed: Future[Any] = Future()
            failed.name = options.name or prepared.dumped.name
            failed.set_exception(exc)
            return failed
        return self._add(prepared.dumped, payload, None, options, futures)

    copies = True

    def held(self, prepared: Prepared) -> Held | None:
        return prepared.held()

    def pack(self, elements: Any) -> Payload | PackedElements:
        return pack(elements)

    def submit_chunk(
        self,
        prepared: Prepared,
        packed: Payload | PackedElements,
        start: int,
        stop: int,
        options: m.TaskOptions = m.DEFAULT_OPTIONS,
    ) -> Future[ElementResults]:
        self._check_options(options)
        prepared, payload = chunk(prepared, packed)
        return self._add(prepared.dumped, payload, (start, stop), options)

    def _add(
        self,
        prepared: DumpedFunction,
        payload: Payload,
        span: tuple[int, int] | None,
        options: m.TaskOptions,
        depends_on: Sequence[AnyFuture] = (),
    ) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            self._check_open()
            self._number += 1
            task = task_id(self._client, self._number)
            future.bind(task, options.name or prepared.name, self._cancel)
            call = Call(task, self._number, future, prepared, payload, span, options, depth(), depends_on)
            call.main = threads.entered()
            self._calls[call.id] = call
        if depends_on:
            self._wait_for_dependencies(call)
        else:
            self._post(partial(self._enqueue, call))
        return future

    def _wait_for_dependencies(self, call: Call) -> None:
        left = len(call.depends_on)
        lock = threading.Lock()

        def one_is_done(_: AnyFuture) -> None:
            nonlocal left
            try:
                with lock:
                    left -= 1
                    last = left == 0
                if last:
                    self._post(partial(self._take_dependencies, call))
            except BaseException as exc:  # nobody would tell the call any more
                resolve(call.future, exception=exc)
                self._events.post(partial(self._drop, call.id))
                raise

        for dependency in call.depends_on:
            dependency.add_done_callback(one_is_done)

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

    def _check_open(self) -> None:
        if self._shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if os.getpid() != self._pid:
            raise RuntimeError(
                "this Executor belongs to the process that forked this one; make a new one here"
            )

    # --- cancelling -----------------------------------------------------------------------------------------

    def _cancel(self, future: Future[Any], running: bool) -> bool:
        if future.cancel_pending():
            self._post(partial(self._drop, future.id))
            return True
        if not running or future.done():
            return False
        if not self.can_stop:
            raise NotSupportedError(
                f'{future.name} runs, and {self.why_not}; use the "processes" or "cluster" backend to cancel'
                " running calls"
            )
        stopped = self._stops.setdefault(future.id, conditions.Event())
        if future.done():  # meanwhile, and nobody may be left to answer
            return future.cancelled()
        self._post(partial(self._ask_to_stop, future.id))
        if not self.can_wait:
            return (
                False  # a callback: the answer comes through this very thread, so nobody can wait for it here
            )
        stopped.wait(STOP_WAIT)
        return future.cancelled()

    def cancel_all(self, futures: Sequence[Future[Any]], *, running: bool = False) -> None:
        for future in futures:
            if future.cancel_pending():
                self._post(partial(self._drop, future.id))
            elif running and self.can_stop and not future.done():
                self._post(partial(self._ask_to_stop, future.id))

    # --- the end --------------------------------------------------------------------------------------------

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if os.getpid() != self._pid:
            return  # a forked child has no thread to end
        with self._lock:
            self._shut_down = True
        self._post(self._cancel_what_waits if cancel_futures else nothing)
        if wait and self.can_wait:
            self._thread.join()

    @property
    def can_wait(self) -> bool:
        return threading.current_thread() is not self._thread

    def kill(self) -> None:
        """What runs is stopped where the engine can; nobody waits for it otherwise."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._shut_down = self._killed = True
        self._post(nothing)
        if self.can_wait:
            self._thread.join(KILL_WAIT)

    def status(self) -> dict[str, Any]:
        with self._lock:
            states = [call.future._state for call in self._calls.values()]
        return {
            "backend": self.name,
            "address": self.connection(),
            "max_workers": self.max_workers,
            "running": states.count("RUNNING"),
            "queued": states.count("PENDING"),
        }

    # --- this backend's thread ------------------------------------------------------------------------------

    def _post(self, event: Callable[[], None]) -> None:
        self._events.post(event)

    def _run(self) -> None:
        """Whatever is raised, and wherever: it gets to `_end`, and if need be once more."""
        try:
            try:
                self._handle_events()
            except BaseException as exc:
                failure = JobRunnerError(
                    f"the thread of the backend failed: {exc!r}; this is a bug in jobrunner"
                )
                failure.__cause__ = exc
                self._failure = failure
            finally:
                self._end()
        finally:
            if not self._ended:
                self._end()

    def _handle_events(self) -> None:
        while not self._killed and not (self._shut_down and not self._calls):
            for event in self._events.take():
                event()
                del event  # it may hold a result, which must not live until the next event comes
            self._dispatch()
            self._turned()

    def _dispatch(self) -> None:
        taken: list[Call] = []
        slots = None if self._extra is None else self.max_workers
        extra, ahead = self._extra or 0, self._ahead
        if len(self._suspects):
            for call in self._suspects.take(self._calls):
                self._enqueue(call)
            extra, ahead = 0, False  # what waits at the door of a process that dies would be a suspect, too
        for line in self._lines.values():
            if len(line):
                taken += line.take(slots, extra, ahead=ahead)
        if not taken:
            return
        now = time.monotonic()
        for call in taken:
            call.attempt += 1
            call.handle = None
            call.sent_at = now
        try:
            self._send(taken)
        except Exception as exc:
            for call in taken:
                if call.handle is None:
                    self.arrived(call, call.attempt, None, exc)

    def _line(self, call: Call) -> Line:
        return self._lines.setdefault(call.options.resources, Line())

    def _enqueue(self, call: Call) -> None:
        if call.id in self._calls:
            self._line(call).add(call)

    def _take_dependencies(self, call: Call) -> None:
        """All that it needs is done: take the results, or fail."""
        if call.future.done():  # cancelled
            return
        try:
            with threads.within(call.main):
                call.values = [
                    serialization.dump_result(result_of_dependency(dependency))
                    for dependency in call.depends_on
                ]
        except BaseException as exc:
            call.future.confirm_running()
            self._resolve(call, None, exc)
            return
        call.depends_on = ()
        self._enqueue(call)

    def _cancel_what_waits(self) -> None:
        """The program shuts down: what the engine has room for begins, as if the call to shut down came later."""
        self._dispatch()
        for call in list(self._calls.values()):
            if call.future.cancel_pending():
                self._drop(call.id)

    def _drop(self, id: str) -> None:
        """It was cancelled while it waited."""
        call = self._calls.pop(id, None)
        if call is not None:
            self._let_go(call)

    def _ask_to_stop(self, id: str) -> None:
        call = self._calls.get(id)
        if call is None:
            self._answer_stop(id)
        elif not call.stop:
            call.stop = True
            if call.handle is None:
                self._resolve_cancelled(call)  # it waits for its next attempt
            else:
                self._stop(call, hard=False)
                self._events.after(2.0, partial(self._stop_hard, call, call.attempt))

    def _stop_hard(self, call: Call, attempt: int) -> None:
        if call.id in self._calls and call.attempt == attempt and call.handle is not None:
            self._stop(call, hard=True)

    def _on_end(self, call: Call, attempt: int, back: Any, error: BaseException | None) -> None:
        if call.id not in self._calls or call.attempt != attempt:
            return
        try:
            self._take_end(call, attempt, back, error)
        except Exception as exc:
            if call.id in self._calls:  # it costs this call, and no other
                failure = JobRunnerError(
                    f"task {call.id} ended, but what the engine gave back could not be taken: {exc!r}"
                )
                failure.__cause__ = exc
                self._resolve(call, None, failure)

    def _take_end(self, call: Call, attempt: int, back: Any, error: BaseException | None) -> None:
        line = self._line(call)
        line.flying -= 1
        self._let_go(call)
        call.handle = None
        payload: Payload = b""
        duration = 0.0
        detail: m.Detail
        if error is not None:
            status, text, detail = self._diagnose(call, error)
            detail = {"error": text, **detail}
        else:
            status, duration, output, detail, parts = back
            if parts:
                payload = unwrapped(parts)
            if output:
                self._printer.show(output)
            line.measured(duration)
            call.future.duration = duration
        self._judge(call, m.Outcome(TaskId(call.id), attempt, status, payload, duration, detail))

    def _judge(self, call: Call, outcome: m.Outcome) -> None:
        """What follows the end of an attempt; compare `protocol.retry`."""
        status, detail, options = outcome.status, outcome.detail or {}, call.options
        if status == m.OK:
            self._resolve(call, outcome, None)
        elif status == m.CANCELLED or call.stop:
            self._resolve_cancelled(call)
        elif "unable" in detail or "engine_lost" in detail:
            kind = JobRunnerError if "unable" in detail else CoordinatorLostError
            self._resolve(call, None, kind(f"task {call.id} ({call.future.name}): {detail['error']}"))
        elif status in (m.ERROR, m.TIMED_OUT):
            call.failures += 1
            final = "final" in detail or (status == m.TIMED_OUT and not options.retry_timeouts)
            if final or call.failures > options.retries:
                self._resolve(call, outcome, None)
            else:
                self._events.after(backoff(call.failures, options.backoff), partial(self._enqueue, call))
        else:
            self._judge_death(call, outcome, detail)

    def _judge_death(self, call: Call, outcome: m.Outcome, detail: m.Detail) -> None:
        call.crashes += 1
        call.history.append(f"{outcome.attempt}: {detail['error']}")
        detail["attempts"] = call.history
        if call.options.at_most_once:
            detail["at_most_once"] = True
        elif call.elements == 1 and call.crashes < self._crash_limit and "final" not in detail:
            if self.shares_processes:
                self._suspects.add(call)
            else:
                self._enqueue(call)
            return
        elif call.elements == 1:
            detail["limit"] = call.crashes
        self._resolve(call, outcome, None)

    def _resolve(self, call: Call, outcome: m.Outcome | None, error: BaseException | None) -> None:
        """The end of a call."""
        with threads.within(call.main):
            self._decode_and_resolve(call, outcome, error)
        self._answer_stop(call.id)

    def _decode_and_resolve(self, call: Call, outcome: m.Outcome | None, error: BaseException | None) -> None:
        """Unpickling runs code of the user's, which may raise anything."""
        value: Any = None
        try:
            if outcome is not None and outcome.status == m.OK:
                load = serialization.load_result if call.span is None else load_element_results
                value = load(outcome.payload)
            elif outcome is not None:
                error = exception_of(outcome, call.future.name)
        except BaseException as exc:
            error = exc
        self._resolved.append(call)
        self._calls.pop(call.id, None)
        resolve(call.future, value, error)
        self._resolved.pop()

    def _resolve_cancelled(self, call: Call) -> None:
        self._resolved.append(call)
        self._calls.pop(call.id, None)
        call.future.confirm_cancelled()
        self._resolved.pop()
        self._answer_stop(call.id)

    def _answer_stop(self, id: str) -> None:
        event = self._stops.pop(id, None)
        if event is not None:
            event.set()

    def _end(self) -> None:
        """Whatever happened: no Future stays pending, nothing that was started stays behind, and nobody waits.

        Raises what the first of these steps raised that could not be done, after the others.
        """
        do_all(
            self._take_what_is_left,
            self._stop_what_runs,
            lambda: self._close(self._killed or self._failure is not None),
            self._printer.close,
            self._resolve_what_is_left,
            self._answer_stops,
            self._has_ended,
        )

    def _has_ended(self) -> None:
        self._ended = True

    def _take_what_is_left(self) -> None:
        with self._lock:
            self._shut_down = True
            self._left += [*self._resolved, *self._calls.values()]
            self._calls = {}

    def _stop_what_runs(self) -> None:
        if self._killed and self.can_stop:
            for call in self._left:
                if call.handle is not None:
                    self._stop(call, hard=True)

    def _resolve_what_is_left(self) -> None:
        for call in self._left:
            call.handle = None
            try:
                if self._failure is not None:
                    resolve(call.future, exception=self._failure)
                else:
                    call.future.confirm_cancelled()
            except BaseException as exc:
                resolve(call.future, exception=exc)
        self._left = []

    def _answer_stops(self) -> None:
        for event in list(self._stops.values()):
            event.set()


def nothing() -> None:
    """Wakes a thread that waits for events."""
