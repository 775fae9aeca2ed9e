"""joblib, and scikit-learn on it."""

from __future__ import annotations

import glob
import os
import threading
import time
from multiprocessing import TimeoutError as JoblibTimeoutError
from pathlib import Path

import joblib
import numpy as np
import pytest
import zoo
from joblib import Parallel, delayed, parallel_config

import jobrunner.integrations.joblib
from jobrunner import Executor, TaskLostError
from jobrunner.integrations.joblib import JobrunnerBackend
from jobrunner.testing.waiting import until

RETURNS = ("list", "generator", "generator_unordered")


def on(executor, **options):
    """Our backend on it, as joblib's setting."""
    return parallel_config(backend="jobrunner", executor=executor, **options)


def where(_=None):
    return os.getpid(), threading.get_ident()


@pytest.fixture
def processes():
    with Executor("processes", max_workers=2) as shared:
        yield shared


# --- what Parallel does -------------------------------------------------------------------------------------


@pytest.mark.parametrize("returns", RETURNS)
def test_results(executor, returns):
    with on(executor):
        results = Parallel(return_as=returns)(delayed(zoo.add)(i, right=1) for i in range(100))
        found = sorted(results) if returns == "generator_unordered" else list(results)
    assert found == list(range(1, 101))


def test_calls_run_where_the_executor_is(executor, kind):
    with on(executor):
        places = set(Parallel(batch_size=1)(delayed(where)() for _ in range(20)))
    assert where() not in places
    assert (
        {pid for pid, _ in places} == {os.getpid()} if kind == "threads" else os.getpid() not in dict(places)
    )


def test_lambdas_and_closures(executor):
    added = 5
    with on(executor):
        assert Parallel()(delayed(lambda x: x + added)(i) for i in range(4)) == [5, 6, 7, 8]


def test_exceptions_arrive_as_raised(executor, kind):
    with on(executor), pytest.raises(ZeroDivisionError) as caught:
        Parallel()(delayed(zoo.divide)(1, i) for i in (1, 0, 1))
    assert "zoo.py" in str(caught.value.__cause__) or kind == "threads"


def test_the_input_may_raise(executor):
    def calls():
        yield delayed(zoo.echo)(1)
        raise KeyError("input")

    with on(executor), pytest.raises(KeyError, match="input"):
        Parallel()(calls())


def test_an_unordered_generator_yields_what_is_ready(executor, tmp_path):
    go = str(tmp_path / "go")
    calls = [delayed(zoo.wait_for)(go, "slow"), delayed(zoo.echo)("quick")]
    with on(executor):
        results = Parallel(return_as="generator_unordered", batch_size=1)(calls)
        assert next(results) == "quick"
        Path(go).touch()
        assert list(results) == ["slow"]


def test_a_timeout_stops_the_calls_that_run(processes, tmp_path):
    with on(processes):
        # Both slots have imported joblib: a call that is interrupted in an import leaves half a module behind.
        started = [str(tmp_path / f"started-{i}") for i in range(2)]
        (tmp_path / "go").touch()
        Parallel()(delayed(zoo.announce_and_wait)(one, str(tmp_path / "go")) for one in started * 4)
        with pytest.raises(JoblibTimeoutError):
            Parallel(timeout=0.2)(delayed(zoo.wait_for)(str(tmp_path / "never")) for _ in range(8))
        # Both slots are free again, though nobody let the calls go on.
        assert Parallel(timeout=30)(delayed(zoo.echo)(i) for i in range(4)) == [0, 1, 2, 3]


def test_an_error_cancels_the_rest(processes, tmp_path):
    started, never = tmp_path / "started", str(tmp_path / "never")

    def fail():
        zoo.wait_for(str(started))
        raise OSError("wrong")

    calls = [delayed(zoo.announce_and_wait)(str(started), never), delayed(fail)()]
    calls += [delayed(zoo.wait_for)(never) for _ in range(20)]
    with on(processes), pytest.raises(OSError, match="wrong"):
        Parallel(batch_size=1, pre_dispatch="all")(calls)
    assert processes.submit(zoo.echo, "free").result(timeout=30) == "free"
    until(lambda: processes._lifetime.backend.unfinished == 0)


