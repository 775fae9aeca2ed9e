"""The same workloads side by side over jobrunner's backends and its peers, in one run.

    python -m benchmarks.peers                                        # everything: more than an hour
    python -m benchmarks.peers --scale 0.1 --rounds 1                 # a look
    python -m benchmarks.peers --peers jobrunner,loky --workloads submit,latency
    python -m benchmarks.peers --report RESULTS                       # the tables of an earlier run

Run it from the checkout's folder, with any Python from 3.11. Each peer gets a virtual environment below --venvs, made
once; each figure a fresh process, two workers, and loopback only: all of it runs in a network namespace that has
nothing else. In each round every workload goes over all peers in
turn, so that the machine's drift hits all alike; a figure is the median of the rounds. Progress goes to stderr, the
Markdown to stdout, and every single figure to --results. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.peers.adapters import PEERS
from benchmarks.peers.environments import Environment, InstallError, default_folder, environment
from benchmarks.peers.floor import FLOOR, FLOOR_WORKLOADS
from benchmarks.peers.loopback import only_loopback
from benchmarks.peers.report import Machine, Measurement, markdown, read, short
from benchmarks.peers.runner import run
from benchmarks.peers.workloads import WORKLOADS

ROWS = (*PEERS, *FLOOR)
ENVIRONMENT_OF_FLOOR = "floor"


def chosen(wanted: str | None, names: tuple[str, ...], what: str) -> list[str]:
    """The names that one of the words of a list begins or is; all without a list."""
    if wanted is None:
        return list(names)
    words = [word.strip() for word in wanted.split(",") if word.strip()]
    unknown = [word for word in words if not any(name.startswith(word) for name in names)]
    if unknown:
        raise SystemExit(f"no such {what}: {', '.join(unknown)}. There are: {', '.join(names)}")
    # A word that is a name means that one; else all that begin with it.
    return [n for n in names if any(n == w or (w not in names and n.startswith(w)) for w in words)]


def environments(rows: list[str], folder: Path) -> dict[str, Environment | str]:
    """By row: its environment, or why there is none."""
    made: dict[str, Environment | str] = {}
    for name in dict.fromkeys(environment_of(row) for row in rows):
        print(f"environment {name}", file=sys.stderr, flush=True)
        try:
            made[name] = environment(name, folder)
        except InstallError as error:
            made[name] = f"install: {error}"
            print(f"  {error}", file=sys.stderr, flush=True)
    return {row: made[environment_of(row)] for row in rows}


def environment_of(row: str) -> str:
    return ENVIRONMENT_OF_FLOOR if row in FLOOR else PEERS[row].environment


def measure_all(options: argparse.Namespace, rows: list[str], workloads: list[str]) -> list[Measurement]:
    """Round by round, workload by workload, peer by peer. What failed once is not tried again."""
    found = environments(rows, options.venvs)
    refusal = only_loopback()
    if refusal:
        print(f"no network namespace ({refusal}): some peers are left out", file=sys.stderr, flush=True)
        for row in rows:
            if row in PEERS and PEERS[row].listens_everywhere:
                found[row] = "listens beyond loopback"
    measurements: list[Measurement] = []
    failed: set[tuple[str, str]] = set()
    options.results.parent.mkdir(parents=True, exist_ok=True)
    with options.results.open("w") as results:
        print(json.dumps({"machine": Machine.here(options.scale, options.rounds).to_json()}), file=results)
        for round_ in range(options.rounds):
            for workload in workloads:
                for row in rows:
                    if (row, workload) in failed or (row in FLOOR and workload not in FLOOR_WORKLOADS):
                        continue
                    place = found[row]
                    answer = (
                        {"error": place}
                        if isinstance(place, str)
                        else run(place, row, workload, options.scale, options.timeout)
                    )
                    measurement = Measurement(round_, row, workload, **answer)
                    if measurement.error is not None:
                        failed.add((row, workload))
                    measurements.append(measurement)
                    print(json.dumps(measurement.to_json()), file=results, flush=True)
                    outcome = short(measurement.error) or json.dumps(measurement.figures)
                    print(f"{round_ + 1} {workload:16}{row:42}{outcome}", file=sys.stderr, flush=True)
    return measurements


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--peers", help=f"names or beginnings of names, with commas: {', '.join(ROWS)}")
    parser.add_argument("--workloads", help=f"likewise: {', '.join(WORKLOADS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="shrinks all counts and durations")
    parser.add_argument("--timeout", type=float, default=180.0, help="seconds for one figure")
    parser.add_argument("--venvs", type=Path, default=default_folder(), help="default: %(default)s")
    results = default_folder() / "results.jsonl"
    parser.add_argument("--results", type=Path, default=results, help="default: %(default)s")
    parser.add_argument(
        "--report", type=Path, metavar="RESULTS", help="measure nothing: print the tables again"
    )
    options = parser.parse_args()
    if options.report is None:
        rows = chosen(options.peers, ROWS, "peer")
        workloads = chosen(options.workloads, tuple(WORKLOADS), "workload")
        measure_all(options, rows, workloads)
    print(markdown(*read(options.report or options.results)))


if __name__ == "__main__":
    main()
