"""The promises of the contract in the words of users, and the report about a backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from jobrunner.backends import CAPABILITIES


@dataclass(frozen=True)
class Promise:
    """A part of the contract. Its tests name it by a marker, or otherwise by their file."""

    text: str
    files: tuple[str, ...] = ()
    needs: str = ""
    """The capability without which no part of it is available."""
    parts: tuple[str, ...] = ()
    """The capabilities without which some part of it is not available."""


PROMISES = {
    "submit": Promise(
        "submit and Futures: results, errors as raised, states, callbacks, output",
        (
            "test_calls",
            "test_short_calls",
            "test_context",
            "test_versions",
            "test_multiprocessing",
            "test_references",
            "test_standard_futures",
            "test_errors_of_pickling",
        ),
        parts=("copies", "apart"),
    ),
    "map": Promise(
        "map, as the built-in one, streaming and bounded",
        ("test_map", "test_map_values", "test_map_division"),
        parts=("divides",),
    ),
    "waiting": Promise("as_completed and wait, over Futures of several executors", ("test_waiting",)),
    "async": Promise("asyncio, AsyncExecutor", ("test_async",)),
    "cancel": Promise("cancel", parts=("stops",)),
    "crashes": Promise("a crash costs one call", needs="crashes", parts=("tells",)),
    "timeouts": Promise("a time limit costs one call", needs="stops"),
    "options": Promise(
        "retries, priority, initializer, at most once",
        ("test_faults", "test_retries", "test_constructor", "test_initializers"),
    ),
    "dependencies": Promise("Futures as arguments", ("test_dependencies",)),
    "nested": Promise("calls that make calls", needs="nests"),
    "ids": Promise("Futures by their id, and Futures that travel", ("test_future_ids",), needs="shared"),
    "large": Promise("large arguments and results", ("test_large_values",)),
    "endings": Promise(
        "shutdown, the end of the program, Ctrl-C", ("test_ending",), parts=("ends", "tidy", "alone")
    ),
    "process": Promise(
        "the process of a call: options, sys.path, hashes, streams, what is left for its end",
        ("test_process",),
        needs="apart",
    ),
    "script": Promise(
        "the script's module: its globals, functions and classes",
        ("test_script", "test_shared_globals"),
        parts=("copies", "apart"),
    ),
    "interactive": Promise(
        "REPLs, and scripts without a main guard", ("test_interactive",), parts=("alone",)
    ),
}

BY_FILE = {file: name for name, promise in PROMISES.items() for file in promise.files}

TOLD = "JOBRUNNER_CONTRACT_REPORT"
"""The variable with the path at which the plugin tells how tests ended."""

WANTED = "JOBRUNNER_CONTRACT_PROMISES"
"""The variable with the promises that are tried, separated by commas; empty: all."""

OPTIONS = "JOBRUNNER_CONTRACT_OPTIONS"
"""The variable with the keyword arguments of each Executor, as JSON."""

KEPT, BROKEN, NOT_CLAIMED, NOT_TRIED = "kept", "broken", "not claimed", "not tried"


@dataclass
class Report:
    """The results of one backend."""

    backend: str
    claims: frozenset[str] = frozenset()
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    """By promise, the numbers of tests that ended KEPT, BROKEN or NOT_CLAIMED."""
    failures: dict[str, str] = field(default_factory=dict)
    """The tests that failed, and the reason of each."""
    error: str = ""
    """The reason why the suite could not be run, or not to its end."""
    seconds: float = 0.0

    @property
    def kept(self) -> bool:
        """Return whether all that the backend claims was kept, as far as it was tried."""
        return not self.failures and not self.error and self.total(KEPT) > 0

    def total(self, end: str) -> int:
        """Return the number of tests that ended in that way."""
        return sum(counts.get(end, 0) for counts in self.counts.values())

    def add(self, promise: str, end: str) -> None:
        """Count a test."""
        counts = self.counts.setdefault(promise, {})
        counts[end] = counts.get(end, 0) + 1

    def verdict(self, name: str) -> str:
        """Return the verdict on a promise: KEPT, BROKEN, NOT_CLAIMED or NOT_TRIED."""
        promise, counts = PROMISES[name], self.counts.get(name, {})
        if BROKEN in counts:
            return BROKEN
        if counts and promise.needs and promise.needs not in self.claims:
            return NOT_CLAIMED  # the tests that ran have found that it is refused in the right way
        if KEPT in counts:
            return KEPT
        return NOT_CLAIMED if counts else NOT_TRIED

    def cell(self, name: str) -> str:
        """Return the verdict with its details: "kept, not tells", "BROKEN (1 of 12 tests)"."""
        verdict, counts = self.verdict(name), self.counts.get(name, {})
        if verdict == BROKEN:
            return f"BROKEN ({counts[BROKEN]} of {counts[BROKEN] + counts.get(KEPT, 0)} tests)"
        missing = [word for word in PROMISES[name].parts if word not in self.claims]
        return f"{verdict}, not {', '.join(missing)}" if verdict == KEPT and missing else verdict

    def __str__(self) -> str:
        """Return the table, and the failures."""
        lines = [table([self])] if self.counts else [f"{self.backend}: nothing was tried"]
        lines += [f"--- {name}\n{text.strip()}" for name, text in self.failures.items()]
        return "\n\n".join([*lines, self.error] if self.error else lines)


def rows(reports: Sequence[Report]) -> list[list[str]]:
    """Return the rows of the table, headings first, with a column per backend."""
    shown = [name for name in PROMISES if any(report.verdict(name) != NOT_TRIED for report in reports)]
    return [
        ["promise", *(report.backend for report in reports)],
        *([PROMISES[name].text, *(report.cell(name) for report in reports)] for name in shown),
    ]


def table(reports: Sequence[Report]) -> str:
    """Return the table for a terminal."""
    lines = rows(reports)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [_joined(line, widths) for line in lines]
    text.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*text, "", *(f"{word}: {CAPABILITIES[word]}" for word in _missing(reports))])


def markdown(reports: Sequence[Report]) -> str:
    """Return the table for a page."""
    lines = rows(reports)
    text = ["| " + " | ".join(line) + " |" for line in lines]
    text.insert(1, "|---" * len(lines[0]) + "|")
    return "\n".join([*text, "", *(f"- {word}: {CAPABILITIES[word]}" for word in _missing(reports))])


def _missing(reports: Sequence[Report]) -> list[str]:
    """Return the words that are in the table."""
    parts = {word for promise in PROMISES.values() for word in promise.parts}
    return [
        word
        for word in CAPABILITIES
        if word in parts and any(word not in report.claims for report in reports)
    ]


def _joined(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
