"""An index of calls that have left a bundle, and of parts of chunks, by the submitted bundle or chunk."""

from __future__ import annotations

from collections.abc import Iterable

from jobrunner.protocol.bundles import SEPARATOR, whole_of
from jobrunner.protocol.wire.ids import TaskId


class PieceIndex:
    """The ids of pieces, by the id of the bundle or chunk to which they belong."""

    def __init__(self) -> None:
        self._pieces: dict[TaskId, dict[TaskId, None]] = {}

    def add(self, task_id: TaskId) -> None:
        """Add a task's id if it is that of a piece."""
        if SEPARATOR in task_id:
            self._pieces.setdefault(whole_of(task_id), {})[task_id] = None

    def drop(self, task_id: TaskId) -> None:
        if SEPARATOR in task_id:
            whole = whole_of(task_id)
            pieces = self._pieces[whole]
            del pieces[task_id]
            if not pieces:
                del self._pieces[whole]

    def of(self, whole: TaskId) -> Iterable[TaskId]:
        return self._pieces.get(whole, ())

    def check_invariants(self, task_ids: Iterable[TaskId]) -> None:
        pieces = [task_id for of_one in self._pieces.values() for task_id in of_one]
        assert sorted(pieces) == sorted(task_id for task_id in task_ids if SEPARATOR in task_id)
