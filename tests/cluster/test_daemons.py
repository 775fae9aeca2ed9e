"""How the daemons, and a cluster that a program embeds, come to their ends."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from multiprocessing import spawn

import psutil
import pytest
from support import calls
from support.daemons import alive, connected
from support.steps import Killed, Steps

from jobrunner import Executor
from jobrunner.backends import client_thread, core_backend
from jobrunner.backends import cluster as cluster_backend
from jobrunner.coordinator import local_cluster
from jobrunner.coordinator.local_cluster import BOOT, LocalCluster
from jobrunner.testing.waiting import BOUND, until


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_a_worker(cluster, address, admin, tmp_path, number):
    worker = cluster.worker(address, "w")
    gate = str(tmp_path / "gate")
    with connected(address) as executor:
        running = executor.submit(calls.wait_for_file, gate)
        until(running.running)
        queued = executor.submit(calls.square, 5)
        worker.send(number)
        until(lambda: admin.workers()[0]["state"] == "draining")
        assert not running.done()
        open(gate, "w").close()
        assert running.result(BOUND) == gate, "what runs finishes"
        assert worker.wait() == 0
        assert admin.task(running.id)["attempt"] == 1
        assert not queued.done()
        cluster.worker(address, "other")
        assert queued.result(BOUND) == 25, "the rest runs elsewhere"
    assert "Traceback" not in worker.output


def test_a_draining_worker_does_what_calls_have_left_to_the_end(cluster, address, tmp_path, capfd):
    worker = cluster.worker(address, "w")
    with connected(address) as executor:
        executor.submit(calls.note_at_exit, str(tmp_path / "trace"), "late").result(BOUND)
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
        assert (tmp_path / "trace").read_text() == "late"
        until(lambda: "late" in capfd.readouterr().out, "the last words")


def test_a_string_has_one_hash_on_all_workers(cluster, address, tmp_path):
    for name in ("v", "w"):
        cluster.worker(address, name, slots=2)
    with connected(address) as executor:
        places = executor.map(calls.hash_and_worker, [str(tmp_path)] * 4, chunksize=1)
        hashes, workers = zip(*places, strict=True)
    assert set(workers) == {"v", "w"}
    assert len(set(hashes)) == 1


def test_the_second_interrupt_leaves_at_once(cluster, address, tmp_path):
    worker = cluster.worker(address, "w")
    with connected(address) as executor:
        running = executor.submit(calls.nap, 60.0)
        until(running.running)
        slots = worker.slots()
        worker.send(signal.SIGINT)
        worker.wait_for("draining")
        worker.send(signal.SIGINT)
        assert worker.wait() == 130
        assert not any(alive(pid) for pid in slots)


def test_an_operator_drains_a_worker(cluster, address, admin):
    worker = cluster.worker(address, "w")
    assert admin.drain("w")["name"] == "w"
    assert worker.wait() == 0
    until(lambda: len(admin.workers()) == 0)


def test_a_coordinator_drains_and_says_goodbye(cluster, coordinator, address):
    worker = cluster.worker(address, "w")
    with connected(address) as executor:
        future = executor.submit(calls.nap, 0.5)
        until(future.running)
        coordinator.send(signal.SIGTERM)
        assert future.result(BOUND) == 0.5
        assert coordinator.wait() == 0
    worker.wait_for("it has stopped")
    assert worker.popen.poll() is None, "it waits for the next one"


EMBEDDED = """\
import psutil, sys
from support import calls
from jobrunner import Executor
with Executor("cluster", max_workers=2) as executor:
    assert executor.submit(calls.square, 4).result(30) == 16
    mine = psutil.Process()
    print("pids", *[child.pid for child in mine.children(recursive=True)], flush=True)
    print("folder", executor._lifetime.backend.connection().removeprefix("ipc://").rpartition("/")[0], flush=True)
    {rest}