def test_a_generator_that_is_dropped_cancels_the_rest(processes, tmp_path):
    calls = [delayed(zoo.echo)(0)] + [delayed(zoo.wait_for)(str(tmp_path / "never")) for _ in range(5)]
    with on(processes):
        results = Parallel(return_as="generator", batch_size=1)(calls)
        assert next(results) == 0
        with pytest.warns(UserWarning, match="cancelled"):
            results.close()
    until(lambda: processes._lifetime.backend.unfinished == 0)


def test_a_call_that_kills_its_process_fails_alone(processes):
    once = processes.with_options(at_most_once=True)
    with on(once), pytest.raises(TaskLostError, match="SIGKILL"):
        Parallel(batch_size=1)([delayed(zoo.kill_self)(), delayed(zoo.echo)(1)])
    with on(processes):
        assert Parallel()(delayed(zoo.echo)(i) for i in range(4)) == [0, 1, 2, 3]


def test_short_calls_are_batched(processes):
    with on(processes):
        names = Parallel()(delayed(task_name)() for _ in range(2000))
    assert len(set(names)) < 1000


def task_name():
    return jobrunner.current_task().id


def test_a_pool_that_is_kept(processes):
    with on(processes), Parallel() as parallel:
        assert [parallel(delayed(zoo.echo)(i) for i in range(3)) for _ in range(3)] == [[0, 1, 2]] * 3


def test_an_executor_that_is_shut_down_is_an_error_and_no_hang(kind):
    """Here in a thread of the Executor's own, where joblib asks for more calls and nobody would see an exception."""

    def calls():
        yield from [delayed(zoo.echo)(i) for i in range(2)]
        executor.shutdown(wait=False)
        yield delayed(zoo.echo)(2)

    executor = Executor(kind, max_workers=2)
    with on(executor), pytest.raises(RuntimeError, match="after shutdown"):
        Parallel(batch_size=1, pre_dispatch=2)(calls())


# --- how many -----------------------------------------------------------------------------------------------


def test_n_jobs(executor):
    with on(executor):
        assert joblib.effective_n_jobs() == 2
        assert joblib.effective_n_jobs(-1) == 2
        assert joblib.effective_n_jobs(None) == 2
        assert joblib.effective_n_jobs(-2) == 1
        assert joblib.effective_n_jobs(-9) == 1
        assert joblib.effective_n_jobs(7) == 7
        assert joblib.effective_n_jobs(1) == 1
        with pytest.raises(ValueError, match="n_jobs == 0"):
            Parallel(n_jobs=0)(delayed(zoo.echo)(i) for i in range(3))
    with on(executor, n_jobs=5):
        assert joblib.effective_n_jobs(None) == 5


def test_one_job_runs_here(executor):
    with on(executor, n_jobs=1):
        assert set(Parallel()(delayed(where)() for _ in range(3))) == {where()}


def test_no_more_than_n_jobs_at_a_time(tmp_path):
    """Of four slots two are used, also where there are more batches at hand."""
    most, now, lock = 0, 0, threading.Lock()

    def count():
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.002)
        with lock:
            now -= 1

    with Executor("threads", max_workers=4) as executor, on(executor, n_jobs=2):
        Parallel(batch_size=1, pre_dispatch="all")(delayed(count)() for _ in range(60))
    assert most == 2


def test_its_own_executor_has_n_jobs_slots_and_ends_with_it():
    with parallel_config(backend="jobrunner", executor="processes", n_jobs=3) as config:
        Parallel()(delayed(zoo.echo)(i) for i in range(3))
        backend = config["backend"]
        first = backend._executor
        assert first.max_workers == 3
        Parallel()(delayed(zoo.echo)(i) for i in range(3))
        assert backend._executor is first
        Parallel(n_jobs=2)(delayed(zoo.echo)(i) for i in range(3))
        assert backend._executor.max_workers == 2
        assert first._lifetime.closed
        runner = backend._executor._lifetime.backend
    del config, backend, first
    until(lambda: not runner.usable)


