"""What the worker's side sees: batches, deaths, recalls, interrupts, and the end."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from multiprocessing import spawn
from pathlib import Path

import numpy as np
import psutil
import pytest
import zoo

from jobrunner.errors import ProtocolError
from jobrunner.protocol.effects import SlotBlocked, SlotFinished, SlotNotStarted, SlotPrinted, SlotReturned
from jobrunner.testing.waiting import until
from jobrunner.workers import slot_process

TESTS = Path(__file__).parents[1]


def gone(pid):
    """Whether the process has ended (a zombie that nobody has reaped yet counts)."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def numbers_in(path):
    return [int(line) for line in Path(path).read_text().split()]


# --- running ----------------------------------------------------------------------------------------------


def test_a_batch_runs_in_order(owner, slot):
    numbers = owner.batch(slot, *[(zoo.add, i, 1) for i in range(200)])
    assert [owner.value(number) for number in numbers] == list(range(1, 201))
    finished = [o.number for event in owner.of(SlotFinished) for o in event.outcomes]
    assert finished == numbers
    assert len(owner.of(SlotFinished)) < 100, "outcomes of short tasks travel together"
    assert all(0 <= owner.outcomes[number].duration < 5 for number in numbers)


def test_functions_are_sent_once_and_may_be_forgotten(owner, slot):
    task, functions = owner.task(zoo.add, 1, 2)
    owner.pool.run(slot, [task], functions, [])
    again, _ = owner.task(zoo.add, 3, 4)
    owner.pool.run(slot, [again], [], [])
    assert (owner.value(task.number), owner.value(again.number)) == (3, 7)
    late, _ = owner.task(zoo.add, 5, 6)
    owner.pool.run(slot, [late], [], [functions[0].key])
    with pytest.raises(ProtocolError, match="was not sent"):
        owner.value(late.number)
    assert owner.call(slot, zoo.add, 1, 1) == 2


def test_slots_run_at_the_same_time(owner, tmp_path):
    for slot in (1, 2):
        owner.ready(slot)
    first = owner.run(1, zoo.wait_for, str(tmp_path / "go"), "first")
    owner.call(2, zoo.append_line, str(tmp_path / "go"), "")
    assert owner.value(first) == "first"


def test_arrays_are_writable_in_the_task_and_at_home(owner, slot):
    def fill(array):
        array[0] = 7
        return array

    array = np.zeros(100_000)
    result = owner.call(slot, fill, array)
    assert (result[0], array[0]) == (7, 0)
    result[1] = 8


def test_large_payloads_both_ways_at_once(owner, slot):
    size = 64 * 1024 * 1024
    numbers = [owner.run(slot, zoo.echo, np.full(size, i, np.uint8)) for i in range(3)]
    for i, number in enumerate(numbers):
        value = owner.value(number)
        assert (value.nbytes, value[0], value[-1]) == (size, i, i)


def test_the_environment_of_slots(owner, slot, make_owner):
    assert owner.call(slot, zoo.environment, "OMP_NUM_THREADS") == os.environ.get("OMP_NUM_THREADS", "1")
    other = make_owner(environment={"OMP_NUM_THREADS": "3", "ANIMAL": "okapi"})
    other.ready(1)
    assert other.call(1, zoo.environment, "OMP_NUM_THREADS") == "3"
    assert other.call(1, zoo.environment, "ANIMAL") == "okapi"


# --- deaths -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fn", "exit_code", "name"),
    [
        (zoo.exit_hard, 3, None),
        (zoo.kill_self, None, "SIGKILL"),
        (zoo.segfault, None, "SIGSEGV"),
    ],
)
def test_a_death_names_the_guilty_task(owner, slot, fn, exit_code, name):
    before, guilty, after = owner.batch(slot, (zoo.add, 1, 1), (fn,), (zoo.nothing,))
    exited = owner.exited(slot)
    assert (exited.exit_code, exited.signal) == (exit_code, name)
    assert (exited.number, exited.element) == (guilty, -1)
    assert owner.value(before) == 2, "what had finished is not lost"
    assert after not in owner.outcomes
    assert exited.peak_memory > 1_000_000
    if name == "SIGSEGV":
        assert "Segmentation fault" in exited.traceback
        assert "in segfault" in exited.traceback
    assert gone(exited.pid)


