"""Each example runs as a user runs it, in a process of its own, on small numbers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

BACKENDS = ("threads", "processes", "cluster")

SCALE = "0.2"
"""Of 01_order: the lines are then at least 0.2 s apart, which a busy host does not turn around."""

both_ways = pytest.mark.parametrize("by", ["option", "environment"])
on_each_backend = pytest.mark.parametrize("backend", BACKENDS)


def run(name: str, *arguments: str, cwd: Path, **settings: str) -> list[str]:
    """The lines that the example printed. Nothing that is set on this host reaches it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("JOBRUNNER_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        env=environment | {"PYTHONFAULTHANDLER": "1", "XDG_CONFIG_HOME": str(cwd)} | settings,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.stderr == ""
    return done.stdout.splitlines()


def seconds_of(lines: list[str]) -> list[int]:
    """What the tasks' lines say, in their order."""
    found = [re.match(r"Task of (\d+) s is done after [\d.]+ s\.$", line) for line in lines]
    return [int(match.group(1)) for match in found if match]


def test_every_example_is_tested() -> None:
    tested = {"01_order.py", "02_pi_wallis.py", "03_polling.py", "04_benchmark.py", "05_two_hosts.py"}
    with_libraries = (Path(__file__).parent / "integrations" / "test_library_examples.py").read_text()
    tested |= set(re.findall(r'run\("(\w+\.py)"', with_libraries))
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested


@on_each_backend
def test_order(backend: str, tmp_path: Path) -> None:
    lines = run("01_order.py", "--backend", backend, "--scale", SCALE, cwd=tmp_path)
    assert lines[0] == "All tasks started."
    assert lines[-1] == "All tasks done."
    assert seconds_of(lines) == [2, 5, 6, 9]
    assert len(lines) == 6


@on_each_backend
def test_order_when_shutdown_does_not_wait(backend: str, tmp_path: Path) -> None:
    lines = run("01_order.py", "--backend", backend, "--scale", SCALE, "--no-wait", cwd=tmp_path)
    assert lines[:2] == ["All tasks started.", "All tasks done."]
    assert seconds_of(lines) == [2, 5, 6, 9]
    assert len(lines) == 6


@on_each_backend
def test_pi_has_the_known_values(backend: str, tmp_path: Path) -> None:
    lines = run("02_pi_wallis.py", "1000", "12", "1234", "--backend", backend, cwd=tmp_path)
    assert sorted(line.strip() for line in lines) == [
        "1000 factors: 3.140023818600586",
        "12 factors: 3.02317019200136",
        "1234 factors: 3.1403210113038207",
    ]


def test_pi_comes_in_the_order_of_completion(tmp_path: Path) -> None:
    """The long task is submitted first; there is a worker for each."""
    numbers = ("4000000", "12")
    lines = run("02_pi_wallis.py", *numbers, cwd=tmp_path, JOBRUNNER_MAX_WORKERS="2")
    assert [line.split()[0] for line in lines] == ["12", "4000000"]


@on_each_backend
def test_polling_finds_each_result_once(backend: str, tmp_path: Path) -> None:
    arguments = ("--every", "0.1", "--scale", "0.1")
    lines = run("03_polling.py", *arguments, "--backend", backend, cwd=tmp_path)
    results = [float(found) for line in lines for found in re.findall(r"([\d.]+) s\b", line)]
    assert sorted(results) == [0.5, 1.5, 2.5, 3.5, 6.5]
    assert [line.split(":")[0] for line in lines] == [f"look {n}" for n in range(1, len(lines) + 1)]
    assert lines[-1].endswith("; 0 left")
    assert not any(line.endswith("; 0 left") for line in lines[:-1])


def test_the_benchmark_agrees_on_every_backend(tmp_path: Path) -> None:
    lines = run("04_benchmark.py", "--scale", "2000", "--workers", "2", cwd=tmp_path)
    assert [line.split()[0] for line in lines] == ["built-in", *BACKENDS]
    assert all(line.endswith("same results") for line in lines)


@on_each_backend
@both_ways
def test_the_backend_is_chosen_without_an_edit(backend: str, by: str, tmp_path: Path) -> None:
    arguments = ("--tasks", "6", "--seconds", "0.01")
    if by == "option":
        lines = run("05_two_hosts.py", *arguments, "--backend", backend, cwd=tmp_path)
    else:
        lines = run("05_two_hosts.py", *arguments, cwd=tmp_path, JOBRUNNER_BACKEND=backend)
    assert sum(int(line.split()[-2]) for line in lines[:-1]) == 6
    assert lines[-1].startswith("6 tasks on ")
    assert backend != "threads" or len(lines) == 2  # one process: this one
