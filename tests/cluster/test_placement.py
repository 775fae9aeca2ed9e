"""Which task runs where and when, and what an operator sees of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import calls
from support.daemons import connected

from jobrunner import JobRunnerError
from jobrunner.testing.waiting import BOUND, until


@pytest.fixture
def held(cluster, address, tmp_path):
    """A cluster of one slot that is taken until `release` is called."""
    cluster.worker(address, "w")
    with connected(address) as executor:
        gate = str(tmp_path / "gate")
        future = executor.submit(calls.wait_for_file, gate)
        until(future.running)

        def release():
            open(gate, "w").close()

        yield release
        release()
        future.result(BOUND)


def test_a_program_is_told_that_its_calls_wait_for_the_first_worker(cluster, address, caplog):
    with connected(address) as executor:
        assert not caplog.records  # whoever only looks has no call that waits
        futures = [executor.submit(calls.square, 3) for _ in range(3)]
        (record,) = caplog.records  # once
        assert (record.name, record.levelname) == ("jobrunner.cluster", "WARNING")
        assert f"no worker has joined the cluster at {address}" in record.message
        cluster.worker(address, "w")
        assert [future.result(BOUND) for future in futures] == [9] * 3
    caplog.clear()
    with connected(address) as executor:
        assert executor.submit(calls.square, 4).result(BOUND) == 16
    assert not caplog.records


def test_priorities(address, admin, held, tmp_path):
    path = str(tmp_path / "order")
    with connected(address) as executor:
        futures = [
            executor.with_options(priority=priority).submit(calls.note, path, str(priority))
            for priority in (0, 5, -5, 9)
        ]
        until(lambda: admin.status()["tasks"]["queued"] == 4)
        held()
        for future in futures:
            future.result(BOUND)
    assert Path(path).read_text().split() == ["9", "5", "0", "-5"]


def test_two_clients_take_turns(address, admin, held, tmp_path):
    path = str(tmp_path / "order")
    with connected(address) as first, connected(address) as second:
        futures = [first.submit(calls.note, path, "first") for _ in range(30)]
        until(lambda: admin.status()["tasks"]["queued"] == 30)
        futures += [second.submit(calls.note, path, "second") for _ in range(5)]
        until(lambda: admin.status()["tasks"]["queued"] == 35)
        held()
        for future in futures:
            future.result(BOUND)
    order = Path(path).read_text().split()
    assert sorted(order[:10]) == ["first"] * 5 + ["second"] * 5


def test_resources(cluster, address, admin):
    cluster.worker(address, "plain", slots=2)
    with connected(address) as executor:
        with_gpu = executor.with_options(resources={"gpu": 1})
        future = with_gpu.submit(calls.worker_pid)
        until(lambda: len(admin.tasks("queued")) == 1)
        assert admin.task(future.id)["why"] == "no worker provides gpu=1"
        greedy = executor.with_options(resources={"gpu": 2}).submit(calls.worker_pid)
        gpu = cluster.worker(address, "gpu", "--resources", "gpu=1", slots=2)
        assert future.result(BOUND) == gpu.pid
        assert {f.result(BOUND) for f in [with_gpu.submit(calls.worker_pid) for _ in range(20)]} == {gpu.pid}
        assert admin.task(greedy.id)["why"] == "no worker provides gpu=2"
        assert greedy.cancel()


def test_a_resource_is_held_by_one_task_at_a_time(cluster, address, tmp_path):
    cluster.worker(address, "gpu", "--resources", "gpu=1", slots=2)
    gate = str(tmp_path / "gate")
    with connected(address) as executor:
        with_gpu = executor.with_options(resources={"gpu": 1})
        first = with_gpu.submit(calls.wait_for_file, gate)
        until(first.running)
        second = with_gpu.submit(calls.square, 2)
        assert executor.submit(calls.square, 3).result(BOUND) == 9, "the other slot is free for others"
        assert not second.done()
        open(gate, "w").close()
        assert second.result(BOUND) == 4


def test_retries(cluster, address, admin, tmp_path):
    cluster.worker(address, "w")
    enough, too_few = str(tmp_path / "enough"), str(tmp_path / "too few")
    with connected(address) as executor:
        future = executor.with_options(retries=2).submit(calls.fail_first, enough, 2)
        assert future.result(BOUND) == 3
        assert admin.task(future.id)["attempt"] == 3
        future = executor.with_options(retries=1).submit(calls.fail_first, too_few, 9)
        with pytest.raises(ValueError, match="call 2"):
            future.result(BOUND)
    assert len(Path(too_few).read_text().splitlines()) == 2


def test_what_an_operator_sees_and_does(cluster, address, admin):
    worker = cluster.worker(address, "left", "--resources", "gpu=2")
    status = admin.status()
    assert (status["slots"], status["busy"], status["coordinator"]["address"]) == (1, 0, address)
    (seen,) = admin.workers()
    assert (seen["name"], seen["pid"], seen["state"]) == ("left", worker.pid, "active")
    assert seen["resources"] == {"gpu": 2.0}
    with connected(address) as executor:
        running = executor.with_options(name="long").submit(calls.nap, 60.0)
        until(running.running)
        queued = executor.submit(calls.square, 2)
        until(lambda: len(admin.tasks("queued")) == 1)
        assert [task["id"] for task in admin.tasks()] == [running.id, queued.id]
        assert [task["name"] for task in admin.tasks("running")] == ["long"]
        assert [task["id"] for task in admin.tasks(limit=1)] == [running.id]
        task = admin.task(running.id)
        assert (task["state"], task["worker"], task["attempt"]) == ("running", "left", 1)
        assert admin.task(queued.id)["why"] == "all slots are taken; 1 tasks are queued"
        with pytest.raises(TimeoutError) as caught:
            queued.result(0)
        note = caught.value.__notes__[0]
        assert f"`jobrunner task {queued.id} --address {address}` shows its state" in note
        assert admin.cancel(queued.id) == {"id": queued.id, "cancelled": True, "state": "cancelled"}
        until(queued.cancelled)
        assert admin.cancel(running.id)["state"] == "cancelling"
        until(running.cancelled)
        assert admin.task(running.id)["state"] == "cancelled"
        with pytest.raises(JobRunnerError, match="no task 'nobody-1'"):
            admin.task("nobody-1")
        with pytest.raises(JobRunnerError, match="no worker 'right'"):
            admin.drain("right")
        with pytest.raises(JobRunnerError, match="no state 'odd'"):
            admin.tasks("odd")


def test_a_running_task_is_cancelled_and_the_slot_lives_on(cluster, address):
    cluster.worker(address, "w")
    with connected(address) as executor:
        pid = executor.submit(calls.own_pid).result(BOUND)
        running = executor.submit(calls.nap, 60.0)
        until(running.running)
        assert not running.cancel()
        assert running.cancel(running=True)
        assert executor.submit(calls.own_pid).result(BOUND) == pid, "the interrupt was enough"
