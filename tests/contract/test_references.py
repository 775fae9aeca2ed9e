"""What is released, and when: Futures, results, arguments, executors."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading
import weakref
from functools import partial

import pytest
import zoo

from jobrunner import AsyncExecutor, NotSupportedError, as_completed, gather, progress


def are_gone(*references):
    """Without the collector of cycles."""
    return all(reference() is None for reference in references)


def is_gone(reference):
    gc.collect()
    return reference() is None


@pytest.mark.promise("waiting")
@pytest.mark.parametrize("give", [as_completed, concurrent.futures.as_completed, progress])
def test_a_future_that_was_given_out_is_let_go_of(executor, eventually, give):
    count = 0
    for future in give([executor.submit(zoo.make_thing) for _ in range(8)]):
        references = weakref.ref(future), weakref.ref(future.result())
        del future
        eventually(partial(are_gone, *references))
        count += 1
    assert count == 8


def ask_future(executor):
    executor.submit(zoo.raise_plain).result()


def gather_two(executor):
    gather([executor.submit(zoo.raise_plain) for _ in range(2)])


def iterate(executor):
    list(executor.map(zoo.raise_plain, range(4)))


@pytest.mark.promise("errors")
@pytest.mark.parametrize("ask", [ask_future, gather_two, iterate])
def test_an_error_that_was_raised_is_let_go_of(executor, eventually, ask):
    """It knows the frames that it went through; these must not know it."""
    try:
        ask(executor)
    except zoo.PlainError as error:
        reference = weakref.ref(error)
    eventually(partial(are_gone, reference))


@pytest.mark.promise("map")
@pytest.mark.parametrize("settings", [{}, {"chunksize": 4}, {"buffersize": 3}, {"progress": True}])
def test_a_result_of_map_that_was_given_out_is_let_go_of(executor, eventually, settings):
    count = 0
    for value in executor.map(zoo.make_thing, range(10), **settings):
        reference = weakref.ref(value)
        del value
        eventually(partial(are_gone, reference))
        count += 1
    assert count == 10


@pytest.mark.promise("async")
def test_async_ones_are_let_go_of(executor):
    async def main():
        async_executor = AsyncExecutor(executor)
        async for future in async_executor.as_completed(
            [async_executor.submit(zoo.make_thing) for _ in range(8)]
        ):
            reference, result = weakref.ref(future), weakref.ref(future.result())
            del future
            while reference() is not None or result() is not None:
                await asyncio.sleep(0)
        async for value in async_executor.map(zoo.make_thing, range(8)):
            reference = weakref.ref(value)
            del value
            assert reference() is None

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_call_that_is_done_keeps_neither_function_nor_arguments(executor, eventually):
    thing = zoo.Thing()
    references = [weakref.ref(thing)]
    future = executor.submit(thing.nothing)
    other = executor.submit(zoo.type_of, thing)
    mapped = executor.map(zoo.type_of, [thing])
    assert future.result() is None
    assert other.result() == "Thing"
    assert list(mapped) == ["Thing"]
    del thing
    eventually(lambda: is_gone(references[0]))


@pytest.mark.parametrize("how", ["method", "partial", "closure", "default", "map"])
def test_what_a_function_holds_is_let_go_of_at_once(executor, eventually, how):
    """The standard pools refer to it in no cycle, so programs with large objects do not wait for the collector."""
    make = {
        "method": lambda thing: thing.nothing,
        "partial": lambda thing: partial(zoo.type_of, thing),
        "closure": lambda thing: lambda *_: type(thing).__name__,
        "default": lambda thing: lambda *_, thing=thing: type(thing).__name__,
        "map": lambda thing: partial(zoo.type_of, thing),
    }
    thing = zoo.Thing()
    reference = weakref.ref(thing)
    gc.collect()
    gc.disable()
    try:
        if how == "map":
            assert list(executor.map(make[how](thing), range(3))) == ["Thing"] * 3
        else:
            executor.submit(make[how](thing)).result()
        del thing
        eventually(partial(are_gone, reference))
    finally:
        gc.enable()


def test_a_slot_keeps_nothing_of_a_call_that_is_done(make_executor, eventually):
    executor = make_executor(max_workers=1)
    executor.submit(zoo.note_thing, zoo.Thing()).result()
    executor.submit(zoo.noted_thing).result()
    eventually(lambda: executor.submit(zoo.things_alive).result() == 0)
    list(executor.map(zoo.note_thing, [zoo.Thing(), zoo.Thing()]))
    eventually(lambda: executor.submit(zoo.things_alive).result() == 0)


@pytest.mark.promise("dependencies")
def test_a_refused_call_keeps_no_future(make_executor, can, eventually):
    executor = make_executor()

    def refused(submit):
        need = concurrent.futures.Future()
        with pytest.raises((RuntimeError, NotSupportedError)):
            submit(need)
        return weakref.ref(need)

    references = [refused(lambda need: executor.with_options(resources={"none": 1}).submit(zoo.echo, need))]
    if "copies" in can:
        need = concurrent.futures.Future()
        with pytest.raises(Exception):  # noqa: B017, PT011
            executor.submit(zoo.echo, need, threading.Lock()).result()
        references.append(weakref.ref(need))
        del need
    executor.shutdown()
    references.append(refused(lambda need: executor.submit(zoo.echo, need)))
    for reference in references:
        eventually(partial(is_gone, reference))


@pytest.mark.promise("dependencies")
def test_a_call_that_was_cancelled_keeps_nothing_in_the_future_that_it_waited_for(make_executor, eventually):
    executor = make_executor()
    need = concurrent.futures.Future()
    thing = zoo.Thing()
    reference = weakref.ref(thing)
    executor.submit(zoo.type_of, thing, need).cancel()
    executor.shutdown(wait=False, cancel_futures=True)
    del thing
    eventually(lambda: is_gone(reference))
    need.set_result(None)


@pytest.mark.promise("endings")
@pytest.mark.tidy
def test_the_results_of_a_map_do_not_keep_an_executor_open(run_program):
    text = """
        import gc, threading
        from programs import open_executor
        from zoo import echo

        if __name__ == "__main__":
            results = open_executor().map(echo, range(10))
            gc.collect()
            for thread in threading.enumerate():
                if thread is not threading.main_thread():
                    thread.join(20)
            print(threading.active_count(), list(results))
    """
    assert run_program(text) == "1 [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n"
