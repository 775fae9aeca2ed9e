"""Executor: options, the choice of a backend, and the end of its life; over a backend that the test drives."""

from __future__ import annotations

import concurrent.futures
import gc
import multiprocessing
import pickle
import sys

import pytest

from jobrunner import ConfigError, Executor, NotSupportedError
from jobrunner.backends import connections, registry
from jobrunner.config import ClientConfig, load
from jobrunner.executor import choose
from jobrunner.protocol.wire.messages import TaskOptions
from jobrunner.testing.stub_backend import StubBackend


@pytest.fixture
def backend():
    return StubBackend()


@pytest.fixture
def executor(backend):
    opened = Executor(backend)
    yield opened
    opened._lifetime.kill()  # a map that a test left unfinished would keep the interpreter from exiting


@pytest.fixture
def opened(monkeypatch):
    """Opens nothing; a list of the (name, settings) that would have been opened."""
    seen = []

    def open_backend(name, settings):
        seen.append((name, settings))
        return StubBackend()

    monkeypatch.setattr(registry, "open_backend", open_backend)
    return seen


# --- the choice of a backend --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "address", "environment", "chosen"),
    [
        (None, None, {}, ("processes", None)),
        ("threads", None, {}, ("threads", None)),
        ("cluster", None, {}, ("cluster", None)),
        ("tcp://h:1", None, {}, ("cluster", "tcp://h:1")),
        ("ipc:///tmp/x", None, {}, ("cluster", "ipc:///tmp/x")),
        (None, None, {"JOBRUNNER_BACKEND": "threads"}, ("threads", None)),
        (None, None, {"JOBRUNNER_BACKEND": "tcp://h:1"}, ("cluster", "tcp://h:1")),
        (None, None, {"JOBRUNNER_ADDRESS": "tcp://h:1"}, ("cluster", "tcp://h:1")),
        (None, "tcp://h:2", {"JOBRUNNER_ADDRESS": "tcp://h:1"}, ("cluster", "tcp://h:2")),
        (None, "tcp://h:2", {}, ("cluster", "tcp://h:2")),
        ("cluster", None, {"JOBRUNNER_ADDRESS": "tcp://h:1"}, ("cluster", "tcp://h:1")),
        ("processes", None, {"JOBRUNNER_ADDRESS": "tcp://h:1"}, ("processes", None)),
        (
            None,
            None,
            {"JOBRUNNER_BACKEND": "processes", "JOBRUNNER_ADDRESS": "tcp://h:1"},
            ("processes", None),
        ),
        ("dask", "tcp://h:9", {}, ("dask", "tcp://h:9")),
    ],
)
def test_choice(monkeypatch, argument, address, environment, chosen):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert choose(argument, address, load(ClientConfig, address=address)) == chosen


def test_contradicting_addresses(opened):
    with pytest.raises(ConfigError, match="two different addresses"):
        Executor("tcp://a:1", address="tcp://b:1")


@pytest.mark.parametrize("backend", [True, 1.5, object(), b"threads"])
def test_what_is_no_backend(backend):
    with pytest.raises(ConfigError):
        Executor(backend)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        ConfigError, match=r"did you mean 'threads'.*cluster, dask, mpi, processes, ray, threads"
    ):
        Executor("thread")


def test_an_address_without_its_scheme_is_recognised():
    with pytest.raises(
        ConfigError, match=r"unknown backend '10.0.0.5:7077'; did you mean 'tcp://10.0.0.5:7077'\?"
    ):
        Executor("10.0.0.5:7077")


@pytest.mark.parametrize(("name", "package"), [("dask", "distributed"), ("ray", "ray"), ("mpi", "mpi4py")])
def test_an_engine_that_is_not_installed_says_how_to(monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"jobrunner.backends.{name}", raising=False)
    with pytest.raises(ConfigError, match=rf"needs the package {package}: pip install 'jobrunner\[{name}\]'"):
        Executor(name)


