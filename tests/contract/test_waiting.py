"""as_completed, wait, asyncio: Futures of different executors together."""

from __future__ import annotations

import asyncio
import concurrent.futures

import pytest
import zoo

from jobrunner import FIRST_COMPLETED, FIRST_EXCEPTION, Executor, as_completed, wait


def test_as_completed_yields_in_the_order_of_completion(make_executor, tmp_path):
    executor = make_executor(max_workers=2)
    slow = executor.submit(zoo.wait_for, str(tmp_path / "go"), "slow")
    quick = executor.submit(zoo.echo, "quick")
    finished = as_completed([slow, quick])
    assert next(finished) is quick
    (tmp_path / "go").touch()
    assert list(finished) == [slow]


def test_as_completed_times_out(make_executor, tmp_path):
    future = make_executor().submit(zoo.wait_for, str(tmp_path / "go"))
    with pytest.raises(TimeoutError):
        list(as_completed([future], timeout=0.01))
    (tmp_path / "go").touch()


@pytest.mark.parametrize("functions", ["ours", "standard"])
def test_futures_of_different_executors_together(executor, functions):
    module = concurrent.futures if functions == "standard" else __import__("jobrunner")
    with Executor("threads") as threads, concurrent.futures.ThreadPoolExecutor(1) as standard:
        futures = [one.submit(zoo.echo, i) for i, one in enumerate([executor, threads, standard])]
        assert {future.result() for future in module.as_completed(futures)} == {0, 1, 2}
        assert module.wait(futures).done == set(futures)


def test_wait(make_executor, tmp_path):
    executor = make_executor(max_workers=2)
    slow = executor.submit(zoo.wait_for, str(tmp_path / "go"))
    quick = executor.submit(zoo.echo)
    assert wait([slow, quick], return_when=FIRST_COMPLETED).done == {quick}
    bad = executor.submit(zoo.divide, 1, 0)
    done, not_done = wait([slow, quick, bad], return_when=FIRST_EXCEPTION)
    assert bad in done
    assert not_done == {slow}
    assert wait([slow], timeout=0.01).not_done == {slow}
    (tmp_path / "go").touch()
    assert wait([slow, quick, bad]).not_done == set()


@pytest.mark.promise("async")
def test_asyncio(executor):
    async def main():
        loop = asyncio.get_running_loop()
        wrapped = asyncio.wrap_future(executor.submit(zoo.echo, 1))
        ran = loop.run_in_executor(executor, zoo.echo, 2)
        failing = loop.run_in_executor(executor, zoo.divide, 1, 0)
        with pytest.raises(ZeroDivisionError):
            await failing
        return await asyncio.gather(wrapped, ran)

    assert asyncio.run(main()) == [1, 2]


@pytest.mark.promise("async")
def test_asyncio_cancels_a_call_that_waits(make_executor, tmp_path):
    executor = make_executor(max_workers=1)
    started, go = str(tmp_path / "started"), str(tmp_path / "go")

    async def main():
        running = executor.submit(zoo.announce_and_wait, started, go)
        while not (tmp_path / "started").exists():
            await asyncio.sleep(0.005)
        waiting = executor.submit(zoo.echo)
        wrapped = asyncio.wrap_future(waiting)
        wrapped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wrapped
        await asyncio.sleep(0)  # asyncio passes it on in the loop's next turn
        (tmp_path / "go").touch()
        await asyncio.wrap_future(running)
        return waiting

    assert asyncio.run(main()).cancelled()


@pytest.mark.promise("nested")
@pytest.mark.nests
@pytest.mark.parametrize("workers", [1, 2])
def test_a_call_may_submit_calls_and_wait_for_them(run_program, workers):
    text = """
        import sys
        from jobrunner import as_completed, wait
        from programs import open_executor
        from zoo import add

        def nested(executor, depth):
            if depth == 0:
                return 1
            futures = [executor.submit(nested, executor, depth - 1) for _ in range(2)]
            wait(futures[:1])
            return 1 + sum(future.result() for future in as_completed(futures))

        if __name__ == "__main__":
            with open_executor(max_workers=int(sys.argv[1])) as executor:
                if executor.status().get("backend") == "threads":
                    print(executor.submit(nested, executor, 3).result())
                else:
                    print(executor.submit(nested, executor, 2).result() + 8)
    """
    assert run_program(text, workers) == "15\n"
