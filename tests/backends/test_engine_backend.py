"""What is the same over every engine, with the smallest one."""

from __future__ import annotations

import pickle
import threading

import pytest
import zoo
from support.local_engine import EngineError, LocalEngine, StoppableEngine

from jobrunner import (
    CoordinatorLostError,
    Executor,
    JobRunnerError,
    NotSupportedError,
    TaskLostError,
    current_executor,
    current_task,
)
from jobrunner.backends.base import BackendSettings
from jobrunner.backends.engine.parts import PartsThere
from jobrunner.calls.serialization import PART_FROM, DumpedFunction
from jobrunner.config import ClientConfig
from jobrunner.errors import CrashLimitError, WorkerLostError
from jobrunner.futures import resolve
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.kinds import Chunk
from jobrunner.testing.waiting import until


@pytest.fixture
def make():
    """Opens executors; they are killed when the test ends."""
    opened = []

    def open_one(max_workers=2, **extra):
        backend = LocalEngine(BackendSettings(ClientConfig(), max_workers=max_workers, extra=extra))
        opened.append(Executor(backend))
        return opened[-1]

    yield open_one
    for one in opened:
        one._lifetime.kill()


def attempt():
    return current_task().attempt


def test_a_call_whose_process_dies_is_tried_again(make):
    executor = make(fate=lambda call: EngineError() if call.attempt < 3 else None)
    assert executor.submit(attempt).result() == 3


def test_the_crash_limit_ends_it_and_the_error_tells_the_history(make):
    executor = make(fate=lambda call: EngineError() if call.future.name == "bad" else None)
    failure = executor.with_options(name="bad").submit(attempt).exception()
    assert isinstance(failure, CrashLimitError)
    assert [line in str(failure) for line in ("1: it met", "2: it met", "3: it met")] == [True] * 3
    assert executor.submit(attempt).result() == 1


@pytest.mark.parametrize(("status", "kind"), [(m.CRASHED, TaskLostError), (m.LOST, WorkerLostError)])
def test_at_most_once(make, status, kind):
    executor = make(fate=lambda call: EngineError(status))
    failure = executor.with_options(at_most_once=True).submit(attempt).exception()
    assert type(failure) is kind
    assert len(executor._lifetime.backend.sent) == 1


def test_a_chunk_that_dies_is_split_until_the_guilty_element_is_alone(make):
    died = []

    def fate(call):
        if not isinstance(call.kind, Chunk) or not call.kind.start <= 5 < call.kind.stop:
            return None
        died.append(call.kind)
        return EngineError()

    results = make(fate=fate).map(abs, range(8), chunksize=8)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(CrashLimitError):
        next(results)
    assert died == [(0, 8), (4, 8), (4, 6), *[(5, 6)] * 3]  # only the last is tried again as it is


def test_what_the_engine_cannot_run_is_not_tried_again(make):
    executor = make(fate=lambda call: EngineError(m.LOST, unable=True))
    assert type(executor.submit(attempt).exception()) is JobRunnerError
    executor = make(fate=lambda call: EngineError(m.LOST, engine_lost=True))
    assert type(executor.submit(attempt).exception()) is CoordinatorLostError
    assert len(executor._lifetime.backend.sent) == 1


def test_the_engine_has_no_more_calls_than_it_runs(make):
    executor = make(max_workers=1)
    started, go = threading.Event(), threading.Event()

    class Gate:
        """Travels by value, and finds its way back: the engine is in this process."""

        def __reduce__(self):
            return opened_gate, ()

    gates.append((started, go))
    first = executor.submit(pass_gate, Gate())
    assert started.wait(30)
    names = ["low", "high", "dropped", "middle"]
    futures = [
        executor.with_options(name=name, priority=priority).submit(zoo.echo)
        for name, priority in zip(names, (-1, 5, 9, 0), strict=True)
    ]
    assert futures[2].cancel()
    with pytest.raises(NotSupportedError, match="is ever stopped"):
        first.cancel(running=True)
    go.set()
    executor.shutdown()
    assert executor._lifetime.backend.sent == ["pass_gate", "high", "middle", "low"]


gates = []


def opened_gate():
    return gates[-1]


def pass_gate(gate):
    started, go = gate
    started.set()
    assert go.wait(30)


