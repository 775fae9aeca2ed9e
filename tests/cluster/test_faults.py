"""What must go wrong without hurting anyone, with real processes."""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from concurrent.futures import as_completed
from pathlib import Path

import pytest
import zmq
from support import calls
from support.daemons import alive, connected, free_port

from jobrunner import CoordinatorLostError, CrashLimitError, Executor
from jobrunner.admin import ClusterAdmin
from jobrunner.testing.waiting import BOUND, until


def test_a_worker_may_be_started_before_its_coordinator(cluster):
    port = free_port()
    worker = cluster.worker(f"tcp://127.0.0.1:{port}", "early", joined=False)
    worker.wait_for("waiting for the coordinator")
    coordinator = cluster.coordinator(port=port)
    with connected(coordinator.address) as executor:
        assert executor.submit(calls.square, 7).result(BOUND) == 49


def test_a_killed_worker_in_the_middle_of_2000_tasks_costs_nothing(cluster, address, admin):
    one, two = cluster.worker(address, "one"), cluster.worker(address, "two")
    with connected(address) as executor:
        futures = [executor.submit(calls.slow_square, n) for n in range(2000)]
        until(lambda: sum(future.done() for future in futures) > 200)
        slots = two.slots()
        two.send(signal.SIGKILL)
        assert [future.result(BOUND) for future in futures] == [n * n for n in range(2000)]
    until(lambda: not any(alive(pid) for pid in slots), "the end of its slots")
    assert [worker["name"] for worker in admin.workers()] == ["one"]
    assert one.popen.poll() is None


def test_a_worker_that_was_stopped_and_goes_on_disturbs_nobody(cluster, address, admin, tmp_path):
    """Its attempt is fenced: what it says late changes nothing, and the task has run elsewhere."""
    first = cluster.worker(address, "first")
    path = str(tmp_path / "runs")
    with connected(address) as executor:
        future = executor.submit(calls.note_and_nap, path, "x", 1.0)
        until(lambda: os.path.exists(path))
        first.send(signal.SIGSTOP)
        for pid in (slots := first.slots()):
            os.kill(pid, signal.SIGSTOP)
        cluster.worker(address, "second")
        assert future.result(BOUND) == "x"
        assert admin.task(future.id)["worker"] == "second"
        assert admin.task(future.id)["attempt"] == 2
        first.send(signal.SIGCONT)
        for pid in slots:
            os.kill(pid, signal.SIGCONT)
        until(lambda: len(admin.workers()) == 2, "the return of the first worker")
        until(lambda: admin.status()["busy"] == 0)
        assert sorted(executor.map(calls.square, range(50))) == [n * n for n in range(50)]
    assert Path(path).read_text() == "x\nx\n"


def test_a_coordinator_that_was_killed_is_replaced_in_the_middle_of_work(cluster, tmp_path):
    port = free_port()
    first = cluster.coordinator(port=port)
    worker = cluster.worker(first.address, "w", slots=2)
    path, gate = str(tmp_path / "runs"), str(tmp_path / "gate")
    with connected(first.address) as executor:
        running = executor.submit(calls.note_and_nap, path, "once", 2.5)
        until(running.running)
        waiting = executor.submit(calls.wait_for_file, gate)
        futures = [executor.submit(calls.slow_square, n) for n in range(300)]
        until(waiting.running)
        first.send(signal.SIGKILL)
        first.wait()
        late = executor.submit(calls.square, 12)
        worker.wait_for("lost the coordinator")
        cluster.coordinator(port=port)
        open(gate, "w").close()
        assert running.result(BOUND) == "once"
        assert [future.result(BOUND) for future in futures] == [n * n for n in range(300)]
        assert late.result(BOUND) == 144
        assert waiting.result(BOUND) == gate
    assert Path(path).read_text() == "once\n", "what ran went on, and was not started again"