def test_a_local_backend_takes_no_address():
    with pytest.raises(ConfigError, match="accepts no address"):
        Executor("threads", address="tcp://h:1")


def test_the_first_number_is_max_workers_as_in_the_standard_library(opened):
    Executor(4)
    name, settings = opened[0]
    assert (name, settings.max_workers) == ("processes", 4)
    with pytest.raises(ConfigError, match="twice"):
        Executor(4, max_workers=3)


def test_settings_reach_the_backend(opened, monkeypatch):
    monkeypatch.setenv("JOBRUNNER_MAX_WORKERS", "7")
    Executor("processes", initializer=print, initargs=[1], show_output=False, connect_timeout=3, queue="fast")
    name, settings = opened[0]
    assert name == "processes"
    assert settings.max_workers == 7
    assert settings.initializer is print
    assert settings.initargs == (1,)
    assert settings.config.show_output is False
    assert settings.config.connect_timeout == 3
    assert settings.extra == {"queue": "fast"}


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "x", float("nan"), float("inf"), [], 10**400])
def test_bad_numbers(number):
    with pytest.raises(ConfigError, match="max_workers"):
        Executor("threads", max_workers=number)
    assert issubclass(ConfigError, ValueError)


def test_the_arguments_of_the_standard_pools_reach_the_backend(opened):
    context = multiprocessing.get_context("spawn")
    Executor(2, context, print, [1], max_tasks_per_child=5)
    Executor("threads", "prefix")
    (_, first), (_, second) = opened
    assert (first.max_workers, first.initializer, first.initargs) == (2, print, (1,))
    assert (first.max_tasks_per_child, first.thread_name_prefix) == (5, "")
    assert second.thread_name_prefix == "prefix"


def test_an_initializer_must_be_callable():
    with pytest.raises(TypeError, match="initializer must be a callable"):
        Executor("threads", initializer=5)


def test_an_unknown_option_is_refused():
    with pytest.raises(ConfigError, match="max_worker"):
        Executor("threads", max_worker=4)


def test_an_open_backend_takes_no_options(backend):
    with pytest.raises(ConfigError, match="max_workers"):
        Executor(backend, max_workers=3)


def test_a_backend_of_another_package(monkeypatch):
    class Point:
        name = "mine"

        def load(self):
            return lambda settings: StubBackend(slots=9)

    monkeypatch.setattr(registry, "_entry_points", lambda: [Point()])
    assert Executor("mine").max_workers == 9
    assert "mine" in registry.known()


def test_a_backend_that_is_none_is_refused(monkeypatch):
    class Point:
        name = "mine"

        def load(self):
            return lambda settings: object()

    monkeypatch.setattr(registry, "_entry_points", lambda: [Point()])
    with pytest.raises(ConfigError, match="not a"):
        Executor("mine")


# --- options ------------------------------------------------------------------------------------------------


def test_options_reach_the_call_and_nest(backend, executor):
    view = executor.with_options(retries=3, resources={"gpu": 1})
    view.with_options(timeout=5, name="n", priority=-2, resources={"disk": 0.5}).submit(print)
    options = backend.calls[0].options
    assert options == TaskOptions("n", -2, 3, 5.0, (("disk", 0.5), ("gpu", 1.0)))
    assert isinstance(view, Executor)
    executor.submit(print)
    assert backend.calls[1].options == TaskOptions()


