from __future__ import annotations

import gc
import logging
import os
import select
import signal
from typing import Any

import pytest

from jobrunner.errors import ConfigError, CoordinatorLostError, ProtocolError
from jobrunner.protocol.effects import DrainRequested, GiveUp, Log, Stop, Tick
from jobrunner.transport.driver import Driver
from jobrunner.transport.service import LEFT_AT_ONCE, Service, error_named, set_up_logging


class Wire:
    def __init__(self) -> None:
        self.poll = select.poll()

    def register(self, fd: int) -> None:
        self.poll.register(fd, select.POLLIN | select.POLLHUP)

    def next_deadline(self) -> None:
        return None

    def wait(self, timeout: float | None) -> set[int]:
        return {fd for fd, _ in self.poll.poll(None if timeout is None else timeout * 1000)}

    def receive(self, now: float) -> list[Any]:
        return []

    def send(self, effect: Any) -> None:
        raise AssertionError("nothing is sent here")

    def close(self, *, orderly: bool = False) -> None:
        pass


class Core:
    """Calls `during` in its first turn; leaves when asked to drain, if it is `obedient`."""

    def __init__(self, during: Any = None, *, obedient: bool = True) -> None:
        self.during = during
        self.obedient = obedient
        self.seen: list[Any] = []

    def handle(self, event: Any, now: float) -> list[Any]:
        if type(event) is Tick:
            during, self.during = self.during, None
            return (during() or []) if during is not None else []
        self.seen.append(event)
        return [Stop()] if self.obedient else []

    def next_deadline(self) -> float | None:
        return 0.0 if self.during is not None else None


def serve(core: Core, lifeline: int | None = None) -> int:
    service = Service("test")
    driver = Driver(core, Wire(), service.perform_common)
    try:
        return service.run(driver, lifeline)
    finally:
        driver.close()


def interrupt(number: int = signal.SIGINT, times: int = 1) -> Any:
    def send() -> None:
        for _ in range(times):
            os.kill(os.getpid(), number)

    return send


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_drains(number):
    core = Core(interrupt(number))
    assert serve(core) == 0
    assert core.seen == [DrainRequested()]


def test_the_second_signal_leaves_at_once():
    core = Core(interrupt(signal.SIGTERM, times=2), obedient=False)
    assert serve(core) == LEFT_AT_ONCE


def test_the_signals_are_handled_as_before_when_it_has_ended():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    serve(Core(interrupt()))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_cycles_are_looked_for_less_often_while_it_serves():
    before, seen = gc.get_threshold(), []

    def look() -> list[Any]:
        seen.append(gc.get_threshold())
        return [Stop()]

    assert serve(Core(look)) == 0
    assert seen[0][0] > before[0]
    assert gc.get_threshold() == before


def test_it_leaves_at_once_when_its_lifeline_is_cut():
    lifeline, hold = os.pipe()
    assert serve(Core(lambda: os.close(hold), obedient=False), lifeline) == LEFT_AT_ONCE
    os.close(lifeline)


def test_giving_up_raises_the_error_that_the_core_names():
    with pytest.raises(CoordinatorLostError, match="gone for good"):
        serve(Core(lambda: [GiveUp("gone for good", "CoordinatorLostError")]))


def test_errors_are_found_by_name():
    error = error_named("ProtocolError", "what happened")
    assert type(error) is ProtocolError
    assert str(error) == "what happened"


def test_what_the_core_says_is_logged(caplog):
    with caplog.at_level(logging.DEBUG):
        serve(Core(lambda: [Log("warning", "a worker is lost"), Log("debug", "detail"), Stop()]))
    assert caplog.record_tuples == [
        ("jobrunner.test", logging.WARNING, "a worker is lost"),
        ("jobrunner.test", logging.DEBUG, "detail"),
    ]


def test_an_unknown_log_level_is_a_config_error():
    with pytest.raises(ConfigError, match="no log level 'loud'; use one of debug, info"):
        set_up_logging("loud")