print("left", flush=True)
"""


def test_an_embedded_cluster_leaves_nothing_behind(cluster):
    program = cluster.run("-c", EMBEDDED.replace("{rest}", "pass"))
    program.wait_for("left")
    pids, folder = traces(program)
    assert program.wait() == 0
    assert not any(alive(pid) for pid in pids)
    assert not os.path.exists(folder)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nor_does_it_when_its_program_is_killed(cluster, number):
    program = cluster.run("-c", EMBEDDED.replace("{rest}", "executor.submit(calls.nap, 60).result()"))
    program.wait_for("folder")
    pids, folder = traces(program)
    assert len(pids) >= 3
    program.send(number)
    program.wait()
    until(lambda: not any(alive(pid) for pid in pids), "the end of its processes")
    until(lambda: not os.path.exists(folder), "the end of its folder")


def test_nor_when_its_program_is_killed_while_it_starts(tmp_path):
    program = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os, signal\n"
            "from jobrunner import Executor\n"
            "executor = Executor('cluster', max_workers=1)\n"
            "os.kill(os.getpid(), signal.SIGKILL)",
        ],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,  # which ends when the last process has ended that has it
        text=True,
        timeout=50,
    )
    assert program.returncode == -signal.SIGKILL
    assert program.stderr == ""
    assert os.listdir(tmp_path) == []


def traces(program):
    folder = program.wait_for(r"folder (\S+)")[1]
    assert os.path.isabs(folder)
    pids = [int(pid) for pid in program.wait_for(r"pids (.*)")[1].split()]
    assert len(pids) >= 3
    return pids, folder


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_embedded_cluster_that_dies_is_started_again(number):
    before = {*psutil.Process().children()}
    with Executor("cluster", max_workers=1) as executor:
        assert executor.submit(calls.square, 4).result(BOUND) == 16
        (daemon,) = (child for child in {*psutil.Process().children()} - before if BOOT in child.cmdline())
        daemon.send_signal(number)
        assert executor.submit(calls.square, 5).result(BOUND) == 25


def test_a_program_that_stands_still_right_after_it_opened_a_cluster_keeps_it(monkeypatch):
    """It holds the GIL for longer than an answer may take, so that its own thread has not even greeted anybody."""
    monkeypatch.setenv("JOBRUNNER_CONNECT_TIMEOUT", "2")
    with Executor("cluster", max_workers=1) as executor:
        ctypes.PyDLL(None).usleep(2_500_000)
        assert executor.submit(calls.square, 4).result(BOUND) == 16


def test_it_is_started_again_though_one_start_fails(monkeypatch, caplog, tmp_path):
    """It had died of a lack that starts fail of, too: of descriptors, processes, memory, or files that are missing."""
    monkeypatch.setattr("jobrunner.coordinator.local_cluster.RESTART_PAUSE", 0.05)
    interpreter = tmp_path / "python3"
    interpreter.symlink_to(sys.executable)
    monkeypatch.setenv("JOBRUNNER_INTERPRETER", str(interpreter))
    before = {*psutil.Process().children()}
    with Executor("cluster", max_workers=1) as executor:
        assert executor.submit(calls.square, 4).result(BOUND) == 16
        (daemon,) = (child for child in {*psutil.Process().children()} - before if BOOT in child.cmdline())
        interpreter.unlink()  # it is being replaced
        daemon.kill()
        until(lambda: "could not be restarted" in caplog.text, "the first start in vain")
        interpreter.symlink_to(sys.executable)
        assert executor.submit(calls.square, 5).result(BOUND) == 25
    assert caplog.text.count("could not be restarted") == 1


def test_a_cluster_that_cannot_be_started_leaves_nothing_behind(monkeypatch):
    LocalCluster(1).stop()  # what is made once per process is made
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        before = sorted(os.listdir("/proc/self/fd"))
        monkeypatch.setattr(spawn, "_python_exe", "/being/replaced/python3")  # as set_executable does
        with pytest.raises(FileNotFoundError):
            LocalCluster(1)
        assert sorted(os.listdir("/proc/self/fd")) == before
        assert os.listdir(folder) == []


def test_nor_one_that_gets_no_memory_to_write_in(monkeypatch, small_files):
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        before = sorted(os.listdir("/proc/self/fd"))
        with small_files(), pytest.raises(OSError, match="too large"):
            LocalCluster(1)
        assert sorted(os.listdir("/proc/self/fd")) == before
        assert os.listdir(folder) == []


@pytest.mark.parametrize(
    "steps",
    [range(2, 50, 6), pytest.param(range(100), marks=[pytest.mark.heavy, pytest.mark.timeout(600)])],
    ids=["some", "all"],
)
def test_nor_one_whose_executor_is_interrupted_while_it_is_made(steps):
    Executor("cluster", max_workers=1).shutdown()
    for step in steps:
        before = sorted(os.listdir("/proc/self/fd"))
        modules = [cluster_backend, core_backend, client_thread]
        interrupted = Steps(modules, step, KeyboardInterrupt, threads="MainThread")
        try:
            with interrupted.here():
                executor = Executor("cluster", max_workers=1)
        except KeyboardInterrupt:
            pass
        else:
            executor.shutdown()
        until(lambda at=before: sorted(os.listdir("/proc/self/fd")) == at, interrupted.place)


@pytest.mark.parametrize(
    "steps",
    [range(2, 40, 6), pytest.param(range(100), marks=[pytest.mark.heavy, pytest.mark.timeout(600)])],
    ids=["some", "all"],
)
def test_an_end_that_is_disturbed_at_any_step_is_one(steps):
    """By a lack of memory, say."""
    LocalCluster(1).stop()
    for step in steps:
        before = sorted(os.listdir("/proc/self/fd"))
        cluster = LocalCluster(1)
        disturbed = Steps([local_cluster], step)
        try:
            with disturbed.here():
                cluster.stop()
        except Killed:  # before the first of its steps, or after the last
            cluster.stop()
        assert cluster._process.poll() is not None, disturbed.place
        assert not cluster._watcher.is_alive(), disturbed.place
        assert sorted(os.listdir("/proc/self/fd")) == before, disturbed.place
        assert not os.path.exists(cluster._folder), disturbed.place


def test_what_a_task_prints_appears_at_the_client(cluster, address):
    cluster.worker(address, "w")
    program = cluster.run(
        "-c",
        "import sys\n"
        "from jobrunner import Executor\n"
        "with Executor(sys.argv[1]) as ex:\n"
        "    ex.submit(print, 'hello from a task').result()\n"
        "    print('done')",
        address,
    )
    assert program.wait() == 0
    assert program.lines == ["hello from a task", "done"]
