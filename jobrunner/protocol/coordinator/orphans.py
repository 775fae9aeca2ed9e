"""Tasks that a worker has although no client has named them since this coordinator started.

A worker of an earlier coordinator comes back with its tasks, and their clients come back with theirs, in any order.
Until a task's client names it, or can name it no more, it is an orphan: it takes its slot, its outcome is kept, and it
is not run anywhere else.

Nobody but the worker says that there is such a task. So what is kept of it counts for the worker's key, and all that
the workers of one key have here so may take as much as an owner's calls. What is more is as if the worker did not have
it: the task is run when its client names it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from jobrunner.protocol.bundles import index_of_call, place_of_call
from jobrunner.protocol.chunks import chunk_of
from jobrunner.protocol.coordinator.accounts import Quota
from jobrunner.protocol.coordinator.peers import WorkerSession
from jobrunner.protocol.coordinator.piece_index import PieceIndex
from jobrunner.protocol.coordinator.roster import Roster, subtract
from jobrunner.protocol.coordinator.task_table import TaskTable
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.batches import of_outcome, of_wait
from jobrunner.protocol.wire.ids import ClientId, TaskId, client_of
from jobrunner.protocol.wire.payloads import kept_size

LOOKS_PER_GRACE = 4
"""Number of checks, within a client's grace period, whether the client may still name a task."""


ORPHAN_BYTES = 2000
"""Approximate size in bytes of such a task with its id and without its outcome."""


class OrphanedTask:
    """A task that a worker has although no client has named it since this coordinator started."""

    __slots__ = ("attempt", "look_at", "outcome", "running", "since", "unbegun", "wait", "worker")

    def __init__(self, worker: WorkerSession, held: m.Held, now: float) -> None:
        self.worker = worker
        self.attempt = held.attempt
        self.unbegun = held.unbegun
        self.since = now
        self.look_at = now
        """The time of the next check whether somebody may still name it."""
        self.outcome: m.Outcome | None = None
        self.running = False
        """True if the worker has announced that it runs, which it does only once."""
        self.wait: m.Wait | None = None
        """The calls for which it waits, as the worker has reported."""

    @property
    def size(self) -> int:
        """The approximate size in bytes."""
        size = ORPHAN_BYTES
        if self.outcome is not None:
            size += outcome_size(self.outcome)
        return size if self.wait is None else size + of_wait(self.wait)


def outcome_size(outcome: m.Outcome) -> int:
    """Return the approximate size in bytes of an outcome that is kept."""
    return kept_size(outcome.payload) + of_outcome(outcome)