@pytest.mark.parametrize("give", ["constructor", "configuration", "environment"])
def test_its_own_executor_is_chosen_by(give, monkeypatch):
    options = {"executor": "threads", "max_workers": 3}
    if give == "environment":
        monkeypatch.setenv("JOBRUNNER_BACKEND", "threads")
        options = {}
    if give == "configuration":
        with parallel_config(backend="jobrunner", **options):
            places = Parallel(batch_size=1)(delayed(where)() for _ in range(9))
    else:
        places = Parallel(n_jobs=3, backend="jobrunner", batch_size=1, **options)(
            delayed(where)() for _ in range(9)
        )
    assert {pid for pid, _ in places} == {os.getpid()}
    assert where() not in places


def test_a_cluster_that_runs_already():
    with Executor("cluster", max_workers=2) as cluster:
        address = cluster._lifetime.backend.connection()
        with parallel_config(backend="jobrunner", address=address):
            assert joblib.effective_n_jobs() == 2
            places = dict(Parallel(batch_size=1)(delayed(where)() for _ in range(9)))
        slots = set(cluster.map(zoo.pid, range(50), chunksize=1))
    assert set(places) <= slots


def test_settings_beside_an_open_executor(processes):
    with pytest.raises(ValueError, match="max_workers cannot be given here"):
        JobrunnerBackend(processes, max_workers=3)


# --- calls inside of calls ----------------------------------------------------------------------------------


def inner(depth):
    backend, _ = joblib.parallel.get_active_backend()
    kind = type(backend).__name__
    if depth == 0:
        return [kind]
    return [kind, *Parallel(n_jobs=2)(delayed(inner)(depth - 1) for _ in range(2))[0]]


def test_nested_calls_go_to_threads_and_then_one_by_one(executor):
    with on(executor):
        assert (
            Parallel()(delayed(inner)(2) for _ in range(2))
            == [["ThreadingBackend", "SequentialBackend", "SequentialBackend"]] * 2
        )


def spread(count):
    with parallel_config(backend="jobrunner", n_jobs=2) as config:
        assert type(config["backend"]._executor._lifetime.backend).__name__ == "BorrowedBackend"
        return sum(Parallel()(delayed(zoo.echo)(i) for i in range(count)))


def test_a_call_may_use_the_whole_executor(processes):
    """More calls than slots wait for calls of their own."""
    with on(processes):
        assert Parallel(batch_size=1)(delayed(spread)(i) for i in range(4)) == [0, 0, 1, 3]


def test_shared_memory_is_what_threads_have(executor, kind):
    seen = []
    with on(executor):
        Parallel(require="sharedmem")(delayed(seen.append)(i) for i in range(5))
        backend, _ = joblib.parallel.get_active_backend(require="sharedmem")
    assert sorted(seen) == list(range(5))
    assert isinstance(backend, JobrunnerBackend) == (kind == "threads")


