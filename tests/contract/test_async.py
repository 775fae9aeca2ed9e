"""AsyncExecutor on every backend: awaiting, iterating, cancelling, and leaving its block."""

from __future__ import annotations

import asyncio
import itertools
import threading
from pathlib import Path

import pytest
import zoo

from jobrunner import AsyncExecutor, DependencyError, SerializationError


@pytest.fixture
def run(executor):
    """Runs a coroutine function with an AsyncExecutor on the shared executor, which stays open."""

    def run(main, *arguments):
        async def with_executor():
            return await main(AsyncExecutor(executor), *arguments)

        return asyncio.run(with_executor())

    return run


async def appears(path):
    while not Path(path).exists():
        await asyncio.sleep(0.005)


def test_a_block_opens_and_ends_an_executor_of_its_own(kind, options):
    async def main():
        async with AsyncExecutor(kind, **{**options, "max_workers": 2}) as ex:
            unawaited = ex.submit(zoo.echo, "late")
            result = await ex.submit(zoo.add, 1, right=2)
            assert ex.max_workers == 2
            assert kind in repr(ex)
        assert unawaited.done() or await unawaited == "late"
        with pytest.raises(RuntimeError, match="after shutdown"):
            ex.submit(zoo.nothing)
        return result

    assert asyncio.run(main()) == 3


def test_outcomes(run):
    async def main(ex):
        with pytest.raises(ZeroDivisionError):
            await ex.submit(zoo.divide, 1, 0)
        with pytest.raises(RuntimeError, match="StopIteration"):
            await ex.submit(next, iter([]))
        future = ex.with_options(name="named").submit(zoo.echo, 1)
        assert await future == 1
        assert future.name == "named"
        assert future.id
        assert future.duration >= 0
        return await asyncio.gather(*[ex.submit(zoo.echo, i) for i in range(20)])

    assert run(main) == list(range(20))


def test_async_futures_stand_for_their_results(run):
    async def main(ex):
        three = ex.submit(zoo.add, 1, 2)
        seven = ex.submit(sum, [three, ex.submit(zoo.echo, 4)])
        assert await ex.submit(zoo.add, seven, right=three) == 10
        assert await ex.submit(zoo.add, three, three) == 6  # when it is done, too
        failed = ex.submit(zoo.divide, 1, 0)
        with pytest.raises(ZeroDivisionError):
            await failed
        with pytest.raises(DependencyError):
            await ex.submit(zoo.echo, failed)

    run(main)


def test_as_completed(run, tmp_path):
    async def main(ex):
        slow = ex.submit(zoo.wait_for, str(tmp_path / "go"), "slow")
        quick = ex.submit(zoo.echo, "quick")
        order = []
        async for future in ex.as_completed([slow, quick, quick]):
            order.append(future)
            (tmp_path / "go").touch()
        assert order == [quick, slow]

    run(main)


def test_as_completed_times_out(run, tmp_path):
    async def main(ex):
        future = ex.submit(zoo.wait_for, str(tmp_path / "go"))
        with pytest.raises(TimeoutError, match="1 futures are not done"):
            async for _ in ex.as_completed([future], timeout=0.01):
                pass
        (tmp_path / "go").touch()
        await future

    run(main)


@pytest.mark.parametrize(
    "sizes", [{}, {"chunksize": 7}, {"buffersize": 10}, {"buffersize": 9, "chunksize": 3}]
)
def test_map(run, sizes):
    async def main(ex):
        return [result async for result in ex.map(zoo.add, range(100), itertools.repeat(1, 90), **sizes)]

    assert run(main) == list(range(1, 91))


def test_map_takes_no_more_than_the_buffer_of_an_endless_input(run):
    async def main(ex):
        taken = itertools.count()
        results = ex.map(zoo.echo, taken, buffersize=8)
        assert [await anext(results) for _ in range(20)] == list(range(20))
        assert next(taken) <= 20 + 8
        await results.aclose()

    run(main)


