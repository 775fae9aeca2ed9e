"""Watching, against a scripted cluster and a clock that only moves when it is told to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jobrunner.cli.output import Output
from jobrunner.cli.watch import Watcher, rate, snapshots, watch
from jobrunner.errors import ConfigError, CoordinatorLostError


def status(succeeded: int, coordinator: str = "c0") -> dict[str, Any]:
    return {
        "coordinator": {"id": coordinator, "address": "tcp://h:1"},
        "tasks": {"queued": 3, "succeeded": succeeded},
        "workers": [],
        "clients": [],
        "slots": 0,
        "busy": 0,
    }


AWAY = CoordinatorLostError("no answer from tcp://h:1")


class ScriptedCluster:
    """Answers with what its script says, one entry a look, and counts its connections. The end is Ctrl-C."""

    def __init__(self, *script: dict[str, Any] | Exception) -> None:
        self.script = list(script)
        self.opened = 0
        self.closed = 0
        self.now = 100.0

    def connect(self) -> ScriptedCluster:
        self.opened += 1
        return self

    def status(self) -> dict[str, Any]:
        if not self.script:
            raise KeyboardInterrupt
        answer = self.script.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self.closed += 1

    def clock(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


def test_two_looks_give_a_rate() -> None:
    cluster = ScriptedCluster(status(10), status(40))
    looks = snapshots(Watcher(cluster.connect, cluster.clock), 2.0, cluster.pause)
    assert next(looks).document()["tasks_per_second"] is None
    assert next(looks).document()["tasks_per_second"] == 15.0
    assert cluster.opened == 1


def test_there_is_no_rate_across_a_restart_or_when_counts_fall() -> None:
    assert rate(status(10, "c0"), status(20, "c1"), 1.0) is None
    assert rate(status(20), status(10), 1.0) is None
    assert rate(status(1), status(2), 0.0) is None


def test_a_coordinator_that_is_away_is_shown_and_asked_again() -> None:
    cluster = ScriptedCluster(status(10), AWAY, AWAY, status(20))
    looks = snapshots(Watcher(cluster.connect, cluster.clock), 2.0, cluster.pause)
    next(looks)
    assert next(looks).away_for == 0.0
    away = next(looks)
    assert away.document() == {"unreachable": {"seconds": 2.0, "reason": "no answer from tcp://h:1"}}
    assert away.status is not None
    back = next(looks)
    assert back.away_for is None
    assert (cluster.opened, cluster.closed) == (3, 2)


def test_a_coordinator_that_was_never_there_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    cluster = ScriptedCluster(AWAY, status(1))
    watch(cluster.connect, Output(), 1.0, cluster.pause)
    out = capsys.readouterr().out
    assert "unreachable for" in out
    assert "no answer from tcp://h:1" in out
    assert "1 succeeded" in out


def test_watching_prints_a_document_a_line_until_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    cluster = ScriptedCluster(status(1), AWAY, status(2))
    watch(cluster.connect, Output(json=True), 1.0, cluster.pause)
    first, away, last = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["tasks"]["succeeded"] == 1
    assert list(away) == ["unreachable"]
    assert last["tasks"]["succeeded"] == 2
    assert cluster.opened == cluster.closed


def test_a_mistake_is_no_reason_to_wait() -> None:
    cluster = ScriptedCluster(ConfigError("bad"))
    with pytest.raises(ConfigError):
        watch(cluster.connect, Output(), 1.0, cluster.pause)
    assert cluster.opened == cluster.closed


def test_a_terminal_sees_one_picture_that_changes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # what makes a stream count as a terminal
    cluster = ScriptedCluster(status(1), AWAY, status(2))
    watch(cluster.connect, Output(), 1.0, cluster.pause)
    out = capsys.readouterr().out
    assert "\x1b[2K\x1b[1A" in out, "the first picture is not replaced"
    assert "unreachable for" in out
    assert out.rindex("\x1b[?25h") > out.rindex("2 succeeded"), "the cursor is not shown again"
