"""All unfinished tasks, the number of tasks in each state, and the last finished ones."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, ValuesView

from jobrunner.protocol.bundles import index_of_call, place_of_call
from jobrunner.protocol.coordinator.piece_index import PieceIndex
from jobrunner.protocol.coordinator.task import TERMINAL, TaskRecord, TaskState
from jobrunner.protocol.wire.ids import TaskId, open_part
from jobrunner.protocol.wire.kinds import Bundle

RECENT = 1000
"""Number of finished tasks that `jobrunner tasks` still shows."""


class TaskTable:
    """The records of the unfinished tasks by their ids, in the order of their submission."""

    def __init__(self) -> None:
        self._records: dict[TaskId, TaskRecord] = {}
        self._pieces = PieceIndex()
        self.bundles: dict[str, TaskRecord] = {}
        """The bundles among the unfinished tasks, by the public part of their ids."""
        self.counts = [0] * len(TaskState)
        """The number of calls per state, of all tasks ever; a bundle counts as its calls."""
        self.recent: deque[TaskRecord] = deque(maxlen=RECENT)
        """The last finished tasks."""

    def get(self, task_id: TaskId) -> TaskRecord | None:
        return self._records.get(task_id)

    def values(self) -> ValuesView[TaskRecord]:
        return self._records.values()

    def __getitem__(self, task_id: TaskId) -> TaskRecord:
        return self._records[task_id]

    def __contains__(self, task_id: TaskId) -> bool:
        return task_id in self._records

    def __iter__(self) -> Iterator[TaskId]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def add(self, record: TaskRecord) -> None:
        """Add a new task, which is counted when its state is known, see `count`."""
        self._records[record.id] = record
        self._pieces.add(record.id)
        if isinstance(record.body.kind, Bundle):
            self.bundles[open_part(record.id)] = record

    def count(self, record: TaskRecord, state: TaskState) -> None:
        """Count a new task that begins in this state."""
        record.state = state
        self.counts[state] += record.weight

    def move(self, record: TaskRecord, state: TaskState, now: float) -> None:
        self.counts[record.state] -= record.weight
        record.move(state, now)
        self.counts[state] += record.weight

    def lighten(self, record: TaskRecord, calls: int) -> None:
        """Note that this number of a bundle's calls belong to it no more."""
        self.counts[record.state] -= calls
        record.weight -= calls

    def remove(self, record: TaskRecord) -> None:
        """Remove a task that has finished."""
        del self._records[record.id]
        self._pieces.drop(record.id)
        if isinstance(record.body.kind, Bundle):
            part = open_part(record.id)
            if self.bundles.get(part) is record:
                del self.bundles[part]
        self.recent.append(record)

    def pieces_of(self, whole: TaskId) -> Iterable[TaskId]:
        """Return the unfinished tasks that have left that bundle, or are parts of that chunk."""
        return self._pieces.of(whole)

    def bundle_with(self, task_id: TaskId) -> tuple[TaskRecord, int] | None:
        """Return the unfinished bundle that contains that call, and the index of the call."""
        place = place_of_call(task_id)
        record = None if place is None else self.bundles.get(place[0])
        index = None if record is None else index_of_call(record.id, task_id)
        return None if record is None or index is None or index >= record.elements else (record, index)

    def check_invariants(self) -> None:
        self._pieces.check_invariants(self._records)
        counted: Counter[int] = Counter()
        for task_id, record in self._records.items():
            assert record.id == task_id
            assert record.state not in TERMINAL, record.id
            counted[record.state] += record.weight
        for state in TaskState:
            assert state in TERMINAL or counted[state] == self.counts[state], state.label
