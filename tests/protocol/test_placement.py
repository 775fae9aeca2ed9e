from __future__ import annotations

import gc
import sys

import pytest
from support.cores import client_peer, record

from jobrunner.protocol.coordinator.placement import ReadyQueue, has_capacity, is_long
from jobrunner.protocol.coordinator.resources import UNIT
from jobrunner.protocol.coordinator.task import CANCELLED
from jobrunner.protocol.tuning import ONE_AHEAD_MAX_SECONDS, PREFETCH_LIMIT, PREFETCH_SECONDS, UNKNOWN


def anything(requirements):
    return True


def queue_of(*records):
    queue = ReadyQueue()
    for task in records:
        queue.push(task)
    return queue


def drained(queue, fits=anything, accept=None):
    """The ids in the order in which they leave."""
    order = []
    while (task := queue.pop(fits, accept)) is not None:
        order.append(task.id)
    return order


def test_one_client_in_the_order_of_submission():
    assert drained(queue_of(*[record(n) for n in (1, 2, 3)])) == ["c-1", "c-2", "c-3"]
    assert ReadyQueue().pop(anything) is None


def test_the_highest_priority_first():
    queue = queue_of(record(1), record(2, priority=5), record(3, priority=-1), record(4, priority=5))
    assert drained(queue) == ["c-2", "c-4", "c-1", "c-3"]


def test_clients_take_turns_within_a_priority_however_much_one_has():
    a, b, d = client_peer("a"), client_peer("b"), client_peer("d")
    queue = queue_of(*[record(n, of=a) for n in range(6)], *[record(n, of=b) for n in range(2)])
    queue.push(record(0, of=d))
    assert drained(queue) == ["a-0", "b-0", "d-0", "a-1", "b-1", "a-2", "a-3", "a-4", "a-5"]


def test_a_client_that_comes_later_has_its_turn_at_once():
    a, b = client_peer("a"), client_peer("b")
    queue = queue_of(*[record(n, of=a) for n in range(4)])
    assert queue.pop(anything).id == "a-0"
    queue.push(record(0, of=b))
    assert drained(queue) == ["a-1", "b-0", "a-2", "a-3"]


def test_deeper_tasks_first_within_a_priority_because_others_wait_for_them():
    shallow, deep = client_peer("a"), client_peer("b")
    queue = queue_of(record(1, of=shallow), record(1, of=deep, depth=2), record(2, of=shallow, priority=1))
    assert drained(queue) == ["a-2", "b-1", "a-1"]


def test_what_comes_back_goes_to_the_head_of_its_client():
    a, b = client_peer("a"), client_peer("b")
    queue = queue_of(record(1, of=a), record(1, of=b), record(2, of=a))
    queue.push(record(9, of=a), front=True)
    assert drained(queue) == ["a-9", "b-1", "a-1", "a-2"]


def test_resources_are_asked_for_and_the_others_pass():
    queue = queue_of(record(1, resources=(("gpu", 1.0),)), record(2), record(3, resources=(("gpu", 2.0),)))

    def no_gpu(requirements):
        return not requirements

    assert drained(queue, no_gpu) == ["c-2"]
    assert drained(queue, lambda requirements: dict(requirements).get("gpu", 0) <= UNIT) == ["c-1"]
    assert drained(queue) == ["c-3"]


def test_between_kinds_of_resources_the_priority_decides():
    queue = queue_of(
        record(1),
        record(2, resources=(("gpu", 1.0),), priority=1),
        record(3, resources=(("ram", 1.0),), priority=2),
    )
    assert drained(queue) == ["c-3", "c-2", "c-1"]


def test_parked_clients_keep_their_tasks_and_their_place():
    a, b = client_peer("a"), client_peer("b")
    queue = queue_of(record(1, of=a, priority=9), record(2, of=a), record(1, of=b))
    queue.backpressured.add(a.id)
    assert drained(queue) == ["b-1"]
    queue.resume(a.id)
    assert drained(queue) == ["a-1", "a-2"]


