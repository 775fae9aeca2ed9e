"""The cancel requests of a client to its coordinator, and the tasks that the client has cancelled by itself.

A request is repeated in each session until its task has ended or the coordinator has refused it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from jobrunner.protocol.effects import AnswerCancel, Effect
from jobrunner.protocol.session import Session
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.batches import batches, of_id, of_outcome
from jobrunner.protocol.wire.ids import TaskId


class CancelRequests:
    """The cancel requests without an answer.

    Messages to the coordinator are made by `session`, and added to `effects`.
    """

    def __init__(self, session: Session, effects: list[Effect]) -> None:
        self._session = session
        self._effects = effects
        self.unanswered: dict[TaskId, bool] = {}
        """The tasks with a request; the value tells whether a task is to be stopped even if it runs."""
        self._unsent: list[m.CancelRequest] = []
        """The requests that have not been sent in this session."""
        self._refused: list[TaskId] = []
        """The tasks whose cancelling was refused in this turn, because they run."""
        self._cancelled_here: list[m.Outcome] = []
        """The outcomes of bundles, and of calls that the coordinator had in bundles, to be reported in this turn."""

    def request(self, task_id: TaskId, running: bool) -> None:
        """Queue a cancel request, which is sent to the coordinator in this turn."""
        self.unanswered[task_id] = running or self.unanswered.get(task_id, False)
        self._unsent.append(m.CancelRequest(task_id, running))

    def forget(self, task_id: TaskId) -> None:
        """Drop the request for a task that has ended."""
        self.unanswered.pop(task_id, None)

    def take_refused(self, ids: Iterable[TaskId]) -> list[TaskId]:
        """Drop the requests that the coordinator has refused, and return their tasks.

        The coordinator has yet to answer a later request that also stops a running task, so that request is kept.
        """
        refused = [t for t in ids if not self.unanswered.get(t, False)]
        for task_id in refused:
            self.unanswered.pop(task_id, None)
        return refused

    def note_refused(self, tasks: list[TaskId]) -> None:
        """Note that these tasks run and were not cancelled; the program is told so in this turn."""
        self._refused += tasks

    def tell_cancelled(self, outcomes: list[m.Outcome]) -> None:
        """Tell the coordinator in this turn that these bundles and calls of bundles are no longer wanted."""
        self._cancelled_here += outcomes

    def answer(self, is_to_stop: Callable[[TaskId], bool]) -> None:
        """Report the refusals of this turn, except for tasks with a later request to stop them even if they run.

        `is_to_stop` tells whether a call of a bundle has such a request.
        """
        refused = [t for t in self._refused if not (self.unanswered.get(t) or is_to_stop(t))]
        self._refused = []
        if refused:
            self._effects.append(AnswerCancel(refused))

    def session_opened(self) -> None:
        self._cancelled_here.clear()  # tasks that depend on them are submitted again, and then ask for the outcomes
        self._unsent = [m.CancelRequest(t, running) for t, running in self.unanswered.items()]

    def leftovers(self) -> list[object]:
        """Return the requests that are kept; for tests."""
        return [*self.unanswered, *self._unsent]

    def send(self, now: float) -> None:
        """Send everything that has gathered; call this only while the session is open."""
        if self._cancelled_here:
            outcomes, self._cancelled_here = self._cancelled_here, []
            for told in batches(outcomes, of_outcome):
                self._effects.append(self._session.send(m.ResultReply(told, []), now))
        if self._unsent:
            requests, self._unsent = self._unsent, []
            for some in batches(requests, lambda request: of_id(request.id)):
                self._effects.append(self._session.send(m.Cancel(some), now))