class Orphans:
    """The orphaned tasks by their ids, and by the clients that may name them, because many may come back at once."""

    def __init__(self, roster: Roster, tasks: TaskTable, quota: Quota) -> None:
        self._roster = roster
        self._tasks = tasks
        self._most = quota.bytes
        self._bytes: Counter[str] = Counter()
        """The size in bytes of the orphaned tasks that workers have, by the workers' keys."""
        self._orphans: dict[TaskId, OrphanedTask] = {}
        self._pieces = PieceIndex()
        self._of_client: dict[ClientId, dict[TaskId, None]] = {}
        self.reattach_deadline = 0.0
        """The time by which every worker of an earlier coordinator must have come back, if it still lives."""

    def get(self, task_id: TaskId) -> OrphanedTask | None:
        return self._orphans.get(task_id)

    def __getitem__(self, task_id: TaskId) -> OrphanedTask:
        return self._orphans[task_id]

    def __contains__(self, task_id: TaskId) -> bool:
        return task_id in self._orphans

    def __iter__(self) -> Iterator[TaskId]:
        return iter(self._orphans)

    def __len__(self) -> int:
        return len(self._orphans)

    def of_client(self, client_id: ClientId) -> list[TaskId]:
        """Return the orphaned tasks that this client may name."""
        return list(self._of_client.get(client_id, ()))

    def pieces_of(self, whole: TaskId) -> Iterable[TaskId]:
        """Return the orphaned tasks that have left that bundle, or are parts of that chunk."""
        return self._pieces.of(whole)

    def add(self, worker: WorkerSession, held: m.Held, now: float) -> None:
        """Add an orphaned task; if the worker's key has too much here, tell the worker to stop it."""
        orphan = OrphanedTask(worker, held, now)
        if self._is_too_much(worker, orphan.size):
            self._roster.fence(worker, held.id)
            return
        self._orphans[held.id] = orphan
        self._bytes[worker.came_with] += orphan.size
        self._pieces.add(held.id)
        self._of_client.setdefault(client_of(held.id), {})[held.id] = None
        worker.strays += 1

    def ended(self, task_id: TaskId, outcome: m.Outcome) -> None:
        """Keep the outcome of an orphaned task for its client."""
        orphan = self._orphans[task_id]
        if self._is_too_much(orphan.worker, outcome_size(outcome)):
            self.take(task_id)
            return
        if orphan.outcome is None:
            self._frees(orphan.worker)
        self._bytes[orphan.worker.came_with] -= orphan.size
        orphan.outcome = outcome
        self._bytes[orphan.worker.came_with] += orphan.size

    def waits(self, orphan: OrphanedTask, wait: m.Wait) -> None:
        """Note the calls for which the task waits, as its worker reports."""
        if not self._is_too_much(orphan.worker, of_wait(wait)):
            self._bytes[orphan.worker.came_with] -= orphan.size
            orphan.wait = wait
            self._bytes[orphan.worker.came_with] += orphan.size

    def _is_too_much(self, worker: WorkerSession, size: int) -> bool:
        """Return whether this number of additional bytes is too much for the worker's key, if that is known."""
        key = worker.came_with
        return bool(key and self._most) and self._bytes[key] + size > self._most

    def named_later(self, task_id: TaskId) -> bool:
        """Return whether the client will name the task, because it has yet to hear of its bundle's or chunk's end."""
        client = self._roster.clients.get(client_of(task_id))
        bundle = place_of_call(task_id)
        if bundle is not None:
            record = self._tasks.bundles.get(bundle[0])
            if record is None and client is not None:
                record = client.done_bundles.get(bundle[0])
            if record is not None:
                return index_of_call(record.id, task_id) is not None  # otherwise somebody has guessed the id
            known = client is not None and bundle[0] in client.awaiting_resubmission
        else:
            chunk = chunk_of(task_id)
            if chunk is None:
                return False
            known = chunk in self._tasks or (client is not None and chunk in client.done)
        return known or (client is not None and not client.resubmission_complete)

    def forget(self, now: float, grace: float) -> None:
        """Drop tasks of clients that have not come back for `grace` seconds."""
        for task_id, held in list(self._orphans.items()):
            if now < held.look_at:
                continue
            if self.named_later(task_id):
                held.since = now
            elif held.since < now - grace:
                self.drop(task_id)
            held.look_at = min(now + grace / LOOKS_PER_GRACE, held.since + grace)

    def take(self, task_id: TaskId) -> OrphanedTask | None:
        held = self._orphans.pop(task_id, None)
        if held is None:
            return None
        subtract(self._bytes, held.worker.came_with, held.size)
        self._pieces.drop(task_id)
        of_client = self._of_client[client_of(task_id)]
        del of_client[task_id]
        if not of_client:
            del self._of_client[client_of(task_id)]
        if held.outcome is None:
            self._frees(held.worker)
        return held

    def _frees(self, worker: WorkerSession) -> None:
        """Note that an orphaned task of this worker has ended, or counts among its tasks from now on."""
        worker.strays -= 1
        if self._roster.has_worker(worker):
            self._roster.may_have_room(worker)

    def drop(self, task_id: TaskId) -> None:
        held = self.take(task_id)
        if held is not None and held.outcome is None:
            self._roster.fence(held.worker, task_id)

    def drop_those_at(self, worker: WorkerSession) -> None:
        """Drop the tasks of a worker that it has no more; those that it has finished stay."""
        if not worker.strays:
            return
        for task_id in [t for t, h in self._orphans.items() if h.worker is worker and h.outcome is None]:
            self.take(task_id)

    def reattach_later(self, seconds: float, now: float) -> bool:
        """Return whether workers get more time to come back, because this process did not run for a while."""
        if now - seconds >= self.reattach_deadline:
            return False
        self.reattach_deadline += seconds
        return True

    def wait_longer(self, seconds: float) -> None:
        """Extend the times of all tasks by a period for which this process did not run."""
        for orphan in self._orphans.values():
            orphan.since += seconds

    def check_invariants(self) -> None:
        self._pieces.check_invariants(self._orphans)
        named = [task_id for tasks in self._of_client.values() for task_id in tasks]
        assert sorted(named) == sorted(self._orphans)
        sizes: Counter[str] = Counter()
        for orphan in self._orphans.values():
            sizes[orphan.worker.came_with] += orphan.size
        assert self._bytes == sizes, f"{self._bytes} is not {sizes}"
        strays = Counter(o.worker.id for o in self._orphans.values() if o.outcome is None)
        assert all(worker.strays == strays[worker.id] for worker in self._roster.workers.values())
