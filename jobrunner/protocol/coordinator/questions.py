"""Queries that clients have asked: each turn answers as many as it has time for, the keys taking turns.

A question has a few bytes, and may have the coordinator look at all tasks, clients and workers, so that a few hundred
of them would keep it from everything else for minutes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from jobrunner.protocol.coordinator.peers import ClientSession
from jobrunner.protocol.link import Link
from jobrunner.protocol.wire.messages import Query

LOOKED_AT_PER_TURN = 100_000
"""Tasks and peers that may be looked at for the questions of one turn, some hundredths of a second; at least one
question is answered."""

MAX_WAITING = 1000
"""Maximum number of questions of one key that wait for their answer."""


class Questions:
    """The questions of each key that wait for their turn."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[tuple[ClientSession, Link, Query]]] = {}
        """By key, in the order of their turns."""

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def ask(self, client: ClientSession, query: Query) -> bool:
        """Return False if too many questions of its key wait already."""
        waiting = self._waiting.setdefault(client.came_with, deque())
        if len(waiting) >= MAX_WAITING:
            return False
        waiting.append((client, client.link, query))
        return True

    def answer(self, reply: Callable[[ClientSession, Query], int]) -> None:
        """Answer as many as this turn permits; `reply` returns how much it has looked at."""
        left = LOOKED_AT_PER_TURN
        while self._waiting and left > 0:
            key = next(iter(self._waiting))
            waiting = self._waiting.pop(key)
            client, link, query = waiting.popleft()
            if waiting:
                self._waiting[key] = waiting  # behind the other keys
            if client.link is link and link.is_open:  # else nobody waits for the answer any more
                left -= reply(client, query)