def test_outcomes_and_prints_just_before_a_death_are_not_lost(owner, slot):
    calls = [(zoo.print_lines, f"line {i}") for i in range(50)]
    *numbers, last = owner.batch(slot, *calls, (zoo.print_and_exit_hard, "last words"))
    exited = owner.exited(slot)
    assert exited.number == last
    assert sorted(owner.outcomes) == numbers
    assert owner.text(numbers[-1]) == "line 49\n"
    assert owner.text(last) == "last words\n"
    assert owner.events[-1] is exited


def test_a_death_inside_a_chunk_names_the_element(owner, slot):
    number = owner.chunk(slot, zoo.exit_hard_if, [(i, 6) for i in range(10)], 4, 9)
    exited = owner.exited(slot)
    assert (exited.number, exited.element) == (number, 6)


@pytest.mark.parametrize("name", ["KillsOnUnpickle", "KillsOnPickle"])
def test_deaths_while_unpickling_and_pickling_count_for_the_task(owner, slot, name):
    if name == "KillsOnUnpickle":
        number = owner.run(slot, zoo.echo, zoo.KillsOnUnpickle())
    else:
        number = owner.run(slot, zoo.make, name)
    exited = owner.exited(slot)
    assert (exited.number, exited.exit_code) == (number, 9)


def test_stderr_holds_the_last_words_of_the_guilty_task_only(owner, slot):
    def complain():
        for i in range(100):
            print(f"complaint {i}", file=sys.stderr)
        os._exit(1)

    owner.batch(slot, (zoo.print_error, "earlier"), (complain,))
    lines = owner.exited(slot).stderr.splitlines()
    assert lines == [f"complaint {i}" for i in range(80, 100)]


def test_an_idle_slot_that_dies_ran_nothing(owner):
    pid = owner.ready(1)
    owner.call(1, zoo.nothing)
    os.kill(pid, signal.SIGKILL)
    exited = owner.exited(1)
    assert (exited.number, exited.element, exited.signal) == (0, -1, "SIGKILL")


def test_a_slot_number_can_be_used_again_and_others_go_on(owner):
    owner.ready(1)
    owner.ready(2)
    owner.run(1, zoo.exit_hard)
    owner.exited(1)
    assert owner.call(2, zoo.add, 1, 1) == 2
    owner.events.clear()
    owner.ready(1)
    assert owner.call(1, zoo.add, 2, 2) == 4


def test_memory_peaks_are_reported_in_bytes(owner, slot):
    owner.call(slot, zoo.touch_memory, 200_000_000)
    owner.run(slot, zoo.exit_hard, 0)
    exited = owner.exited(slot)
    assert exited.exit_code == 0
    # Linux counts what the starting process had before it became another program, too: this one, with all its tests.
    assert 200_000_000 < exited.peak_memory < 100_000_000_000


def test_a_process_that_cannot_be_started_is_an_exit(make_owner, monkeypatch):
    monkeypatch.setattr(spawn, "_python_exe", "/nonexistent/python")  # as set_executable does
    owner = make_owner()
    owner.pool.spawn(1)
    assert select.select([owner.pool], [], [], 5)[0], "the owner is woken"
    exited = owner.exited(1)
    assert exited.exit_code == 127
    assert "/nonexistent/python" in exited.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has pidfds")
def test_a_process_that_cannot_be_watched_is_not_left_behind(owner, monkeypatch):
    watched = []

    def fail(pid):
        watched.append(pid)
        raise OSError(24, "Too many open files")

    before = len(os.listdir("/dev/fd"))
    monkeypatch.setattr(slot_process.os, "pidfd_open", fail)
    owner.pool.spawn(1)
    assert "Too many open files" in owner.until(lambda: owner.of(SlotNotStarted))[0].error
    assert gone(watched[0])
    assert len(os.listdir("/dev/fd")) == before