def test_a_program_is_told_that_its_coordinator_is_lost_and_that_it_is_back(cluster, tmp_path, caplog):
    port = free_port()
    first = cluster.coordinator(port=port)
    cluster.worker(first.address, "w")
    gate = str(tmp_path / "gate")
    with connected(first.address) as executor:
        future = executor.submit(calls.wait_for_file, gate)
        until(future.running)
        assert not caplog.records
        first.send(signal.SIGKILL)
        first.wait()
        until(lambda: caplog.records, "the warning")
        (lost,) = caplog.records
        assert (lost.name, lost.levelname) == ("jobrunner.cluster", "WARNING")
        assert f"lost the coordinator at {first.address}: it has been silent for" in lost.message
        assert lost.message.endswith("its calls go on, and wait up to 120 s for it (reconnect_timeout)")
        cluster.coordinator(port=port)
        open(gate, "w").close()
        assert future.result(BOUND) == gate
        assert caplog.records[-1].message == f"the coordinator at {first.address} is back"


def test_a_killed_daemon_leaves_no_slots(cluster, address):
    worker = cluster.worker(address, "w", slots=2)
    slots = until(lambda: len(worker.slots()) == 2 and worker.slots())
    with connected(address) as executor:
        executor.submit(calls.nap, 60.0)
        until(lambda: ClusterAdmin(address).status()["busy"] == 1)
        worker.send(signal.SIGKILL)
        until(lambda: not any(alive(pid) for pid in slots), "the end of its slots")


def test_a_killed_slot_costs_its_task_one_attempt(cluster, address, admin, tmp_path):
    cluster.worker(address, "w", slots=2)
    gate = str(tmp_path / "gate")
    with connected(address) as executor:
        other = executor.submit(calls.wait_for_file, gate)
        victim = executor.submit(calls.die, 3)
        with pytest.raises(CrashLimitError, match=r"exited with code 3(.|\n)*attempt 3"):
            victim.result(BOUND)
        open(gate, "w").close()
        assert other.result(BOUND) == gate
        assert admin.task(other.id)["attempt"] == 1
        assert executor.submit(calls.square, 3).result(BOUND) == 9


def test_a_timeout_kills_exactly_one_task(cluster, address, tmp_path):
    cluster.worker(address, "w", slots=2)
    gate = str(tmp_path / "gate")
    with connected(address) as executor:
        other = executor.submit(calls.wait_for_file, gate)
        until(other.running)
        hanging = executor.with_options(timeout=0.3).submit(calls.nap, 60.0)
        with pytest.raises(TimeoutError, match=r"longer than its timeout of 0\.3 s"):
            hanging.result(BOUND)
        assert not other.done()
        open(gate, "w").close()
        assert other.result(BOUND) == gate


def test_garbage_and_raw_connections_do_not_disturb_work(cluster, monkeypatch):
    """Without keys, so that garbage gets as far as it can."""
    monkeypatch.setenv("JOBRUNNER_INSECURE", "1")
    address = cluster.coordinator().address
    cluster.worker(address, "w", slots=2)
    with ClusterAdmin(address, timeout=BOUND) as admin:
        disturb(address, admin)


def disturb(address, admin):
    host, port = address.removeprefix("tcp://").split(":")
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.connect(address)
    raw = [socket.create_connection((host, int(port))) for _ in range(20)]
    try:
        with connected(address) as executor:
            futures = [executor.submit(calls.slow_square, n) for n in range(300)]
            for number, connection in enumerate(raw):
                send_garbage(connection, number)
            for frames in (
                [b""],
                [b"", b"x"],
                [os.urandom(50)],
                [b"\x93\x01\x02\x03"],
                [b"\x96\x01\xa1s\x01\x00\x63\x00"],
            ):
                dealer.send_multipart(frames)
            assert [future.result(BOUND) for future in futures] == [n * n for n in range(300)]
        until(
            lambda: admin.status()["coordinator"]["rejected_messages"] >= 5, "the count of rejected messages"
        )
        dealer.send(b"\x96\x63\xa1s\x01\x00\x00\x00")  # as a later version would
        assert dealer.poll(BOUND * 1000)
        assert b"use the same version" in dealer.recv()
    finally:
        for connection in raw:
            connection.close()
        dealer.close()
        context.term()
    assert len(admin.workers()) == 1


