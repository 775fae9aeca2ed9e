"""What is done before the interpreter ends, and ends of which every step is taken."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading

import pytest

from jobrunner import Executor
from jobrunner.system import atexit_hooks as exiting


class Work:
    def __init__(self, name, done):
        self.name = name
        self.done = done

    def finish(self):
        self.done.append(self.name)

    def give_up(self):
        self.done.append(f"{self.name}, given up")


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """As in a program that has registered nothing yet."""
    ours = {}
    monkeypatch.setattr(exiting, "_registered", ours)
    return ours


def test_what_was_registered_last_is_finished_first_and_once():
    done = []
    works = [Work(name, done) for name in "abc"]
    for work in works:
        exiting.finish_before_exit(work.finish, work.give_up)
    exiting.finish_now()
    exiting.finish_now()
    assert done == ["c", "b", "a"]


def test_where_ctrl_c_ends_the_program_it_is_given_up(monkeypatch):
    done = []
    work = Work("a", done)
    exiting.finish_before_exit(work.finish, work.give_up)
    monkeypatch.setattr("sys.last_type", KeyboardInterrupt, raising=False)
    exiting.finish_now()
    assert done == ["a, given up"]


def test_thousands_of_executors_leave_nothing_to_do_at_the_exit(registered):
    Executor("threads").shutdown()
    hooks = len(threading._threading_atexits)
    for _ in range(200):
        with Executor("threads", max_workers=1) as executor:
            list(executor.map(abs, [1]))
    del executor
    gc.collect()
    assert len(threading._threading_atexits) == hooks
    assert not registered


def test_every_step_is_taken_and_the_first_failure_is_raised():
    taken = []

    def fails(name):
        taken.append(name)
        raise ValueError(name)

    tries = iter([KeyError(), None])

    def fails_once():
        problem = next(tries)
        if problem is not None:
            raise problem
        taken.append("at last")

    with pytest.raises(ValueError, match="one"):
        exiting.do_all(lambda: fails("one"), fails_once, lambda: fails("two"), lambda: taken.append("end"))
    assert taken == ["one", "one", "at last", "two", "two", "end"]


FORKS = """
import os, sys, time
from jobrunner import Executor

executor = Executor("threads", max_workers=1)
executor.submit(print, "parent", flush=True).result()
child = os.fork()
if not child:
    executor.submit(lambda: (time.sleep(0.1), executor.submit(print, "child", flush=True).result()))
    sys.exit(0)
os.waitpid(child, 0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forking a process with threads is not safe there")
def test_a_process_that_was_forked_finishes_what_it_has_begun_itself():
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS], capture_output=True, text=True, timeout=30
    )
    assert (ran.stdout, ran.stderr) == ("parent\nchild\n", "")


REGISTERS = """
import os, sys
from jobrunner.system import atexit_hooks as exiting

class Work:
    def finish(self):
        print("finished", flush=True)

work = Work()
exiting.finish_before_exit(work.finish, work.finish)
child = os.fork()
if not child:
    sys.exit(0)
print(os.waitpid(child, 0)[1], flush=True)
"""


def test_what_was_begun_before_a_fork_is_finished_by_the_process_that_began_it_alone():
    ran = subprocess.run([sys.executable, "-c", REGISTERS], capture_output=True, text=True, timeout=30)
    assert (ran.stdout, ran.stderr) == ("0\nfinished\n", "")


NESTED = """
import threading, time
from jobrunner import Executor, current_executor

def make_calls():
    print(executor.submit(abs, -1).result(), flush=True)
    refused.wait()  # until the program is ending
    ended.set()
    while executor._lifetime._busy:  # the map, with which all other work of the program's own ends
        pass
    for n in range(100):
        assert current_executor().submit(abs, -n).result() == n
    print(executor.submit(abs, -2).result(), list(executor.map(abs, [-3])), flush=True)

def knock():
    try:
        while True:
            executor.submit(abs, 1)
            time.sleep(0.001)
    except RuntimeError:
        refused.set()

refused, ended = threading.Event(), threading.Event()
executor = Executor("threads", max_workers=3)
executor.submit(make_calls)
executor.map(lambda _: ended.wait(), range(1))
threading.Thread(target=knock, daemon=True).start()
"""


def test_a_call_that_runs_at_the_exit_goes_on_making_calls_where_the_program_makes_none():
    ran = subprocess.run([sys.executable, "-c", NESTED], capture_output=True, text=True, timeout=30)
    assert (ran.stdout, ran.stderr) == ("1\n2 [3]\n", "")
