"""The calls of an EngineBackend, and the lines in which they wait for their turn.

An engine gets few calls more than it can run at the same time, and the others wait here. Therefore waiting calls can
always be cancelled, the most urgent call goes first even on engines without priorities, and a process that dies does
not harm calls that are only waiting.
"""

from __future__ import annotations

import heapq
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from jobrunner.backends.futures_in_arguments import AnyFuture
from jobrunner.calls.serialization import DumpedFunction
from jobrunner.futures import Future
from jobrunner.protocol.tuning import ENGINE_NEWEST_WEIGHT, ENGINE_PREFETCH_LIMIT, ENGINE_PREFETCH_SECONDS
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.wire.kinds import Kind
from jobrunner.protocol.wire.messages import TaskOptions
from jobrunner.protocol.wire.payloads import Payload


@dataclass(slots=True, eq=False)
class Call:
    """One submitted call. Only the backend's thread uses its fields, except for the Future."""

    id: TaskId
    number: int
    future: Future[Any]
    function: DumpedFunction
    payload: Payload
    kind: Kind
    options: TaskOptions
    depth: int
    depends_on: Sequence[AnyFuture] = ()
    values: list[Payload] = field(default_factory=list)
    """The pickled results of `depends_on`, once these Futures are done."""
    attempt: int = 0
    """The number of attempts that were sent to the engine, which is the number of the present one."""
    failures: int = 0
    crashes: int = 0
    history: list[str] = field(default_factory=list)
    """A line for each attempt whose process died."""
    handle: Any = None
    """The engine's object for the present attempt; None while the engine does not have the call."""
    sent_at: float = 0.0
    stop: bool = False
    """True if the call was asked to stop while it ran."""
    main: ModuleType | None = None
    """The `__main__` of the thread that has submitted the call, if each thread has its own."""

    @property
    def elements(self) -> int:
        return self.kind.calls


class Line:
    """The waiting calls that require the same resources; only the backend's thread uses this."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Call]] = []
        self._average: float | None = None
        self.flying = 0
        """The number of calls that the engine has."""

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, call: Call) -> None:
        heapq.heappush(self._heap, (-call.options.priority, call.number, call))

    def take(self, slots: int | None, extra: int, *, ahead: bool) -> list[Call]:
        """Return the next calls for the engine, so that it has a call for each of `slots`, and `extra` further ones.

        If `slots` is None, return all waiting calls. With `ahead`, return further ones if calls are short, so that the
        engine's workers do not wait for this process.
        """
        taken: list[Call] = []
        if slots is None:
            room = len(self._heap)
        else:
            room = slots + extra + (self._prefetch(slots) if ahead else 0) - self.flying
        while self._heap and len(taken) < room:
            call = heapq.heappop(self._heap)[2]
            call.future.confirm_running()
            if not call.future.cancelled():  # if the program has resolved the Future, the call still runs
                taken.append(call)
        self.flying += len(taken)
        return taken

    def measured(self, seconds: float) -> None:
        """Note the duration of a call, in seconds."""
        if self._average is None:
            self._average = seconds
        else:
            # A call that took longer than expected counts more, because calls must not wait behind the next such call.
            self._average = max(
                self._average + ENGINE_NEWEST_WEIGHT * (seconds - self._average), seconds * 0.5
            )

    def _prefetch(self, slots: int) -> int:
        if self._average is None:
            return 0
        return slots * min(ENGINE_PREFETCH_LIMIT, int(ENGINE_PREFETCH_SECONDS / max(self._average, 1e-9)))


class Suspects:
    """Calls whose process died while it had other calls, too, so that it is not known which of them killed it.

    The suspects are tried again at the same time, but a call with its last chance runs while no other suspect does.
    Otherwise a call that kills its process could repeatedly harm the same innocent call, until both reach the limit of
    crashes. Only the backend's thread uses this.
    """

    def __init__(self, crash_limit: int) -> None:
        self._last_chance = crash_limit - 1
        self._waiting: list[Call] = []
        self._trying: list[tuple[Call, int]] = []
        """The suspects that are being tried, each with its number of crashes before that."""

    def __len__(self) -> int:
        """Return the number of calls that wait for their turn or are being tried."""
        return len(self._waiting) + len(self._trying)

    def add(self, call: Call) -> None:
        self._waiting.append(call)

    def take(self, unfinished: Container[str]) -> list[Call]:
        """Return the calls whose turn has come; `unfinished` has the ids of all pending calls of the backend."""
        self._trying = [
            (call, crashes)
            for call, crashes in self._trying
            if call.id in unfinished and call.crashes == crashes
        ]
        self._waiting = [call for call in self._waiting if call.id in unfinished]
        if any(crashes >= self._last_chance for _, crashes in self._trying):
            return []
        taken = [call for call in self._waiting if call.crashes < self._last_chance]
        if not taken and not self._trying:
            taken = self._waiting[:1]
        self._waiting = [call for call in self._waiting if call not in taken]
        self._trying += [(call, call.crashes) for call in taken]
        return taken