def send_garbage(connection: socket.socket, number: int) -> None:
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)  # ZMTP's own
    pieces = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        os.urandom(2000),
        greeting + b"\x06" + struct.pack("!Q", 2**62),  # a frame of 4 EiB
        greeting[:11],  # a half-open connection
    ]
    try:
        connection.sendall(pieces[number % len(pieces)])
    except OSError:
        pass  # it was closed on us already


def test_a_client_that_was_killed_has_its_tasks_stopped_after_a_grace(cluster, tmp_path):
    coordinator = cluster.coordinator("--client-grace", "0.5", JOBRUNNER_CLIENT_GRACE="0.5")
    cluster.worker(coordinator.address, "w")
    program = cluster.run(
        "-c",
        "import sys\n"
        "from support import calls\n"
        "from jobrunner import Executor\n"
        "ex = Executor(sys.argv[1])\n"
        "f = ex.submit(calls.nap, 60.0)\n"
        "print('submitted', flush=True)\n"
        "f.result()",
        coordinator.address,
    )
    program.wait_for("submitted")
    with ClusterAdmin(coordinator.address, BOUND) as admin:
        until(lambda: admin.status()["busy"] == 1)
        program.send(signal.SIGKILL)
        until(lambda: admin.status()["busy"] == 0, "the end of its task")
        assert admin.status()["tasks"]["running"] == 0


@pytest.mark.parametrize("target", ["nobody listens", "somebody else listens"])
def test_an_unreachable_coordinator_is_an_error_within_the_timeout(monkeypatch, target):
    monkeypatch.setenv("JOBRUNNER_CONNECT_TIMEOUT", "0.5")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        if target == "somebody else listens":
            listener.listen()
        began = time.monotonic()
        with pytest.raises(CoordinatorLostError, match=f"127.0.0.1:{port}.*jobrunner coordinator start"):
            Executor(f"tcp://127.0.0.1:{port}")
        assert 0.4 < time.monotonic() - began < 10


def test_a_host_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("JOBRUNNER_INSECURE", "1")
    monkeypatch.setenv("JOBRUNNER_CONNECT_TIMEOUT", "0.5")
    with pytest.raises(CoordinatorLostError, match=r"there is no host 'nowhere\.invalid'"):
        Executor("tcp://nowhere.invalid:7077")


def test_futures_fail_when_the_coordinator_stays_away(cluster, monkeypatch):
    monkeypatch.setenv("JOBRUNNER_RECONNECT_TIMEOUT", "0.5")
    coordinator = cluster.coordinator()
    executor = Executor(coordinator.address)
    futures = [executor.submit(calls.square, n) for n in range(3)]
    coordinator.send(signal.SIGKILL)
    for future in as_completed(futures, BOUND):
        assert isinstance(future.exception(), CoordinatorLostError)
    with pytest.raises(CoordinatorLostError):
        executor.submit(calls.square, 1)
    executor.shutdown()


def test_a_task_that_holds_the_gil_is_not_taken_for_a_lost_worker(cluster, address, admin):
    worker = cluster.worker(address, "w")
    with connected(address) as executor:
        future = executor.submit(calls.hold_gil, 5)  # more than twice the peer timeout
        assert future.result(BOUND) == 5
        assert admin.task(future.id)["attempt"] == 1
    assert "lost" not in worker.output


def test_a_worker_says_that_it_cannot_find_the_host(cluster):
    worker = cluster.run(
        "-m", "jobrunner", "worker", "start", "tcp://no-such-host.invalid:7077", "--insecure"
    )
    worker.wait_for("there is no host 'no-such-host.invalid'")
