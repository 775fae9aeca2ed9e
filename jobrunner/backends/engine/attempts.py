"""The attempts of an EngineBackend's calls: the choice of the calls that go to the engine, and the ends of attempts.

Everything here runs on the backend's thread, to which the engine's callbacks, the callers and timers post events.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from jobrunner.backends.engine.call_queue import Call, Line, Suspects
from jobrunner.backends.engine.events import Events
from jobrunner.backends.engine.in_worker import unwrapped
from jobrunner.backends.engine.unfinished_calls import UnfinishedCalls
from jobrunner.backends.threads import result_of_dependency
from jobrunner.calls import serialization
from jobrunner.errors import CoordinatorLostError, JobRunnerError
from jobrunner.futures import Future
from jobrunner.protocol.retry import REQUEUE, RetryAfter, decide
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.payloads import Payload
from jobrunner.script import per_thread as threads

HARD_STOP_AFTER = 2.0
"""Time in seconds that a call has to stop when asked to; then it is stopped by force."""


class AttemptFailure(NamedTuple):
    """The end of an attempt, as an engine's error describes it."""

    status: m.Status
    """The status CRASHED, LOST, CANCELLED or TIMED_OUT."""
    text: str
    detail: m.Detail
    """The detail of the outcome, see `m.Outcome`.

    The key "unable" tells that the engine can never run this call, and "engine_lost" that it cannot run any call.
    """


class Engine(NamedTuple):
    """The part of an EngineBackend that Attempts uses: its methods and class attributes with these names."""

    slots: Callable[[], int]
    send: Callable[[Sequence[Call]], None]
    stop: Callable[[Call, bool], None]
    diagnose: Callable[[Call, BaseException], AttemptFailure]
    let_go: Callable[[Call], None]
    shares_processes: bool


