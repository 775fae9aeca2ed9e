"""What a process finds that is forked while other threads hold locks, which are not there any more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from jobrunner.system import forks

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="forking a process with threads is not safe there"
)

HELD = """
import gc, os, signal, sys, threading, time
from jobrunner import Executor
from jobrunner.system.forks import no_forks

LOCKS = type(threading.Lock()), type(threading.RLock())


def locks():
    "All that jobrunner's modules and objects have at the moment, with their names."
    owners = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] == "jobrunner"]
    owners += [thing for thing in gc.get_objects() if str(type(thing).__module__).startswith("jobrunner.")]
    found = {}
    for owner in owners:
        for name, value in list(getattr(owner, "__dict__", {}).items()):
            if isinstance(value, LOCKS) and value is not no_forks:
                found[id(value)] = f"{getattr(owner, '__name__', type(owner).__name__)}.{name}", value
    return list(found.values())


def hold_all(held, go):
    for name, lock in locks():
        names.append(name)
        if not lock.acquire(timeout=10):
            print(name, "is not to be had", file=sys.stderr, flush=True)
            os._exit(1)
    held.set()
    go.wait()
    os._exit(0)


names = []
executor = Executor(sys.argv[1], max_workers=1)
assert executor.submit(abs, -1).result() == 1
results = executor.map(abs, range(100), buffersize=10)
assert next(results) == 0
pending = executor.submit(time.sleep, 1000)
held, go = threading.Event(), threading.Event()
threading.Thread(target=hold_all, args=[held, go], daemon=True).start()
held.wait()
child = os.fork()
if not child:
    signal.alarm(30)
    results.close()
    try:
        executor.submit(abs, -2)
    except RuntimeError as exc:
        print(exc, flush=True)
    assert not pending.cancel()
    executor.shutdown()
    with Executor(sys.argv[1], max_workers=1) as own:
        print(own.submit(abs, -3).result(), flush=True)
    os._exit(0)
status = os.waitpid(child, 0)[1]
print(os.waitstatus_to_exitcode(status), flush=True)
print(*sorted({*names}), file=sys.stderr, flush=True)
go.set()
time.sleep(100)
"""


@pytest.mark.parametrize("backend", ["processes", "cluster"])
def test_a_process_that_is_forked_while_other_threads_hold_every_lock_goes_its_own_way(backend):
    program = [sys.executable, "-X", "faulthandler", "-c", HELD, backend]
    environment = {**os.environ, "JOBRUNNER_CANCEL_WAIT": "0.1"}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=50)
    *refusal, result, code = done.stdout.splitlines()
    assert (result, code) == ("3", "0"), done.stdout + done.stderr
    assert ["belongs to the process that forked this one" in line for line in refusal] == [True]


def in_a_fork(work):
    """The exit code of a forked process that does this."""
    child = os.fork()
    if not child:
        signal.alarm(20)
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_lock_that_another_thread_holds_is_free_in_a_forked_process():
    lock = forks.lock()
    changed = threading.Condition(lock)
    held, go = threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            go.wait()

    def take():
        with changed:
            changed.notify_all()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    try:
        assert in_a_fork(take) == 0
        assert not lock.acquire(blocking=False)  # of this process's nothing has changed
    finally:
        go.set()
        holder.join()
    assert lock.acquire(blocking=False)
    lock.release()


def test_one_that_the_forking_thread_holds_is_its_own_there_too():
    lock = forks.lock()

    def release():
        lock.release()
        lock.release()
        with pytest.raises(RuntimeError):
            lock.release()

    with lock, lock:
        assert in_a_fork(release) == 0
    with pytest.raises(RuntimeError):
        lock.release()
