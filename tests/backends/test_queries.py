"""Questions to the coordinator: answered, refused, given up, and ended with the backend."""

from __future__ import annotations

import queue
import threading

import pytest

from jobrunner.backends.queries import Queries
from jobrunner.errors import ConfigError, CoordinatorLostError, JobRunnerError
from jobrunner.protocol.effects import AnswerQuery
from jobrunner.system import forks

SECONDS = 20


class Asked:
    """A thread that asks, with a coordinator in the test's hands."""

    def __init__(self):
        self.events = queue.SimpleQueue()
        self.closed = None
        self.queries = Queries(forks.lock(), self.check_open, self.events.put)
        self.heard = queue.SimpleQueue()

    def check_open(self):
        if self.closed is not None:
            raise self.closed

    def ask(self):
        """The question that the coordinator gets from a thread."""

        def run():
            try:
                self.heard.put(self.queries.ask("status", "", SECONDS))
            except JobRunnerError as exc:
                self.heard.put(exc)

        threading.Thread(target=run, daemon=True).start()
        return self.events.get(timeout=SECONDS)


def test_each_thread_gets_the_answer_to_its_own_question():
    asked = Asked()
    first, second = asked.ask(), asked.ask()
    assert first.number != second.number
    asked.queries.answer(AnswerQuery(second.number, "two", ""))
    assert asked.heard.get(timeout=SECONDS) == "two"
    asked.queries.answer(AnswerQuery(first.number, None, "no such task"))
    assert str(asked.heard.get(timeout=SECONDS)) == "no such task"
    asked.queries.answer(AnswerQuery(first.number, "again", ""))  # changes nothing


def test_who_asks_for_too_long_gives_up_and_a_late_answer_is_dropped():
    asked = Asked()
    with pytest.raises(CoordinatorLostError, match="has not answered"):
        asked.queries.ask("status", timeout=0)
    asked.queries.answer(AnswerQuery(asked.events.get(timeout=SECONDS).number, "late", ""))


@pytest.mark.parametrize("failure", [None, JobRunnerError("it has failed")])
def test_the_end_ends_every_wait(failure):
    asked = Asked()
    asked.ask()
    asked.ask()
    asked.queries.end(lambda: failure)
    said = {str(asked.heard.get(timeout=SECONDS)) for _ in range(2)}
    assert said == {"the executor was shut down before the answer came" if failure is None else str(failure)}


def test_nothing_is_asked_after_the_end_nor_what_no_coordinator_takes():
    asked = Asked()
    with pytest.raises(ConfigError, match="characters"):
        asked.queries.ask("task", "x" * 100_000)
    asked.closed = RuntimeError("closed")
    with pytest.raises(RuntimeError, match="closed"):
        asked.queries.ask("status")
    assert asked.events.empty()
