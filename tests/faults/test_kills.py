"""Each role is killed, or stopped for too long, in the middle of many small tasks.

Whatever happens: each result is right, and each task was started at least once. A second start needs a reason, which
is the loss of the process that ran it. The tests marked "heavy" run with `pytest -m heavy`.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import TESTS
from support.daemons import Cluster, Daemon, alive, connected, free_port
from support.work import executions, noted_square

from jobrunner import Executor
from jobrunner.admin import ClusterAdmin
from jobrunner.testing.waiting import BOUND, until

LONG = 300.0
"""Seconds that a heavy test may take."""

sizes = pytest.mark.parametrize(
    "count", [1200, pytest.param(20_000, marks=[pytest.mark.heavy, pytest.mark.timeout(LONG)])]
)
SECONDS = 0.004
"""What one task takes: the tasks of a test must not be done before its faults are."""

WORKER_NAMES = ("one", "two", "three")


def start_workers(cluster: Cluster, address: str, names: tuple[str, ...] = WORKER_NAMES) -> dict[str, Daemon]:
    """All at once, since interpreters take long to start."""
    workers = {name: cluster.worker(address, name, slots=2, joined=False) for name in names}
    for worker in workers.values():
        worker.wait_for("joined coordinator")
    return workers


class Run:
    """Many tasks that are under way."""

    def __init__(self, executor: Executor, path: str, count: int) -> None:
        self.path = path
        self.futures = [executor.submit(noted_square, path, n, SECONDS) for n in range(count)]

    def done(self) -> int:
        return sum(future.done() for future in self.futures)

    def wait_until(self, share: float) -> None:
        """Until that share of the tasks is done."""
        needed = share * len(self.futures)
        until(lambda: self.done() >= needed, bound=LONG)

    def check(self) -> int:
        """Waits for all, and gives how many executions there were beyond one per task."""
        results = [future.result(LONG) for future in self.futures]
        assert results == [n * n for n in range(len(results))]
        started = executions(self.path)
        assert set(started) == set(range(len(results)))
        return started.total() - len(results)


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            if alive(pid):
                os.kill(pid, signal.SIGCONT)


def lost_workers(coordinator: Daemon) -> int:
    return coordinator.output.count("is lost; its")


@sizes
def test_nothing_is_executed_twice_without_a_fault(cluster, notes, count):
    address = cluster.coordinator().address
    start_workers(cluster, address)
    with connected(address) as executor:
        assert Run(executor, notes, count).check() == 0


@sizes
def test_workers_are_killed_and_started_again(cluster, notes, count):
    address = cluster.coordinator().address
    workers = start_workers(cluster, address)
    with connected(address) as executor:
        run = Run(executor, notes, count)
        for share, name in [(0.1, "one"), (0.3, "two"), (0.5, "one")]:
            run.wait_until(share)
            workers[name].send(signal.SIGKILL)
            workers[name] = cluster.worker(address, name, slots=2, joined=False)
        run.check()
        for worker in workers.values():
            worker.wait_for("joined coordinator")
        with ClusterAdmin(address, BOUND) as admin:
            until(lambda: admin.status()["busy"] == 0)
            # By pid: one that comes before its predecessor is found to be lost gets another name.
            until(lambda: {w["pid"] for w in admin.workers()} == {w.pid for w in workers.values()})


@sizes
def test_a_worker_is_stopped_for_longer_than_the_timeout(cluster, notes, count):
    coordinator = cluster.coordinator()
    workers = start_workers(cluster, coordinator.address)
    with connected(coordinator.address) as executor:
        run = Run(executor, notes, count)
        run.wait_until(0.2)
        with stopped(workers["two"].pid, *workers["two"].slots()):
            until(lambda: lost_workers(coordinator) == 1)
        run.check()
        coordinator.wait_for("worker two (has come back|joined(.|\n)*worker two joined)")
        with ClusterAdmin(coordinator.address, BOUND) as admin:
            until(lambda: (admin.status()["busy"], len(admin.workers())) == (0, 3))


@sizes
def test_a_coordinator_is_stopped_for_longer_than_the_timeout(cluster, notes, count):
    """The workers go on with what they have, and nothing is started twice: no worker was lost."""
    coordinator = cluster.coordinator()
    workers = start_workers(cluster, coordinator.address)
    with connected(coordinator.address) as executor:
        run = Run(executor, notes, count)
        run.wait_until(0.2)
        with stopped(coordinator.pid):
            for worker in workers.values():
                worker.wait_for("lost the coordinator")
        assert run.check() == 0


@sizes
def test_a_client_is_stopped_for_longer_than_the_timeout(cluster, notes, count):
    coordinator = cluster.coordinator()
    start_workers(cluster, coordinator.address)
    environment = {"JOBRUNNER_PEER_TIMEOUT": "0.5"}  # a client may be silent for some times that
    client = cluster.run(work_program(), coordinator.address, notes, str(count), str(SECONDS), **environment)
    client.wait_for("done 20 %")
    with stopped(client.pid), ClusterAdmin(coordinator.address, BOUND) as admin:
        until(lambda: [c["state"] for c in admin.status()["clients"]] == ["lost"])
    until_ended(client)
    assert f"right {count}" in client.output
    assert executions(notes).total() == count


@sizes
def test_a_client_is_killed_and_another_goes_on(cluster, notes, tmp_path, count):
    coordinator = cluster.coordinator("--client-grace", "0.5")
    address = coordinator.address
    workers = start_workers(cluster, address)
    victims = str(tmp_path / "victims")
    with connected(address) as executor, ClusterAdmin(address, BOUND) as admin:
        run = Run(executor, notes, count)
        client = cluster.run(work_program(), address, victims, "5000", "0.05", JOBRUNNER_PEER_TIMEOUT="0.5")
        client.wait_for("submitted")
        until(lambda: os.path.exists(victims))
        client.send(signal.SIGKILL)
        assert run.check() == 0
        until(lambda: sum(c["unfinished"] for c in admin.status()["clients"]) == 0, "the end of its tasks")
        until(lambda: admin.status()["busy"] == 0)
        before = Path(victims).read_text()
        assert executor.submit(noted_square, notes, 7, 0.0).result(BOUND) == 49
        assert Path(victims).read_text() == before, "nothing of it runs any more"
    assert max(executions(victims).values()) == 1
    assert all(worker.popen.poll() is None for worker in workers.values())


@sizes
def test_slots_are_killed_all_the_time(cluster, notes, count):
    """The crash limit is out of the way: one task may be hit several times."""
    address = cluster.coordinator("--crash-limit", "1000").address
    workers = start_workers(cluster, address)
    with connected(address) as executor:
        run = Run(executor, notes, count)
        run.wait_until(0.05)
        with repeated(lambda: kill_a_slot(workers), pause=0.1) as kills:
            run.wait_until(0.9)
        repeats = run.check()
    assert kills
    assert repeats <= len(kills), "a kill costs the task that ran there, and no other"
    assert all(worker.popen.poll() is None for worker in workers.values())


def kill_a_slot(workers: dict[str, Daemon]) -> int | None:
    slots = random.choice(list(workers.values())).slots()
    if not slots:
        return None
    os.kill(victim := random.choice(slots), signal.SIGKILL)
    return victim


@contextmanager
def repeated(act: Callable[[], int | None], pause: float) -> Iterator[list[int]]:
    """In a thread of its own; gives what `act` gave."""
    done: list[int] = []
    end = threading.Event()

    def loop() -> None:
        while not end.wait(pause):
            try:
                if (result := act()) is not None:
                    done.append(result)
            except ProcessLookupError:
                pass  # it died a moment ago

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield done
    finally:
        end.set()
        thread.join()


@sizes
def test_a_coordinator_is_killed_and_started_again_five_times(cluster, notes, count):
    port = free_port()
    coordinator = cluster.coordinator(port=port)
    workers = start_workers(cluster, coordinator.address)
    with connected(coordinator.address) as executor:
        run = Run(executor, notes, count)
        for killed, share in enumerate((0.05, 0.2, 0.35, 0.5, 0.65), 1):
            # The tasks of an earlier coordinator wait some seconds for workers that may have them; only the many
            # have the time to get on in between.
            run.wait_until(share if count >= 20_000 else 0.05)
            coordinator.send(signal.SIGKILL)
            coordinator.wait()
            coordinator = cluster.coordinator(port=port)
            for worker in workers.values():
                until(lambda w=worker, n=killed: w.output.count("joined coordinator") > n)
        run.check()  # what a coordinator had from a worker and not yet given to the client runs again
        with ClusterAdmin(coordinator.address, BOUND) as admin:
            until(lambda: (admin.status()["busy"], len(admin.workers())) == (0, 3))
    assert all(worker.popen.poll() is None for worker in workers.values())


def test_what_is_done_while_the_coordinator_is_away_for_longer_than_the_timeout_is_not_done_again(
    cluster, notes
):
    port = free_port()
    coordinator = cluster.coordinator(port=port)
    worker = start_workers(cluster, coordinator.address, ("one",))["one"]
    with connected(coordinator.address) as executor:
        futures = [executor.submit(noted_square, notes, n, 0.5) for n in range(2)]
        until(lambda: os.path.exists(notes) and len(executions(notes)) == 2)
        coordinator.send(signal.SIGKILL)
        coordinator.wait()
        worker.wait_for("it has been silent")
        cluster.coordinator(port=port)
        assert [future.result(BOUND) for future in futures] == [0, 1]
    assert executions(notes) == {0: 1, 1: 1}


def work_program() -> str:
    return str(TESTS / "support" / "work.py")


def until_ended(daemon: Daemon) -> None:
    assert daemon.popen.wait(LONG) == 0, daemon.output
    daemon.wait()
