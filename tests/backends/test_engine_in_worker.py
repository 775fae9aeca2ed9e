"""What runs in an engine's worker: outcomes, output, and stopping from within."""

from __future__ import annotations

import os
import signal
import sys
import threading

import numpy
import pytest
import zoo
from support.local_engine import LocalEngine

from jobrunner import Executor
from jobrunner.backends.base import BackendSettings
from jobrunner.backends.engine import in_worker as engine_worker
from jobrunner.backends.engine.in_worker import (
    PROTOCOL,
    EngineFunctions,
    Head,
    fields_of,
    run,
    unwrapped,
    wrapped,
)
from jobrunner.backends.engine.printed import LIMIT, Capture
from jobrunner.backends.engine.stops import Stops
from jobrunner.calls import serialization
from jobrunner.config import ClientConfig
from jobrunner.fixed import FixingInput, dump_elements, load_element_results
from jobrunner.fixed.elements import Input
from jobrunner.protocol.wire.messages import ERROR, LOST, OK, STDERR, STDOUT


def head(fn, **changes):
    function = fields_of(serialization.dump_function(fn), apart=False)
    plain = Head(
        PROTOCOL,
        "support.local_engine",
        "local",
        function,
        None,
        "c-1-x",
        "f",
        1,
        None,
        0,
        None,
        None,
        False,
        False,
    )
    return tuple(plain._replace(**changes))


def arguments(*args):
    return wrapped(serialization.dump_call(args, {}, snapshot=True))


def test_a_result_and_where_it_came_from():
    status, duration, output, detail, parts = run(head(zoo.add), arguments(1, 2), [])
    assert (status, output, detail["worker"], detail["pid"]) == (OK, [], "here", os.getpid())
    assert duration >= 0
    assert serialization.load_result(unwrapped(parts)) == 3


def test_an_exception_and_whether_it_may_be_tried_again():
    for retry_on, final in ((None, False), (ZeroDivisionError, False), (OSError, True)):
        classes = None if retry_on is None else serialization.dump_classes((retry_on,))
        status, _, _, detail, parts = run(head(zoo.divide, retry_on=classes), arguments(1, 0), [])
        assert (status, "final" in detail) == (ERROR, final)
        assert isinstance(serialization.load_exception(unwrapped(parts)), ZeroDivisionError)


def chunk_of(*columns):
    elements, _ = FixingInput(Input(columns)).take(len(columns[0]))
    return wrapped(dump_elements(elements, snapshot=True))


def values(parts):
    return load_element_results(unwrapped(parts)).values


def test_a_chunk_that_takes_long_gives_back_its_rest(monkeypatch):
    monkeypatch.setattr(engine_worker, "ENGINE_GIVE_BACK_AFTER", 0.0)
    arguments = chunk_of(range(6))
    status, _, _, _, parts = run(head(zoo.echo, elements=(2, 6)), arguments, [])
    assert (status, values(parts)) == (OK, [2])
    monkeypatch.setattr(engine_worker, "ENGINE_GIVE_BACK_BYTES", 10)
    _, _, _, _, parts = run(head(zoo.echo, elements=(2, 6)), arguments, [])
    assert values(parts) == [2, 3, 4, 5], "its arguments are too large to travel again and again"


def test_a_chunk_with_buffers_beside_it_is_run_to_its_end(monkeypatch):
    monkeypatch.setattr(engine_worker, "ENGINE_GIVE_BACK_AFTER", 0.0)
    arguments = chunk_of([numpy.zeros(100_000), numpy.ones(100_000)])
    assert len(arguments) > 1
    status, _, _, _, parts = run(head(len, elements=(0, 2)), arguments, [])
    assert (status, values(parts)) == (OK, [100_000, 100_000])


def test_a_map_of_chunks_that_take_long_is_whole(monkeypatch):
    monkeypatch.setattr(engine_worker, "ENGINE_GIVE_BACK_AFTER", 0.0)
    with Executor(LocalEngine(BackendSettings(ClientConfig()))) as executor:
        assert list(executor.map(zoo.add, range(50), range(50), chunksize=20)) == list(range(0, 100, 2))


def test_another_version_is_told():
    status, _, _, detail, _ = run(head(zoo.add, protocol=PROTOCOL + 1), arguments(1), [])
    assert (status, detail["unable"]) == (LOST, True)
    assert "another version of jobrunner" in detail["error"]


def test_each_thread_s_output_is_its_own(capfd):
    captures = [Capture(True), Capture(True)]
    both = threading.Barrier(2, timeout=30)

    def speak(number):
        with captures[number]:
            both.wait()
            print("line", number)
            print("error", number, file=sys.stderr)
            both.wait()
        print("not kept\n", end="")  # in one piece, whoever else prints

    before = sys.stdout, sys.stderr
    try:
        threads = [threading.Thread(target=speak, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.stdout, sys.stderr = before
    for number, capture in enumerate(captures):
        assert capture.texts() == [(STDOUT, f"line {number}\n"), (STDERR, f"error {number}\n")]
    assert capfd.readouterr().out == "not kept\nnot kept\n"


def test_output_is_kept_up_to_a_limit():
    capture = Capture(True)
    capture.add(STDOUT, "x" * (LIMIT + 5))
    capture.add(STDOUT, "y" * 3)
    texts = capture.texts()
    assert len(texts[0][1]) == LIMIT
    assert "8 more characters" in texts[1][1]


def test_a_time_limit_interrupts():
    stops = Stops(0.01)
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(KeyboardInterrupt), stops:
        zoo.wait_for("/never")
    assert (stops.timed_out, stops.asked) == (True, True)
    assert signal.getsignal(signal.SIGALRM) is before


def test_an_interrupt_is_noted():
    stops = Stops()

    def interrupted():
        with stops:
            os.kill(os.getpid(), signal.SIGINT)
            zoo.wait_for("/never")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (stops.timed_out, stops.asked) == (False, True)


def test_another_thread_than_the_main_one_is_left_alone():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work():
        with Stops(0.01):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_unpickled_functions_are_kept_up_to_a_number_and_a_size():
    functions = EngineFunctions(max_functions=2, max_bytes=10_000)

    def fields(size):
        return fields_of(serialization.dump_function(lambda value=bytes(size): len(value)), apart=False)

    small, other, third, large = fields(1), fields(2), fields(3), fields(20_000)
    first = functions.get(small)
    assert functions.get(small) is first
    functions.get(other)
    assert functions.get(small) is first
    functions.get(third)
    assert functions.get(small) is first, "the longest unused one has gone"
    assert functions.get(large)() == 20_000
    assert functions.get(large) is functions.get(large)
    assert functions.get(small) is not first
