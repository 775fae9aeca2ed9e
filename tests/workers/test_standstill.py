"""When a task stands still: time passes, it takes none of it, and calls of its own are unfinished."""

from __future__ import annotations

import threading
import time

from jobrunner.nested import wait_hooks as blocking
from jobrunner.system.processor_time import LOOK_EVERY
from jobrunner.workers.standstill import Standstill, message_threads, seconds_of_the_task


class Calls:
    """Submits calls, as far as a Standstill can see."""

    def __init__(self, *ids):
        self.ids = list(ids)

    def unfinished_calls(self):
        return self.ids


class Process:
    """A Standstill, and the times that it sees."""

    def __init__(self):
        self.now = self.seconds = 0.0
        self.woken = 0
        self.standstill = Standstill(self.wake, lambda: self.now, lambda: self.seconds)

    def wake(self):
        self.woken += 1

    def look(self, number, share=0.0):
        """Look again, after the usual time, of which the task took a share."""
        self.now += LOOK_EVERY + 0.001
        self.seconds += LOOK_EVERY * share
        again = self.standstill.look(number)
        return self.standstill.task, again


def test_nobody_looks_before_a_task_submits_calls():
    process, calls = Process(), Calls("1")
    assert process.look(1) == (0, None)
    process.standstill.watch(calls)
    process.standstill.watch(calls)
    assert process.woken == 1
    assert process.look(1) == (0, LOOK_EVERY)
    calls.ids.clear()
    assert process.look(1) == (0, None)


def test_a_task_that_takes_no_time_stands_still_until_it_does():
    process, calls = Process(), Calls("1")
    process.standstill.watch(calls)
    assert [process.look(1, share)[0] for share in (0, 0.05, 0.2, 0.9, 0.9, 0.2, 0)] == [0, 1, 1, 0, 0, 0, 1]


def test_a_task_whose_calls_are_done_does_not_stand_still():
    process, calls = Process(), Calls("1")
    process.standstill.watch(calls)
    process.look(1)
    assert process.look(1) == (1, LOOK_EVERY)
    calls.ids.clear()
    assert process.look(1) == (0, None)


def test_calls_of_the_task_before_are_none_of_this_one_s():
    process, calls = Process(), Calls("1")
    process.standstill.watch(calls)
    process.look(1)
    assert process.look(1)[0] == 1
    process.standstill.begin()
    assert [process.look(2)[0] for _ in range(3)] == [0, 0, 0]
    calls.ids.append("2")
    assert process.look(2)[0] == 2


def test_a_slot_between_two_tasks_does_not_stand_still():
    process, calls = Process(), Calls("1")
    process.standstill.watch(calls)
    assert [process.look(0)[0] for _ in range(3)] == [0, 0, 0]


def burn():
    """Take 30 ms of a processor."""
    end = time.thread_time() + 0.03
    while time.thread_time() < end:
        pass


def burnt_by(name):
    go, ready, done, leave = (threading.Event() for _ in range(4))

    def work():
        ready.set()
        go.wait()
        burn()
        done.set()
        leave.wait()

    thread = threading.Thread(target=work, name=name)
    thread.start()
    ready.wait()
    before = seconds_of_the_task()
    go.set()
    done.wait()
    burnt = seconds_of_the_task() - before
    leave.set()
    thread.join()
    return burnt


def test_threads_that_carry_messages_take_nothing_of_the_task_s_time():
    assert burnt_by("a thread of the task") >= 0.03
    assert burnt_by("jobrunner-cluster") < 0.03


def test_the_caller_is_no_thread_to_be_subtracted_twice():
    assert threading.get_native_id() not in message_threads()


def test_calls_from_a_thread_of_the_task_are_as_deep_as_its_own(owner, slot):
    def depths():
        found = [blocking.depth()]
        thread = threading.Thread(target=lambda: found.append(blocking.depth()))
        thread.start()
        thread.join()
        return found

    assert owner.call(slot, depths) == [1, 1]
