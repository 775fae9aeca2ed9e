"""The cancelling of a client's tasks: one that was not sent ends here, and the coordinator is asked for the others."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from jobrunner.protocol.client.bundle_index import BundleIndex
from jobrunner.protocol.client.bundle_tracker import BundleTracker
from jobrunner.protocol.client.cancel_requests import CancelRequests
from jobrunner.protocol.client.pending_tasks import PendingTasks
from jobrunner.protocol.client.send_window import SendWindow
from jobrunner.protocol.effects import Effect, ResolveTasks
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.wire.kinds import Bundle


class Cancelling:
    """Handles cancel requests, of the program and of others who know a task's id, and the coordinator's refusals."""

    def __init__(
        self,
        tasks: PendingTasks,
        window: SendWindow,
        bundles: BundleIndex,
        bundle_tracker: BundleTracker,
        cancel_requests: CancelRequests,
        effects: list[Effect],
    ) -> None:
        self._tasks = tasks
        self._window = window
        self._bundles = bundles
        self._bundle_tracker = bundle_tracker
        self._cancel_requests = cancel_requests
        self._effects = effects

    def cancel(self, ids: Iterable[TaskId], running: bool, slots: int = 0) -> None:
        """Cancel these tasks or calls of bundles; with `running`, stop them even if they run.

        If `slots` is not 0, the tasks that the free ones among so many slots are about to begin are not cancelled.
        """
        outcomes = []
        for task_id in self._beyond(ids, slots) if slots else ids:
            spec = self._tasks.specs.get(task_id)
            if spec is None:
                bundle = self._bundles.bundle_with(task_id)
                if bundle is not None:
                    self._bundle_tracker.cancel(*bundle, running)
            elif self._window.has_sent(task_id):
                self._cancel_requests.request(task_id, running)
                if isinstance(spec.body.kind, Bundle):
                    self._bundle_tracker.cancel_whole(task_id)
            else:
                self._tasks.forget(task_id)
                outcomes.append(m.Outcome(task_id, 0, m.CANCELLED))
        if outcomes:
            self._effects.append(ResolveTasks(outcomes))

    def refused(self, ids: Iterable[TaskId]) -> None:
        """Note that the coordinator does not cancel these tasks, because they run."""
        refused = self._cancel_requests.take_refused(ids)
        calls = [call for task_id in refused for call in self._bundle_tracker.refused(task_id)]
        self._cancel_requests.note_refused(refused + calls)

    def _beyond(self, ids: Iterable[TaskId], slots: int) -> list[TaskId]:
        """Return the given tasks, except those that the free ones among `slots` slots are about to begin."""
        specs, running = self._tasks.specs, self._tasks.running
        ids = list(ids)
        free = max(0, slots - len(running))
        waiting = [specs[t] for t in ids if t in specs and t not in running]
        begin = {
            spec.id for spec in heapq.nsmallest(free, waiting, key=lambda spec: -spec.body.options.priority)
        }
        return [t for t in ids if t not in begin]
