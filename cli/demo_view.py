"""The output of `jobrunner demo`: a bar per backend at a terminal, lines elsewhere, and a table at the end."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from jobrunner.cli.output import View, console
from jobrunner.cli.text import duration

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress, TaskID

    from jobrunner.cli.demo_runs import Reporter, Run


class Silent:
    """A reporter that prints nothing."""

    def start(self, name: str, total: int) -> None: ...
    def note(self, text: str) -> None: ...
    def advance(self, factors: int) -> None: ...
    def finish(self, run: Run) -> None: ...


class Lines:
    """A reporter for logs, which prints a line when a backend starts and another one when it is done."""

    def start(self, name: str, total: int) -> None:
        print(f"{name}: started ({total:,} factors)", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def advance(self, factors: int) -> None: ...

    def finish(self, run: Run) -> None:
        print(f"{run.name}: done in {duration(run.seconds)}", file=sys.stderr, flush=True)


class Bars:
    """A reporter for terminals, with a bar per backend that advances by factors, because calls differ in length."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bar: TaskID | None = None

    def start(self, name: str, total: int) -> None:
        self._bar = self._progress.add_task(name, total=total)

    def note(self, text: str) -> None:
        self._progress.console.print(text)

    def advance(self, factors: int) -> None:
        assert self._bar is not None
        self._progress.advance(self._bar, factors)

    def finish(self, run: Run) -> None:
        assert self._bar is not None
        self._progress.stop_task(self._bar)


@contextmanager
def reporter(*, silent: bool) -> Iterator[Reporter]:
    """Return a reporter that suits standard error, because standard output is for the result."""
    screen = console(stderr=True)
    if silent or not screen.is_terminal:
        yield Silent() if silent else Lines()
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    bars = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*bars, console=screen) as progress:
        yield Bars(progress)


def demo_table(found: Mapping[str, Any]) -> RenderableType:
    from jobrunner.cli.views import columns

    rows = []
    for backend in found["backends"]:
        faster = backend["speedup"]
        rows.append(
            [
                backend["name"],
                f"{backend['startup']:.2f}",
                f"{backend['seconds']:.2f}",
                "" if faster is None else f"{faster:.2f}x",
            ]
        )
    headers = ["BACKEND", "START-UP S", "SECONDS", "SPEED-UP"]
    return columns(headers, rows, right=headers[1:])


DEMO = View(demo_table, lambda found: [str(result) for result in found["results"]])
