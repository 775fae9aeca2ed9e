"""From single figures to Markdown: medians, and what peers said where there is no figure."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.adapters import PEERS
from benchmarks.peers.floor import FLOOR
from benchmarks.peers.workloads import TABLES, Column

MAX_ERROR_LENGTH = 44
"""Characters of what a peer said that a table has room for."""

FULL = {"submit": 20_000, "map": 100_000, "map-256": 100_000, "closures": 5_000, "backlog": 100_000}
"""Calls that a workload makes at scale 1 unless the runner is slow."""


@dataclass(frozen=True)
class Measurement:
    round: int
    row: str
    workload: str
    figures: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Machine:
    """Where and when; `load` is how many processes wanted a CPU in the minute before."""

    date: str
    cpus: int
    python: str
    system: str
    load: float
    scale: float
    rounds: int

    @classmethod
    def here(cls, scale: float, rounds: int) -> Machine:
        return cls(
            datetime.date.today().isoformat(),
            len(os.sched_getaffinity(0)),
            platform.python_version(),
            platform.system(),
            os.getloadavg()[0],
            scale,
            rounds,
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read(results: Path) -> tuple[Machine, list[Measurement]]:
    """What a run left in its --results."""
    first, *others = [json.loads(line) for line in results.read_text().splitlines()]
    return Machine(**first["machine"]), [Measurement(**other) for other in others]


def short(error: str | None) -> str:
    if error is None:
        return ""
    text = " ".join(error.replace("|", "/").removeprefix("Unsupported: ").split())
    return text if len(text) <= MAX_ERROR_LENGTH else text[: MAX_ERROR_LENGTH - 3] + "..."


def markdown(machine: Machine, measurements: list[Measurement]) -> str:
    """All tables that have a figure, below a line about the run."""
    head = (
        f"{machine.date}, Python {machine.python}, {machine.system}, {machine.cpus} CPUs, load {machine.load:.1f} at"
        f" the start, median of {machine.rounds} rounds, scale {machine.scale:g}."
    )
    versions: dict[str, str] = {}
    for measurement in measurements:
        versions.update(measurement.versions)
    said = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    parts = [head, f"Versions: {said}." if said else ""]
    measured = {measurement.row for measurement in measurements}
    rows = [row for row in (*PEERS, *FLOOR) if row in measured]
    floor = [row for row in rows if row in FLOOR]
    for title, columns in TABLES.items():
        parts.append(table(title, columns, [row for row in rows if row in PEERS], measurements, machine))
        if title != "Backlog":
            parts.append(table(f"{title}: the floor", columns, floor, measurements, machine))
    return "\n\n".join(part for part in parts if part)


def table(
    title: str,
    columns: tuple[Column, ...],
    rows: list[str],
    measurements: list[Measurement],
    machine: Machine,
) -> str:
    """Empty without rows, or where nobody measured one of these columns."""
    there = {measurement.workload for measurement in measurements if measurement.row in rows}
    columns = tuple(column for column in columns if column.workload in there)
    if not columns:
        return ""
    lines = [
        f"### {title}",
        "",
        "| | " + " | ".join(column.title for column in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for row in rows:
        cells = [cell(column, row, measurements, machine) for column in columns]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(column: Column, row: str, measurements: list[Measurement], machine: Machine) -> str:
    mine = [m for m in measurements if m.row == row and m.workload == column.workload]
    figures = [m.figures for m in mine if m.error is None and column.figure in m.figures]
    if not figures:
        return short(next((m.error for m in mine if m.error is not None), None)) or "-"
    value = format(statistics.median(f[column.figure] for f in figures) * column.factor, column.form)
    calls = statistics.median(f.get("calls", 0) for f in figures)
    full = FULL.get(column.workload, 0) * machine.scale
    return f"{value} (n={calls:,.0f})" if calls and calls < 0.99 * full else value
