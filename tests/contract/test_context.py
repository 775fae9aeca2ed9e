"""What a task can find out about itself, and calls that calls make."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time

import pytest
import zoo

from jobrunner import current_executor, current_task


def about_itself():
    task = current_task()
    return task.id, task.name, task.attempt, task.worker, task.cancel_requested


def fail_until(path, attempts):
    zoo.append_line(path, str(current_task().attempt))
    if current_task().attempt < attempts:
        raise ValueError("not yet")
    return current_task().attempt


def fibonacci(n):
    if n < 2:
        return n
    with current_executor() as executor:
        left, right = executor.submit(fibonacci, n - 1), executor.submit(fibonacci, n - 2)
        return left.result() + right.result()


def quicksort(values):
    if len(values) < 20:
        return sorted(values)
    pivot, *rest = values
    executor = current_executor()
    low = executor.submit(quicksort, [value for value in rest if value < pivot])
    high = executor.submit(quicksort, [value for value in rest if value >= pivot])
    return [*low.result(), pivot, *high.result()]


def stop_when_asked(started):
    try:
        zoo.append_line(started, "started")
        zoo.wait_for("/never")
    except KeyboardInterrupt:
        zoo.append_line(started, str(current_task().cancel_requested))
        raise


def test_a_task_knows_itself(executor, kind):
    future = executor.with_options(name="mine").submit(about_itself)
    task_id, name, attempt, worker, cancelled = future.result()
    assert (task_id, name, attempt, cancelled) == (future.id, "mine", 1, False)
    assert worker == {"threads": "threads", "processes": "local"}.get(kind, worker) != ""


def test_outside_of_tasks_there_is_none():
    assert current_task() is None
    with pytest.raises(RuntimeError, match="was called outside of a task"):
        current_executor()


@pytest.mark.promise("options")
def test_attempts_are_counted(executor, tmp_path):
    trace = tmp_path / "trace"
    future = executor.with_options(retries=3).submit(fail_until, str(trace), 3)
    assert future.result() == 3
    assert trace.read_text().split() == ["1", "2", "3"]


def test_in_a_map(executor):
    tasks = list(executor.map(lambda _: current_task() is not None, range(10)))
    assert tasks == [True] * 10


@pytest.mark.promise("cancel")
@pytest.mark.stops
def test_a_task_sees_that_it_is_to_stop(make_executor, tmp_path, eventually):
    executor = make_executor(max_workers=1)
    started = tmp_path / "started"
    future = executor.submit(stop_when_asked, str(started))
    eventually(lambda: started.exists() and started.read_text())
    assert future.cancel(running=True)
    assert started.read_text().split() == ["started", "True"]


@pytest.mark.promise("nested")
@pytest.mark.nests
def test_a_tree_of_calls_is_deeper_than_the_pool(make_executor):
    assert make_executor(max_workers=2).submit(fibonacci, 7).result() == 13


@pytest.mark.promise("nested")
@pytest.mark.nests
def test_a_parallel_quicksort(make_executor):
    values = [(7919 * i) % 1009 for i in range(300)]
    assert make_executor(max_workers=2).submit(quicksort, values).result() == sorted(values)


@pytest.mark.promise("nested")
@pytest.mark.nests
def test_calls_of_calls_are_this_executor_s(executor):
    def inner():
        return list(current_executor().map(zoo.add, range(5), range(5)))

    assert executor.submit(inner).result() == [0, 2, 4, 6, 8]


def wait_in_the_standard_way(future):
    return concurrent.futures.wait([future]).done == {future}


def ask_as_completed(future):
    return list(concurrent.futures.as_completed([future])) == [future]


def wait_in_a_thread(future):
    thread = threading.Thread(target=future.result)
    thread.start()
    thread.join()
    return future.done()


def submit_in_a_thread(_):
    executor = current_executor()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: executor.submit(zoo.echo, True).result()).result()


def wait_in_an_event_loop(future):
    async def wrapped():
        return await asyncio.wrap_future(future)

    return asyncio.run(wrapped())


def look_again_and_again(future):
    while not future.done():
        time.sleep(0.01)
    return True


def wait_for_a_map(future):
    results = current_executor().map(zoo.add, range(3), range(3))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(list, results).result() == [0, 2, 4]


WAYS = [
    wait_in_the_standard_way,
    ask_as_completed,
    wait_in_a_thread,
    submit_in_a_thread,
    wait_in_an_event_loop,
    look_again_and_again,
    wait_for_a_map,
]


def submit_and(wait):
    return wait(current_executor().submit(zoo.echo, True))


def standard_tree(depth):
    """Each call waits for the next one by the standard library's function, which tells nobody that it waits."""
    if not depth:
        return 1
    future = current_executor().submit(standard_tree, depth - 1)
    concurrent.futures.wait([future])
    return future.result() + 1


@pytest.mark.promise("nested")
@pytest.mark.nests
@pytest.mark.one_pool
@pytest.mark.parametrize("wait", WAYS, ids=lambda way: way.__name__)
def test_a_call_may_wait_for_its_own_in_any_way(make_executor, wait):
    assert make_executor(max_workers=1).submit(submit_and, wait).result()


@pytest.mark.promise("nested")
@pytest.mark.nests
@pytest.mark.one_pool
def test_calls_of_calls_may_wait_in_the_standard_way(make_executor):
    assert make_executor(max_workers=1).submit(standard_tree, 2).result() == 3
