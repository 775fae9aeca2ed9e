"""What a task may do to its slot, and what the slot makes of it."""

from __future__ import annotations

import os
import signal
import sys

import pytest
import zoo

from jobrunner.calls import serialization
from jobrunner.errors import InitializerError, SerializationError
from jobrunner.protocol.effects import SlotExited, SlotPrinted

# --- outcomes ---------------------------------------------------------------------------------------------


def test_a_slot_starts_without_heavy_modules(owner, slot):
    loaded = set(owner.call(slot, zoo.modules))
    heavy = {"zmq", "asyncio", "typer", "logging", "concurrent.futures", "cloudpickle", "numpy", "rich"}
    assert not loaded & heavy


def test_exceptions_arrive_as_raised_with_the_tasks_frames(owner, slot):
    with pytest.raises(ZeroDivisionError) as caught:
        owner.call(slot, zoo.divide, 1, 0)
    text = str(caught.value.__cause__)
    assert "in divide" in text
    assert "task_runner.py" not in text


@pytest.mark.parametrize(
    ("fn", "args", "kind", "text"),
    [
        (zoo.raise_two_arguments, (), SerializationError, "TwoArgumentsError: 7: seven"),
        (zoo.raise_unpicklable, (), SerializationError, "UnpicklableError: holds a lock"),
        (zoo.make_lock, (), SerializationError, "result of .*make_lock, of type _thread.lock"),
        (zoo.make, ("FailsOnPickle",), SerializationError, "will not be pickled"),
        (zoo.make, ("ExitsOnPickle",), SystemExit, "in the middle"),
        (zoo.echo, (zoo.FailsOnUnpickle(),), SerializationError, "will not be unpickled"),
        (zoo.exit_with, (4,), SystemExit, "4"),
        (zoo.raise_keyboard_interrupt, (), KeyboardInterrupt, "from the task"),
        (zoo.echo, (1, 2, 3), TypeError, "positional argument"),
    ],
)
def test_the_slot_survives(owner, slot, fn, args, kind, text):
    with pytest.raises(kind, match=text):
        owner.call(slot, fn, *args)
    assert owner.call(slot, zoo.add, 1, 1) == 2
    assert not owner.of(SlotExited)


def test_an_exception_without_text_arrives(owner, slot):
    with pytest.raises(zoo.StrFailsError):
        owner.call(slot, zoo.raise_str_fails)


def test_by_value_functions_and_their_own_exceptions(owner, slot):
    class OwnError(Exception):
        pass

    def fail():
        raise OwnError("mine")

    with pytest.raises(OwnError, match="mine"):
        owner.call(slot, fail)


def test_a_function_that_cannot_be_loaded_costs_only_its_task(owner, slot):
    def fn():
        return 1

    dumped = serialization.dump_function(fn)
    foreign = dumped._replace(key=b"k" * 16, blob=dumped.blob[:1] + bytes((2, 7)) + dumped.blob[3:])
    task, _ = owner.task(zoo.nothing)
    owner.pool.run(slot, [task._replace(function=foreign.key)], [foreign], [])
    with pytest.raises(SerializationError, match=r"2\.7"):
        owner.value(task.number)
    assert owner.call(slot, zoo.add, 1, 1) == 2


# --- chunks -----------------------------------------------------------------------------------------------


def test_a_chunk_runs_its_span_and_catches_per_element(owner, slot):
    results = owner.value(owner.chunk(slot, zoo.fail_below, [(i, 5) for i in range(10)], 3, 8))
    assert results.values == [None, None, 5, 6, 7]
    assert sorted(results.failures) == [0, 1]
    assert str(results.failures[0]) == "3 is below 5"
    assert "in fail_below" in str(results.failures[0].__cause__)


def test_an_element_that_exits_or_cannot_be_pickled_costs_only_itself(owner, slot):
    results = owner.value(owner.chunk(slot, zoo.make_lock_if, [(1, 2), (2, 2), (3, 2)]))
    assert list(results.failures) == [1]
    assert isinstance(results.failures[1], SerializationError)
    results = owner.value(owner.chunk(slot, zoo.exit_with, [(1,), (2,)]))
    assert [type(failure) for failure in results.failures.values()] == [SystemExit, SystemExit]


