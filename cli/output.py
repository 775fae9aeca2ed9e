"""All printing to standard output: a table for people, JSON for scripts, bare names for pipes."""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobrunner.cli.text import plain
from jobrunner.errors import ConfigError

if TYPE_CHECKING:
    from typing import TextIO

    from rich.console import Console, RenderableType

WIDE = 10_000
"""The width in columns if there is no terminal, because a line that is cut off cannot be searched."""


@dataclass(frozen=True)
class View:
    """The appearance of one kind of answer: as a table, and as the lines of --quiet."""

    table: Callable[[Any], RenderableType]
    quiet: Callable[[Any], Iterable[str]]


class Output:
    """Prints answers in the form that the options select."""

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        if json and quiet:
            raise ConfigError("--json and --quiet exclude each other; give one of them")
        self.json = json
        self.quiet = quiet

    @property
    def for_people(self) -> bool:
        return not (self.json or self.quiet)

    def show(self, data: Any, view: View) -> None:
        """Print one answer; as JSON it is one indented document."""
        if self.json:
            write(json_module.dumps(data, indent=2))
        elif self.quiet:
            for line in view.quiet(data):
                write(plain(line))
        else:
            show_table(view.table(data))

    def line(self, data: Any) -> None:
        """Print one document of a stream, as JSON on one line."""
        write(json_module.dumps(data))

    def note(self, text: str) -> None:
        """Print a note for the person at the terminal on standard error, apart from the data."""
        if self.for_people:
            print(plain(text), file=sys.stderr, flush=True)


def show_table(*parts: Any) -> None:
    """Print rich text; if there is no terminal, the blanks at the ends of lines are removed."""
    screen = console()
    if screen.is_terminal:
        screen.print(*parts, sep="\n")
        return
    with screen.capture() as captured:
        screen.print(*parts, sep="\n")
    for line in captured.get().splitlines():
        write(line.rstrip())


def write(line: str) -> None:
    print(line, flush=True)


def console(*, stderr: bool = False) -> Console:
    """Return a rich console for the present stream, as wide as the terminal, or WIDE if there is none."""
    from rich.console import Console

    stream: TextIO = sys.stderr if stderr else sys.stdout
    found = Console(file=stream, highlight=False, markup=False, emoji=False)
    if not found.is_terminal:
        found = Console(file=stream, highlight=False, markup=False, emoji=False, width=WIDE)
    return found
