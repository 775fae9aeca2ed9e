"""Large arguments and results: equal, writable, and nobody else's, on whatever way they came."""

from __future__ import annotations

import gc
import os
import signal
import sys
import textwrap
import threading

import numpy as np
import pytest
import zoo

MIB = 1 << 20


def array_of(number, size=2 * MIB):
    return np.full(size // 8, number, dtype=np.int64)


@pytest.mark.parametrize(
    "value",
    [
        np.arange(MIB, dtype=np.int64),
        np.arange(6 * MIB, dtype=np.float32).reshape(2, 3, -1).transpose(2, 0, 1),
        [np.arange(n * 100_000) for n in range(8)],
        {"a": np.ones(MIB), "b": b"x" * MIB, "c": ["y" * MIB, None]},
        list(range(500_000)),
        np.zeros((0, 5)),
        np.arange(300_000, dtype=np.int64)[::3],
    ],
    ids=["array", "transposed", "many", "mixed", "a large pickle", "empty", "with steps"],
)
def test_what_goes_there_comes_back(executor, value):
    for _ in range(3):
        back = executor.submit(zoo.echo, value).result()
        assert flat(back) == flat(value)


def flat(value):
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    if isinstance(value, list):
        return [flat(one) for one in value]
    if isinstance(value, dict):
        return {name: flat(one) for name, one in value.items()}
    return value


def test_what_may_not_be_written_to_stays_so(executor):
    array = array_of(1)
    array.flags.writeable = False
    assert executor.submit(lambda one: one.flags.writeable, array).result() is False
    assert not executor.submit(zoo.echo, array).result().flags.writeable


@pytest.mark.copies
def test_a_task_may_write_into_its_argument(executor):
    def write(array):
        before = int(array.sum())
        array[:] = 99
        return before

    array = array_of(1)
    futures = [executor.submit(write, array) for _ in range(8)]
    assert [future.result() for future in futures] == [array.size] * 8
    assert (array == 1).all()


@pytest.mark.copies
def test_changes_after_submit_do_not_reach_the_task(executor, tmp_path):
    gate = str(tmp_path / "gate")
    blockers = [executor.submit(zoo.wait_for, gate) for _ in range(2)]
    array = array_of(1)
    futures = []
    for number in range(1, 6):
        array[:] = number
        futures.append(executor.submit(zoo.echo, array))
    array[:] = 0
    (tmp_path / "gate").touch()
    assert [int(future.result().min()) for future in futures] == [1, 2, 3, 4, 5]
    assert [int(future.result().max()) for future in futures] == [1, 2, 3, 4, 5]
    del blockers


@pytest.mark.crashes
@pytest.mark.copies
def test_a_retry_sees_the_argument_as_it_was(executor, tmp_path):
    trace = tmp_path / "trace"

    def write_and_die(array):
        total = int(array.sum())
        array[:] = 99
        zoo.append_line(str(trace), str(total))
        if len(trace.read_text().split()) < 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return total

    array = array_of(2)
    assert executor.submit(write_and_die, array).result() == 2 * array.size
    assert trace.read_text().split() == [str(2 * array.size)] * 3


def test_a_result_may_be_written_to(executor):
    first = executor.submit(zoo.echo, array_of(1)).result()
    first[:] = 5
    second = executor.submit(zoo.echo, array_of(1)).result()
    assert (first == 5).all()
    assert (second == 1).all()


@pytest.mark.shared
def test_a_result_that_is_written_to_is_another_calls_argument_as_it_was(executor):
    future = executor.submit(zoo.echo, array_of(3))
    future.result()[:] = 9
    assert int(executor.submit(np.sum, future).result()) == 3 * 2 * MIB // 8


@pytest.mark.crashes
def test_results_outlive_the_slot_and_the_executor(make_executor):
    executor = make_executor(max_workers=1)
    kept = executor.submit(zoo.echo, array_of(7)).result()
    executor.submit(zoo.kill_self).exception()
    later = [executor.submit(zoo.echo, array_of(number)).result() for number in range(4)]
    executor.shutdown()
    gc.collect()
    assert (kept == 7).all()
    assert [int(array.max()) for array in later] == [0, 1, 2, 3]
    kept[:] = 1


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux has memory that is shared through descriptors"
)
def test_an_executor_that_was_shut_down_keeps_no_results(make_executor):
    before = memory_files()
    executor = make_executor(max_workers=1)
    futures = [executor.submit(zoo.zeros, 2 * MIB) for _ in range(3)]
    assert [len(future.result()) for future in futures] == [2 * MIB] * 3
    del futures
    executor.shutdown()
    gc.collect()
    assert memory_files() <= before


