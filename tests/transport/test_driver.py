from __future__ import annotations

import os
import select
import threading
from collections import deque
from typing import Any

import pytest

from jobrunner.protocol.effects import Log, QueryRequested, Received, Send, Stop, Tick, Unreachable
from jobrunner.protocol.wire.messages import Envelope, Heartbeat
from jobrunner.testing.waiting import BOUND
from jobrunner.transport.driver import CATCH_UP, LATE, Driver

ENVELOPE = Envelope("s", 1, 0, Heartbeat())


class Core:
    """Notes what it is told; answers as `answers` says."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.answers: dict[type, list[Any]] = {}
        self.deadline: float | None = None

    def handle(self, event: Any, now: float) -> list[Any]:
        self.seen.append(event)
        return self.answers.pop(type(event), [])

    def next_deadline(self) -> float | None:
        return self.deadline


class Wire:
    """A wire without a network: a poll over what is registered, and lists of what comes and goes."""

    def __init__(self) -> None:
        self.poll = select.poll()
        self.timeouts: list[float | None] = []
        self.incoming: deque[Any] = deque()
        self.sent: list[Any] = []
        self.fails = False
        self.deadline: float | None = None
        self.closed: bool | None = None

    def register(self, fd: int) -> None:
        self.poll.register(fd, select.POLLIN)

    def next_deadline(self) -> float | None:
        return self.deadline

    def wait(self, timeout: float | None) -> set[int]:
        self.timeouts.append(timeout)
        return {fd for fd, _ in self.poll.poll(None if timeout is None else timeout * 1000)}

    def receive(self, now: float) -> list[Any]:
        events = list(self.incoming)
        self.incoming.clear()
        return events

    def send(self, effect: Send) -> Any:
        self.sent.append(effect)
        return Unreachable(effect.destination) if self.fails else None

    def close(self, *, orderly: bool = False) -> None:
        self.closed = orderly


@pytest.fixture
def parts():
    core, wire = Core(), Wire()
    done: list[Any] = []
    driver = Driver(core, wire, {Log: done.append}, clock=lambda: 50.0)
    yield driver, core, wire, done
    driver.close()


def test_a_turn_takes_all_that_has_come_and_ends_with_a_tick(parts):
    driver, core, wire, _ = parts
    reader, writer = os.pipe()
    driver.add_source(reader, lambda: [QueryRequested(int(os.read(reader, 9)), "source")])
    os.write(writer, b"3")
    driver.post(QueryRequested(1, "posted"))
    wire.incoming.append(Received(b"x", ENVELOPE))
    driver.turn()
    assert core.seen == [
        QueryRequested(1, "posted"),
        Received(b"x", ENVELOPE),
        QueryRequested(3, "source"),
        Tick(),
    ]
    os.close(reader)
    os.close(writer)


def test_effects_are_performed_in_order(parts):
    driver, core, wire, done = parts
    core.answers[Tick] = [Log("info", "one"), Send(b"x", ENVELOPE), Log("info", "two")]
    driver.post(Tick())
    driver.turn()
    assert done == [Log("info", "one"), Log("info", "two")]
    assert wire.sent == [Send(b"x", ENVELOPE)]


def test_what_cannot_be_sent_comes_back_as_an_event_and_its_effects_are_performed(parts):
    driver, core, wire, done = parts
    wire.fails = True
    core.answers[Tick] = [Send(b"x", ENVELOPE)]
    core.answers[Unreachable] = [Log("info", "gone")]
    driver.post(Tick())
    driver.turn()
    assert core.seen[-1] == Unreachable(b"x")
    assert done == [Log("info", "gone")]


@pytest.mark.parametrize(
    ("of_core", "of_wire", "timeout"),
    [(50.25, None, 0.25), (None, 50.125, 0.125), (50.25, 50.125, 0.125), (49.0, None, 0.0)],
)
def test_it_sleeps_until_the_next_deadline(parts, of_core, of_wire, timeout):
    driver, core, wire, _ = parts
    core.deadline, wire.deadline = of_core, of_wire
    driver.turn()
    assert wire.timeouts == [timeout]


def test_it_does_not_sleep_while_something_is_posted(parts):
    driver, core, wire, _ = parts
    core.deadline = 99.0
    driver.post(QueryRequested(1, "x"))
    driver.turn()
    assert wire.timeouts == [0.0]


def test_an_event_posted_while_it_sleeps_wakes_it(parts):
    driver, core, _, _ = parts
    core.answers[QueryRequested] = [Stop()]
    thread = threading.Thread(target=driver.run)
    thread.start()
    while not driver._asleep:
        pass
    driver.post(QueryRequested(1, "x"))
    thread.join(BOUND)
    assert not thread.is_alive()
    assert QueryRequested(1, "x") in core.seen


def test_many_threads_that_post_lose_nothing(parts):
    driver, core, _, _ = parts
    each = 500

    def post(first: int) -> None:
        for number in range(first, first + each):
            driver.post(QueryRequested(number, "x"))

    threads = [threading.Thread(target=post, args=(n * each,)) for n in range(4)]
    loop = threading.Thread(target=driver.run)
    loop.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    core.answers[QueryRequested] = [Stop()]
    driver.post(QueryRequested(-1, "last"))
    loop.join(BOUND)
    assert not loop.is_alive()
    numbers = [event.number for event in core.seen if isinstance(event, QueryRequested)]
    assert sorted(numbers) == list(range(-1, 4 * each))
    for n in range(4):
        mine = [number for number in numbers if n * each <= number < (n + 1) * each]
        assert mine == sorted(mine), "each thread's events stay in order"


def test_what_gathers_elsewhere_is_collected_first(parts):
    core, wire = Core(), Wire()
    gathered = [QueryRequested(1, "gathered")]
    driver = Driver(core, wire, {}, collect=lambda: gathered)
    driver.post(QueryRequested(2, "posted"))
    driver.turn()
    assert core.seen == [QueryRequested(1, "gathered"), QueryRequested(2, "posted"), Tick()]
    driver.close()


def test_it_runs_until_the_core_stops(parts):
    driver, core, _, done = parts
    core.answers[Tick] = [Stop(), Log("info", "still performed")]
    driver.post(Tick())
    assert driver.run() is True
    assert done == [Log("info", "still performed")]


def test_it_runs_until_it_is_aborted_and_wakes_up_for_that(parts):
    driver, _, _, _ = parts
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(driver.run()))
    thread.start()
    while not driver._asleep:
        pass
    driver.abort()
    thread.join(BOUND)
    assert results == [False]


def test_closing_hands_on_whether_the_end_was_orderly():
    for orderly in (True, False):
        wire = Wire()
        Driver(Core(), wire, {}).close(orderly=orderly)
        assert wire.closed is orderly


def test_a_process_that_was_stopped_hears_what_came_meanwhile_before_its_core_judges_the_silence(monkeypatch):
    """Stopped in `wait`, it wakes up at the same time as ZeroMQ's thread, which has yet to read the sockets."""
    core, wire = Core(), Wire()
    core.deadline = 1000.0
    times = iter([1000.0, 1000.0, 1005.0, 1005.1])  # made; the timeout; after the wait; after the pause
    driver = Driver(core, wire, {}, clock=lambda: next(times))
    late = Received(b"", ENVELOPE)
    pauses = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        wire.incoming.append(late)

    monkeypatch.setattr("jobrunner.transport.driver.time.sleep", pause)
    driver.turn()
    driver.close()
    assert core.seen == [late, Tick()]
    assert pauses == [CATCH_UP]


def test_a_turn_in_time_does_not_pause():
    core, wire = Core(), Wire()
    core.deadline = 1000.0
    times = iter([1000.0, 1000.0, 1000.0 + LATE])
    driver = Driver(core, wire, {}, clock=lambda: next(times))
    driver.turn()  # a further look at the clock would raise StopIteration
    driver.close()
    assert core.seen == [Tick()]
