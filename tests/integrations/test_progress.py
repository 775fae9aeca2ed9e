"""Progress bars of other people's around what an Executor gives."""

from __future__ import annotations

import asyncio
import io

import rich.console
import rich.progress
import zoo
from tqdm import tqdm
from tqdm.asyncio import tqdm as async_tqdm

from jobrunner import AsyncExecutor, Executor, as_completed


def test_tqdm_around_map(executor):
    seen = io.StringIO()
    results = list(tqdm(executor.map(zoo.echo, range(30)), total=30, file=seen))
    assert results == list(range(30))
    assert "30/30" in seen.getvalue()


def test_tqdm_around_as_completed(executor):
    seen = io.StringIO()
    futures = [executor.submit(zoo.echo, i) for i in range(30)]
    bar = tqdm(as_completed(futures), total=len(futures), file=seen)
    assert sorted(future.result() for future in bar) == list(range(30))
    assert "30/30" in seen.getvalue()


def test_a_bar_that_the_futures_move(kind):
    """From threads of the Executor's; when that has ended, all have been told."""
    with tqdm(total=20, file=io.StringIO()) as bar:
        with Executor(kind, max_workers=1) as executor:
            for future in [executor.submit(zoo.echo, i) for i in range(20)]:
                future.add_done_callback(lambda _: bar.update())
        assert bar.n == 20


def test_rich_track(executor):
    console = rich.console.Console(file=io.StringIO(), force_terminal=True)
    tracked = rich.progress.track(executor.map(zoo.echo, range(30)), total=30, console=console)
    assert list(tracked) == list(range(30))
    assert "100%" in console.file.getvalue()


def test_tqdm_in_an_event_loop(executor):
    seen = io.StringIO()

    async def main():
        ex = AsyncExecutor(executor)
        mapped = [x async for x in async_tqdm(ex.map(zoo.echo, range(10)), total=10, file=seen)]
        gathered = await async_tqdm.gather(*[ex.submit(zoo.echo, i) for i in range(12)], file=seen)
        return mapped, gathered

    assert asyncio.run(main()) == (list(range(10)), list(range(12)))
    assert "10/10" in seen.getvalue()
    assert "12/12" in seen.getvalue()