# --- initializers -----------------------------------------------------------------------------------------


def test_an_initializer_runs_once_per_slot(owner):
    initializer = serialization.dump_initializer(zoo.initialize, ("ready",))
    other = serialization.dump_initializer(zoo.initialize, ("other",))
    for slot in (1, 2):
        owner.ready(slot)
        assert owner.call(slot, zoo.initialized, initializer=initializer) == ["ready"]
        assert owner.call(slot, zoo.initialized, initializer=initializer) == ["ready"]
        assert owner.call(slot, zoo.initialized) == ["ready"]
    assert owner.call(1, zoo.initialized, initializer=other) == ["ready", "other"]


def test_a_failed_initializer_fails_each_task_that_names_it(owner, slot):
    initializer = serialization.dump_initializer(zoo.fail_to_initialize, ("no licence",))
    for _ in range(2):
        with pytest.raises(
            InitializerError, match=r"fail_to_initialize failed.*OSError: no licence"
        ) as caught:
            owner.call(slot, zoo.nothing, initializer=initializer)
        assert "in fail_to_initialize" in str(caught.value.__cause__)
    assert owner.call(slot, zoo.add, 1, 1) == 2


# --- output -----------------------------------------------------------------------------------------------


def test_prints_carry_their_task_and_arrive_whole(owner, slot):
    one, two, three = owner.batch(
        slot, (zoo.print_lines, "a", "ü€"), (zoo.print_error, "oops"), (zoo.print_lines, "c")
    )
    owner.value(three)
    assert owner.text(one) == "a\nü€\n"
    assert owner.text(two, 2) == "oops\n"
    assert owner.text(three) == "c\n"


def test_a_line_of_a_running_task_arrives_before_its_end(owner, slot, tmp_path):
    go = str(tmp_path / "go")
    number = owner.run(slot, zoo.print_then_wait, "soon", go)
    owner.until(lambda: owner.text(number) == "soon\n")
    assert number not in owner.outcomes
    zoo.append_line(go, "")
    owner.value(number)


def test_a_finished_task_is_reported_while_the_next_one_runs_on(owner, slot, tmp_path):
    go = str(tmp_path / "go")
    *early, running = owner.batch(slot, *[(zoo.nothing,)] * 5, (zoo.wait_for, go))
    owner.until(lambda: all(number in owner.outcomes for number in early))
    assert running not in owner.outcomes
    zoo.append_line(go, "")
    owner.value(running)


def test_lines_are_not_torn_and_flush_lets_go_of_a_part(owner, slot, tmp_path):
    go = str(tmp_path / "go")

    def progress():
        print("50", end="")
        print(" %", end="", flush=True)
        zoo.wait_for(go)
        print(", done", end="")

    number = owner.run(slot, progress)
    owner.until(lambda: owner.text(number) == "50 %")
    zoo.append_line(go, "")
    owner.value(number)
    assert owner.text(number) == "50 %, done"


def test_floods_arrive_complete(owner, slot):
    def flood():
        for i in range(20_000):
            print(i, "x" * 50)
        print("y" * 1_000_000)

    number = owner.run(slot, flood)
    owner.value(number)
    lines = owner.text(number).splitlines()
    assert len(lines) == 20_001
    assert lines[19_999] == "19999 " + "x" * 50
    assert lines[-1] == "y" * 1_000_000


@pytest.mark.parametrize("stream", [1, 2])
def test_what_is_written_to_the_descriptors_is_the_tasks(owner, slot, stream):
    number = owner.run(slot, zoo.write_descriptor, stream, "écrit\n".encode())
    owner.value(number)
    assert owner.until(lambda: owner.text(number, stream)) == "écrit\n"
    before = [type(event) for event in owner.events if isinstance(event, SlotPrinted)]
    assert before, "text comes with its number"


def test_streams_look_like_streams(owner, slot):
    def look():
        sys.stdout.buffer.write(b"raw\n")
        return (
            [stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)],
            [stream.fileno() for stream in (sys.stdin, sys.stdout, sys.stderr)],
            sys.stdin.read(),
            sys.stdout.encoding,
            sys.stdout.writable(),
        )

    assert owner.call(slot, look) == ([False] * 3, [0, 1, 2], "", "utf-8", True)


