"""The owner and the client of a task, found by its id; a task of a worker that has come back may have no record yet."""

from __future__ import annotations

from itertools import islice

from jobrunner.protocol.bundles import whole_of
from jobrunner.protocol.coordinator.orphans import Orphans
from jobrunner.protocol.coordinator.peers import ClientSession, WorkerSession
from jobrunner.protocol.coordinator.roster import Roster
from jobrunner.protocol.coordinator.task_table import TaskTable
from jobrunner.protocol.wire.ids import TaskId, client_of

MAX_PIECES_ASKED = 1000
"""Maximum number of pieces of one chunk or bundle among which the task is sought that makes calls; few of them run."""


class Ownership:
    """Finds the owners and the clients of tasks."""

    def __init__(
        self,
        *,
        tasks: TaskTable,
        roster: Roster,
        orphans: Orphans,
    ) -> None:
        self._tasks = tasks
        self._roster = roster
        self._orphans = orphans

    def owner_of(self, task_id: TaskId, key: str, now: float) -> str | None:
        """Return the owner of a task that a worker with this key has.

        The result is empty if no known task has this id, and None if that is not decided yet. The task may be a call of
        a bundle, or a part of it may run on under another id.
        """
        whole, held_there = whole_of(task_id), False
        for each in (whole, *islice(self._tasks.pieces_of(whole), MAX_PIECES_ASKED)):
            record = self._tasks.get(each)
            if record is not None and record.worker is not None and record.worker.who.key == key:
                return record.client.account.owner
        for each in (whole, *islice(self._orphans.pieces_of(whole), MAX_PIECES_ASKED)):
            orphan = self._orphans.get(each)
            held_there = held_there or (orphan is not None and orphan.worker.who.key == key)
        return None if held_there or now < self._orphans.reattach_deadline else ""

    def client_with_task_at(self, worker: WorkerSession, task_id: TaskId) -> ClientSession | None:
        """Return the client of a task that this worker has, or of an earlier task there, if the client is present."""
        client = self._roster.clients.get(client_of(task_id))
        record = self._tasks.get(task_id)
        if record is not None:
            return client if record.worker is worker and record.client is client else None
        held = self._orphans.get(task_id)
        if held is not None:
            return client if held.worker is worker else None
        return client if client is not None and client.id in worker.served else None
