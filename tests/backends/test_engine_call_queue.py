"""The line in which calls wait for an engine."""

from __future__ import annotations

from jobrunner.backends.engine.call_queue import Call, Line, Suspects
from jobrunner.calls.serialization import dump_function
from jobrunner.futures import Future
from jobrunner.protocol.wire.messages import TaskOptions


def call(number, priority=0):
    options = TaskOptions(priority=priority)
    return Call(f"c-{number}", number, Future(), dump_function(abs), b"", None, options, 0)


def numbers(calls):
    return [one.number for one in calls]


def full_line(*priorities):
    line = Line()
    for number, priority in enumerate(priorities):
        line.add(call(number, priority))
    return line


def test_the_most_urgent_first_then_the_oldest():
    line = full_line(0, 5, -1, 5)
    assert numbers(line.take(10, 0, ahead=False)) == [1, 3, 0, 2]


def test_no_more_than_the_slots_and_the_extra():
    line = full_line(*[0] * 10)
    assert numbers(line.take(2, 1, ahead=True)) == [0, 1, 2]
    assert line.take(2, 1, ahead=True) == []
    line.flying -= 1
    assert numbers(line.take(2, 1, ahead=True)) == [3]
    assert len(line.take(None, 0, ahead=False)) == 6


def test_short_calls_are_sent_ahead_and_long_ones_are_not():
    line = full_line(*[0] * 100)
    line.measured(0.001)
    assert len(line.take(2, 0, ahead=True)) == 2 + 2 * 5
    line.measured(0.02)
    line.flying = 0
    assert len(line.take(2, 0, ahead=True)) == 2
    line = full_line(*[0] * 100)
    line.measured(0.001)
    assert len(line.take(2, 0, ahead=False)) == 2


def test_what_was_cancelled_is_passed_over():
    line = full_line(0)
    gone = call(7, priority=9)
    line.add(gone)
    assert gone.future.cancel_pending()
    taken = line.take(1, 0, ahead=False)
    assert numbers(taken) == [0]
    assert taken[0].future.running()
    assert line.flying == 1


def died(call, times=1):
    call.crashes = times
    return call


def test_suspects_are_tried_at_the_same_time_while_they_have_chances_left():
    suspects = Suspects(3)
    calls = [died(call(number)) for number in range(3)]
    for one in calls:
        suspects.add(one)
    everything = {one.id for one in calls}
    assert numbers(suspects.take(everything)) == [0, 1, 2]
    assert suspects.take(everything) == []
    assert len(suspects) == 3
    suspects.take(everything - {"c-1"})
    assert len(suspects) == 2


def test_a_last_chance_is_taken_while_no_other_suspect_is_tried():
    suspects = Suspects(3)
    calls = [died(call(number)) for number in range(3)]
    unfinished = {one.id for one in calls}
    for one in calls:
        suspects.add(one)
    suspects.take(unfinished)
    for one in calls[:2]:
        suspects.add(died(one, 2))
    assert suspects.take(unfinished) == []  # the third is still being tried
    unfinished.discard("c-2")
    assert numbers(suspects.take(unfinished)) == [0]
    late = died(call(7))
    unfinished.add(late.id)
    suspects.add(late)
    assert suspects.take(unfinished) == []  # the first still has its last chance
    unfinished.discard("c-0")
    assert numbers(suspects.take(unfinished)) == [7]
    unfinished.discard("c-7")
    assert numbers(suspects.take(unfinished)) == [1]


def test_a_suspect_that_was_cancelled_holds_up_nobody():
    suspects = Suspects(2)
    first, second = died(call(0)), died(call(1))
    suspects.add(first)
    suspects.add(second)
    assert numbers(suspects.take({"c-1"})) == [1]
    assert suspects.take(set()) == []
    assert len(suspects) == 0
