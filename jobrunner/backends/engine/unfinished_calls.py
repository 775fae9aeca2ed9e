"""The pending calls of an EngineBackend, from their submission until their Futures are resolved."""

from __future__ import annotations

from jobrunner.backends.engine.call_queue import Call
from jobrunner.backends.pending_calls import PendingCalls
from jobrunner.futures import CancelWaits, Future
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.kinds import Chunk
from jobrunner.script import per_thread as threads


class UnfinishedCalls:
    """The records of the calls, whose Futures `pending` resolves.

    Callers add calls with the backend's lock held; the backend's thread calls the other methods.
    """

    def __init__(self, pending: PendingCalls, cancel_waits: CancelWaits) -> None:
        self._pending = pending
        self._cancel_waits = cancel_waits
        self.by_id: dict[str, Call] = {}
        """The calls by their ids; other classes may only read this."""

    def add(self, call: Call) -> None:
        self.by_id[call.id] = call
        self._pending.add(call.id, call.future, isinstance(call.kind, Chunk), ())

    def drop(self, id: str) -> Call | None:
        """Drop a call that was cancelled while it waited, and return it unless it is done."""
        call = self.by_id.pop(id, None)
        if call is not None:
            self._pending.discard(call.id)
        return call

    def resolve(self, call: Call, outcome: m.Outcome) -> None:
        """End a call with this outcome."""
        self.by_id.pop(call.id, None)
        with threads.within(call.main):
            self._pending.resolve_outcomes((outcome,))

    def fail(self, call: Call, error: BaseException) -> None:
        """End a call with this error."""
        self.by_id.pop(call.id, None)
        with threads.within(call.main):
            self._pending.fail(call.id, error)

    def answer(self, future: Future[object]) -> None:
        """End the waits of threads that have asked to stop this call, because it is done."""
        wait = self._cancel_waits.of(future)
        if wait is not None:
            wait.end()

    def clear(self) -> None:
        """Drop all calls, and the engine's objects for them, once their Futures are resolved."""
        for call in self.by_id.values():
            call.handle = None
        self.by_id = {}