def test_what_was_cancelled_in_line_is_passed_over():
    one, two, three = record(1), record(2), record(3)
    queue = queue_of(one, two, three)
    one.move(CANCELLED, 0.0)
    three.move(CANCELLED, 0.0)
    assert drained(queue) == ["c-2"]


def test_what_is_not_accepted_is_not_overtaken():
    a, b = client_peer("a"), client_peer("b")
    queue = queue_of(record(1, of=a), record(2, of=a, timeout=5.0), record(1, of=b), record(2, of=b))
    assert drained(queue, accept=lambda task: task.body.options.timeout is None) == ["a-1", "b-1"]
    assert drained(queue) == ["a-2", "b-2"]
    queue = queue_of(record(1, of=a, timeout=5.0, priority=1), record(1, of=b))
    assert drained(queue, accept=lambda task: task.body.options.timeout is None) == []


def test_nothing_is_left_behind_by_what_has_gone():
    queue = queue_of(*[record(n, priority=n % 7, resources=(("gpu", float(n % 3)),)) for n in range(100)])
    assert len(drained(queue)) == 100
    assert not queue._lanes
    assert not queue._order


def steps(call):
    """How many lines of Python the call runs; the garbage collector's share, which comes when it likes, left out."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    gc.disable()  # it runs the finalizers of whatever earlier tests left
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
        gc.enable()
    return count


@pytest.mark.parametrize("shape", ["one client", "many clients", "many priorities"])
def test_a_pop_costs_the_same_however_long_the_queue(shape):
    def filled(count):
        peers = [client_peer(f"p{n}") for n in range(10 if shape == "many clients" else 1)]
        queue = ReadyQueue()
        for n in range(count):
            priority = n % 10 if shape == "many priorities" else 0
            queue.push(record(n, of=peers[n % len(peers)], priority=priority))
        return queue

    short, long = filled(20), filled(100_000)
    for _ in range(5):
        assert steps(lambda: long.pop(anything)) <= steps(lambda: short.pop(anything)) + 5
    assert steps(lambda: long.push(record("x"))) <= steps(lambda: short.push(record("x"))) + 5


def test_room_up_to_the_slots_for_anything():
    assert has_capacity(4, 3, 1e9, UNKNOWN)
    assert not has_capacity(4, 4, 0.0, UNKNOWN), "no unknown call behind another"
    assert not has_capacity(0, 0, 0.0, 0.0)


def test_room_ahead_is_measured_in_time():
    assert has_capacity(1, 1, 0.0, PREFETCH_SECONDS)
    assert not has_capacity(1, 1, 0.0, PREFETCH_SECONDS * 1.01)
    assert not has_capacity(1, 2, PREFETCH_SECONDS, 0.0), "a call costs something however short"
    assert has_capacity(2, 2, PREFETCH_SECONDS, PREFETCH_SECONDS)


def test_one_task_for_each_slot_is_at_hand():
    assert has_capacity(2, 2, 2 * PREFETCH_SECONDS, ONE_AHEAD_MAX_SECONDS)
    assert has_capacity(2, 3, 2 * PREFETCH_SECONDS, ONE_AHEAD_MAX_SECONDS)
    assert not has_capacity(2, 4, 2 * PREFETCH_SECONDS, ONE_AHEAD_MAX_SECONDS)
    assert not has_capacity(2, 2, 2 * PREFETCH_SECONDS, ONE_AHEAD_MAX_SECONDS * 1.01)
    assert not has_capacity(2, 2, 0.0, UNKNOWN)


def test_nothing_waits_behind_a_task_that_may_be_long():
    assert is_long(UNKNOWN)
    assert is_long(PREFETCH_SECONDS * 1.01)
    assert not is_long(PREFETCH_SECONDS)


def test_room_ahead_is_bounded_in_number_too():
    assert has_capacity(2, 2 + 2 * PREFETCH_LIMIT - 1, 0.0, 0.0)
    assert not has_capacity(2, 2 + 2 * PREFETCH_LIMIT, 0.0, 0.0)