@pytest.mark.parametrize(
    "options",
    [
        {"retries": -1},
        {"retries": 1.0},
        {"retries": True},
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"timeout": "5"},
        {"timeout": True},
        {"priority": "high"},
        {"priority": 2**40},
        {"name": ""},
        {"name": 3},
        {"name": "n" * 257},
        {"resources": {"gpu": 0}},
        {"resources": {"gpu": "x"}},
        {"resources": {"gpu": 1.1e15}},
        {"resources": {1: 1}},
        {"resources": {"n" * 257: 1}},
        {"resources": ["gpu"]},
    ],
)
def test_bad_options(executor, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        executor.with_options(**options)


def test_an_unknown_option_of_a_call(executor):
    with pytest.raises(TypeError):
        executor.with_options(retry=1)


def test_shutting_down_a_view_shuts_down_the_executor(backend, executor):
    executor.with_options(retries=1).shutdown()
    assert backend.closed
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(print)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.map(print, [1])


# --- the end ------------------------------------------------------------------------------------------------


def test_leaving_the_block_runs_everything(backend):
    with Executor(backend) as executor:
        future = executor.submit(pow, 2, 3)
    assert future.result() == 8
    assert not backend.killed


def test_leaving_by_interrupt_stops_everything(backend):
    with pytest.raises(KeyboardInterrupt), Executor(backend) as executor:  # noqa: PT012
        future = executor.submit(pow, 2, 3)
        results = executor.map(abs, range(100))
        raise KeyboardInterrupt
    assert backend.killed
    assert future.cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        next(results)


@pytest.mark.parametrize("kind", [ValueError, SystemExit, GeneratorExit])
def test_leaving_by_another_exception_waits(backend, kind):
    with pytest.raises(kind), Executor(backend) as executor:  # noqa: PT012  # what the block does is the point
        future = executor.submit(pow, 2, 3)
        raise kind
    assert future.result() == 8


def test_an_interrupt_while_leaving_stops_everything(backend, monkeypatch):
    original = backend.shutdown

    def shutdown(wait=True, *, cancel_futures=False):
        original(wait=False, cancel_futures=cancel_futures)
        if wait:
            raise KeyboardInterrupt

    monkeypatch.setattr(backend, "shutdown", shutdown)
    with pytest.raises(KeyboardInterrupt), Executor(backend):
        pass
    assert backend.killed


def test_an_executor_that_nobody_holds_is_shut_down_and_its_work_completes(backend):
    executor = Executor(backend)
    view = executor.with_options(retries=1)
    del executor
    gc.collect()
    assert not backend.closed
    future = view.submit(pow, 2, 3)
    results = view.map(abs, range(100))
    del view
    gc.collect()
    assert not backend.closed  # the map goes on
    backend.run_all()
    assert list(results) == list(range(100))
    del results
    gc.collect()
    assert backend.closed
    assert future.result() == 8


# --- the rest -----------------------------------------------------------------------------------------------


def test_it_is_a_standard_executor(executor):
    assert isinstance(executor, concurrent.futures.Executor)
    assert executor.max_workers == executor._max_workers == 2
    assert executor.status() == {"backend": "stub", "queued": 0}


def test_repr(executor):
    assert repr(executor) == "<Executor 'stub' max_workers=2>"
    assert "retries=3" in repr(executor.with_options(retries=3))
    executor.shutdown()
    assert "shut down" in repr(executor)


def test_a_function_that_cannot_be_sent_fails_in_the_future(executor):
    future = executor.submit(None)
    with pytest.raises(TypeError):
        future.result()


def test_pickling_is_refused_where_nothing_can_be_joined(executor):
    with pytest.raises(NotSupportedError, match="cluster"):
        pickle.dumps(executor)


def test_pickling_is_a_connection_with_the_same_options(executor, backend, monkeypatch):
    joined = []

    def join(address):
        joined.append(address)
        return StubBackend(slots=7)

    monkeypatch.setattr(connections, "connection_to", join)
    backend.connection = lambda: "tcp://h:1"
    copy = pickle.loads(pickle.dumps(executor.with_options(retries=2)))
    assert joined == ["tcp://h:1"]
    assert (copy.max_workers, copy._options.retries) == (7, 2)


def test_a_subclass_stays_one_in_its_views(backend):
    class Mine(Executor):
        pass

    assert type(Mine(backend).with_options(retries=1)) is Mine
