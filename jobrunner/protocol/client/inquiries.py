"""The questions of a program to the coordinator: queries, and watches, which ask how tasks of others end.

Queries and watches are sent again in each session until they are answered.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from jobrunner.protocol.effects import AnswerQuery, Effect, QueryRequested
from jobrunner.protocol.session import Session
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.batches import batches, of_id
from jobrunner.protocol.wire.ids import TaskId


class Inquiries:
    """The queries without an answer, and the watched tasks.

    `pending` contains the client's own tasks, which need not be watched.
    """

    def __init__(self, pending: Container[TaskId], session: Session, effects: list[Effect]) -> None:
        self._pending = pending
        self._session = session
        self._effects = effects
        self._queries: dict[int, m.Query] = {}
        self.watched: dict[TaskId, None] = {}
        """The tasks, perhaps of other clients, whose outcomes the program wants to know."""
        self._unsent_watches: list[TaskId] = []
        """The watched tasks that have not been sent in this session."""

    def query(self, event: QueryRequested, now: float) -> None:
        query = m.Query(event.number, event.kind, event.argument)
        self._queries[event.number] = query
        if self._session.open:
            self._effects.append(self._session.send(query, now))

    def replied(self, message: m.Reply) -> None:
        if self._queries.pop(message.number, None) is not None:
            self._effects.append(AnswerQuery(message.number, message.data, message.error))

    def watch(self, ids: Iterable[TaskId]) -> None:
        for task_id in ids:
            if task_id not in self._pending and task_id not in self.watched:
                self.watched[task_id] = None
                self._unsent_watches.append(task_id)

    def end_watch(self, task_id: TaskId) -> None:
        """Note that a watched task has ended."""
        del self.watched[task_id]

    def session_opened(self, now: float) -> None:
        """Send the queries without an answer again; `send` does so for the watches."""
        self._effects += [self._session.send(query, now) for query in self._queries.values()]
        self._unsent_watches = list(self.watched)

    def leftovers(self) -> list[object]:
        """Return the queries and watches that are kept; for tests."""
        return [*self._queries.values(), *self.watched, *self._unsent_watches]

    def send(self, now: float) -> None:
        """Send the new watches; call this only while the session is open."""
        if self._unsent_watches:
            watches, self._unsent_watches = self._unsent_watches, []
            for ids in batches(watches, of_id):
                self._effects.append(self._session.send(m.Watch(ids), now))
