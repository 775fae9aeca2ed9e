"""The demo: its plans, its table, what it compares; and whole runs with few factors."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from jobrunner.cli import demo_runs, demo_view
from jobrunner.cli.demo_runs import Plan, Run
from jobrunner.cli.output import Output
from jobrunner.cli.workload import pi, scaled_numbers

ALL = {"builtin": True, "threads": True, "processes": True, "cluster": True}
RUNS = [
    Run(demo_runs.BUILTIN, 0.0, 8.0, [1.0, 2.0]),
    Run("threads", 0.1, 10.0, [1.0, 2.0]),
    Run("processes", 0.2, 4.0, [1.0, 2.0000000000000004]),
]


def test_the_plans_follow_the_options() -> None:
    assert [plan.name for plan in demo_runs.plans(4, None, **ALL)] == [
        "built-in map",
        "threads",
        "processes",
        "cluster",
    ]
    only = demo_runs.plans(3, None, builtin=False, threads=True, processes=False, cluster=False)
    assert only == [Plan("threads", "threads", 3)]


def test_a_cluster_with_an_address_keeps_the_slots_it_has() -> None:
    assert demo_runs.plans(4, "tcp://h:1", **ALL)[-1] == Plan("tcp://h:1", "tcp://h:1", None)


def test_results_are_compared_to_the_last_bit() -> None:
    assert demo_runs.differing(RUNS) == ["processes"]
    assert demo_runs.differing(RUNS[:2]) == []
    assert demo_runs.differing([]) == []


def test_the_speed_up_is_over_the_built_in_map() -> None:
    assert [demo_runs.speedup(run, RUNS) for run in RUNS] == [1.0, 0.8, 2.0]
    assert demo_runs.speedup(RUNS[1], RUNS[1:]) is None


def test_the_table_has_a_row_a_backend(capsys: pytest.CaptureFixture[str]) -> None:
    Output().show(demo_runs.document(RUNS, [10, 20], 4), demo_view.DEMO)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:] == [
        ["built-in", "map", "0.00", "8.00", "1.00x"],
        ["threads", "0.10", "10.00", "0.80x"],
        ["processes", "0.20", "4.00", "2.00x"],
    ]


class Recorder:
    """A reporter that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []

    def start(self, name: str, total: int) -> None:
        self.heard.append((name, total))

    def note(self, text: str) -> None:
        self.heard.append(("note", text))

    def advance(self, factors: int) -> None:
        self.heard.append(("factors", factors))

    def finish(self, run: Run) -> None:
        self.heard.append((run.name, "done"))


@pytest.mark.parametrize(
    "plan", demo_runs.plans(2, None, **{**ALL, "cluster": False}), ids=lambda plan: plan.name
)
def test_a_backend_computes_everything_and_reports_it(plan: Plan) -> None:
    numbers = [3000, 10, 200]
    recorder = Recorder()
    (run,) = demo_runs.run_all([plan], numbers, recorder)
    assert run.results == [pi(number) for number in numbers]
    assert recorder.heard[0] == (plan.name, 3210)
    assert sorted(factors for what, factors in recorder.heard if what == "factors") == sorted(numbers)
    assert recorder.heard[-1] == (plan.name, "done")


def test_the_demo_on_local_pools(cli: Any) -> None:
    result = cli("demo", "--scale", 10000, "--workers", 2, "--no-cluster", "--json")
    found = json.loads(result.out)
    assert (result.code, result.err) == (0, "")
    assert found["equal"] is True
    assert found["results"] == [pi(number) for number in scaled_numbers(10000)]
    assert [backend["name"] for backend in found["backends"]] == ["built-in map", "threads", "processes"]


def test_without_a_terminal_the_demo_reports_in_lines(cli: Any) -> None:
    result = cli("demo", "--scale", 100000, "--no-processes", "--no-cluster")
    assert result.code == 0
    assert [line.split()[0] for line in result.out.splitlines()] == ["BACKEND", "built-in", "threads"]
    assert result.err.startswith("built-in map: started (2,623 factors)\nbuilt-in map: done in ")
    assert "\x1b" not in result.out + result.err


def test_quiet_prints_the_results_alone(cli: Any) -> None:
    result = cli("demo", "--scale", 100000, "--no-threads", "--no-processes", "--no-cluster", "--quiet")
    assert result.err == ""
    assert result.out.splitlines() == [str(pi(number)) for number in scaled_numbers(100000)]


@pytest.mark.parametrize("backend", ["threads", "processes", "cluster"])
def test_ctrl_c_ends_the_demo_at_once_and_quietly(start: Any, backend: str) -> None:
    others = [f"--no-{name}" for name in ("builtin", "threads", "processes", "cluster") if name != backend]
    demo = start("demo", "--full", *others)  # each call takes seconds, and none is waited for
    demo.wait_for(f"{backend}: started")
    assert demo.stop(signal.SIGINT) == 130
    assert [line.partition(" (")[0] for line in demo.lines] == [f"{backend}: started"]


def test_the_demo_on_an_embedded_cluster(cli: Any) -> None:
    result = cli("demo", "--scale", 10000, "--workers", 2, "--no-threads", "--no-processes", "--json")
    found = json.loads(result.out)
    assert result.code == 0
    assert found["equal"] is True
    assert [backend["name"] for backend in found["backends"]] == ["built-in map", "cluster"]
    assert os.environ.get("JOBRUNNER_ADDRESS") is None


def test_at_a_terminal_each_backend_has_a_bar(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # what makes a stream count as a terminal
    result = cli("demo", "--scale", 100000, "--no-processes", "--no-cluster")
    assert result.code == 0
    assert result.err.count("100%") >= 2
    assert "started" not in result.err
    assert "SPEED-UP" in result.out
