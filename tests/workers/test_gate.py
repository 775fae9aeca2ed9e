"""What a worker takes back from a slot that does not answer: on a crash board by itself, and from real processes."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import zoo

from jobrunner.calls import serialization
from jobrunner.protocol.bundles import Results, pack_calls, unpack_results
from jobrunner.protocol.effects import (
    SlotDivided,
    SlotFinished,
    SlotPrinted,
    SlotRetracted,
    SlotReturned,
    SlotSplit,
)
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.kinds import Bundle
from jobrunner.system.descriptors import unnamed_file
from jobrunner.workers.crash_board import BUNDLE, CHUNK, GATE, PLAIN, CrashBoard, State
from jobrunner.workers.gate import ALL, CLOSED, DECIDED, OPEN, Closed, Decision, decided, decision_for


@pytest.fixture
def board():
    fd = unnamed_file("board", CrashBoard.SIZE)
    board = CrashBoard(fd, alone=True)
    os.close(fd)
    yield board
    board.close()


def test_a_slot_that_finds_the_gate_closed_waits_for_the_decision(board):
    board.fields[GATE] = CLOSED
    heard = []
    slot = threading.Thread(target=lambda: heard.append(decided(board.fields)))
    slot.start()
    with Closed(board) as gate:
        assert gate.state is None, "somebody has closed it already"
    board.fields[GATE] = CLOSED
    gate.decide(Decision(4, 2, 9))
    slot.join()
    assert heard == [Decision(4, 2, 9)]
    assert heard[0].taken == range(5, 10)


def test_where_nothing_is_decided_the_gate_is_open_again(board):
    board.start(3)
    with Closed(board) as gate:
        assert board.fields[GATE] == CLOSED
        assert gate.state == State(3, -1, 3, 0, 0, 0, PLAIN, 0)
    assert board.fields[GATE] == OPEN
    with Closed(board) as gate:
        gate.decide(Decision(3, ALL, 3))
    assert board.fields[GATE] == OPEN


def test_a_decision_stays_until_the_slot_has_heard_of_it(board):
    with Closed(board) as gate:
        gate.decide(Decision(3, ALL, 5))
    with Closed(board) as gate:
        assert gate.state is None
    assert (board.fields[GATE], decided(board.fields)) == (DECIDED, Decision(3, ALL, 5))


def test_nothing_is_known_of_a_slot_that_moves(board):
    going = True

    def run():
        number = 0
        while going:
            number += 1
            board.start(number)

    slot = threading.Thread(target=run)
    slot.start()
    try:
        while True:  # until that thread has had a turn meanwhile
            with Closed(board) as gate:
                if gate.state is None:
                    break
        assert board.fields[GATE] == OPEN
    finally:
        going = False
        slot.join()


@pytest.mark.parametrize(
    ("kind", "element", "ending", "chunks", "kept"),
    [
        (BUNDLE, 2, 0, [], 2),
        (BUNDLE, -1, 0, [], ALL),
        (BUNDLE, 2, 7, [], ALL),
        (CHUNK, 2, 0, [6, 7], 2),
        (CHUNK, 2, 0, [6], ALL),
        (CHUNK, 2, 7, [7], ALL),
        (CHUNK, -2, 0, [7], ALL),
        (PLAIN, -1, 0, [], ALL),
    ],
)
def test_what_is_kept_of_the_task_that_runs(kind, element, ending, chunks, kept):
    state = State(7, element, 7, 0, 0, 0, kind, ending)
    assert decision_for(state, 9, chunks) == Decision(7, kept, 9)
    assert decision_for(state._replace(number=0), 9, chunks) == Decision(7, ALL, 9)


# --- in a real slot -------------------------------------------------------------------------------------------------


@pytest.fixture
def gate(tmp_path):
    """Opens the gate of `zoo.keep_gil_if`."""
    os.mkfifo(tmp_path / "gate")
    opened = []

    def open_it():
        opened.append(os.open(tmp_path / "gate", os.O_RDWR))

    yield open_it
    for fd in opened:
        os.close(fd)


@pytest.fixture
def folder(tmp_path, gate):
    return str(tmp_path)


def started(folder):
    return os.path.exists(f"{folder}/started")


def packed(*calls):
    return pack_calls([serialization.dump_call(args, {}, snapshot=True) for args in calls])


def retract(owner, slot, *chunks):
    """Takes back what there is as soon as the slot stands still; what was taken."""
    before = len(owner.of(SlotRetracted))

    def try_it():
        owner.pool.retract(slot, chunks)
        owner.poll()
        return owner.of(SlotRetracted)[before:]

    return owner.until(try_it)[0].numbers


def test_a_bundle_is_taken_apart_while_a_call_keeps_the_interpreter(owner, slot, folder, gate, tmp_path):
    traces = str(tmp_path / "traces")
    calls = packed((None, "a"), (None, {}), (folder, "b"), (None, "c"), (None, "d"))
    number = owner.run(slot, zoo.keep_gil_if, payload=calls, kind=Bundle(5))
    behind = owner.run(slot, zoo.append_line, traces, "behind")
    owner.until(lambda: started(folder))
    owner.pool.recall(slot)
    assert retract(owner, slot) == [behind]
    (split,) = owner.of(SlotSplit)
    assert (split.number, split.running) == (number, 2)
    results = unpack_results(split.payload)
    assert [serialization.load_result(payload) for payload in results.payloads] == ["a", {}]
    assert (len(results.durations), results.failed) == (2, [])
    assert owner.of(SlotReturned) == []
    gate()
    assert serialization.load_result(owner.until(lambda: owner.outcomes.get(number)).payload) == "b"
    owner.until(lambda: owner.of(SlotReturned))  # late, and of nothing that is new to the worker
    assert owner.call(slot, zoo.keep_gil_if, None, "next") == "next"
    assert behind not in owner.outcomes
    assert not os.path.exists(traces)


def raise_or_keep_gil(folder, value):
    return zoo.keep_gil_if(folder, value) if value else 1 / value


def test_those_of_its_calls_that_have_failed_are_told_as_such(owner, slot, folder, gate):
    calls = packed((None, 1), (None, 0), (None, 2), (folder, 3), (None, 4))
    number = owner.run(slot, raise_or_keep_gil, payload=calls, kind=Bundle(5))
    owner.until(lambda: started(folder))
    retract(owner, slot)
    results = unpack_results(owner.of(SlotSplit)[0].payload)
    assert results.failed == [1]
    assert isinstance(serialization.load_exception(results.payloads[1]), ZeroDivisionError)
    gate()
    assert serialization.load_result(owner.until(lambda: owner.outcomes.get(number)).payload) == 3


def test_what_has_ended_before_is_told_once(owner, slot, folder, gate):
    """It waits in the slot for the control thread to send it, or was sent; and again when that thread can run."""
    batch = [
        *[(print, f"line {n}") for n in range(20)],
        (zoo.keep_gil_if, folder, "kept"),
        (zoo.echo, "behind"),
    ]
    numbers = owner.batch(slot, *batch)
    owner.until(lambda: started(folder))
    assert retract(owner, slot) == numbers[-1:]
    assert all(number in owner.outcomes for number in numbers[:20])
    printed = [text for event in owner.of(SlotPrinted) for _, _, text in event.printed]
    assert "".join(printed) == "".join(f"line {n}\n" for n in range(20))
    gate()
    assert owner.value(numbers[20]) == "kept"
    assert owner.call(slot, zoo.echo, 1) == 1
    assert len(owner.of(SlotPrinted)[-1].printed) >= 1
    assert sum(len(event.printed) for event in owner.of(SlotPrinted)) == len(printed)


def test_nor_is_it_told_again_when_the_process_dies(owner, slot, folder, gate):
    numbers = owner.batch(slot, *[(print, n) for n in range(20)], (zoo.keep_gil_if, folder, 0), (zoo.echo, 0))
    owner.until(lambda: started(folder))
    retract(owner, slot)
    count = sum(len(event.printed) for event in owner.of(SlotPrinted))
    owner.pool.signal(slot, "SIGTERM")
    exited = owner.exited(slot)
    assert (exited.number, exited.signal) == (numbers[20], "SIGTERM")
    assert sum(len(event.printed) for event in owner.of(SlotPrinted)) == count
    assert sorted(owner.outcomes) == numbers[:20]


@pytest.mark.parametrize("late", [False, True], ids=["alone", "asked before"])
def test_a_chunk_is_divided_while_an_element_keeps_the_interpreter(owner, slot, folder, gate, late):
    elements = [(None, 0), (None, 1), (folder, 2), (None, 3), (None, 4)]
    number = owner.chunk(slot, zoo.keep_gil_if, elements)
    behind = owner.run(slot, zoo.echo, 1)
    owner.until(lambda: started(folder))
    if late:
        owner.pool.divide(slot, number)
    assert retract(owner, slot, number) == [behind]
    assert SlotDivided(slot, number, 3) in owner.events
    gate()
    assert owner.value(number).values == [0, 1, 2]
    assert owner.call(slot, zoo.echo, 1) == 1


def test_a_chunk_that_is_not_to_be_divided_is_left_whole(owner, slot, folder, gate):
    number = owner.chunk(slot, zoo.keep_gil_if, [(None, 0), (folder, 1), (None, 2)])
    behind = owner.run(slot, zoo.echo, 1)
    owner.until(lambda: started(folder))
    assert retract(owner, slot) == [behind]
    gate()
    assert owner.value(number).values == [0, 1, 2]


def test_a_task_that_comes_after_it_was_taken_from_others_runs(owner, slot, folder, gate):
    first = owner.run(slot, zoo.keep_gil_if, folder)
    taken = owner.run(slot, zoo.echo, "taken")
    owner.until(lambda: started(folder))
    assert retract(owner, slot) == [taken]
    new = owner.run(slot, zoo.echo, "new")
    gate()
    assert owner.value(first) is None
    assert owner.value(new) == "new"
    assert taken not in owner.outcomes


def test_nothing_is_taken_from_a_slot_that_has_nothing(owner, slot):
    assert retract(owner, slot) == []
    assert owner.call(slot, zoo.echo, 1) == 1


def lines_of(path):
    return Path(path).read_text().split() if os.path.exists(path) else []


def note_and_wait(path, index, gate, seconds):
    zoo.append_line(path, str(index))
    if gate is not None:
        zoo.wait_for(gate)
    time.sleep(seconds)
    return index


@pytest.mark.parametrize("kind", ["bundle", "chunk"])
def test_each_call_goes_to_exactly_one_side_whenever_it_is_taken(owner, slot, tmp_path, kind):
    """Those that have begun here are those that were kept here: in half of the rounds a call is about to end when what
    is behind it is taken."""
    rng = random.Random(7)
    count, cut = 8, 0
    for round_ in range(100):
        path, gate = str(tmp_path / f"trace {round_}"), str(tmp_path / f"gate {round_}")
        long, races = rng.randrange(count), round_ % 2
        calls = [
            (path, index, gate if index == long else None, rng.choice((0.0, 0.0, 0.001)))
            for index in range(count)
        ]
        if kind == "bundle":
            number = owner.run(slot, note_and_wait, payload=packed(*calls), kind=Bundle(count))
        else:
            number = owner.chunk(slot, note_and_wait, calls)
        behind = [owner.run(slot, note_and_wait, path, count + index, None, 0.0) for index in range(2)]
        owner.until(lambda path=path, long=long: str(long) in lines_of(path))
        before = len(owner.events)
        if races:
            zoo.append_line(gate, "")
            time.sleep(rng.uniform(0, 0.003))
        owner.pool.retract(slot, [number])
        if not races:
            zoo.append_line(gate, "")
        last = owner.run(slot, zoo.echo, "last")
        assert owner.value(last) == "last"
        told = owner.events[before:]
        taken = {n for event in told if isinstance(event, SlotRetracted) for n in event.numbers}
        splits = [event for event in told if isinstance(event, (SlotSplit, SlotDivided))]
        kept = count
        if number in taken:
            kept = 0
        elif splits and kind == "bundle":
            kept = splits[0].running + 1
            results = unpack_results(splits[0].payload)
            values = [*map(serialization.load_result, results.payloads)]
            values.append(serialization.load_result(owner.outcomes[number].payload))
            assert values == list(range(kept))
        elif kind == "bundle":
            results = unpack_results(owner.outcomes[number].payload)
            assert isinstance(results, Results)
            assert len(results.payloads) == count
        elif splits:
            kept = splits[0].stop
            assert owner.value(number).values == list(range(kept))
        else:
            assert owner.value(number).values == list(range(count))
        cut += 0 < kept < count
        here = [*range(kept), *[count + index for index, n in enumerate(behind) if n not in taken]]
        assert Counter(map(int, lines_of(path))) == Counter(here)
        assert [n in owner.outcomes for n in behind] == [n not in taken for n in behind]
    assert cut


def test_a_slot_that_dies_while_it_is_looked_at_is_seen_to_die(owner, slot, folder, gate):
    number = owner.run(slot, zoo.keep_gil_if, folder)
    owner.until(lambda: started(folder))
    owner.pool.signal(slot, "SIGKILL")
    owner.pool.retract(slot)
    assert owner.exited(slot).number == number
    owner.pool.retract(slot)
    assert [e for e in owner.of(SlotFinished) if any(o.status == m.OK for o in e.outcomes)] == []
