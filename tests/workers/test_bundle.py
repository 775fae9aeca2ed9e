"""Bundles in a slot: by themselves, shared by two threads, and in a real process."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from jobrunner.calls import serialization
from jobrunner.protocol.bundles import Results, pack_calls, unpack_results
from jobrunner.protocol.effects import SlotReturned, SlotSplit
from jobrunner.protocol.wire import kinds
from jobrunner.protocol.wire import messages as m
from jobrunner.workers.bundle import Bundle


class Told(list):
    """What was told when a bundle was split."""

    def __call__(self, results, running):
        self.append((unpack_results(results), running))


def take(bundle):
    """Begin the next call, as the main thread does."""
    call = bundle.calls.popleft()
    bundle.index += 1
    return call


def made(number, payload, room=10_000):
    """A bundle whose results have so much room on the crash board."""
    left = memoryview(bytearray(room))

    def note(entry):
        nonlocal left
        if len(entry) > len(left):
            raise ValueError("data out of range")
        left = left[len(entry) :]
        return len(entry)

    return Bundle(number, payload, note)


def end(bundle, payload, failed=False):
    bundle.add(payload, 0.5, failed)


@pytest.fixture
def bundle():
    return made(1, pack_calls([b"a", b"b", b"c"]))


def test_a_bundle_that_is_left_alone_tells_of_all_its_calls(bundle):
    for payload, failed in ((b"x", False), (b"y", True), (b"z", False)):
        take(bundle)
        end(bundle, payload, failed)
    assert bundle.end()
    assert unpack_results(bundle.results()) == Results([b"x", b"y", b"z"], [0.5] * 3, [1])


def test_a_payload_may_come_in_frames():
    packed = pack_calls([b"a", b"b"])
    assert list(made(1, (packed[:2], packed[2:])).calls) == [b"a", b"b"]


def test_what_is_given_up_are_the_calls_that_have_not_begun(bundle):
    told = Told()
    take(bundle)
    end(bundle, b"x", failed=True)
    take(bundle)
    bundle.split(told)
    assert told == [(Results([b"x"], [0.5], [0]), 1)]
    assert not bundle.calls
    end(bundle, b"y", failed=True)
    assert bundle.was_split
    assert not bundle.end(), "only the outcome of the call that ran is still due"


def test_it_is_given_up_once_and_neither_too_early_nor_too_late(bundle):
    told = Told()
    bundle.split(told)
    assert (told, bundle.was_split) == ([], False)
    take(bundle)
    bundle.split(told)
    bundle.split(told)
    assert told == [(Results([], [], []), 0)]
    other = made(2, pack_calls([b"a"]))
    take(other)
    end(other, b"x")
    assert other.end()
    other.split(told)
    assert (len(told), other.was_split) == (1, False)


def test_the_last_call_may_go_on_alone_too(bundle):
    told = Told()
    for payload in (b"x", b"y", b"z"):
        take(bundle)
        end(bundle, payload)
    bundle.split(told)
    assert told == [(Results([b"x", b"y"], [0.5] * 2, []), 2)]
    assert not bundle.end()


def test_the_outcome_of_the_call_that_goes_on_cannot_overtake_what_is_told(bundle):
    """It was taken for that of the whole bundle."""
    order = []

    def tell(_results, _running):
        ender.start()
        entered.wait()
        assert bundle._lock.locked()
        order.append("told")

    def end_it():
        entered.set()
        bundle.end()
        order.append("ended")

    entered = threading.Event()
    ender = threading.Thread(target=end_it)
    take(bundle)
    end(bundle, b"x")
    bundle.split(tell)
    ender.join()
    assert order == ["told", "ended"]


def test_large_results_are_not_collected_without_end():
    bundle = made(1, pack_calls([b"a", b"b", b"c"]), room=50)
    take(bundle)
    end(bundle, bytes(10))
    assert not bundle.full
    take(bundle)
    end(bundle, bytes(100))
    assert bundle.full
    take(bundle)
    end(bundle, b"z")
    assert not bundle.full, "there is nothing left to split off"


def test_what_the_worker_has_taken_does_not_begin(bundle):
    told = Told()
    take(bundle)
    assert bundle.keep(0), "that call is the one that is kept"
    end(bundle, b"x")
    assert (list(bundle.calls), bundle.was_split) == ([], True)
    bundle.split(told)
    assert told == []
    assert not bundle.end(), "only the outcome of the call that ran is still due"


def test_nor_does_a_call_that_was_just_to_begin_when_it_was_taken(bundle):
    take(bundle)
    end(bundle, b"x")
    take(bundle)
    assert not bundle.keep(0)
    assert (bundle.index, bundle.end()) == (0, False)


def test_each_call_goes_to_exactly_one_side_while_two_threads_take_them():
    calls = [b"%d" % n for n in range(50)]
    splits = round_ = 0
    while splits < 100:
        round_ += 1
        bundle, told, ran = made(1, pack_calls(calls)), Told(), []
        reached = threading.Event()

        def attend(bundle=bundle, told=told, reached=reached):
            reached.wait()
            bundle.split(told)

        control = threading.Thread(target=attend)
        control.start()
        while bundle.calls:
            try:
                call = bundle.calls.popleft()
            except IndexError:
                break
            time.sleep(0)  # lets the other thread have the interpreter
            bundle.index += 1
            if bundle.index == round_ % len(calls):
                reached.set()
            ran.append(call)
            time.sleep(0)
            end(bundle, b"result of " + call)
        whole = bundle.end()
        control.join()
        assert ran == calls[: len(ran)]
        assert whole == (not told)
        if whole:
            assert ran == calls
            results = unpack_results(bundle.results())
        else:
            splits += 1
            ((results, running),) = told
            assert running == len(ran) - 1, "the call that goes on is the last that ran here"
            ran.pop()
        assert results.payloads == [b"result of " + call for call in ran]
        assert len(results.durations) == len(ran)


# --- in a real slot -------------------------------------------------------------------------------------------------


def double(x):
    return 2 * x


def wait_for(path, seconds, begun):
    start = time.perf_counter()
    Path(begun).touch()
    time.sleep(seconds)
    while not Path(path).exists():
        time.sleep(0.001)
    return start, time.perf_counter()


def packed(*calls):
    return pack_calls([serialization.dump_call(args, {}, snapshot=True) for args in calls])


def test_a_slot_runs_the_calls_of_a_bundle_and_survives_those_that_raise(owner, slot):
    number = owner.run(slot, double, payload=packed((1,), ({},), ("a",)), kind=kinds.Bundle(3))
    outcome = owner.until(lambda: owner.outcomes.get(number))
    results = unpack_results(outcome.payload)
    assert (outcome.status, results.failed) == (m.OK, [1])
    assert [serialization.load_result(results.payloads[n]) for n in (0, 2)] == [2, "aa"]
    assert isinstance(serialization.load_exception(results.payloads[1]), TypeError)
    assert outcome.duration >= sum(results.durations)


def test_a_slot_gives_a_bundle_up_and_goes_on_with_the_call_that_runs(owner, slot, tmp_path):
    gate, first, second, third = (str(tmp_path / name) for name in "gabc")
    there = tmp_path / "there"
    there.touch()
    calls = packed((str(there), 0.3, first), (gate, 0.0, second), (gate, 0.0, third))
    number = owner.run(slot, wait_for, payload=calls, kind=kinds.Bundle(3))
    owner.until(lambda: Path(second).exists())
    owner.pool.recall(slot)
    split = owner.until(lambda: next((e for e in owner.events if isinstance(e, SlotSplit)), None))
    assert SlotReturned(slot, []) in owner.events
    assert (split.number, split.running) == (number, 1)
    results = unpack_results(split.payload)
    begun, _ = serialization.load_result(results.payloads[0])
    Path(gate).touch()
    outcome = owner.until(lambda: owner.outcomes.get(number))
    start, stop = serialization.load_result(outcome.payload)
    assert stop - start <= outcome.duration < stop - begun, "the duration is that of this call alone"
    assert not Path(third).exists()
