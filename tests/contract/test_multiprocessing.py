"""Objects of multiprocessing in calls and initializers, on the backends whose processes are this host's."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory

import pytest

from jobrunner import SerializationError, current_executor

pytestmark = pytest.mark.own


@pytest.fixture(scope="module")
def manager():
    with multiprocessing.get_context("spawn").Manager() as manager:
        yield manager


@pytest.fixture(params=["fork", "spawn"])
def context(request):
    """One way to start processes, for which objects are made."""
    if request.param == "fork" and sys.platform != "linux":
        pytest.skip("semaphores are handed over by /proc")
    return multiprocessing.get_context(request.param)


def fill(numbers, queue, lock, event, number):
    with lock:
        numbers[number] = number * number
    queue.put(number)
    event.set()


def own_key():
    return bytes(multiprocessing.current_process().authkey)


def test_proxies_of_a_manager_in_arguments(executor, manager):
    numbers, queue, lock, event = manager.dict(), manager.Queue(), manager.Lock(), manager.Event()
    futures = [executor.submit(fill, numbers, queue, lock, event, number) for number in range(5)]
    for future in futures:
        future.result(30)
    list(executor.map(lambda number: fill(numbers, queue, lock, event, number), range(5, 20)))
    assert dict(numbers) == {number: number * number for number in range(20)}
    assert sorted(queue.get(timeout=30) for _ in range(20)) == list(range(20))
    assert event.is_set()


def test_proxies_in_initargs_and_in_calls_of_calls(make_executor, manager):
    numbers = manager.list()
    executor = make_executor(initializer=numbers.append, initargs=("started",))

    def inside():
        current_executor().submit(numbers.append, "inside").result()

    executor.submit(inside).result(30)
    assert list(numbers)[-1] == "inside"
    assert "started" in list(numbers)


def test_the_key_of_the_program_is_that_of_its_calls(executor, monkeypatch):
    process = multiprocessing.current_process()
    assert executor.submit(own_key).result() == process.authkey
    monkeypatch.setitem(process._config, "authkey", process.authkey)
    process.authkey = b"another one"
    assert executor.submit(own_key).result() == b"another one"
    assert set(executor.map(own_key_of, range(100))) == {b"another one"}


def own_key_of(_):
    return own_key()


shared = None


def share(*given):
    global shared
    shared = given


def use_all(number):
    lock, rlock, semaphore, condition, event, queue, value, array, simple = shared
    with lock, rlock, semaphore, value.get_lock():
        value.value += 1
    with array:
        array[number % 10] += 1
    with condition:
        condition.notify_all()
    event.set()
    queue.put(number)
    simple.put(number)


def increment(count):
    lock, value = shared
    for _ in range(count):
        with lock:
            value.value += 1


def test_what_is_shared_by_inheritance_goes_with_an_initializer(make_executor, context):
    given = (
        *(context.Lock(), context.RLock(), context.Semaphore(2), context.Condition(), context.Event()),
        *(context.Queue(), context.Value("i", 0), context.Array("i", 10), context.SimpleQueue()),
    )
    executor = make_executor(initializer=share, initargs=given)
    list(executor.map(use_all, range(40), chunksize=3))
    *_, event, queue, value, array, simple = given
    assert (value.value, list(array), event.is_set()) == (40, [4] * 10, True)
    assert sorted(queue.get(timeout=30) for _ in range(40)) == list(range(40))
    assert sorted(simple.get() for _ in range(40)) == list(range(40))


def test_a_lock_excludes_the_program_and_all_calls(make_executor, context):
    lock, value = context.Lock(), context.Value("i", 0, lock=False)
    executor = make_executor(initializer=share, initargs=(lock, value))
    futures = [executor.submit(increment, 300) for _ in range(6)]
    for _ in range(300):
        with lock:
            value.value += 1
    for future in futures:
        future.result(30)
    assert value.value == 7 * 300


def wait_at(_):
    (barrier,) = shared
    return barrier.wait(30) >= 0


def test_a_barrier_holds_until_all_are_there(make_executor, context):
    executor = make_executor(initializer=share, initargs=(context.Barrier(2),))
    assert [future.result(30) for future in [executor.submit(wait_at, n) for n in range(2)]] == [True, True]


def test_a_lock_as_an_argument_is_refused_in_the_words_of_the_standard_library(executor, context):
    text = "Lock objects should only be shared between processes through inheritance"
    with pytest.raises(RuntimeError, match=text) as caught:
        executor.submit(print, context.Lock()).result()
    assert isinstance(caught.value, SerializationError)


@pytest.mark.skipif(sys.platform != "linux", reason="there all locks have names")
def test_a_lock_that_cannot_be_handed_over_is_an_error_that_says_what_can(make_executor):
    fork = multiprocessing.get_context("fork")
    lock = fork.RLock()
    with (
        lock,
        pytest.raises(
            SerializationError, match=r"RLock that is held .* multiprocessing.Manager\(\).Lock\(\)"
        ),
    ):
        make_executor(initializer=share, initargs=(lock,))
    ours, theirs = fork.Pipe()
    with ours, theirs, pytest.raises(SerializationError, match=r"sockets.*multiprocessing.Manager\(\)"):
        make_executor(initializer=share, initargs=(ours,))
    with pytest.raises(SerializationError, match="cannot pickle"):
        make_executor(initializer=share, initargs=(threading.Lock(),))


FORKS_AT_ONCE = """
import multiprocessing
import warnings

