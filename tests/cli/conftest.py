"""Fixtures of the command line's tests: a clean environment; the command in this process or as a process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support.daemons import Daemon

from jobrunner.cli.app import main


class Result(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., Result]


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """`jobrunner` with these arguments, in this process."""

    def run(*arguments: object) -> Result:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Result(code, captured.out, captured.err)

    return run


Start = Callable[..., Daemon]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts `jobrunner` commands, and ends those that are left, the newest first."""
    started: list[Daemon] = []

    def run(*arguments: str) -> Daemon:
        started.append(Daemon("-m", "jobrunner", *arguments))
        return started[-1]

    yield run
    for process in reversed(started):
        process.end()
