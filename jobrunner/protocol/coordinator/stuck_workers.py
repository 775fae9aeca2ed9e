"""Workers all of whose tasks wait for tasks of their own, for which no slot can be started."""

from __future__ import annotations

from jobrunner.protocol.coordinator.endings import Endings
from jobrunner.protocol.coordinator.peers import WorkerSession
from jobrunner.protocol.coordinator.roster import Roster
from jobrunner.protocol.coordinator.task import FAILED, QUEUED
from jobrunner.protocol.coordinator.task_table import TaskTable
from jobrunner.protocol.wire import messages as m


class StuckWorkers:
    """Refuses calls that nobody can run, so that the calls which wait for them continue."""

    def __init__(
        self,
        *,
        tasks: TaskTable,
        roster: Roster,
        endings: Endings,
    ) -> None:
        self._tasks = tasks
        self._roster = roster
        self._endings = endings
        self._newly_stuck: WorkerSession | None = None
        """The last worker that has reported in this turn that it is stuck."""

    def note(self, worker: WorkerSession, why: str) -> None:
        """Note that all tasks of a worker wait for tasks of their own that have no slot."""
        worker.stuck = why or "unknown"
        self._newly_stuck = worker

    def resize(self, worker: WorkerSession, slots: int) -> None:
        """Note the number of slots of a worker, which goes on."""
        worker.stuck = ""
        self._roster.resize(worker, slots)
        self._roster.may_have_room(worker)

    def refuse_deepest(self, now: float) -> None:
        """Refuse the deepest calls if all workers are stuck; this examines all calls, so it is done once in a turn.

        Otherwise nothing would ever continue; the tasks that wait for the refused ones do, as soon as they hear of it.
        """
        worker, self._newly_stuck = self._newly_stuck, None
        if worker is None or not worker.stuck:
            return
        if any(not (other.stuck or other.draining) for other in self._roster.workers.values()):
            return
        nested = [r for r in self._tasks.values() if r.state == QUEUED and r.body.depth]
        deepest = max((record.body.depth for record in nested), default=0)
        error = (
            "it was not run: every slot's task waits for a call of its own, as this one is, and no further slot can be"
            f" started ({worker.stuck})"
        )
        for record in nested:
            if record.body.depth == deepest:
                detail: m.Detail = {"error": error, "no_slot": True}
                self._endings.finish(
                    record, m.Outcome(record.id, record.attempt, m.REFUSED, detail=detail), FAILED, now
                )
        for other in self._roster.workers.values():
            other.stuck = ""
