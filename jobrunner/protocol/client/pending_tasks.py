"""The tasks of a client that have no outcome, each of which is kept here from its submission to its end."""

from __future__ import annotations

from collections.abc import Iterable

from jobrunner.protocol.client.bundle_index import BundleIndex
from jobrunner.protocol.client.cancel_requests import CancelRequests
from jobrunner.protocol.client.functions import SubmittedFunctions
from jobrunner.protocol.client.send_window import SendWindow
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.wire.kinds import Bundle


class PendingTasks:
    """The only writer of `specs`, the tasks without an outcome in the order of submission, and of `running`."""

    def __init__(
        self,
        specs: dict[TaskId, m.TaskSpec],
        bundles: BundleIndex,
        window: SendWindow,
        functions: SubmittedFunctions,
        cancel_requests: CancelRequests,
    ) -> None:
        self.specs = specs
        self.running: set[TaskId] = set()
        """The pending tasks that the coordinator has announced as running."""
        self._bundles = bundles
        self._window = window
        self._functions = functions
        self._cancel_requests = cancel_requests

    def add(self, spec: m.TaskSpec, *, regained: bool = False) -> None:
        """Keep a task until its end; its functions must have been added before.

        `regained` tells that the coordinator has had this task as a part of another one, see `SendWindow.regain`.
        """
        self.specs[spec.id] = spec
        if isinstance(spec.body.kind, Bundle):
            self._bundles.add(spec.id)
        self._functions.retain(spec)
        if regained:
            self._window.regain(spec)
        else:
            self._window.enqueue(spec)

    def forget(self, task_id: TaskId) -> bool:
        """Drop a task that has ended; return False if it was dropped before."""
        spec = self.specs.pop(task_id, None)
        if spec is None:
            return False
        if isinstance(spec.body.kind, Bundle):
            self._bundles.discard(task_id)
        self.running.discard(task_id)
        if task_id in self._cancel_requests.unanswered:
            self._cancel_requests.forget(task_id)
        self._window.discard(spec)
        self._functions.release(spec)
        return True

    def note_running(self, ids: Iterable[TaskId]) -> None:
        self.running.update(t for t in ids if t in self.specs)

    def is_call(self, task_id: TaskId) -> bool:
        """Return whether the task is pending and is not a bundle.

        When a bundle starts, only one of its calls can have started.
        """
        spec = self.specs.get(task_id)
        return spec is not None and not isinstance(spec.body.kind, Bundle)

    def session_opened(self) -> list[m.TaskSpec]:
        """Queue the tasks for the new session, and return those to enqueue later, see `SendWindow.session_opened`."""
        self.running.clear()
        self._functions.session_opened()
        return self._window.session_opened()

    def check_invariants(self) -> None:
        assert self.running <= self.specs.keys()
        self._window.check_invariants()
        self._functions.check_invariants(self.specs)