@pytest.fixture
def stoppable(tmp_path):
    """An executor, and a call that runs on it until it is stopped."""
    executor = Executor(StoppableEngine(BackendSettings(ClientConfig(), max_workers=1)))
    future = executor.submit(zoo.wait_for, str(tmp_path / "go"))
    until(future.running)
    yield executor, future
    (tmp_path / "go").touch()
    executor._lifetime.kill()


def test_a_call_that_runs_is_stopped_and_its_callbacks_belong_to_who_cancels(stoppable):
    executor, future = stoppable
    called_in = []
    future.add_done_callback(lambda _: called_in.append(threading.current_thread()))
    assert not future.cancel()
    assert future.cancel(running=True)
    assert called_in == [threading.current_thread()]
    assert executor._lifetime.backend.stopped_hard == [False]
    assert not executor._lifetime.backend.unfinished_calls()


def test_a_callback_that_stops_a_call_does_not_wait_for_it(stoppable):
    executor, future = stoppable
    answers = []
    waiting = executor.submit(zoo.echo)
    waiting.add_done_callback(lambda _: answers.append(future.cancel(running=True)))
    backend = executor._lifetime.backend
    backend._events.post(lambda: resolve(waiting, "on the backend's thread"))
    until(future.cancelled)
    assert answers == [False]


def test_a_kill_stops_hard_what_runs(stoppable):
    executor, future = stoppable
    executor._lifetime.kill()
    assert future.cancelled()
    assert executor._lifetime.backend.stopped_hard == [True]


def test_output_goes_to_the_client(make, capfd):
    with make() as executor:
        executor.submit(zoo.print_lines, "out of the engine").result()
    assert "out of the engine\n" in capfd.readouterr().out


def test_an_engine_that_refuses_a_call_costs_that_call(make):
    executor = make(fate=lambda call: EngineError(m.LOST, unable=True) if call.future.name == "bad" else None)
    bad, good = executor.with_options(name="bad").submit(zoo.echo), executor.submit(zoo.echo, 1)
    assert good.result() == 1
    assert bad.exception()


def test_a_context_from_which_no_calls_can_be_made_says_so(make):
    with pytest.raises(NotSupportedError, match="cannot submit calls"):
        make().submit(current_executor).result()


def test_detached_calls_and_ids_are_refused(make):
    executor = make()
    with pytest.raises(NotSupportedError, match="outlives this program"):
        executor.with_options(detach=True).submit(zoo.echo)
    with pytest.raises(NotSupportedError, match="by their id"):
        executor.future("x-1")


# --- what functions hold ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("apart", [False, True])
def test_the_parts_of_a_function_go_with_a_call_or_apart_from_it(make, apart):
    executor = make(apart=apart)
    array = bytearray(b"x" * PART_FROM)

    def look():
        return len(array), array[:1]

    class Held:
        def __reduce_ex__(self, protocol):
            return bytes, (pickle.PickleBuffer(array),)

    held = Held()
    assert executor.submit(look).result() == (PART_FROM, b"x")
    assert executor.submit(lambda: held).result() == array
    assert list(executor.map(lambda number: (number, held), [1, 2])) == [(1, array), (2, array)]


def part(number, size=10):
    return DumpedFunction(b"%d" % number, "a part", (bytes(size),), "")


def test_an_engine_is_given_each_part_once_and_keeps_the_recent_ones():
    given = []

    def give(payload):
        given.append(payload)
        return f"number {len(given)}", True

    there = PartsThere(give, most_bytes=25)
    first, second, third = part(1), part(2), part(3, 20)
    assert there.arguments([first, second]) == ["number 1", "number 2"]
    assert there.arguments([second, first]) == ["number 2", "number 1"]
    assert there.arguments([third]) == ["number 3"]
    assert there.arguments([third, second]) == ["number 3", "number 4"]
    assert there.arguments([third, second]) == ["number 3", "number 4"], (
        "what one call needs is kept whatever its size"
    )
    there.clear()
    assert there.arguments([third]) == ["number 5"]


def test_what_an_engine_does_not_keep_is_given_with_each_call():
    there = PartsThere(lambda payload: (payload, False))
    assert there.arguments([part(1)]) == there.arguments([part(1)]) == [(bytes(10),)]
