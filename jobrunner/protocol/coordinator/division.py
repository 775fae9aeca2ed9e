"""The choice of running chunks of `map` that are divided, so that no slot is idle while elements wait in another slot.

The law: no slot stays idle for long while a chunk elsewhere holds elements which have not begun and which that slot
could run. The coordinator ensures this, because only it knows the idle slots of all workers. A chunk comes under the
law when its worker has announced it as running, which happens only to chunks that take long. So chunks of fast elements
are not divided, and no chunk is as long as all slots are busy.

A worker that is asked to divide a chunk need not answer, because the chunk may be at its last element; or it may take a
second, because the chunk's code blocks the slot's other thread. So each chunk is asked once per attempt. While slots
stay idle further chunks are asked, twice as many each time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobrunner.config import MAX_NAME_LENGTH
from jobrunner.protocol.bundles import SEPARATOR
from jobrunner.protocol.chunks import kept, part_id, stop_of
from jobrunner.protocol.coordinator.dispatcher import Dispatcher
from jobrunner.protocol.coordinator.endings import Endings
from jobrunner.protocol.coordinator.function_table import FunctionTable
from jobrunner.protocol.coordinator.peers import WorkerSession
from jobrunner.protocol.coordinator.roster import Roster
from jobrunner.protocol.coordinator.task import CANCELLING, FAILED, RUNNING, SUCCEEDED, TaskRecord
from jobrunner.protocol.coordinator.task_table import TaskTable
from jobrunner.protocol.tuning import DIVIDE_AGAIN_AFTER, DIVIDE_MAX_DOUBLINGS
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.checks import MAX_INTEGER
from jobrunner.protocol.wire.kinds import Chunk

if TYPE_CHECKING:
    from jobrunner.protocol.coordinator.attempts import Attempts
    from jobrunner.protocol.coordinator.submission import Submission

MAX_DIVIDED_LENGTH = MAX_NAME_LENGTH - len(f"{SEPARATOR}{MAX_INTEGER}")
"""Maximum number of characters of the id of a chunk that may be divided.

The id of a part that is divided again grows.
"""


class Division:
    """The chunks that may be divided."""

    def __init__(
        self,
        *,
        tasks: TaskTable,
        roster: Roster,
        functions: FunctionTable,
        dispatcher: Dispatcher,
        endings: Endings,
    ) -> None:
        self._tasks = tasks
        self._roster = roster
        self._functions = functions
        self._dispatcher = dispatcher
        self._endings = endings
        self._attempts: Attempts
        self._submission: Submission
        self._chunks: dict[TaskRecord, None] = {}
        """The chunks that have been running for a while and were not asked in this attempt."""
        self._doublings = 0
        self._ask_again: float | None = None

    def hand_on_to(self, attempts: Attempts, submission: Submission) -> None:
        """Set the objects that take the part of a divided chunk which continues: as an attempt, and as a task."""
        self._attempts, self._submission = attempts, submission

    def __len__(self) -> int:
        return len(self._chunks)

    def next_deadline(self) -> float | None:
        return self._ask_again if self._chunks else None

    def started(self, record: TaskRecord) -> None:
        """Note that a chunk runs and takes long."""
        several = isinstance(record.body.kind, Chunk) and record.elements > 1
        if several and record.asked != record.attempt and not is_strange(record):
            self._chunks[record] = None

    def asked_in_vain(self, worker: WorkerSession) -> None:
        """Ask the chunks of a worker again, because requests of its last session may be lost."""
        for record in worker.tasks.values():
            record.asked = 0
            if record.state == RUNNING:
                self.started(record)

    def released(self, record: TaskRecord) -> None:
        """Note that a chunk has left its worker."""
        self._chunks.pop(record, None)

    def ask(self, now: float) -> None:
        """Have chunks divided for idle slots, at the end of a turn, when queued tasks have been placed."""
        if not self._chunks or (self._ask_again is not None and now < self._ask_again):
            return
        idle = [w for w in self._roster.workers_with_room if w.held < w.slots]
        wanted = sum(w.slots - w.held for w in idle) << self._doublings
        chosen = []
        for record in sorted(self._chunks, key=lambda record: -record.elements) if idle else ():
            if wanted <= 0:
                break
            if self._helps(record, idle):
                chosen.append(record)
                wanted -= record.elements - 1
        for record in chosen:
            worker = record.worker
            assert worker is not None
            del self._chunks[record]
            record.asked = record.attempt
            worker.divides.append(record.id)
            self._roster.flush_later(worker)
        self._ask_again = now + DIVIDE_AGAIN_AFTER if chosen else None
        self._doublings = min(self._doublings + 1, DIVIDE_MAX_DOUBLINGS) if chosen else 0

    def _helps(self, record: TaskRecord, idle: list[WorkerSession]) -> bool:
        """Return whether one of these workers could begin elements that the chunk gives back."""
        if (
            record.state != RUNNING
            or record.cancel_asked
            or record.client.id in self._dispatcher.queue.backpressured
        ):
            return False
        return any(worker.fits(record.requirements) for worker in idle)

    def divided(
        self, record: TaskRecord, outcome: m.Outcome, worker: WorkerSession, now: float, fresh: bool
    ) -> None:
        """End a chunk of which a part continues; its client submits the rest as soon as it hears of it.

        The part is a task at once, even before its client names it, because it holds its slot and its resources.
        `fresh` has the same meaning as in Attempts._split.
        """
        client = record.client
        function, initializer = record.function, record.initializer
        spec = m.TaskSpec(record.id, record.body)
        stop = stop_of(spec, outcome)
        if stop is None or is_strange(record):
            detail: m.Detail = {
                "error": f"worker {worker.name} gave back elements of a chunk that it did not have"
            }
            self._endings.finish(
                record, m.Outcome(record.id, record.attempt, m.LOST, detail=detail), FAILED, now
            )
            return
        if record.state == CANCELLING and record.cancel_asked:
            self._roster.fence(worker, part_id(record.id, stop))
            self._endings.finish_cancelled(record, now)
            return
        self._attempts.is_not_completed(record, worker)  # the part counts when it ends
        self._endings.leave_to_client(record, record.weight)
        function.users += 1  # so that the function is not dropped in between
        if initializer is not None:
            initializer.users += 1
        self._endings.finish(record, outcome, SUCCEEDED, now)
        if fresh:
            self._attempts.goes_on(worker, outcome, now)
        part = kept(spec, stop)
        self._submission.submit(client, part, now)
        self._functions.release(function)
        if initializer is not None:
            self._functions.release(initializer)
        present = self._tasks.get(part.id)
        if present is not None or part.id in client.done:
            client.unnamed[part.id] = False
        if present is not None and present.worker is worker:
            present.asked = present.attempt  # it has nothing more to give back
            present.continue_from(record)


def is_strange(record: TaskRecord) -> bool:
    """Return whether `map` creates no such chunk: its part could not be a task, or would have no valid id."""
    return bool(record.depends_on) or record.body.options.detach or len(record.id) > MAX_DIVIDED_LENGTH
