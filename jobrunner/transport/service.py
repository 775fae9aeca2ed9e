"""The common parts of the two daemons: logging, signals, and the end of the process that started them.

The first SIGINT or SIGTERM drains, the second leaves at once. A daemon that was started with a lifeline (a pipe whose
other end its parent holds) leaves at once when that closes, however the parent died.
"""

from __future__ import annotations

import gc
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from jobrunner import errors
from jobrunner.errors import ConfigError, JobRunnerError
from jobrunner.protocol.effects import DrainRequested, Event, GiveUp, Log
from jobrunner.transport.driver import Driver

LEFT_AT_ONCE = 130
"""Exit code after a second interrupt."""

YOUNG_OBJECTS = 20_000
"""Number of new objects after which Python looks for cycles among them, instead of 700, because a daemon's records of
calls and peers live long and are freed without that; with 10,000 workers the search took 10 us per call."""

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def set_up_logging(level: str) -> None:
    """Send log lines to stderr, in a form for people; raise ConfigError for an unknown level."""
    if level.lower() not in LEVELS:
        raise ConfigError(f"there is no log level {level!r}; use one of {', '.join(LEVELS)}")
    logging.basicConfig(
        level=LEVELS[level.lower()],
        stream=sys.stderr,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )


@contextmanager
def rare_collections() -> Iterator[None]:
    """Make searches for cycles rare in a daemon's own process, see YOUNG_OBJECTS."""
    before = gc.get_threshold()
    gc.set_threshold(YOUNG_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


class Service:
    """Runs one driver to its end; `perform_common` belongs into the driver's table of effects."""

    def __init__(self, role: str) -> None:
        self.log = logging.getLogger(f"jobrunner.{role}")
        self._failure: JobRunnerError | None = None
        self._driver: Driver | None = None
        self._interrupts = 0

    @property
    def perform_common(self) -> dict[type, Callable[[Any], None]]:
        return {Log: self.write_log, GiveUp: self.give_up}

    def run(self, driver: Driver, lifeline: int | None = None) -> int:
        """Turn until everything is done, and return the exit code; raise the error with which the core gave up."""
        self._driver = driver
        if lifeline is not None:
            driver.add_source(lifeline, self._lifeline_closed)
        before = {
            number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            with rare_collections():
                finished = driver.run()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._failure is not None:
            raise self._failure
        return 0 if finished else LEFT_AT_ONCE

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        assert self._driver is not None
        self._interrupts += 1
        if self._interrupts == 1:
            self._driver.post(DrainRequested())
        else:
            self._driver.abort()

    def _lifeline_closed(self) -> list[Event]:
        assert self._driver is not None
        self._driver.abort()
        return []

    def write_log(self, effect: Log) -> None:
        self.log.log(LEVELS[effect.level], effect.text)

    def give_up(self, effect: GiveUp) -> None:
        """Make `run` raise the error soon."""
        assert self._driver is not None
        self._failure = error_named(effect.kind, effect.error)
        self._driver.abort()


def error_named(kind: str, text: str) -> JobRunnerError:
    """Return an error of the class with this name in `errors`, with this text."""
    error = getattr(errors, kind)(text)
    assert isinstance(error, JobRunnerError)
    return error