from programs import open_executor


def add(numbers, number):
    numbers.append(number)


if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)
    for _ in range(3):
        with open_executor() as executor, multiprocessing.get_context("fork").Manager() as manager:
            numbers = manager.list()
            list(executor.map(add, [numbers] * 5, range(5)))
            print(sorted(numbers))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forking a process with threads is not safe there")
def test_a_process_that_is_forked_while_slots_start_keeps_nobody_waiting(run_program):
    assert run_program(FORKS_AT_ONCE).splitlines() == ["[0, 1, 2, 3, 4]"] * 3


FORKS_MEANWHILE = """
    import multiprocessing, os, sys, warnings
    from programs import open_executor
    from zoo import wait_for

    if __name__ == "__main__":
        warnings.simplefilter("ignore", DeprecationWarning)
        executor = open_executor()
        call = executor.submit(wait_for, sys.argv[1], "call")
        results = executor.map(wait_for, sys.argv[1:2] * 2, ["a", "b"])
        process = multiprocessing.get_context("fork").Process(target=print, args=["child"])
        process.start()
        process.join()
        children = []
        for ends in [executor.shutdown, sys.exit]:
            children.append(os.fork())
            if not children[-1]:
                ends()
                sys.exit(0)
        print(process.exitcode, *(os.waitpid(child, 0)[1] for child in children), flush=True)
        open(sys.argv[1], "w").close()
        print(call.result(), *results)
"""


@pytest.mark.alone
@pytest.mark.skipif(sys.platform != "linux", reason="forking a process with threads is not safe there")
def test_a_process_that_is_forked_while_calls_and_maps_run_ends(run_program, tmp_path):
    lines = run_program(FORKS_MEANWHILE, tmp_path / "go").splitlines()
    assert lines == ["child", "0 0 0", "call a b"]


def write_into(name):
    memory = SharedMemory(name=name)
    memory.buf[0] += 1
    memory.close()


def create(_):
    memory = SharedMemory(create=True, size=1)
    memory.buf[0] = 7
    memory.close()
    return memory.name


def tracker(_=None):
    """Which pipe leads to the resource tracker of this process."""
    return os.fstat(resource_tracker.getfd()).st_ino


@pytest.fixture
def shared_memory():
    memory = SharedMemory(create=True, size=1)
    yield memory
    memory.close()
    memory.unlink()


def test_shared_memory_outlives_the_processes_of_calls_that_have_attached_it(
    make_executor, shared_memory, capfd
):
    with make_executor() as executor:
        executor.submit(write_into, shared_memory.name).result()
    with make_executor() as executor:
        executor.submit(write_into, shared_memory.name).result()
    assert shared_memory.buf[0] == 2
    assert "resource_tracker" not in capfd.readouterr().err


def test_shared_memory_that_calls_have_created_is_the_programs_to_unlink(make_executor, capfd):
    with make_executor() as executor:
        names = list(executor.map(create, range(4)))
    for name in names:
        memory = SharedMemory(name=name)
        assert memory.buf[0] == 7
        memory.close()
        memory.unlink()
    assert "resource_tracker" not in capfd.readouterr().err


def test_the_resource_tracker_of_the_program_is_that_of_its_calls(make_executor):
    with make_executor() as executor:
        assert set(executor.map(tracker, range(20))) == {tracker()}

        def inside():
            return current_executor().submit(tracker).result()

        assert executor.submit(inside).result() == tracker()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_the_processes_of_calls_start_others_as_they_were_started(make_executor, method):
    executor = make_executor(mp_context=multiprocessing.get_context(method))
    assert executor.submit(start_method).result() == method


def start_method():
    return multiprocessing.get_start_method()
