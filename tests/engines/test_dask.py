"""The "dask" backend on clusters that somebody else has started."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import numpy
import pytest
import zoo

from jobrunner import (
    ConfigError,
    CoordinatorLostError,
    CrashLimitError,
    Executor,
    JobRunnerError,
    NotSupportedError,
    TaskLostError,
    current_task,
)

ENGINE = "dask"


@pytest.fixture(scope="module")
def scheduler(engine):
    """A scheduler alone, on loopback; `distributed` allows it tasks whose worker died up to three times."""
    import distributed

    with distributed.LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def start_worker(scheduler):
    started = []

    def start(*options, **environment):
        command = [sys.executable, "-m", "distributed.cli.dask_worker", scheduler.scheduler_address]
        command += ["--nthreads", "1", "--host", "127.0.0.1", "--no-dashboard", *options]
        worker = subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.DEVNULL)
        started.append(worker)
        return worker

    yield start
    for worker in started:
        worker.terminate()
        worker.wait(20)


@pytest.fixture(scope="module")
def address(scheduler, start_worker):
    """Of a cluster with two workers, that has one licence in all."""
    import distributed

    start_worker("--resources", "licence=1")
    start_worker()
    with distributed.Client(scheduler.scheduler_address, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=30)
    return scheduler.scheduler_address


def test_a_cluster_by_its_address_stays_when_the_executor_goes(address):
    for _ in range(2):
        with Executor("dask", address=address) as executor:
            assert executor.max_workers == 2
            assert list(executor.map(zoo.add, range(5), range(5))) == [0, 2, 4, 6, 8]
    assert executor.max_workers  # what is known of it, without asking it


def test_the_settings_choose_it(address, monkeypatch):
    monkeypatch.setenv("JOBRUNNER_BACKEND", "dask")
    monkeypatch.setenv("JOBRUNNER_ADDRESS", address)
    with Executor() as executor:
        assert executor.status()["backend"] == "dask"
        assert executor.submit(zoo.add, 1, 2).result() == 3


def test_a_client_of_the_user_s_is_left_open(address):
    import distributed

    with distributed.Client(address, set_as_default=False) as client:
        with Executor("dask", client=client) as executor:
            assert executor.submit(zoo.add, 1, 2).result() == 3
        assert client.submit(zoo.add, 1, 2).result() == 3


def test_a_scheduler_file(scheduler, address, tmp_path):
    import json

    path = tmp_path / "scheduler.json"
    path.write_text(json.dumps({"address": address}))
    with Executor("dask", scheduler_file=str(path)) as executor:
        assert executor.submit(zoo.add, 1, 2).result() == 3


def test_a_scheduler_file_that_the_scheduler_is_yet_to_write(address, tmp_path):
    import json

    path = tmp_path / "scheduler.json"
    executors = []
    opening = threading.Thread(
        target=lambda: executors.append(Executor("dask", scheduler_file=path, connect_timeout=30))
    )
    opening.start()
    path.write_text("")  # a scheduler opens it before it writes
    path.write_text(json.dumps({"address": address}))
    opening.join()
    (executor,) = executors
    with executor:
        assert executor.submit(zoo.add, 1, 2).result() == 3


@pytest.mark.parametrize(
    ("content", "text"), [(None, "there is no file"), ("{", "has no address"), ("[]", "has no address")]
)
def test_a_scheduler_file_that_nobody_writes_is_waited_for_no_longer_than_for_a_scheduler(
    content, text, tmp_path
):
    path = tmp_path / "scheduler.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CoordinatorLostError, match=rf"{text}.*dask scheduler --scheduler-file"):
        Executor("dask", scheduler_file=str(path), connect_timeout=0.3)


def test_nobody_at_the_address():
    with pytest.raises(CoordinatorLostError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        Executor("dask", address="tcp://127.0.0.1:9", connect_timeout=0.5)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"client": 3}, r"must be a distributed.Client"),
        ({"scheduler_file": "a", "client": 3}, "contradict each other"),
        ({"scheduler_file": "/"}, "cannot read /"),
        ({"window": 0}, "window=0"),
        ({"colour": 1}, "no option 'colour'"),
    ],
)
def test_options_that_cannot_be(options, text):
    with pytest.raises(ConfigError, match=text):
        Executor("dask", **options)


def test_arrays_go_and_come_and_can_be_written_to(address):
    def grown(array):
        array += 1
        return array

    with Executor("dask", address=address) as executor:
        sent = numpy.arange(2_000_000)
        assert (executor.submit(grown, sent).result() == numpy.arange(1, 2_000_001)).all()
        sent_again = executor.submit(grown, executor.submit(grown, sent)).result()
        assert sent_again[0] == 2
        sent_again += 1
        assert sent[0] == 0


def test_max_workers_is_a_limit(address, tmp_path, eventually):
    with Executor("dask", address=address, max_workers=1) as executor:
        assert executor.max_workers == 1
        started, go = tmp_path / "started", tmp_path / "go"
        futures = [executor.submit(zoo.announce_and_wait, str(started), str(go)) for _ in range(3)]
        eventually(started.exists)
        assert [future.running() for future in futures] == [True, False, False]
        assert futures[2].cancel()
        go.touch()


def test_a_window_lets_the_cluster_see_what_waits(address, tmp_path, eventually):
    with Executor("dask", address=address, window=4) as executor:
        go = tmp_path / "go"
        futures = [executor.submit(zoo.wait_for, str(go)) for _ in range(6)]
        eventually(lambda: executor.status()["running"] == 4)
        assert not futures[3].cancel()
        assert futures[5].cancel()
        go.touch()


def test_resources_are_dask_s_own(address, tmp_path, eventually):
    with Executor("dask", address=address) as executor:
        licensed = executor.with_options(resources={"licence": 1})
        started, go = tmp_path / "started", tmp_path / "go"
        futures = [licensed.submit(zoo.announce_and_wait, str(started), str(go)) for _ in range(2)]
        eventually(started.exists)
        assert executor.submit(zoo.echo, 1).result() == 1
        assert len(started.read_text().split()) == 1  # there is one licence
        go.touch()
        assert [future.result() for future in futures] == [None, None]


def test_what_runs_cannot_be_stopped(address, tmp_path, eventually):
    with Executor("dask", address=address) as executor:
        started, go = tmp_path / "started", tmp_path / "go"
        future = executor.submit(zoo.announce_and_wait, str(started), str(go))
        eventually(started.exists)
        with pytest.raises(NotSupportedError, match='"processes" or "cluster"'):
            future.cancel(running=True)
        go.touch()


def test_a_call_that_may_run_once_does_though_dask_would_repeat_it(address, tmp_path):
    trace = tmp_path / "trace"

    def die():
        zoo.append_line(str(trace), "ran")
        zoo.exit_hard(3)

    with Executor("dask", address=address) as executor:
        failure = executor.with_options(at_most_once=True).submit(die).exception()
        assert isinstance(failure, TaskLostError)
        assert "at_most_once=True" in str(failure)
        assert trace.read_text().split() == ["ran"]
        assert executor.submit(zoo.echo, 1).result() == 1


def test_a_call_beside_the_one_that_kills_their_process_is_not_given_up_with_it(engine, tmp_path):
    import distributed

    def meet(own, other):
        """Whether a call of the other kind runs in this process; one that never comes is waited for two seconds."""
        mark = tmp_path / f"{own}-{os.getpid()}"
        mark.touch()
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            if (tmp_path / f"{other}-{os.getpid()}").exists():
                return True
            time.sleep(0.01)
        mark.unlink()
        return False

    def guilty():
        meet("guilty", "innocent")
        zoo.exit_hard(3)

    def innocent():
        if meet("innocent", "guilty"):
            time.sleep(60)  # the process dies before
        return "fine"

    with distributed.LocalCluster(
        n_workers=0,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        scheduler_kwargs={"allowed_failures": 0},
    ) as cluster:
        command = [sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address]
        command += ["--nthreads", "2", "--host", "127.0.0.1", "--no-dashboard"]
        worker = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            with Executor("dask", address=cluster.scheduler_address) as executor:
                calls = [executor.submit(guilty), executor.submit(innocent)]
                assert calls[1].result() == "fine"
                assert isinstance(calls[0].exception(), CrashLimitError)
        finally:
            worker.terminate()
            worker.wait(20)


def test_an_executor_that_a_call_opens_joins_the_same_cluster(address):
    def outer(number):
        with Executor("dask") as executor:
            return sum(executor.map(zoo.add, range(number), range(number))), executor.status()["address"]

    with Executor("dask", address=address) as executor:
        futures = [executor.submit(outer, 5) for _ in range(6)]
        assert {future.result() for future in futures} == {(20, "dask+" + address)}


def test_a_call_that_names_another_cluster_gets_that_one(address):
    def outer(other):
        with Executor("dask", address=other) as executor:
            return executor.submit(zoo.add, 1, 2).result(), executor.status()["address"]

    with Executor("dask", address=address) as executor, Executor("dask", max_workers=1) as other:
        elsewhere = other.status()["address"].removeprefix("dask+")
        assert executor.submit(outer, elsewhere).result() == (3, "dask+" + elsewhere)


def test_the_worker_has_the_name_that_dask_gave_it(address):
    with Executor("dask", address=address) as executor:
        assert executor.submit(lambda: current_task().worker).result().startswith("tcp://127.0.0.1")


def test_a_worker_without_jobrunner_says_so(no_jobrunner):
    import distributed

    with distributed.LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        command = [sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address]
        command += ["--nthreads", "1", "--host", "127.0.0.1", "--no-dashboard"]
        bare = {**os.environ, "PYTHONPATH": str(no_jobrunner)}
        worker = subprocess.Popen(command, env=bare, cwd=no_jobrunner, stderr=subprocess.DEVNULL)
        try:
            with Executor("dask", address=cluster.scheduler_address) as executor:
                failure = executor.submit(zoo.echo, 1).exception(30)
            assert type(failure) is JobRunnerError
            assert "Install jobrunner there" in str(failure)
        finally:
            worker.terminate()
            worker.wait(20)


def test_workers_that_are_started_here_find_the_modules_that_the_program_finds(tmp_path, monkeypatch):
    (tmp_path / "beside_the_program.py").write_text("def name(): return __name__")
    monkeypatch.syspath_prepend(tmp_path)
    import beside_the_program

    with Executor("dask", max_workers=1) as executor:
        assert executor.submit(beside_the_program.name).result() == "beside_the_program"


TWO_PROGRAMS = """
import pickle
import sys
import time
from pathlib import Path