def memory_files():
    """Open descriptors of payloads in shared memory."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:  # that of the folder itself
            pass
    return sum("payload" in name for name in found)


@pytest.mark.copies
@pytest.mark.alone  # one worker is one process there, and not one at a time of those that a job has
def test_what_a_task_keeps_stays_as_it_was(make_executor):
    executor = make_executor(max_workers=1)

    def keep(array):
        import builtins

        builtins.kept = [*getattr(builtins, "kept", []), array]
        return [int(one.max()) for one in builtins.kept]

    for turn in range(5):
        assert executor.submit(keep, array_of(turn)).result() == list(range(turn + 1))


def test_map(executor):
    values = [array_of(number, MIB) for number in range(24)]
    totals = executor.map(lambda array: array * 2, values)
    assert [int(array.max()) for array in totals] == [2 * number for number in range(24)]


def test_a_result_as_an_argument(executor):
    future = executor.submit(zoo.echo, array_of(3))
    both = executor.submit(lambda one, other: int(one.sum() + other[0].sum()), future, [future])
    assert both.result() == 2 * 3 * 2 * MIB // 8


def test_many_threads(executor):
    wrong = []

    def use(name):
        for turn in range(15):
            number = name * 100 + turn
            if not (executor.submit(zoo.echo, array_of(number, MIB)).result() == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=use, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- what functions hold ------------------------------------------------------------------------------------------


@pytest.mark.copies
def test_a_function_takes_what_it_holds_as_it_is_at_submit(executor):
    array, other = array_of(1), array_of(10)

    def total():
        return int(array[0] * array.size + other[-1])

    def difference():
        return int(array[0] - other[0])

    futures = []
    for number in range(1, 5):
        array[:] = number
        futures += [executor.submit(total), executor.submit(difference)]
    array[:] = 0
    expected = [
        value for number in range(1, 5) for value in (number * array.size + 10, number - 10)
    ]  # fmt: skip
    assert [future.result() for future in futures] == expected
    assert list(executor.map(lambda index: int(other[index]), range(300))) == [10] * 300


@pytest.mark.copies
def test_what_one_function_writes_into_what_it_holds_is_not_seen_by_another(executor):
    array = array_of(1)

    def spoil():
        array[:] = 99
        return int(array[0])

    def read():
        return int(array.min()), int(array.max())

    assert [executor.submit(spoil).result() for _ in range(4)] == [99] * 4
    assert [executor.submit(read).result() for _ in range(4)] == [(1, 1)] * 4
    assert (array == 1).all()


@pytest.mark.crashes
def test_a_function_has_what_it_holds_in_a_process_that_was_started_later(executor):
    array = array_of(5)

    def total(dies):
        if dies:
            zoo.kill_self()
        return int(array.sum())

    view = executor.with_options(at_most_once=True)
    for _ in range(3):
        assert executor.submit(total, False).result() == 5 * array.size
        assert view.submit(total, True).exception() is not None
    assert [executor.submit(total, False).result() for _ in range(4)] == [5 * array.size] * 4


def test_an_initializer_may_have_a_large_argument(make_executor):
    executor = make_executor(max_workers=1, initializer=zoo.initialize, initargs=(array_of(3),))
    for _ in range(2):
        values = executor.submit(zoo.initialized).result()
        assert any(isinstance(value, np.ndarray) and (value == 3).all() for value in values)


def test_a_shipped_initializer_may_have_a_large_argument(make_executor):
    executor = make_executor(max_workers=1, initializer=zoo.initialize, initargs=(array_of(4),), ship=[zoo])
    values = executor.submit(zoo.initialized).result()
    assert any(isinstance(value, np.ndarray) and (value == 4).all() for value in values)


@pytest.mark.own
@pytest.mark.skipif(sys.platform != "linux", reason="only there memory is shared")
def test_what_functions_hold_is_in_memory_once(make_executor, tmp_path):
    executor = make_executor()
    array = array_of(7, 8 * MIB)

    def inode_of_mine(gate):
        """The file in which the array is mapped here."""
        zoo.wait_for(gate)
        address = array.__array_interface__["data"][0]
        with open("/proc/self/maps") as maps:
            rows = [line.split() for line in maps]
        for span, _, _, _, inode, *name in rows:
            start, end = (int(number, 16) for number in span.split("-"))
            if start <= address < end:
                return name[0], inode
        return None

    gate = str(tmp_path / "gate")
    futures = [executor.submit(inode_of_mine, gate) for _ in range(8)]
    (tmp_path / "gate").touch()
    found = [future.result() for future in futures]
    assert {name for name, _ in found} == {"/memfd:jobrunner-payload"}
    assert len(set(found)) == 1


@pytest.mark.promise("nested")
@pytest.mark.nests
def test_an_executor_inside_of_a_task(executor):
    def ask(inner, array):
        return inner.submit(zoo.echo, array).result() + inner.submit(zoo.echo, 1).result()

    assert (executor.submit(ask, executor, array_of(4)).result() == 5).all()


@pytest.mark.own
def test_an_embedded_cluster_that_dies_gets_the_arguments_again(kind, make_executor, tmp_path):
    if kind != "cluster":
        pytest.skip("only there it is another process")
    executor = make_executor()

    def wait_and_sum(array):
        zoo.append_line(str(tmp_path / "started"), "x")
        zoo.wait_for(str(tmp_path / "gate"))
        array += 1
        return array

    kept = executor.submit(zoo.echo, array_of(8)).result()
    futures = [executor.submit(wait_and_sum, array_of(number)) for number in range(5)]
    zoo.wait_for(str(tmp_path / "started"))
    os.kill(executor._lifetime.backend._connection._local._process.pid, signal.SIGKILL)
    (tmp_path / "gate").touch()
    assert [int(future.result().max()) for future in futures] == [1, 2, 3, 4, 5]
    assert (kept == 8).all()
    assert (executor.submit(zoo.echo, array_of(6)).result() == 6).all()


@pytest.mark.own
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_is_left_behind(run_program):
    out = run_program(
        """
        import gc, os
        import numpy as np
        from programs import open_executor

        def opened():
            with open("/proc/self/maps") as maps:
                return len(os.listdir("/proc/self/fd")), maps.read().count("memfd:jobrunner-payload")

        def use(turns):
            for turn in range(turns):
                back = executor.submit(lambda array: array, np.full(1 << 18, turn)).result()
                assert (back == turn).all()
            return *opened(), *executor.submit(opened).result()

        with open_executor(max_workers=1) as executor:
            executor.submit(opened).result()
        del executor
        gc.collect()
        before = opened()
        with open_executor(max_workers=1) as executor:
            first = use(70)  # the coordinator remembers results, up to 64 MiB of them
            for _ in range(3):
                later = use(50)
                assert all(now <= then + 6 for now, then in zip(later, first)), (first, later)
        del executor
        gc.collect()
        assert opened() == before, (opened(), before)
        print("clean")
        """
    )
    assert out == "clean\n"


@pytest.mark.own
@pytest.mark.skipif(sys.platform != "linux", reason="only there memory is shared")
def test_without_memory_to_share_everything_goes_the_ordinary_way(run_program):
    out = run_program(
        """
        import resource
        import numpy as np
        from programs import open_executor

        # No file may be larger, not even one in memory; what this program starts inherits it.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        array = np.arange(1 << 20)
        with open_executor() as executor:
            for back in executor.map(lambda array: array + 1, [array] * 4):
                assert (back == array + 1).all()
            assert executor._lifetime.backend._store._pool.counts() == (0, 0)
        print("as ever")
        """
    )
    assert out == "as ever\n"


@pytest.mark.own
@pytest.mark.parametrize("how", ["partial", "closure"])
def test_what_functions_hold_is_let_go_of(run_program, how):
    """Sent 500 times 1 MiB, program and processes have taken a part of that: it is bounded, and far below the sum."""
    program = """
        import functools, os, sys
        import psutil
        from programs import open_executor

        def size(data):
            return len(data)

        def closed(data):
            return lambda: len(data)

        def memory():
            me = psutil.Process()
            return me.memory_info().rss  # the program's, which has no use for what calls are done with

        with open_executor(max_workers=1) as ex:
            ex.submit(size, b"").result()
            before = memory()
            for _ in range(500):
                data = os.urandom(16) * 2**16
                call = functools.partial(size, data) if sys.argv[1] == "partial" else closed(data)
                assert ex.submit(call).result() == 2**20
            taken = (memory() - before) / 2**20
            print("taken", taken, file=sys.stderr if taken > 350 else sys.stdout)
    """
    run_program(textwrap.dedent(program), how)
