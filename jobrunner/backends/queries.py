"""Questions to the coordinator; the threads that ask them wait for the I/O thread, which receives the answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from jobrunner.config import MAX_NAME_LENGTH
from jobrunner.errors import ConfigError, CoordinatorLostError, JobRunnerError
from jobrunner.protocol.effects import AnswerQuery, Event, QueryRequested
from jobrunner.protocol.wire.checks import MAX_ARGUMENT_LENGTH
from jobrunner.system import conditions


class QueryWait:
    """A thread's wait for the answer to one question."""

    def __init__(self) -> None:
        self.done = conditions.Event()
        self.data: Any = None
        self.error: JobRunnerError | None = None


class Queries:
    """The questions that have no answer yet. Thread-safe.

    `lock` ensures that nothing is asked after the end: `check_open` is called with it held, and raises once the backend
    has ended. `post` gives an event to the I/O thread.
    """

    def __init__(
        self, lock: threading.RLock, check_open: Callable[[], None], post: Callable[[Event], None]
    ) -> None:
        self._lock = lock
        self._check_open = check_open
        self._post = post
        self._number = 0
        self._waits: dict[int, QueryWait] = {}

    def ask(self, kind: str, argument: str = "", timeout: float = 10.0) -> Any:
        """Ask the coordinator a question, and return its answer.

        Raises JobRunnerError with the coordinator's text, and CoordinatorLostError after `timeout` seconds.
        """
        if len(argument) > MAX_ARGUMENT_LENGTH:
            raise ConfigError(
                f"{argument[:40]!r}... has {len(argument)} characters, and there is no name or id of more than"
                f" {MAX_NAME_LENGTH}"
            )
        wait = QueryWait()
        with self._lock:
            self._check_open()
            self._number += 1
            number = self._number
            self._waits[number] = wait
        self._post(QueryRequested(number, kind, argument))
        if not wait.done.wait(timeout):
            self._waits.pop(number, None)
            raise CoordinatorLostError(f"the coordinator has not answered for {timeout:g} s")
        if wait.error is not None:
            raise wait.error
        return wait.data

    def answer(self, effect: AnswerQuery) -> None:
        """Take an answer of the coordinator; the I/O thread calls this."""
        wait = self._waits.pop(effect.number, None)
        if wait is not None:
            wait.data = effect.data
            wait.error = JobRunnerError(effect.error) if effect.error else None
            wait.done.set()

    def end(self, error: Callable[[], JobRunnerError | None]) -> None:
        """End all waits, because no answer will come; each thread raises an error of its own.

        `error` returns that error, or None after a shutdown.
        """
        for wait in list(self._waits.values()):
            wait.error = error() or JobRunnerError("the executor was shut down before the answer came")
            wait.done.set()