def test_map_raises_what_the_first_failed_call_raised(run):
    async def main(ex):
        results = ex.map(zoo.divide, [1, 2, 3], [1, 0, 1], chunksize=1)
        assert await anext(results) == 1
        with pytest.raises(ZeroDivisionError):
            await anext(results)
        with pytest.raises((SerializationError, TypeError)):
            await anext(ex.map(None, [1]))

    run(main)


def test_map_times_out(run, tmp_path):
    async def main(ex):
        with pytest.raises(TimeoutError):
            async for _ in ex.map(zoo.wait_for, [str(tmp_path / "go")], timeout=0.01):
                pass
        (tmp_path / "go").touch()

    run(main)


def test_the_loop_goes_on_while_a_map_is_iterated_over(run):
    async def main(ex):
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        assert [result async for result in ex.map(zoo.echo, range(50), chunksize=1)] == list(range(50))
        ticking.cancel()
        return ticks

    assert run(main) >= 50


def test_to_cancel_the_task_that_awaits_stops_the_call(kind, options, tmp_path, can):
    started, go = str(tmp_path / "started"), str(tmp_path / "go")

    async def main():
        async with AsyncExecutor(kind, **{**options, "max_workers": 1}) as ex:
            running = asyncio.create_task(one(ex, zoo.announce_and_wait, started, go))
            await appears(started)
            waiting = asyncio.create_task(one(ex, zoo.append_line, str(tmp_path / "lines"), "ran"))
            await asyncio.sleep(0)
            for task in (waiting, running):
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            if "stops" not in can:
                Path(go).touch()
            assert await ex.submit(zoo.echo, "next") == "next"

    async def one(ex, fn, *args):
        return await ex.submit(fn, *args)

    asyncio.run(main())
    assert not (tmp_path / "lines").exists()


@pytest.mark.stops
def test_a_block_that_is_cancelled_stops_its_calls(kind, options, tmp_path):
    started, go = str(tmp_path / "started"), str(tmp_path / "go")

    async def main(awaits):
        async with AsyncExecutor(kind, **{**options, "max_workers": 1}) as ex:
            future = ex.submit(zoo.announce_and_wait, started, go)
            if awaits:
                await asyncio.Event().wait()
        return future

    async def cancel(awaits):
        task = asyncio.create_task(main(awaits))
        await appears(started)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    for awaits in (True, False):  # in the block, and while it waits for its calls at its end
        asyncio.run(cancel(awaits))
        Path(started).unlink()


def test_the_loop_goes_on_while_a_block_is_left(kind, options, tmp_path):
    go = tmp_path / "go"

    async def main():
        async with AsyncExecutor(kind, **{**options, "max_workers": 1}) as ex:
            future = ex.submit(zoo.wait_for, str(go), "done")
            asyncio.get_running_loop().call_later(0.01, go.touch)
        return await future

    assert asyncio.run(main()) == "done"


@pytest.mark.promise("nested")
@pytest.mark.nests
def test_it_yields_its_slot_in_a_call(make_executor):
    """The only slot is not idle while the call in it awaits calls of its own."""

    def outer():
        from jobrunner import current_executor

        async def main():
            async with AsyncExecutor(current_executor()) as ex:
                return await ex.submit(zoo.add, 1, 2)

        return asyncio.run(main())

    assert make_executor(max_workers=1).submit(outer).result(timeout=50) == 3


@pytest.mark.shared
def test_a_call_found_by_its_id(run):
    async def main(ex):
        future = ex.submit(zoo.echo, 5)
        assert await ex.future(future.id) == 5
        assert (await ex.status())["workers"]

    run(main)


def test_news_from_many_threads_at_once(run):
    async def main(ex):
        futures = [ex.submit(zoo.echo, i) for i in range(500)]
        assert sum([await future async for future in ex.as_completed(futures)]) == sum(range(500))
        assert threading.current_thread() is threading.main_thread()

    run(main)
