"""The contract that every backend keeps, run against any of them.

    python -m jobrunner.testing.backend_contract threads processes
    python -m jobrunner.testing.backend_contract mybackend -- -k map -x        what follows `--` goes to pytest

runs a few hundred tests with `Executor(NAME, max_workers=2)` and prints, promise by promise, how many were kept, how
many were broken, and how many the backend does not claim (`Backend.capabilities`). It needs the extra
`jobrunner[test]`. In a test of your own:

    from jobrunner.testing.backend_contract import run

    def test_the_contract_is_kept():
        report = run("mybackend")
        assert report.kept, str(report)

The tests start programs too, with JOBRUNNER_BACKEND=NAME: so the name must be enough to open the backend, and other
settings must come from the environment.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jobrunner import backends
from jobrunner.errors import ConfigError

SUITE = Path(__file__).parent / "contract"

PROMISES = {
    "test_calls": "submit, functions, arguments and results",
    "test_map": "map, in order, in chunks",
    "test_waiting": "Futures, wait, as_completed, asyncio",
    "test_retries": "options: retries, timeouts, priorities",
    "test_faults": "deaths, errors, cancelling and stops",
    "test_dependencies": "Futures as arguments",
    "test_context": "what a call may ask, and what it prints",
    "test_ending": "shutdown and the end of a program",
    "test_interactive": "scripts, notebooks, interactive sessions",
    "test_future_ids": "ids, Futures in other processes",
    "test_short_calls": "many short calls",
    "test_large_values": "large arguments and results",
    "test_async": "AsyncExecutor",
}
"""By the suite's file, what its tests are about."""

KEPT, BROKEN, NOT_CLAIMED = "kept", "broken", "not claimed"


@dataclass
class Report:
    """What one backend keeps: per promise, how many tests had which end."""

    backend: str
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    """Names of the tests that failed."""
    error: str = ""
    """Why the suite could not be run to its end."""

    @property
    def kept(self) -> bool:
        """Whether all that the backend claims held."""
        return not self.failures and not self.error and self.total(KEPT) > 0

    def total(self, end: str) -> int:
        return sum(counts.get(end, 0) for counts in self.counts.values())

    def of(self, promise: str) -> str:
        """In a few characters: "12", "10 + 2 not claimed", "11, 1 BROKEN"."""
        counts = self.counts.get(promise, {})
        text = str(counts.get(KEPT, 0))
        if counts.get(NOT_CLAIMED):
            text += f" + {counts[NOT_CLAIMED]} not claimed"
        if counts.get(BROKEN):
            text += f", {counts[BROKEN]} BROKEN"
        return text

    def __str__(self) -> str:
        lines = [
            f"{promise:45} {self.of(promise)}" for promise in PROMISES.values() if promise in self.counts
        ]
        lines += [f"broken: {name}" for name in self.failures]
        if self.error:
            lines.append(self.error)
        return "\n".join([f"{self.backend}:", *lines])


def run(backend: str, arguments: Sequence[str] = (), launch: Sequence[str] = (sys.executable,)) -> Report:
    """Run the contract against the backend of that name, in a process of its own.

    `arguments` go to pytest. `launch` is what starts Python, where that alone does not do: for "mpi",
    ("mpiexec", "-n", "3", sys.executable, "-m", "mpi4py.futures").

    Raises ConfigError for a backend that is not installed, or where pytest is not.
    """
    backends.capabilities(backend)
    missing = [
        name for name in ("pytest", "pytest_timeout", "numpy") if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise ConfigError(f"the contract needs {', '.join(missing)}: pip install 'jobrunner[test]'")
    with tempfile.TemporaryDirectory(prefix="jobrunner-contract-") as folder:
        told = Path(folder) / "report.json"
        command = [*launch, "-m", "pytest", "-q", "-p", f"{__package__}.contract_report"]
        command += [
            "--import-mode=importlib",
            "-c",
            os.devnull,
            "--rootdir",
            str(SUITE),
            "-p",
            "no:cacheprovider",
        ]
        command += ["--timeout=120", "-W", "error", str(SUITE), *arguments]
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in ("JOBRUNNER_BACKEND", "JOBRUNNER_ADDRESS")
        }
        environment = {**kept, "JOBRUNNER_CONTRACT": backend, "JOBRUNNER_CONTRACT_REPORT": str(told)}
        done = subprocess.run(command, env=environment, stdout=sys.stderr, check=False)
        if done.returncode not in (0, 1) or not told.exists():
            return Report(backend, error=f"pytest ended with code {done.returncode}: see what it printed")
        ends: list[list[str]] = json.loads(told.read_text())
    report = Report(backend)
    for module, test, end in ends:
        counts = report.counts.setdefault(PROMISES.get(module, module), {})
        counts[end] = counts.get(end, 0) + 1
        if end == BROKEN:
            report.failures.append(f"{module}.py::{test}")
    return report


def table(reports: Sequence[Report]) -> str:
    """A Markdown table of promises and backends."""
    promises = [p for p in PROMISES.values() if any(p in report.counts for report in reports)]
    rows = [["promise", *(report.backend for report in reports)], ["---"] * (len(reports) + 1)]
    rows += [[promise, *(report.of(promise) for report in reports)] for promise in promises]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    split = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(
        prog="python -m jobrunner.testing.backend_contract",
        description="Run the contract that every backend keeps, and print what is kept.",
        epilog="What follows -- goes to pytest.",
    )
    parser.add_argument("backends", nargs="+", metavar="BACKEND")
    parser.add_argument(
        "--launch", metavar="COMMAND", help="what starts Python, where that alone does not do"
    )
    parser.add_argument("--markdown", action="store_true", help="print one table of all backends")
    parsed = parser.parse_args(given[:split])
    try:
        launch = shlex.split(parsed.launch) if parsed.launch else (sys.executable,)
        reports = [run(name, given[split + 1 :], launch) for name in parsed.backends]
    except ConfigError as exc:
        print(f"backend_contract: {exc}", file=sys.stderr)
        return 2
    print(table(reports) if parsed.markdown else "\n\n".join(map(str, reports)))
    if parsed.markdown:
        for report in reports:
            if not report.kept:
                print(f"\n{report}", file=sys.stderr)
    return 0 if all(report.kept for report in reports) else 1


if __name__ == "__main__":
    raise SystemExit(main())