from jobrunner import Executor, current_executor

address, work, NAME, other, folder = sys.argv[1:]


class Thing:
    def __init__(self, name):
        self.name = name


def meet():
    "Returns when a call of the other program has begun, too."
    (Path(folder) / NAME).touch()
    while not (Path(folder) / other).exists():
        time.sleep(0.01)
    time.sleep(0.2)
    return look()


def nest():
    thing = current_executor().submit(meet).result()
    assert type(thing) is Thing
    assert thing.name == NAME
    return look()


def look():
    import __main__

    assert __main__.Thing is Thing
    assert vars(__main__) is globals()
    assert type(pickle.loads(pickle.dumps(Thing(1)))) is Thing
    return Thing(__main__.NAME)


with Executor("dask", address=address) as executor:
    thing = executor.submit(globals()[work]).result(40)
    assert type(thing) is Thing
    print(thing.name)
"""


@pytest.mark.parametrize("work", ["meet", "nest"])
def test_calls_of_two_programs_in_one_process_have_each_their_own_script(work, tmp_path):
    import distributed

    path = tmp_path / "program.py"
    path.write_text(TWO_PROGRAMS)
    with distributed.LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        command = [sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address]
        command += ["--nthreads", "2", "--host", "127.0.0.1", "--no-dashboard"]
        worker = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        programs = [
            subprocess.Popen(
                [sys.executable, str(path), cluster.scheduler_address, work, *names, str(tmp_path)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for names in (("one", "other"), ("other", "one"))
        ]
        try:
            assert [program.communicate(timeout=50)[0] for program in programs] == ["one\n", "other\n"]
        finally:
            for program in programs:
                program.kill()
                program.communicate()
            worker.terminate()
            worker.wait(20)


def test_kill_ends_what_was_started_here(tmp_path, eventually):
    import psutil

    executor = Executor("dask", max_workers=2)
    started = tmp_path / "started"
    futures = [
        executor.submit(zoo.announce_and_wait, str(started), str(tmp_path / "never")) for _ in range(3)
    ]
    eventually(lambda: started.exists() and len(started.read_text().split()) == 2)
    processes = [psutil.Process(int(pid)) for pid in started.read_text().split()]
    executor._lifetime.kill()
    assert all(future.cancelled() for future in futures)
    assert not psutil.wait_procs(processes, timeout=10)[1]
