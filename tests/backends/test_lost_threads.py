"""The thread that brings outcomes ends, at whatever step: no Future stays pending, and nobody waits."""

from __future__ import annotations

import queue
import sys
import threading
import time
from concurrent.futures import InvalidStateError, wait

import pytest
import zoo
from support.local_engine import EngineError, LocalEngine
from support.steps import Killed, Steps

from jobrunner import Executor, JobRunnerError, TaskLostError
from jobrunner.backends import (
    backend_thread,
    bundle_builder,
    client_thread,
    core_backend,
    local_wire,
    outgoing_calls,
    pending_calls,
    queries,
    thread_calls,
    thread_chunks,
    thread_context,
    thread_runners,
    threads,
)
from jobrunner.backends.base import BackendSettings
from jobrunner.backends.engine import attempts, new_calls, unfinished_calls
from jobrunner.backends.engine import backend as engine
from jobrunner.backends.engine import call_queue as engine_calls
from jobrunner.config import ClientConfig
from jobrunner.futures import resolve
from jobrunner.system import atexit_hooks as exiting
from jobrunner.transport import driver

ENDS = (Killed, JobRunnerError, RuntimeError)
"""What a call may meet whose backend's thread was killed."""

STEPS = 400
"""About as many steps as a thread takes in `use`."""

SECONDS = 20


@pytest.fixture(autouse=True)
def quiet(monkeypatch, caplog):
    """Threads end by an exception here, which is reported at length."""
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    caplog.set_level("CRITICAL", "concurrent.futures")


def processes():
    return Executor("processes", max_workers=1)


def engine_of_threads():
    return Executor(LocalEngine(BackendSettings(ClientConfig(), max_workers=1)))


def threads_of_this_process():
    return Executor("threads", max_workers=2)


KINDS = {
    "processes": (
        processes,
        [
            *(core_backend, client_thread, backend_thread, outgoing_calls, pending_calls, queries),
            *(bundle_builder, driver, local_wire),
        ],
    ),
    "engine": (
        engine_of_threads,
        [engine, attempts, unfinished_calls, new_calls, engine_calls, pending_calls, backend_thread],
    ),
    "threads": (
        threads_of_this_process,
        [threads, thread_calls, thread_chunks, thread_context, thread_runners],
    ),
}


def use(executor, futures):
    """A bit of everything; `futures` gets those that it is given."""
    for number in range(4):
        futures.append(executor.submit(zoo.echo, number))
    results = executor.map(zoo.echo, range(30), buffersize=10)
    futures.append(executor.submit(zoo.echo, futures[0]))
    futures.append(executor.submit(zoo.raise_plain))
    futures[3].cancel()
    futures[1].add_done_callback(lambda _: futures.append(executor.submit(zoo.echo, "from a callback")))
    list(results)
    wait(list(futures), SECONDS)


def kill_at(kind, step):
    """Kill a thread of the backend at that step, and see who is left waiting; whether there were so many steps."""
    make, modules = KINDS[kind]
    steps = Steps(modules, step, threads="jobrunner")
    futures = []
    ended = queue.SimpleQueue()

    def program():
        executor = None
        try:
            threading.settrace(steps.trace)
            try:
                executor = make()
                use(executor, futures)
            except ENDS:
                pass
            finally:
                threading.settrace(None)
            if executor is not None:
                executor.shutdown()
        except BaseException as exc:
            ended.put(exc)
        ended.put(None)

    threading.Thread(target=program, daemon=True).start()
    try:
        raised = ended.get(timeout=SECONDS)
    except queue.Empty:
        exiting._registered.clear()  # else the interpreter would wait at its exit, too
        pytest.fail(f"somebody waits: {steps.place}")
    assert raised is None, steps.place
    assert [future for future in futures if not future.done()] == [], steps.place
    return steps.place


@pytest.mark.parametrize("kind", KINDS)
def test_a_thread_that_is_killed_leaves_nobody_waiting(kind):
    """At some steps of each part of its life; `heavy` has them all."""
    places = [kill_at(kind, step) for step in (1, *range(7, STEPS, 13))]
    assert any(places)


@pytest.mark.heavy
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_a_thread_that_is_killed_at_any_step_leaves_nobody_waiting(kind):
    step, beyond = 0, 0
    while beyond < 20:  # how many there are differs from run to run
        step += 1
        beyond = 0 if kill_at(kind, step) else beyond + 1
    assert step > 200


@pytest.fixture(params=["processes", "engine", "threads"])
def executor(request):
    opened = KINDS[request.param][0]()
    yield opened
    opened._lifetime.kill()