def test_threads_of_numerical_libraries_are_limited():
    def variables():
        return [os.environ[name] for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")]

    for wanted in (None, 3):
        with parallel_config(
            backend="jobrunner", executor="processes", n_jobs=2, inner_max_num_threads=wanted
        ):
            found = Parallel()(delayed(variables)() for _ in range(2))
        inherited = os.environ.get("OMP_NUM_THREADS", str(max(1, joblib.cpu_count() // 2)))
        assert found[0][0] == (str(wanted) if wanted else inherited)
    with Executor("processes") as executor, pytest.raises(AssertionError, match="inner_max_num_threads"):
        parallel_config(backend="jobrunner", executor=executor, inner_max_num_threads=1)


# --- arrays -------------------------------------------------------------------------------------------------


def describe(array):
    mapped = array
    while mapped is not None and not isinstance(mapped, np.memmap):
        mapped = getattr(mapped, "base", None)
    return float(array.sum()), mapped is not None, bool(array.flags.writeable)


@pytest.fixture
def big():
    return np.arange(300_000, dtype=float)


def test_large_arrays_go_as_one_file(processes, big, tmp_path):
    seen = set()

    def calls():
        for _ in range(20):
            yield delayed(describe)(big)
            seen.update(os.listdir(tmp_path))

    with on(processes, temp_folder=str(tmp_path)):
        assert Parallel()(calls()) == [(big.sum(), True, False)] * 20
    assert len(seen) == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_nbytes": None}, (False, True)),
        ({"max_nbytes": "10M"}, (False, True)),
        ({"mmap_mode": None}, (False, True)),
        ({"mmap_mode": "c"}, (True, True)),
        ({"max_nbytes": 1000, "mmap_mode": "r"}, (True, False)),
    ],
)
def test_joblibs_rules_for_arrays(processes, big, options, expected):
    with on(processes, **options):
        assert Parallel()(delayed(describe)(big) for _ in range(2)) == [(big.sum(), *expected)] * 2


def test_an_array_that_changes_between_calls_of_parallel(processes, big):
    with on(processes), Parallel() as parallel:
        sums = []
        for value in (1, 2):
            big[:] = value
            sums.append(parallel(delayed(np.sum)(big) for _ in range(2))[0])
    assert sums == [big.size, 2 * big.size]


def test_arrays_that_are_made_on_the_way_leave_no_files(processes, tmp_path):
    most = 0

    def calls():
        nonlocal most
        for i in range(60):
            yield delayed(np.sum)(np.full(200_000, float(i)))
            most = max(most, len(os.listdir(tmp_path)))

    with on(processes, temp_folder=str(tmp_path)):
        assert Parallel(batch_size=1)(calls()) == [200_000.0 * i for i in range(60)]
    assert 0 < most < 30
    until(lambda: not os.listdir(tmp_path))


def fill(array, index):
    array[index] = index


@pytest.mark.parametrize("kind", ["processes", "cluster", "address"])
def test_what_calls_write_into_a_mapped_file_arrives(kind, tmp_path):
    output = np.memmap(tmp_path / "output", dtype=float, shape=(10, 4), mode="w+")
    with Executor("cluster" if kind == "address" else kind, max_workers=2) as opened:
        where = (
            {"address": opened._lifetime.backend.connection()} if kind == "address" else {"executor": opened}
        )
        with parallel_config(backend="jobrunner", **where):
            Parallel()(delayed(fill)(output, i) for i in range(10))
            Parallel()(delayed(fill)(output[::-2, 1:3], i) for i in range(5))
    expected = np.repeat(np.arange(10.0)[:, None], 4, axis=1)
    expected[::-2, 1:3] = np.arange(5.0)[:, None]
    assert np.array_equal(output, expected)


def test_a_mapped_file_that_is_read(executor, tmp_path, big):
    np.save(tmp_path / "big.npy", big)
    mapped = np.load(tmp_path / "big.npy", mmap_mode="r")
    with on(executor):
        assert Parallel()(delayed(np.sum)(mapped[i:]) for i in range(3)) == [big[i:].sum() for i in range(3)]


# --- scikit-learn -------------------------------------------------------------------------------------------


def test_a_grid_search_equals_the_serial_one():
    from sklearn.datasets import make_classification
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GridSearchCV

    data = make_classification(400, 40, random_state=0)  # large enough to be mapped, with the limit below

    def search():
        forest = RandomForestClassifier(n_estimators=5, random_state=0)
        found = GridSearchCV(forest, {"max_depth": [2, 4], "max_features": [3, 5]}, cv=3).fit(*data)
        return found.best_params_, found.cv_results_["mean_test_score"], found.predict_proba(data[0])

    serial = search()
    with parallel_config(backend="jobrunner", executor="cluster", max_workers=2, max_nbytes=10_000):
        parallel = search()
    assert parallel[0] == serial[0]
    assert np.array_equal(parallel[1], serial[1])
    assert np.allclose(parallel[2], serial[2])  # a forest adds up its trees in any order


def test_no_file_is_left_in_the_shared_memory():
    assert not glob.glob(f"/dev/shm/jobrunner-{os.getpid()}-*.array")
