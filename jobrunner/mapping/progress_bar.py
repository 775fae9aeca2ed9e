"""Progress bars on the terminal, drawn with rich on stderr, so that a program's output stays clean."""

from __future__ import annotations

import concurrent.futures
import importlib.util
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from jobrunner.futures import as_completed

if TYPE_CHECKING:
    import rich.progress

    from jobrunner.mapping.run import MapRun
    from jobrunner.mapping.submitted import SubmittedMap

T = TypeVar("T")


def progress(
    futures: Iterable[concurrent.futures.Future[T]], *, description: str = ""
) -> Iterator[concurrent.futures.Future[T]]:
    """Yield Futures in the order in which they finish, like `as_completed`, and show a progress bar on stderr.

    Args:
        futures: The Futures, which may belong to different executors.
        description: The text at the left of the bar.
    """
    unfinished = set(futures)
    total = len(unfinished)
    finished = as_completed(unfinished)
    del futures, unfinished  # do not keep references to Futures that have been delivered
    with bar() as drawn:
        line = drawn.add_task(description, total=total)
        while given := list(islice(finished, 1)):
            drawn.advance(line)
            yield given.pop()


def map_progress(run: MapRun | SubmittedMap, results: Iterator[T], description: str) -> Iterator[T]:
    """Yield `results`, and show a bar of the finished elements, with a total once the input has ended."""
    with bar() as drawn:
        line = drawn.add_task(description, completed=run.done, total=run.taken if run.complete else None)

        def update(done: int) -> None:
            drawn.update(line, completed=done, total=run.taken if run.complete else None)

        run.on_progress = update
        try:
            yield from results
        finally:
            run.on_progress = None


@contextmanager
def bar() -> Iterator[rich.progress.Progress]:
    """Show a progress bar, which stays on the screen in its last state."""
    import rich.console
    import rich.progress

    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    # In a notebook rich draws with ipywidgets and warns if they are missing. Without them, a line is printed at the
    # end.
    in_notebook = None if importlib.util.find_spec("ipywidgets") else False
    console = rich.console.Console(stderr=True, force_jupyter=in_notebook)
    with rich.progress.Progress(*columns, console=console) as drawn:
        yield drawn