def test_futures_that_the_program_has_resolved_cost_no_others(executor, tmp_path):
    waiting = [executor.submit(zoo.wait_for, str(tmp_path / "go"), number) for number in range(6)]
    for future in waiting[::2]:
        future.set_result("resolved by the program")
    (tmp_path / "go").touch()
    assert [future.result(SECONDS) for future in waiting[1::2]] == [1, 3, 5]
    assert executor.submit(zoo.echo, 1).result(SECONDS) == 1


def test_nor_do_they_where_the_executor_is_killed(executor, tmp_path):
    waiting = [executor.submit(zoo.wait_for, str(tmp_path / "go"), number) for number in range(6)]
    for future in waiting[::2]:
        future.set_exception(ValueError("resolved by the program"))
    executor._lifetime.kill()
    (tmp_path / "go").touch()
    for future in waiting[1::2]:
        wait([future], SECONDS)
        assert future.done()


def test_short_calls_that_the_program_has_resolved_cost_no_others():
    with processes() as executor:
        for _ in range(3):  # from the second time on they travel in bundles
            futures = [executor.submit(zoo.echo, number) for number in range(200)]
            for future in futures[::3]:
                resolve(future, "resolved by the program")
            assert [future.result(SECONDS) for future in futures[1::3]] == list(range(1, 200, 3))


class Exits:
    """Its unpickling ends the thread that does it, or pretends that the Future is resolved."""

    def __init__(self, how):
        self.how = how

    def __reduce__(self):
        return fail_with, (self.how,)


def fail_with(how):
    raise how("while it was unpickled")


@pytest.mark.parametrize("how", [SystemExit, InvalidStateError, KeyboardInterrupt])
def test_a_result_that_ends_the_thread_which_unpickles_it_costs_its_own_call(how):
    with processes() as executor:
        for _ in range(2):
            bad = executor.submit(Exits, how)
            others = [executor.submit(zoo.echo, number) for number in range(50)]
            assert how.__name__ in repr(bad.exception(SECONDS))
            assert [future.result(SECONDS) for future in others] == list(range(50))


class Endless:
    """Its unpickling does not end before `go` is set."""

    begun = threading.Event()
    go = threading.Event()

    def __reduce__(self):
        return endless, ()


def endless():
    Endless.begun.set()
    Endless.go.wait()
    return "unpickled after all"


@pytest.mark.parametrize("backend", ["processes", "cluster"])
def test_a_kill_ends_all_futures_though_a_result_is_unpickled_without_end(backend, monkeypatch, tmp_path):
    monkeypatch.setattr(client_thread, "KILL_WAIT", 0.1)
    monkeypatch.setattr(Endless, "begun", threading.Event())
    monkeypatch.setattr(Endless, "go", threading.Event())
    executor = Executor(backend, max_workers=2)
    thread = executor._lifetime.backend._thread
    try:
        waiting = executor.submit(zoo.wait_for, str(tmp_path / "go"))
        while not waiting.running():  # pytest has a limit of time
            time.sleep(0.005)
        endless = executor.submit(Endless)
        assert Endless.begun.wait(SECONDS)
        behind = executor.submit(zoo.echo, 1)
        told = queue.SimpleQueue()
        for future in (waiting, endless, behind):
            future.add_done_callback(told.put)
        executor.kill_workers()
        assert {told.get(timeout=SECONDS) for _ in range(3)} == {waiting, endless, behind}
        fate = repr(endless)
        assert isinstance(waiting.exception(), TaskLostError)
        assert behind.cancelled()
    finally:
        Endless.go.set()
        assert thread.join(SECONDS)
    assert repr(endless) == fate  # what comes after all changes nothing


def test_callbacks_that_exit_cost_nothing(executor, tmp_path):
    futures = [executor.submit(zoo.wait_for, str(tmp_path / "go"), number) for number in range(6)]
    for future in futures:
        future.add_done_callback(lambda _: sys.exit("from a callback"))
    (tmp_path / "go").touch()
    assert [future.result(SECONDS) for future in futures] == list(range(6))
    assert executor.submit(zoo.echo, 1).result(SECONDS) == 1


def test_an_engine_whose_answer_makes_no_sense_costs_that_call(monkeypatch):
    def does_not_know(self, call, error):
        raise KeyError("an error that it does not know")

    monkeypatch.setattr(LocalEngine, "_diagnose", does_not_know)
    fates = {"bad": EngineError()}
    extra = {"fate": lambda call: fates.get(call.future.name)}
    with Executor(LocalEngine(BackendSettings(ClientConfig(), max_workers=1, extra=extra))) as executor:
        bad = executor.with_options(name="bad").submit(zoo.echo)
        other = executor.submit(zoo.echo, 1)
        assert "could not be taken: KeyError" in str(bad.exception(SECONDS))
        assert other.result(SECONDS) == 1
