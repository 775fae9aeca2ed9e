"""The "ray" backend on a Ray that the test has started, and on one of its own."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal

import numpy
import pytest
import zoo

from jobrunner import (
    ConfigError,
    CoordinatorLostError,
    Executor,
    JobRunnerError,
    NotSupportedError,
    TaskLostError,
    TaskTimeoutError,
    current_task,
)

ENGINE = "ray"


def start_ray(**options):
    import ray

    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        logging_level=logging.ERROR,
        log_to_driver=False,
        **options,
    )


@pytest.fixture
def running():
    """A Ray of two CPUs and one licence."""
    import ray

    start_ray(resources={"licence": 1})
    yield ray
    ray.shutdown()


def test_a_ray_that_is_initialised_stays_so(running):
    for _ in range(2):
        with Executor("ray") as executor:
            assert executor.max_workers == 2
            assert list(executor.map(zoo.add, range(5), range(5))) == [0, 2, 4, 6, 8]
    assert running.is_initialized()


def test_one_of_its_own_ends_with_the_last_executor():
    import ray

    with Executor("ray", max_workers=1) as first:
        second = Executor("ray")
        with pytest.raises(NotSupportedError, match="does not provide 1 of 'none'"):
            second.with_options(resources={"none": 1}).submit(zoo.echo, 1)
        assert first.submit(zoo.add, 1, 2).result() == 3
        first.shutdown()
        assert second.submit(zoo.add, 1, 2).result() == 3
        second.shutdown()
    assert not ray.is_initialized()


def test_nobody_at_the_address():
    with pytest.raises(CoordinatorLostError, match=r"no Ray cluster answers at auto.*ray start --head"):
        Executor("ray", address="auto")


@pytest.mark.parametrize("options", [{"window": 0}, {"colour": 1}])
def test_options_that_cannot_be(options):
    with pytest.raises(ConfigError):
        Executor("ray", **options)


def test_arrays_go_and_come_and_can_be_written_to(running):
    def grown(array):
        array += 1
        return array

    with Executor("ray") as executor:
        sent = numpy.arange(2_000_000)
        assert (executor.submit(grown, sent).result() == numpy.arange(1, 2_000_001)).all()
        sent_again = executor.submit(grown, executor.submit(grown, sent)).result()
        sent_again += 1
        assert (sent_again[0], sent[0]) == (3, 0)
        assert list(executor.map(len, [sent] * 4, chunksize=1)) == [2_000_000] * 4
        eventually_empty = executor._lifetime.backend._shared
    assert not eventually_empty  # nothing of it stays in the store


def test_max_workers_is_a_limit(running, tmp_path, eventually):
    with Executor("ray", max_workers=1) as executor:
        started, go = tmp_path / "started", tmp_path / "go"
        futures = [executor.submit(zoo.announce_and_wait, str(started), str(go)) for _ in range(3)]
        eventually(started.exists)
        assert [future.running() for future in futures] == [True, False, False]
        assert futures[2].cancel()
        go.touch()


def test_resources_are_ray_s_own(running, tmp_path, eventually):
    with Executor("ray") as executor:
        licensed = executor.with_options(resources={"licence": 1, "cpu": 0.5})
        started, go = tmp_path / "started", tmp_path / "go"
        futures = [licensed.submit(zoo.announce_and_wait, str(started), str(go)) for _ in range(2)]
        eventually(started.exists)
        assert executor.submit(zoo.echo, 1).result() == 1
        assert len(started.read_text().split()) == 1  # there is one licence
        go.touch()
        assert [future.result() for future in futures] == [None, None]


def test_resources_that_one_of_its_own_has_not():
    with Executor("ray", max_workers=1) as executor:
        with pytest.raises(NotSupportedError, match="does not provide 2 of 'cpu'"):
            executor.with_options(resources={"cpu": 2}).submit(zoo.echo)
        assert executor.with_options(resources={"cpu": 1}).submit(zoo.echo, 1).result() == 1


def test_a_call_that_swallows_interrupts_is_killed(running, tmp_path, eventually):
    def swallow(started):
        zoo.append_line(started, "")
        while True:
            try:
                zoo.wait_for("/never")
            except KeyboardInterrupt:
                pass

    with Executor("ray") as executor:
        started = tmp_path / "started"
        future = executor.submit(swallow, str(started))
        eventually(started.exists)
        assert future.cancel(running=True)
        assert executor.submit(zoo.echo, 1).result() == 1


def test_a_time_limit_of_a_call_that_holds_the_interpreter_s_lock(running, tmp_path):
    with Executor("ray") as executor:
        limited = executor.with_options(timeout=0.2)
        failure = limited.submit(zoo.announce_and_hold_gil, str(tmp_path / "started")).exception()
        assert isinstance(failure, TaskTimeoutError)
        assert limited.submit(zoo.echo, 1).result() == 1


def test_a_call_whose_process_dies_is_tried_again(running, tmp_path):
    trace = tmp_path / "trace"

    def die_twice():
        zoo.append_line(str(trace), str(current_task().attempt))
        if current_task().attempt < 3:
            zoo.exit_hard(3)
        return "alive"

    with Executor("ray") as executor:
        assert executor.submit(die_twice).result() == "alive"
        assert trace.read_text().split() == ["1", "2", "3"]
        failure = executor.submit(zoo.exit_hard).exception()
        assert isinstance(failure, TaskLostError)
        assert "crash 3 of at most 3" in str(failure)


def test_sigterm_ends_what_a_call_forks_however_early_it_comes(running):
    def fork():
        os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGTERM))
        child = multiprocessing.get_context("fork").Process(target=zoo.wait_for, args=("/never",))
        child.start()
        child.join(10)
        child.kill()
        child.join()
        return child.exitcode

    with Executor("ray") as executor:
        assert executor.submit(fork).result() == -signal.SIGTERM


def test_an_executor_that_a_call_opens_joins_the_same_ray(running):
    def outer(number):
        with Executor("ray") as executor:
            return sum(executor.map(zoo.add, range(number), range(number))), executor.status()["address"]

    with Executor("ray") as executor:
        futures = [executor.submit(outer, 5) for _ in range(6)]
        assert {future.result() for future in futures} == {(20, executor.status()["address"])}


def test_a_worker_without_jobrunner_says_so(no_jobrunner, monkeypatch):
    import ray

    monkeypatch.chdir(no_jobrunner)
    start_ray(runtime_env={"env_vars": {"PYTHONPATH": str(no_jobrunner)}})
    try:
        with Executor("ray") as executor, pytest.raises(JobRunnerError, match="Install jobrunner there"):
            executor.submit(zoo.echo, 1).result(30)
    finally:
        ray.shutdown()
