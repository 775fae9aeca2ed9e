"""Futures by their id, and Futures that travel."""

from __future__ import annotations

import pickle

import pytest
import zoo

from jobrunner import Executor, JobRunnerError, NotSupportedError, TaskLostError


class Wrapped:
    """Keeps a Future from standing for its result."""

    def __init__(self, future):
        self.future = future


def wait_for_it(wrapped):
    return wrapped.future.result(30)


@pytest.mark.shared
def test_a_future_by_its_id(executor, tmp_path):
    go = tmp_path / "go"
    first = executor.submit(zoo.wait_for, str(go), 5)
    again = executor.future(first.id)
    go.touch()
    assert again.result(30) == 5
    assert again.id == first.id


@pytest.mark.shared
def test_of_a_call_that_is_done(executor):
    first = executor.submit(zoo.echo, 5)
    first.result()
    assert executor.future(first.id).result(30) == 5
    bad = executor.submit(int, "x")
    bad.exception()
    assert isinstance(executor.future(bad.id).exception(30), ValueError)


@pytest.mark.shared
def test_an_id_that_nobody_knows(executor):
    with pytest.raises(TaskLostError, match="there is no task nobody-1"):
        executor.future("nobody-1").result(30)


@pytest.mark.shared
def test_a_pickled_future_is_live_elsewhere(executor, tmp_path):
    go = tmp_path / "go"
    first = executor.submit(zoo.wait_for, str(go), 5)
    elsewhere = executor.submit(wait_for_it, Wrapped(first))
    copy = pickle.loads(pickle.dumps(first))
    assert (copy.id, copy.name, copy.done()) == (first.id, first.name, False)
    go.touch()
    assert copy.result(30) == 5
    assert elsewhere.result(30) == 5


@pytest.mark.shared
def test_many_clients_can_watch(executor, tmp_path):
    go = tmp_path / "go"
    first = executor.submit(zoo.wait_for, str(go), 5)
    watchers = [executor.submit(wait_for_it, Wrapped(first)) for _ in range(8)]
    go.touch()
    assert [future.result(60) for future in watchers] == [5] * 8


def test_a_future_of_threads_cannot_travel():
    with Executor("threads", max_workers=1) as threads:
        with pytest.raises(NotSupportedError, match="cannot be sent"):
            pickle.dumps(threads.submit(zoo.echo, 1))
        with pytest.raises(NotSupportedError):
            threads.future("x-1")


@pytest.mark.shared
def test_shutdown_does_not_wait_for_what_others_submitted(executor, tmp_path):
    go = tmp_path / "go"
    first = executor.submit(zoo.wait_for, str(go), 5)
    address = executor._lifetime.backend.connection()
    with Executor(address) as other:
        copy = other.future(first.id)
    with pytest.raises(JobRunnerError, match="goes on without it"):
        copy.result(30)
    go.touch()
    assert first.result(30) == 5


@pytest.mark.promise("cancel")
@pytest.mark.shared
def test_others_can_cancel(executor, tmp_path, eventually):
    started = tmp_path / "started"
    first = executor.submit(zoo.announce_and_wait, str(started), str(tmp_path / "go"), 5)
    eventually(started.exists)
    with Executor(executor._lifetime.backend.connection()) as other:
        copy = other.future(first.id)
        eventually(copy.running)
        assert not copy.cancel()
        assert copy.cancel(running=True)
    eventually(first.cancelled)


def test_detached_needs_a_cluster_that_stays(make_executor):
    with pytest.raises(NotSupportedError, match="outlives this program"):
        make_executor().with_options(detach=True).submit(zoo.echo)