def test_a_destructor_that_prints_inside_a_print_does_no_harm(owner, slot):
    def print_from_destructors():
        import gc

        class Loud:
            def __del__(self):
                print("gone")

        gc.set_threshold(1)
        for i in range(500):
            loud = Loud()
            loud.me = loud
            print(i)
        del loud
        gc.collect()
        gc.set_threshold(700, 10, 10)

    number = owner.run(slot, print_from_destructors)
    owner.value(number)
    text = owner.text(number)
    assert (text.count("gone"), text.count("\n")) == (500, 1000)
    assert text.replace("gone", " ").split() == [str(i) for i in range(500)]


def test_last_words_that_come_in_the_middle_of_faulthandlers_are_kept(owner, slot, tmp_path):
    gate = str(tmp_path / "gate")

    def die_talking():
        import os
        import signal
        import sys
        import time

        os.write(2, b"Fatal Python error: made up\n\nCurrent thread 0x1 (most recent call first):\n  Fi")
        while not os.path.exists(gate):
            time.sleep(0.01)
        print("a last word", file=sys.stderr)
        os.write(2, b'le "x.py", line 1 in f\n\nExtension modules: none\n')
        os.kill(os.getpid(), signal.SIGKILL)

    number = owner.run(slot, die_talking)
    owner.until(lambda: "Fatal" in owner.text(number, 2))
    open(gate, "w").close()
    exited = owner.exited(slot)
    assert exited.stderr == "a last word\n"
    assert exited.traceback.endswith('  File "x.py", line 1 in f')


# --- tasks that meddle ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fn", "result"),
    [
        (zoo.close_streams, "closed"),
        (zoo.close_low_descriptors, "closed"),
        (zoo.replace_sigint, "replaced"),
        (zoo.fork_and_wait, 5),
        (zoo.fork_and_return_twice, "parent of 0"),
        (zoo.run_forked_pool, 42),
    ],
)
def test_a_task_that_meddles_does_not_wedge_the_slot(owner, slot, tmp_path, fn, result):
    assert owner.call(slot, fn) == result
    number = owner.run(slot, zoo.print_lines, "still here")
    owner.value(number)
    assert owner.text(number) == "still here\n"
    started = str(tmp_path / "started")
    number = owner.run(slot, zoo.announce_and_swallow_interrupts, started, str(tmp_path / "never"))
    owner.until(lambda: os.path.exists(started))
    owner.pool.interrupt(slot, number)
    assert owner.value(number) == "swallowed"
    assert not owner.of(SlotExited)


def test_what_a_forked_process_prints_arrives(owner, slot):
    number = owner.run(slot, zoo.fork_and_wait)
    owner.value(number)
    assert owner.until(lambda: owner.text(number)) == "printed by a forked process\n"


def test_what_a_forked_process_prints_to_the_streams_of_its_task_arrives_once(owner, slot):
    lines = 500
    number = owner.run(slot, zoo.fork_and_print_to_what_is_held, lines)
    assert owner.value(number) == 0
    expected = [f"{who} {line}\n" for who in ("child", "parent") for line in range(lines) for _ in range(2)]

    def text():  # what comes through a pipe may come after the task's end
        return "".join(text for one in owner.of(SlotPrinted) for _, _, text in one.printed)

    owner.until(lambda: text().count("\n") >= len(expected))
    assert owner.call(slot, zoo.echo, 1) == 1  # and what was printed twice would come before its outcome
    assert text().count("held back, ") == 1
    assert sorted(text().replace("held back, ", "").splitlines(keepends=True)) == sorted(expected)


def test_a_slot_has_a_session_of_its_own(owner, slot):
    pid, group, session = owner.call(slot, lambda: (os.getpid(), os.getpgrp(), os.getsid(0)))
    assert pid == group == session != os.getsid(0)


def test_signals_that_the_owner_blocks_are_not_blocked_in_slots(owner):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        owner.ready(1)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert owner.call(1, lambda: len(signal.pthread_sigmask(signal.SIG_BLOCK, []))) == 0
