"""Ctrl-C at any line of a map, caught by the program, as in a notebook: the executor can still be shut down."""

from __future__ import annotations

import threading
import time
from concurrent.futures import wait

import pytest
import zoo
from support.steps import Steps

from jobrunner import Executor
from jobrunner.backends import (
    bundle_builder,
    client_thread,
    core_backend,
    lifetime,
    outgoing_calls,
    pending_calls,
    submission,
    thread_calls,
    thread_runners,
    threads,
)
from jobrunner.mapping import chunk_queue, chunk_runner, packing, progress
from jobrunner.mapping import run as mapping
from jobrunner.system import atexit_hooks as exiting
from jobrunner.system import conditions
from jobrunner.transport import driver

MAPPING = [mapping, packing, progress, chunk_queue, chunk_runner]
THREADS = [threads, thread_calls, thread_runners]
CLIENT = [core_backend, submission, outgoing_calls, client_thread, pending_calls, bundle_builder, driver]
MODULES = [*MAPPING, lifetime, *CLIENT, *THREADS]
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


def dependent(executor):
    first = executor.submit(zoo.echo, 1)
    return executor.submit(zoo.echo, executor.submit(zoo.echo, first)).result()


def interrupt_at(executor, use, step, modules=MODULES, edges=False):
    """Where the interrupt came; empty: there are fewer steps."""
    steps = Steps(modules, step, error=KeyboardInterrupt, edges=edges)
    try:
        with steps.here():
            use(executor)
    except KeyboardInterrupt:
        pass
    after = executor.submit(zoo.echo, "after it")
    assert wait([after], SECONDS).done, f"a call waits: {steps.place}"
    assert after.result() == "after it"
    return steps.place


def wait_until_idle(executor, place):
    """Until `shutdown` would wait for nothing."""
    deadline = time.monotonic() + SECONDS
    while executor._lifetime._busy or executor._lifetime.backend.unfinished:
        if time.monotonic() > deadline:
            exiting._registered.clear()  # else the interpreter would wait at its exit, too
            pytest.fail(f"shutdown would wait: {place}")
        time.sleep(0.001)


def interrupt_all(kind, use, steps, **where):
    """The places, for as long as there are so many steps. One executor bears them all."""
    executor = Executor(kind, max_workers=1)
    executor.submit(zoo.echo, "begun").result()
    places = []
    for step in steps:
        places.append(interrupt_at(executor, use, step, **where))
        wait_until_idle(executor, places[-1])
        if not any(places[-5:]):
            break
    ending = threading.Thread(target=executor.shutdown, daemon=True)
    ending.start()
    ending.join(SECONDS)
    assert not ending.is_alive()
    return [place for place in places if place]


@pytest.mark.parametrize("use", [buffered, whole, closed, calls, dependent])
@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_an_interrupt_that_is_caught_leaves_an_executor_that_can_be_shut_down(kind, use):
    """At some lines; `heavy` has them all."""
    assert interrupt_all(kind, use, range(3, 2000, 41))


@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_a_call_that_waits_for_another_is_interrupted_at_any_line(kind):
    assert len(interrupt_all(kind, dependent, range(1, 2000))) > 20


@pytest.mark.parametrize("use", [buffered, whole, closed, calls, dependent])
@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_an_interrupt_in_the_middle_of_a_lock_leaves_nobody_waiting(kind, use):
    """Where the standard library's conditions are entered and left."""
    places = interrupt_all(kind, use, range(1, 400), modules=[threading, conditions], edges=True)
    assert len(places) > 5


@pytest.mark.heavy
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("use", [buffered, whole, closed, calls])
@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_so_does_an_interrupt_at_any_line(kind, use):
    assert len(interrupt_all(kind, use, range(1, 5000))) > 50


def test_a_shutdown_that_is_interrupted_at_any_line_may_be_asked_for_again():
    step, beyond = 0, 0
    while beyond < 3:
        step += 1
        gate = threading.Event()
        executor = Executor("threads", max_workers=1)
        futures = [executor.submit(gate.wait, SECONDS), *(executor.submit(zoo.echo, n) for n in range(3))]
        futures.append(executor.submit(zoo.echo, futures[-1]))
        steps = Steps(THREADS, step, error=KeyboardInterrupt, threads="MainThread")
        try:
            with steps.here():
                executor.shutdown(wait=False, cancel_futures=True)
        except KeyboardInterrupt:
            executor.shutdown(wait=False, cancel_futures=True)
        gate.set()
        assert not wait(futures, SECONDS).not_done, steps.place
        executor.shutdown()
        beyond = 0 if steps.place else beyond + 1
    assert step > 10
