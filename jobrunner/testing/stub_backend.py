"""A backend that does nothing by itself, for tests of the front, and of programs that use an Executor.

Calls are pickled as on a real backend, and then wait until the test runs them, in any order.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jobrunner.backends.base import Backend
from jobrunner.fixed.elements import Columns, ElementResults, rows, run_elements
from jobrunner.futures import Future
from jobrunner.protocol.wire.messages import DEFAULT_OPTIONS, TaskOptions


@dataclass(eq=False)
class StubCall:
    """A submitted call, or a chunk of a map, whose [start, stop) is `span`."""

    work: Callable[[], Any]
    options: TaskOptions
    span: tuple[int, int] | None
    future: Future[Any] = field(default_factory=Future)

    def run(self, seconds: float | None = None) -> None:
        """Run the call now, in this thread; `seconds` is the duration that it reports."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self.work()
        except BaseException as exc:
            self.future.set_exception(exc)
        else:
            self.future.duration = seconds
            self.future.set_result(result)

    def fail(self, exc: BaseException) -> None:
        """Fail the call, as if its process had died or its time were up."""
        self.future.set_running_or_notify_cancel()
        self.future.set_exception(exc)


class StubBackend(Backend):
    """A backend of which tests run the calls.

    `calls` are the waiting ones, and `submitted` counts all; `automatic` runs each call within its submission.
    """

    name = "stub"

    def __init__(self, slots: int = 2, *, automatic: bool = False) -> None:
        self.slots = slots
        self.automatic = automatic
        self.calls: list[StubCall] = []
        self.submitted = 0
        self.packs: list[int] = []
        """The number of elements of each pack."""
        self.closed = False
        self.killed = False

    @property
    def max_workers(self) -> int:
        return self.slots

    def prepare(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        if not callable(fn):
            raise TypeError(f"{fn!r} is not callable")
        return fn

    def submit(
        self,
        prepared: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: TaskOptions = DEFAULT_OPTIONS,
    ) -> Future[Any]:
        return self._add(StubCall(lambda: prepared(*args, **kwargs), options, None))

    def pack(self, columns: Columns) -> bytes:
        packed = pickle.dumps(columns)
        self.packs.append(len(columns[0]))
        return packed

    def submit_chunk(
        self,
        prepared: Callable[..., Any],
        packed: bytes,
        start: int,
        stop: int,
        options: TaskOptions = DEFAULT_OPTIONS,
    ) -> Future[ElementResults]:
        def work() -> ElementResults:
            return run_elements(prepared, rows(pickle.loads(packed), start, stop))

        return self._add(StubCall(work, options, (start, stop)))

    def _add(self, call: StubCall) -> Future[Any]:
        if self.closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        self.submitted += 1
        if self.automatic:
            call.run(1e-6)
        else:
            self.calls.append(call)
        return call.future

    def run_next(self, seconds: float | None = None) -> None:
        """Run the call that has waited longest."""
        self.calls.pop(0).run(seconds)

    def run_all(self, seconds: float | None = None) -> None:
        """Run calls until none waits, including those that arise meanwhile."""
        while self.calls:
            self.run_next(seconds)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.closed = True
        if cancel_futures:
            for call in self.calls:
                call.future.cancel()
        if wait:
            self.run_all()

    def kill(self) -> None:
        self.killed = True
        self.shutdown(wait=False, cancel_futures=True)

    def status(self) -> dict[str, Any]:
        return {"backend": self.name, "queued": len(self.calls)}