def test_a_slot_that_cannot_start_its_main_says_why(owner, monkeypatch):
    monkeypatch.setattr(slot_process, "BOOT", "raise SystemExit('no main today')")
    owner.pool.spawn(1)
    exited = owner.exited(1)
    assert (exited.exit_code, exited.number) == (1, 0)
    assert "no main today" in exited.stderr


def test_a_slot_that_talks_nonsense_is_killed(owner, slot):
    def babble():
        import gc
        import socket

        for sock in gc.get_objects():
            if isinstance(sock, socket.socket) and sock.fileno() >= 0:
                sock.send(b"\xff" * 1000)
        while True:
            pass

    number = owner.run(slot, babble)
    exited = owner.exited(slot)
    assert (exited.signal, exited.number) == ("SIGKILL", number)


def test_commands_to_unknown_slots_do_nothing(owner):
    owner.run(9, zoo.nothing)
    owner.pool.recall(9)
    owner.pool.interrupt(9, 1)
    owner.pool.signal(9, "SIGTERM")
    assert owner.pool.poll() == []


# --- recall -----------------------------------------------------------------------------------------------


def test_a_recall_returns_what_has_not_started(owner, slot, tmp_path):
    started, go = str(tmp_path / "started"), str(tmp_path / "go")
    calls = [(zoo.add, 1, 1), (zoo.announce_and_wait, started, go), (zoo.nothing,), (zoo.nothing,)]
    first, running, *waiting = owner.batch(slot, *calls)
    more = owner.run(slot, zoo.nothing)  # not read yet by the slot, whose main thread is busy
    owner.until(lambda: os.path.exists(started))
    owner.pool.recall(slot)
    returned = owner.until(lambda: owner.of(SlotReturned))[0]
    assert returned.numbers == [*waiting, more]
    assert owner.value(first) == 2, "finished outcomes are flushed"
    after = owner.run(slot, zoo.add, 2, 2)
    zoo.append_line(go, "")
    assert owner.value(running) is None
    assert owner.value(after) == 4
    assert set(owner.outcomes) == {first, running, after}


def test_a_recall_takes_large_tasks_back_that_are_still_on_the_way(owner, slot, tmp_path):
    started, go = str(tmp_path / "started"), str(tmp_path / "go")
    running = owner.run(slot, zoo.announce_and_wait, started, go)
    owner.until(lambda: os.path.exists(started))
    large = owner.run(slot, zoo.echo, bytes(20_000_000))
    owner.pool.recall(slot)
    assert owner.until(lambda: owner.of(SlotReturned))[0].numbers == [large]
    zoo.append_line(go, "")
    owner.value(running)


def test_a_recall_of_an_idle_slot_returns_nothing(owner, slot):
    owner.call(slot, zoo.nothing)
    owner.pool.recall(slot)
    assert owner.until(lambda: owner.of(SlotReturned))[0].numbers == []
    assert owner.call(slot, zoo.add, 1, 1) == 2


def test_many_recalls_among_many_tasks_lose_and_double_nothing(owner, slot):
    given = []
    for _ in range(100):
        given += owner.batch(slot, *[(zoo.nothing,)] * 7)
        owner.pool.recall(slot)
        owner.poll()

    def accounted():
        back = [number for event in owner.of(SlotReturned) for number in event.numbers]
        return len(owner.of(SlotReturned)) == 100 and len(back) + len(owner.outcomes) == len(given)

    owner.until(accounted)
    back = [number for event in owner.of(SlotReturned) for number in event.numbers]
    assert sorted([*back, *owner.outcomes]) == given


# --- interrupt and signal ---------------------------------------------------------------------------------


def test_an_interrupt_reaches_the_running_task_only(owner, slot, tmp_path):
    started = str(tmp_path / "started")
    running, after = owner.batch(
        slot, (zoo.announce_and_wait, started, str(tmp_path / "never")), (zoo.add, 1, 1)
    )
    owner.until(lambda: os.path.exists(started))
    owner.pool.interrupt(slot, after)  # not the one that runs
    owner.pool.interrupt(slot, running + 100)
    owner.pool.interrupt(slot, running)
    with pytest.raises(KeyboardInterrupt):
        owner.value(running)
    assert owner.value(after) == 2


