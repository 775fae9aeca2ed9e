"""AsyncExecutor over a backend that the test drives; what every backend promises is in contract/test_async.py."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

from jobrunner import AsyncExecutor, ConfigError, Executor
from jobrunner.async_executor import Deliveries
from jobrunner.testing.stub_backend import StubBackend


class Loop:
    """Counts how often it is woken; the test runs what it was woken for."""

    def __init__(self):
        self.woken = []

    def call_soon_threadsafe(self, callback):
        self.woken.append(callback)


def test_news_that_comes_while_the_loop_is_busy_wakes_it_once():
    loop, heard = Loop(), []
    deliveries = Deliveries(loop)
    for i in range(100):
        deliveries.post(lambda i=i: heard.append(i))
    assert len(loop.woken) == 1
    loop.woken.pop()()
    assert heard == list(range(100))
    deliveries.post(lambda: heard.append("next"))
    loop.woken.pop()()
    assert heard[-1] == "next"


@pytest.mark.parametrize("when", ["in a delivery", "at the wake-up"])
def test_ctrl_c_costs_no_news(when):
    """A notebook's loop goes on after it."""
    loop, heard = Loop(), []
    deliveries = Deliveries(loop)
    interrupts = [KeyboardInterrupt]

    def hear(what):
        if interrupts:
            raise interrupts.pop()
        heard.append(what)

    if when == "at the wake-up":
        loop.call_soon_threadsafe = hear
        with pytest.raises(KeyboardInterrupt):
            deliveries.post(lambda: hear("first"))
        del loop.call_soon_threadsafe
        deliveries.post(lambda: hear("second"))
    else:
        deliveries.post(lambda: hear("first"))
        deliveries.post(lambda: hear("second"))
        with pytest.raises(KeyboardInterrupt):
            loop.woken.pop()()
    loop.woken.pop()()
    assert heard == ["first", "second"]


def test_a_delivery_that_fails_costs_no_others():
    loop, heard = Loop(), []
    deliveries = Deliveries(loop)
    deliveries.post(lambda: 1 / 0)
    deliveries.post(lambda: heard.append("second"))
    with pytest.raises(ZeroDivisionError):
        loop.woken.pop()()
    loop.woken.pop()()
    assert heard == ["second"]


def test_news_for_a_loop_that_is_closed_is_dropped():
    class News:
        def __call__(self):
            """Nobody does."""

    loop = asyncio.new_event_loop()
    loop.close()
    deliveries, dropped = Deliveries(loop), []
    for _ in range(2):
        news = News()
        dropped.append(weakref.ref(news))
        deliveries.post(news)
        del news
    assert [ref() for ref in dropped] == [None, None]


@pytest.fixture
def backend():
    return StubBackend()


@pytest.fixture
def executor(backend):
    opened = Executor(backend)
    yield opened
    opened._lifetime.kill()


def test_it_is_used_in_its_block(backend):
    async def main():
        ex = AsyncExecutor(backend)
        with pytest.raises(RuntimeError, match="not open yet"):
            ex.submit(int)
        async with ex:
            future = ex.submit(int, "7")
            backend.run_next()
            assert await future == 7
        assert backend.closed

    asyncio.run(main())


def test_settings_are_those_of_an_executor(executor):
    async def main():
        with pytest.raises(ConfigError):
            async with AsyncExecutor("no such backend"):
                pass

    asyncio.run(main())
    with pytest.raises(ConfigError, match="so max_workers cannot be given here"):
        AsyncExecutor(executor, max_workers=3)


def test_it_belongs_to_one_event_loop(executor, backend):
    ex = AsyncExecutor(executor)
    with pytest.raises(RuntimeError, match="no running event loop"):
        ex.submit(int)

    async def main():
        return ex.submit(int)

    asyncio.run(main())
    with pytest.raises(RuntimeError, match="another event loop"):
        asyncio.run(main())


def test_an_executor_that_was_given_stays_open_without_a_block(executor, backend):
    async def main():
        future = AsyncExecutor(executor).submit(int)
        backend.run_next()
        return await future

    assert asyncio.run(main()) == 0
    assert not backend.closed


def test_cancelling_cancels_the_call(executor, backend):
    async def main():
        future = AsyncExecutor(executor).submit(int)
        assert future.cancel()
        assert backend.calls[0].future.cancelled()
        assert future.call.cancelled()
        assert not future.cancel()
        await asyncio.sleep(0)  # the news of it comes, and changes nothing

    asyncio.run(main())


def test_cancelling_leaves_the_call_of_somebody_else_alone(executor, backend):
    call = executor.submit(int)
    backend.future = lambda task_id: call

    async def main():
        assert AsyncExecutor(executor).future("some id").cancel()

    asyncio.run(main())
    assert not call.cancelled()


def test_a_call_that_is_cancelled_elsewhere(executor, backend):
    async def main():
        future = AsyncExecutor(executor).submit(int)
        backend.calls[0].future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future

    asyncio.run(main())


def test_what_a_task_raised_as_a_base_exception(executor, backend):
    async def main():
        future = AsyncExecutor(executor).submit(int)
        backend.calls[0].fail(GeneratorExit("x"))
        with pytest.raises(GeneratorExit):
            await future

    asyncio.run(main())


def test_a_result_lives_no_longer_than_its_future(executor, backend):
    """Without the garbage collector: neither keeps the other once the outcome is there."""

    class Result:
        pass

    async def main():
        future = AsyncExecutor(executor).submit(Result)
        backend.run_next()
        return weakref.ref(await future)

    gc.disable()
    try:
        assert asyncio.run(main())() is None
    finally:
        gc.enable()


def test_outcomes_come_from_other_threads(executor, backend):
    async def main():
        futures = [AsyncExecutor(executor).submit(int, i) for i in range(50)]
        thread = threading.Thread(target=backend.run_all)
        thread.start()
        results = await asyncio.gather(*futures)
        thread.join()
        return results

    assert asyncio.run(main()) == list(range(50))


def test_to_close_the_iterator_of_a_map_cancels_it(executor, backend):
    async def main():
        results = AsyncExecutor(executor).map(abs, range(4), chunksize=1)
        backend.run_next()
        assert await anext(results) == 0
        await results.aclose()
        return [call.future.cancelled() for call in backend.calls]

    assert all(asyncio.run(main()))
