"""Ctrl-C at any line of a map, caught by the program, as in a notebook: the executor can still be shut down."""

from __future__ import annotations

import threading
from concurrent.futures import wait

import pytest
import zoo
from steps import Steps

from jobrunner import Executor, exiting, lifetime, mapping
from jobrunner.backends import call_batch, core_backend, threads
from jobrunner.transport import driver

MODULES = [mapping, lifetime, core_backend, call_batch, driver, threads]
SECONDS = 20


def buffered(executor):
    return list(executor.map(zoo.echo, range(40), buffersize=12))


def whole(executor):
    return list(executor.map(zoo.echo, range(40)))


def closed(executor):
    results = executor.map(zoo.echo, range(40), buffersize=12)
    next(results)
    results.close()


def calls(executor):
    return [future.result() for future in [executor.submit(zoo.echo, number) for number in range(20)]]


def interrupt_at(kind, use, step):
    """Where the interrupt came; empty: there are fewer lines."""
    executor = Executor(kind, max_workers=1)
    steps = Steps(MODULES, step, error=KeyboardInterrupt)
    try:
        with steps.here():
            use(executor)
    except KeyboardInterrupt:
        pass
    after = executor.submit(zoo.echo, "after it")
    assert wait([after], SECONDS).done, f"a call waits: {steps.place}"
    ending = threading.Thread(target=executor.shutdown, daemon=True)
    ending.start()
    ending.join(SECONDS)
    if ending.is_alive():
        exiting._registered.clear()  # else the interpreter would wait at its exit, too
        pytest.fail(f"shutdown waits: {steps.place}")
    assert after.result() == "after it"
    return steps.place


@pytest.mark.parametrize("use", [buffered, whole, closed, calls])
@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_an_interrupt_that_is_caught_leaves_an_executor_that_can_be_shut_down(kind, use):
    """At some lines; `heavy` has them all."""
    places = [interrupt_at(kind, use, step) for step in range(3, 500, 71 if kind == "processes" else 29)]
    assert any(places)


@pytest.mark.heavy
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("use", [buffered, whole, closed, calls])
@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_so_does_an_interrupt_at_any_line(kind, use):
    step, beyond = 0, 0
    while beyond < 5 and step < 1500:  # how many there are differs from run to run
        step += 1
        beyond = 0 if interrupt_at(kind, use, step) else beyond + 1
    assert step > 50
