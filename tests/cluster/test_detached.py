"""Calls that outlive their client, and a coordinator that is killed with work in its journal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from support import calls
from support.daemons import connected, free_port

from jobrunner import Executor, JournalError, TaskLostError, WorkerLostError
from jobrunner.admin import ClusterAdmin
from jobrunner.cli.app import main
from jobrunner.testing.waiting import BOUND, until


@pytest.fixture
def port():
    return free_port()


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "journal"


@pytest.fixture
def start(cluster, port, journal):
    """Starts the coordinator, again and again on the same port and journal."""

    def start(*options, journaling=True, **environment):
        chosen = ["--journal", str(journal)] if journaling else ["--no-journal"]
        return cluster.coordinator(*chosen, *options, port=port, **environment)

    return start


def jobrunner(*arguments, address):
    """The command, as a shell runs it: exit code, output, errors."""
    done = subprocess.run(
        [sys.executable, "-m", "jobrunner", *arguments, "--address", address],
        capture_output=True,
        text=True,
        timeout=BOUND,
    )
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def test_from_the_shell(cluster, start):
    address = start().address
    cluster.worker(address, "w")
    code, task_id, err = jobrunner("submit", "support.calls:square", "[7]", address=address)
    assert (code, err) == (0, "")
    assert jobrunner("result", task_id, "--wait", address=address) == (0, "49", "")
    assert jobrunner("result", task_id, address=address) == (0, "49", "")
    assert jobrunner("forget", task_id, address=address) == (0, "", "")
    code, out, err = jobrunner("forget", task_id, address=address)
    assert (code, out) == (1, "")
    assert "no outcome of a detached task" in err


def test_from_the_shell_what_fails(cluster, start, tmp_path):
    address = start().address
    code, _, err = jobrunner("submit", "support.calls:nothing_like_that", address=address)
    assert (code, "cannot import support.calls:nothing_like_that" in err) == (2, True)
    assert jobrunner("submit", "support.calls:square", "[7", address=address)[0] == 2
    _, task_id, _ = jobrunner(
        "submit", "support.calls:wait_for_file", json.dumps([str(tmp_path / "go")]), address=address
    )
    code, out, err = jobrunner("result", task_id, address=address)
    assert (code, out, err) == (
        3,
        "",
        f"call {task_id} is not done yet, its state is queued; use --wait to wait for it",
    )
    cluster.worker(address, "w")
    _, bad, _ = jobrunner("submit", "support.calls:square", '["x"]', address=address)
    (tmp_path / "go").touch()
    code, out, err = jobrunner("result", bad, "--wait", address=address)
    assert (code, out) == (1, "")
    assert "in square" in err  # where it was raised
    assert err.splitlines()[-1].startswith(f"jobrunner: error: call {bad} raised TypeError")


def test_from_the_shell_a_call_that_was_cancelled(cluster, start):
    """The outcome of a call that is not detached is not kept; what is known of it says more than that it is unknown."""
    address = start().address
    with Executor(address) as executor:
        future = executor.submit(calls.square, 3)
        until(lambda: jobrunner("cancel", future.id, address=address)[0] == 0, "the acceptance of the call")
        for wait in ((), ("--wait",)):
            code, out, err = jobrunner("result", future.id, *wait, address=address)
            assert (code, out, err) == (1, "", f"jobrunner: error: call {future.id} was cancelled")


def test_a_detached_call_outlives_its_client(cluster, start, tmp_path):
    address = start("--client-grace", "0").address
    cluster.worker(address, "w", slots=2)
    go = tmp_path / "go"
    with Executor(address) as executor:
        detached = executor.with_options(detach=True)
        first = detached.submit(calls.wait_for_file, str(go))
        second = detached.submit(len, first)
    go.touch()
    with connected(address) as other:
        assert other.future(second.id).result(BOUND) == len(str(go))
        other.forget(second.id)
        with pytest.raises(TaskLostError, match="there is no task"):
            other.future(second.id).result(BOUND)


def test_what_was_accepted_survives_client_and_coordinator(cluster, start, tmp_path):
    coordinator = start()
    with Executor(coordinator.address) as executor:
        detached = executor.with_options(detach=True)
        futures = [detached.submit(calls.square, n) for n in range(50)]
        total = detached.submit(sum, futures)
    coordinator.send(signal.SIGKILL)
    coordinator.wait()
    again = start()
    assert "51 tasks to do" in again.output
    cluster.worker(again.address, "w")
    with connected(again.address) as other:
        assert other.future(total.id).result(BOUND) == sum(n * n for n in range(50))
    again.send(signal.SIGKILL)
    again.wait()
    third = start()
    assert "0 tasks to do, 51 outcomes kept" in third.output
    with connected(third.address) as other:
        assert other.future(futures[7].id).result(BOUND) == 49


@pytest.mark.parametrize("journaling", [True, False])
def test_pending_futures_survive_a_coordinator_that_is_killed(cluster, start, tmp_path, journaling):
    coordinator = start(journaling=journaling)
    cluster.worker(coordinator.address, "w", slots=2)
    go = tmp_path / "go"
    with connected(coordinator.address) as executor:
        first = executor.submit(calls.wait_for_file, str(go))
        until(first.running)
        second = executor.submit(len, first)
        done = executor.submit(calls.square, 3)
        assert done.result(BOUND) == 9
        third = executor.submit(max, [first, first])
        coordinator.send(signal.SIGKILL)
        coordinator.wait()
        go.touch()
        start(journaling=journaling)
        assert first.result(BOUND) == str(go)
        assert second.result(BOUND) == len(str(go))
        assert third.result(BOUND) == str(go)
        assert executor.submit(calls.square, done).result(BOUND) == 81


def test_at_most_once_fails_with_its_worker(cluster, start, tmp_path):
    address = start().address
    worker = cluster.worker(address, "w")
    trace = tmp_path / "trace"
    with connected(address) as executor:
        future = executor.with_options(at_most_once=True).submit(
            calls.append_and_wait, str(trace), str(tmp_path / "go")
        )
        until(lambda: trace.exists() and trace.read_text())
        worker.send(signal.SIGKILL)
        cluster.worker(address, "other")
        with pytest.raises(WorkerLostError):
            future.result(BOUND)
        assert executor.submit(calls.square, 2).result(BOUND) == 4
    assert trace.read_text().count("\n") == 1


def test_a_full_disk_refuses_new_calls_only(cluster, port, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        coordinator = cluster.coordinator("--journal", str(disk / "journal"), port=port)
        worker = cluster.worker(coordinator.address, "w")
        go = tmp_path / "go"
        with connected(coordinator.address) as executor:
            running = executor.submit(calls.wait_for_file, str(go))
            until(running.running)
            (disk / "ballast").write_bytes(bytes(600_000))
            refused = [executor.submit(len, os.urandom(15_000)) for _ in range(40)]
            errors = [future.exception(BOUND) for future in refused if not future.cancel() and future.done()]
            assert any(isinstance(error, JournalError) for error in errors)
            assert "whether the disk is full" in str(next(e for e in errors if e is not None)).lower()
            (disk / "ballast").unlink()
            go.touch()
            assert running.result(BOUND) == str(go)
            assert until(lambda: executor.submit(calls.square, 3).exception(BOUND) is None)
        for daemon in (worker, coordinator):
            daemon.send(signal.SIGTERM)
            assert daemon.wait() == 0
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_journal_can_be_looked_at(start, journal, capfd):
    coordinator = start()
    with Executor(coordinator.address) as executor:
        executor.with_options(detach=True).submit(calls.square, 3)
    assert main(["journal", "check", str(journal)]) == 0
    assert "damage           none" in capfd.readouterr().out.splitlines()
    assert main(["journal", "check", str(journal), "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert (report["tasks"], report["damage"]) == (1, "")
    with ClusterAdmin(coordinator.address, BOUND) as admin:
        assert admin.tasks()[0]["state"] == "queued"
    assert main(["journal", "check", str(journal) + "x"]) == 2
    error = capfd.readouterr().err
    assert "there is no journal at" in error
    assert "jobrunner journal check PATH" in error


def test_two_coordinators_never_share_a_journal(cluster, start, journal):
    start()
    second = cluster.run("-m", "jobrunner", "coordinator", "start", "--port", "0", "--journal", str(journal))
    assert second.wait() == 2
    assert "in use by another coordinator" in second.output


def test_nor_by_a_symbolic_link(cluster, start, journal, tmp_path):
    start()
    link = tmp_path / "link"
    link.symlink_to(journal)
    second = cluster.run("-m", "jobrunner", "coordinator", "start", "--port", "0", "--journal", str(link))
    assert second.wait() == 2
    assert "in use by another coordinator" in second.output