def test_late_interrupts_hit_nobody(owner, slot):
    assert owner.call(slot, zoo.add, 2, 2) == 4, (
        "so that nothing is imported any more, which would spoil the slot"
    )
    interrupted = 0
    for _ in range(300):
        number = owner.run(slot, zoo.add, 1, 1)
        owner.pool.interrupt(slot, number)
        try:
            assert owner.value(number) == 2
        except KeyboardInterrupt:
            interrupted += 1
        assert owner.call(slot, zoo.add, 2, 2) == 4
    assert len(owner.outcomes) == 601


def test_an_interrupted_chunk_ends_as_a_whole(owner, slot, tmp_path):
    started = str(tmp_path / "started")
    number = owner.chunk(slot, zoo.announce_and_wait, [(started, "/nonexistent/never")] * 3)
    owner.until(lambda: os.path.exists(started))
    owner.pool.interrupt(slot, number)
    with pytest.raises(KeyboardInterrupt):
        owner.value(number)
    assert len(numbers_in(started)) == 1


def test_a_task_may_swallow_an_interrupt_and_the_next_can_be_interrupted(owner, slot, tmp_path):
    for i in range(2):
        started = str(tmp_path / f"started{i}")
        number = owner.run(slot, zoo.announce_and_swallow_interrupts, started, str(tmp_path / "never"))
        owner.until(lambda started=started: os.path.exists(started))
        owner.pool.interrupt(slot, number)
        assert owner.value(number) == "swallowed"


def test_a_signal_reaches_the_slot_and_what_its_task_started(owner, slot, tmp_path):
    started = str(tmp_path / "started")
    number = owner.run(slot, zoo.spawn_and_hold_gil, started)
    owner.until(lambda: os.path.exists(started))
    owner.pool.signal(slot, "SIGTERM")
    exited = owner.exited(slot)
    assert (exited.signal, exited.number) == ("SIGTERM", number)
    owner.until(lambda: all(gone(pid) for pid in numbers_in(started)))


def test_a_blocked_task_says_so_once(owner, slot, tmp_path):
    started, go = str(tmp_path / "started"), str(tmp_path / "go")
    number = owner.run(slot, zoo.wait_inside_a_hook, started, go)
    owner.until(lambda: owner.of(SlotBlocked))
    zoo.append_line(go, "")
    assert owner.value(number) == "waited"
    assert [event.blocked for event in owner.of(SlotBlocked)] == [True, False]


def test_a_slot_whose_task_has_left_a_wait_open_is_not_yielded_after_it(owner, slot):
    def leave_open():
        import builtins

        from jobrunner.nested import wait_hooks as blocking

        builtins.kept = blocking.waiting()
        builtins.kept.__enter__()

    owner.call(slot, leave_open)
    owner.call(slot, zoo.nothing)
    assert [event.blocked for event in owner.of(SlotBlocked)] == [True, False]


# --- the end ----------------------------------------------------------------------------------------------


def test_close_kills_what_runs_and_what_it_started(make_owner, tmp_path):
    owner = make_owner()
    started = str(tmp_path / "started")
    owner.ready(1)
    owner.ready(2)
    owner.run(1, zoo.spawn_and_hold_gil, started)
    owner.until(lambda: os.path.exists(started))
    owner.pool.close()
    owner.pool.close()
    until(lambda: all(gone(pid) for pid in numbers_in(started)))


def test_closing_leaves_no_descriptor_open(make_owner):
    before = len(os.listdir("/dev/fd"))
    owner = make_owner()
    owner.ready(1)
    owner.ready(2)
    owner.run(2, zoo.exit_hard)
    owner.exited(2)
    owner.pool.close()
    assert len(os.listdir("/dev/fd")) == before


