"""The commands against a real coordinator and workers, each a process of its own on a free loopback port."""

from __future__ import annotations

import json
import re
import signal
import socket
import time
from typing import Any

import pytest

from jobrunner import CoordinatorLostError, Executor
from jobrunner.cli.status import connect
from jobrunner.testing.waiting import BOUND, until

LONG = 40.0
"""Seconds of a call that is stopped long before."""


@pytest.fixture
def address(start: Any) -> Any:
    """A coordinator's address, taken from the line that it prints for the other hosts."""
    return start("coordinator", "start", "--port", "0").wait_for(r"coordinator at (tcp://\S+)")[1]


@pytest.fixture
def worker(start: Any, address: str) -> Any:
    """A worker "left" with two slots, which has joined."""
    process = start("worker", "start", address, "--slots", "2", "--name", "left", "--resources", "gpu=2")
    with connect(address, BOUND) as admin:
        until(admin.workers)
    return process


@pytest.mark.usefixtures("worker")
def test_status_and_workers_of_a_real_cluster(cli: Any, address: str) -> None:
    status = json.loads(cli("status", "--address", address, "--json").out)
    assert status["coordinator"]["address"] == address
    assert (status["slots"], status["busy"]) == (2, 0)
    assert status["workers"][0]["name"] == "left"
    assert status["workers"][0]["resources"] == {"gpu": 2.0}
    shown = cli("status", "--address", address)
    assert (shown.code, shown.err) == (0, "")
    assert f"coordinator  {address} (" in shown.out
    assert "slots        0 busy of 2" in shown.out
    assert cli("workers", "-a", address.removeprefix("tcp://"), "--quiet").out == "left\n"


@pytest.mark.usefixtures("worker")
def test_a_running_task_is_listed_shown_and_cancelled(cli: Any, address: str) -> None:
    with Executor(address) as executor:
        future = executor.with_options(name="holding").submit(time.sleep, LONG)
        until(lambda: cli("tasks", "-a", address, "--state", "running", "--quiet").out == f"{future.id}\n")
        assert "holding" in cli("tasks", "-a", address).out
        task = json.loads(cli("task", future.id, "-a", address, "--json").out)
        assert (task["name"], task["worker"], task["attempt"]) == ("holding", "left", 1)
        result = cli("cancel", future.id, "-a", address)
        assert (result.code, result.err) == (0, "")
        assert future.id in result.out
        until(future.cancelled)
        again = cli("cancel", future.id, "-a", address)
        assert again.code == (0 if "cancelled" in again.out else 1)


@pytest.mark.usefixtures("worker")
def test_a_finished_task_cannot_be_cancelled_and_an_unknown_one_is_named(cli: Any, address: str) -> None:
    with Executor(address) as executor:
        future = executor.submit(abs, -1)
        assert future.result(BOUND) == 1
        finished = cli("cancel", future.id, "nobody-1", "-a", address)
    assert finished.code == 1
    done, unknown = finished.out.splitlines()
    assert "not cancelled: succeeded" in done
    assert "nobody-1" in unknown
    assert "Traceback" not in finished.err
    missing = cli("task", "nobody-1", "-a", address)
    assert (missing.code, missing.out) == (1, "")
    assert re.fullmatch(r"jobrunner: error: .*nobody-1.*\n", missing.err)


def test_a_drained_worker_leaves_with_exit_code_0(cli: Any, address: str, worker: Any) -> None:
    result = cli("worker", "drain", "left", "-a", address)
    assert (result.code, result.err) == (0, "")
    assert worker.wait() == 0
    until(lambda: cli("workers", "-a", address, "--quiet").out == "")
    unknown = cli("worker", "drain", "left", "-a", address)
    assert unknown.code == 1
    assert "left" in unknown.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_worker_and_coordinator_leave_on_a_signal(start: Any, number: int) -> None:
    coordinator = start("coordinator", "start", "--port", "0")
    address = coordinator.wait_for(r"coordinator at (tcp://\S+)")[1]
    worker = start("worker", "start", address, "--slots", "1", "--name", "left")
    with connect(address, BOUND) as admin:
        until(admin.workers)
    assert worker.stop(number) == 0
    assert coordinator.stop(number) == 0
    assert "Traceback" not in worker.output + coordinator.output


def test_a_worker_may_be_started_before_its_coordinator(cli: Any, start: Any) -> None:
    port = free_port()
    worker = start("worker", "start", f"127.0.0.1:{port}", "--slots", "1", "--name", "early")
    worker.wait_for(f"127.0.0.1:{port}")
    start("coordinator", "start", "--port", str(port)).wait_for("coordinator at tcp://")
    until(lambda: cli("workers", "-a", f"127.0.0.1:{port}", "--quiet").out == "early\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["orderly", "killed"])
def test_watching_survives_the_coordinator_and_ends_quietly_on_ctrl_c(start: Any, number: int) -> None:
    port = str(free_port())
    first = start("coordinator", "start", "--port", port)
    first.wait_for("coordinator at tcp://")
    watcher = start("status", "--watch", "--json", "--interval", "0.1", "-a", f"127.0.0.1:{port}")
    watcher.wait_for('"tasks_per_second"')
    first.stop(number)
    watcher.wait_for('"unreachable"')
    seen = len(watcher.lines)
    start("coordinator", "start", "--port", port).wait_for("coordinator at tcp://")
    until(lambda: any("tasks_per_second" in line for line in watcher.lines[seen:]))
    assert watcher.stop(signal.SIGINT) == 0
    assert all(json.loads(line) for line in watcher.lines)


def test_an_insecure_network_must_be_allowed_twice(start: Any) -> None:
    refused = start("coordinator", "start", "--host", "0.0.0.0", "--port", "0", "--insecure")
    assert refused.wait() == 2
    assert "JOBRUNNER_ALLOW_INSECURE_NETWORK=1" in refused.output
    assert "Traceback" not in refused.output


def test_a_port_that_is_taken_is_a_usage_error_of_one_line(start: Any, address: str) -> None:
    second = start("coordinator", "start", "--port", address.rpartition(":")[2])
    assert second.wait() == 2
    assert re.search(r"jobrunner: error: .*" + address.rpartition(":")[2], second.output)
    assert "Traceback" not in second.output


@pytest.mark.parametrize(
    "command", [["status"], ["workers"], ["tasks"], ["task", "x-1"], ["cancel", "x-1"]], ids=" ".join
)
def test_an_unreachable_coordinator_is_one_line_within_the_timeout(cli: Any, command: list[str]) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    began = time.monotonic()
    result = cli(*command, "--address", address, "--timeout", "0.2")
    assert time.monotonic() - began < 10
    assert (result.code, result.out) == (1, "")
    assert re.fullmatch(rf"jobrunner: error: .*{re.escape(address)}.*\n", result.err)


def test_the_admin_says_the_same_from_python() -> None:
    with pytest.raises(CoordinatorLostError), connect(f"127.0.0.1:{free_port()}", 0.2) as admin:
        admin.status()


@pytest.mark.usefixtures("worker")
def test_the_demo_runs_on_the_cluster_that_the_environment_names(
    cli: Any, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBRUNNER_ADDRESS", address)
    result = cli("demo", "--scale", 10000, "--no-threads", "--no-processes", "--json")
    found = json.loads(result.out)
    assert (result.code, found["equal"]) == (0, True)
    assert [backend["name"] for backend in found["backends"]] == ["built-in map", address]
    assert json.loads(cli("status", "--json").out)["tasks"]["succeeded"] >= 8


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
