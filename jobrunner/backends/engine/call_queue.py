"""The calls of an EngineBackend: what is known of each, and the lines in which they wait for their turn.

An engine gets few calls more than it can run at a time; the others wait here. So what waits can always be cancelled,
the most urgent goes first on engines that know no priority, and a process that dies takes no calls with it that
merely waited at its door.
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
    """One submitted call. All but the Future belongs to the backend's thread."""

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
    """The results of `depends_on`, once these are done."""
    attempt: int = 0
    """Those handed to the engine; the number of the present one."""
    failures: int = 0
    crashes: int = 0
    history: list[str] = field(default_factory=list)
    """A line per attempt that died."""
    handle: Any = None
    """What the engine gave for the present attempt; None while it is not there."""
    sent_at: float = 0.0
    stop: bool = False
    """It was asked to stop while it ran."""
    main: ModuleType | None = None
    """The `__main__` of the thread that has submitted it, where each thread has its own."""

    @property
    def elements(self) -> int:
        return self.kind.calls


class Line:
    """The calls that ask for the same resources; used by the backend's thread alone."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Call]] = []
        self._average: float | None = None
        self.flying = 0
        """Calls that the engine has."""

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, call: Call) -> None:
        heapq.heappush(self._heap, (-call.options.priority, call.number, call))

    def take(self, slots: int | None, extra: int, *, ahead: bool) -> list[Call]:
        """The next calls for the engine, which is to have those of `slots` (None: all there are), and `extra`.

        `ahead`: and more where they are short, so that its workers do not wait for us.
        """
        taken: list[Call] = []
        if slots is None:
            room = len(self._heap)
        else:
            room = slots + extra + (self._prefetch(slots) if ahead else 0) - self.flying
        while self._heap and len(taken) < room:
            call = heapq.heappop(self._heap)[2]
            call.future.confirm_running()
            if not call.future.cancelled():  # one that the program has ended itself runs all the same
                taken.append(call)
        self.flying += len(taken)
        return taken

    def measured(self, seconds: float) -> None:
        """A call ran that long."""
        if self._average is None:
            self._average = seconds
        else:
            # What took longer than expected counts in full: the next calls must not be behind another such one.
            self._average = max(
                self._average + ENGINE_NEWEST_WEIGHT * (seconds - self._average), seconds * 0.5
            )

    def _prefetch(self, slots: int) -> int:
        if self._average is None:
            return 0
        return slots * min(ENGINE_PREFETCH_LIMIT, int(ENGINE_PREFETCH_SECONDS / max(self._average, 1e-9)))


class Suspects:
    """Calls whose process has died with others that it had, so that it is not known which of them was to blame.

    They are tried again at the same time, but one with its last chance goes while no other suspect does: a call that
    kills its process must not take the same innocent one with it until both are given up. Used by the backend's thread
    alone.
    """

    def __init__(self, crash_limit: int) -> None:
        self._last_chance = crash_limit - 1
        self._waiting: list[Call] = []
        self._trying: list[tuple[Call, int]] = []
        """Those let go, each with the number of its crashes by then."""

    def __len__(self) -> int:
        """Calls that wait for their turn, or are being tried."""
        return len(self._waiting) + len(self._trying)

    def add(self, call: Call) -> None:
        self._waiting.append(call)

    def take(self, unfinished: Container[str]) -> list[Call]:
        """Those whose turn has come; `unfinished`: the ids of all calls of the backend that have no result yet."""
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