@pytest.mark.parametrize("fn", ["announce_and_wait", "announce_and_hold_gil", "spawn_and_hold_gil"])
def test_no_orphans_when_the_worker_is_killed(fn, tmp_path):
    started = str(tmp_path / "started")
    args = f"{started!r}, '/nonexistent/never'" if fn == "announce_and_wait" else f"{started!r},"
    script = textwrap.dedent(f"""
        import zoo
        from support.slot_owner import Owner
        owner = Owner()
        print(owner.ready(1), owner.ready(2), flush=True)
        owner.run(1, zoo.{fn}, {args})
        owner.until(lambda: False)
    """)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        pids = [int(pid) for pid in worker.stdout.readline().split()]
        assert len(pids) == 2
        until(lambda: os.path.exists(started))
        worker.kill()
    until(lambda: all(gone(pid) for pid in [*pids, *numbers_in(started)]), "the end of the orphans")


def test_a_script_without_a_main_guard_works(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        from support.slot_owner import Owner
        import beside
        class Point:
            def __init__(self, x): self.x = x
        def move(point): return Point(point.x + beside.STEP)
        owner = Owner()
        owner.ready(1)
        print("moved to", owner.call(1, move, Point(1)).x)
        print(isinstance(owner.call(1, move, Point(1)), Point))
        owner.pool.close()
        """)
    )
    (tmp_path / "beside.py").write_text("STEP = 41")
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, cwd="/")
    assert (run.stdout, run.stderr) == ("moved to 42\nTrue\n", "")


def test_text_of_a_task_comes_before_its_outcome(owner, slot):
    numbers = owner.batch(slot, *[(zoo.print_lines, f"{i}") for i in range(20)])
    owner.value(numbers[-1])
    seen = set()
    for event in owner.events:
        if isinstance(event, SlotPrinted):
            seen.update(number for number, _, _ in event.printed)
        elif isinstance(event, SlotFinished):
            assert {outcome.number for outcome in event.outcomes} <= seen


# --- ends -------------------------------------------------------------------------------------------------


def test_a_slot_that_is_to_end_does_what_was_left_to_its_end(owner, slot, tmp_path):
    owner.call(slot, zoo.note_at_exit, str(tmp_path / "trace"), 0.1)
    last = owner.run(slot, zoo.add, 1, 1)
    owner.pool.end(slot)
    exited = owner.exited(slot)
    assert (exited.exit_code, exited.signal, exited.number) == (0, None, 0)
    assert owner.value(last) == 2, "it ran what it had been given"
    assert (tmp_path / "trace").read_text() == "exit\n"


def test_slots_end_together_within_a_bound(owner, tmp_path):
    for slot in (1, 2, 3):
        pid = owner.ready(slot)
    for slot, seconds in ((1, 0.1), (2, 60)):
        owner.call(slot, zoo.note_at_exit, str(tmp_path / f"trace {slot}"), seconds)
    began = time.monotonic()
    owner.pool.end_all(1.0, lambda events: None)
    assert time.monotonic() - began < 30
    assert (tmp_path / "trace 1").read_text() == "exit\n"
    assert not (tmp_path / "trace 2").exists()
    assert gone(pid)


def test_slots_answer_as_children_of_multiprocessing(owner):
    owner.ready(7)

    def look():
        import multiprocessing
        import os

        this, parent = multiprocessing.current_process(), multiprocessing.parent_process()
        return this.name, this._identity, this.daemon, parent.pid == os.getppid(), parent.is_alive()

    assert owner.call(7, look) == ("SpawnProcess-7", (7,), False, True, True)


# --- what runs out ----------------------------------------------------------------------------------------


def test_a_slot_takes_few_descriptors_and_gives_them_back(owner):
    owner.ready(1)  # whatever the first one loads
    before = len(os.listdir("/dev/fd"))
    owner.ready(2)
    assert len(os.listdir("/dev/fd")) - before <= 6
    owner.pool.signal(2, "SIGKILL")
    owner.exited(2)
    assert len(os.listdir("/dev/fd")) == before


def test_a_slot_that_gets_no_memory_to_share_leaves_no_descriptor_open(owner, small_files):
    owner.ready(1)
    before = len(os.listdir("/dev/fd"))
    with small_files():
        owner.pool.spawn(2)
    assert "too large" in owner.exited(2).stderr
    assert len(os.listdir("/dev/fd")) == before