class Attempts:
    """Starts attempts, and decides what follows their ends.

    `extra` and `ahead` are those of EngineBackend. `show` takes the output of calls.
    """

    def __init__(
        self,
        engine: Engine,
        calls: UnfinishedCalls,
        events: Events,
        show: Callable[[list[tuple[int, str]]], None],
        *,
        crash_limit: int,
        extra: int | None,
        ahead: bool,
    ) -> None:
        self._engine = engine
        self._calls = calls
        self._events = events
        self._show = show
        self._crash_limit = crash_limit
        self._extra = extra
        self._ahead = ahead
        self._lines: dict[tuple[tuple[str, float], ...], Line] = {}
        self._suspects = Suspects(crash_limit)

    # --- before an attempt ---

    def enqueue(self, call: Call) -> None:
        if call.id in self._calls.by_id:
            self._line(call).add(call)

    def take_dependencies(self, call: Call) -> None:
        """Take the results of the call's dependencies, which are done, and enqueue the call; fail it if one failed."""
        if call.future.done():  # the call was cancelled
            return
        try:
            with threads.within(call.main):
                call.values = [
                    serialization.dump_result(result_of_dependency(dependency))
                    for dependency in call.depends_on
                ]
        except BaseException as exc:
            call.future.confirm_running()
            self._calls.fail(call, exc)
            return
        call.depends_on = ()
        self.enqueue(call)

    def dispatch(self) -> None:
        """Send calls to the engine, as many as it has room for."""
        taken: list[Call] = []
        slots = None if self._extra is None else max(1, self._engine.slots())
        extra, ahead = self._extra or 0, self._ahead
        if len(self._suspects):
            for call in self._suspects.take(self._calls.by_id):
                self.enqueue(call)
            extra, ahead = 0, False  # calls that wait in a process that dies would become suspects, too
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
            self._engine.send(taken)
        except Exception as exc:
            for call in taken:
                if call.handle is None:
                    self._events.post(partial(self.on_end, call, call.attempt, None, exc))

    def _line(self, call: Call) -> Line:
        return self._lines.setdefault(call.options.resources, Line())

    # --- cancelling ---

    def cancel_what_waits(self) -> None:
        """Cancel the waiting calls, after those have begun for which the engine has room."""
        self.dispatch()
        for call in list(self._calls.by_id.values()):
            if call.future.cancel_pending():
                self.drop(call.id)

    def drop(self, id: str) -> None:
        """Drop a call that was cancelled while it waited."""
        call = self._calls.drop(id)
        if call is not None:
            self._engine.let_go(call)

    def ask_to_stop(self, future: Future[Any]) -> None:
        """Stop a running call, or end the waits for its stop if it does not run any more."""
        call = self._calls.by_id.get(future.id)
        if call is None:
            self._calls.answer(future)
        elif not call.stop:
            call.stop = True
            if call.handle is None:
                self._cancelled(call)  # the call waits for its next attempt
            else:
                self._engine.stop(call, False)
                self._events.after(HARD_STOP_AFTER, partial(self._stop_hard, call, call.attempt))

    def _stop_hard(self, call: Call, attempt: int) -> None:
        if call.id in self._calls.by_id and call.attempt == attempt and call.handle is not None:
            self._engine.stop(call, True)

    def stop_all(self) -> None:
        """Stop all calls that the engine has by force."""
        for call in self._calls.by_id.values():
            if call.handle is not None:
                self._engine.stop(call, True)

    def _cancelled(self, call: Call) -> None:
        self._calls.resolve(call, m.Outcome(call.id, call.attempt, m.CANCELLED))

    # --- the end of an attempt ---

    def on_end(self, call: Call, attempt: int, back: Any, error: BaseException | None) -> None:
        """Handle the end of an attempt, with the result of `in_worker.run` or the engine's error."""
        if call.id not in self._calls.by_id or call.attempt != attempt:
            return
        try:
            self._take_end(call, attempt, back, error)
        except Exception as exc:
            if call.id in self._calls.by_id:  # fail this call, so that the thread continues with the others
                failure = JobRunnerError(
                    f"task {call.id} ended, but what the engine gave back could not be taken: {exc!r}"
                )
                failure.__cause__ = exc
                self._calls.fail(call, failure)

    def _take_end(self, call: Call, attempt: int, back: Any, error: BaseException | None) -> None:
        line = self._line(call)
        line.flying -= 1
        self._engine.let_go(call)
        call.handle = None
        payload: Payload = b""
        duration = 0.0
        detail: m.Detail
        if error is not None:
            status, text, detail = self._engine.diagnose(call, error)
            detail = {"error": text, **detail}
        else:
            status, duration, output, detail, parts = back
            if parts:
                payload = unwrapped(parts)
            if output:
                self._show(output)
            line.measured(duration)
        self._judge(call, m.Outcome(call.id, attempt, status, payload, duration, detail))

    def _judge(self, call: Call, outcome: m.Outcome) -> None:
        """Decide what follows the end of an attempt."""
        status, detail = outcome.status, outcome.detail or {}
        if status == m.OK:
            self._calls.resolve(call, outcome)
        elif status == m.CANCELLED or call.stop:
            self._cancelled(call)
        elif "unable" in detail or "engine_lost" in detail:
            kind = JobRunnerError if "unable" in detail else CoordinatorLostError
            self._calls.fail(call, kind(f"task {call.id} ({call.future.name}): {detail['error']}"))
        else:
            self._failed(call, outcome, detail)

    def _failed(self, call: Call, outcome: m.Outcome, detail: m.Detail) -> None:
        """Run a call again after a bad end of an attempt, or end it, as `protocol.retry` decides."""
        died = outcome.status not in (m.ERROR, m.TIMED_OUT)
        if died:
            call.crashes += 1
            call.history.append(f"{outcome.attempt}: {detail['error']}")
            detail["attempts"] = call.history
        else:
            call.failures += 1
        verdict = decide(
            call.options,
            outcome.status,
            failures=call.failures,
            crashes=call.crashes,
            crash_limit=self._crash_limit,
            final="final" in detail,
            # A chunk is also split after the loss of a host, because the engine does not say which call ran.
            splits=call.elements > 1,
        )
        if isinstance(verdict, RetryAfter):
            self._events.after(verdict.seconds, partial(self.enqueue, call))
        elif verdict is REQUEUE and self._engine.shares_processes:
            self._suspects.add(call)
        elif verdict is REQUEUE:
            self.enqueue(call)
        else:
            if died and call.options.at_most_once:
                detail["at_most_once"] = True
            elif died and call.elements == 1:
                detail["limit"] = call.crashes
            self._calls.resolve(call, outcome)
