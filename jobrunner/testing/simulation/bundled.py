"""A bundle in a simulated slot; it corresponds to `workers.bundle` in a real one."""

from __future__ import annotations

from collections import deque

from jobrunner.protocol.bundles import Results, pack_results, unpack_calls
from jobrunner.protocol.effects import SlotTask
from jobrunner.protocol.wire.ids import call_id
from jobrunner.protocol.wire.kinds import SINGLE_CALL


class BundleRun:
    """The calls of one bundle, which its slot runs one after the other."""

    def __init__(self, task: SlotTask, began: float) -> None:
        self.task = task
        self.began = began
        self.index = -1
        """The index of the running call."""
        self.was_split = False
        self._left = deque(unpack_calls(task.payload))
        self._results = Results([], [], [])

    def has_more(self) -> bool:
        return bool(self._left)

    def next(self) -> SlotTask:
        """Return the next call, as if it were a task of its own."""
        self.index += 1
        return self.task._replace(
            id=call_id(self.task.id, self.index), payload=self._left.popleft(), kind=SINGLE_CALL
        )

    def add(self, payload: bytes, duration: float, failed: bool) -> None:
        """Add the result of the call that has ended."""
        self._results.payloads.append(payload)
        self._results.durations.append(duration)
        if failed:
            self._results.failed.append(self.index)

    def split(self) -> bytes:
        """Give up calls that have not started, and return the results so far; the running call continues alone."""
        self.was_split = True
        self._left.clear()
        return self.results()

    def results(self) -> bytes:
        return pack_results(self._results)
