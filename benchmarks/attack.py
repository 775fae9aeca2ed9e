"""What an honest client still gets done while others attack the coordinator's port.

    python benchmarks/attack.py                   # five rounds, some four minutes
    python benchmarks/attack.py --rounds 1 --seconds 0.5

Starts a coordinator with keys and a worker with two slots on loopback. In each round, for each attack: the attacker
starts (a process of its own, see attackers.py), and an honest client submits calls that do nothing, then maps. Prints
the medians of the rounds, and their ratios to those without an attack. An attacker takes processor time from everybody
on the same host, as one on another host would not: "burn" takes as much as one can and sends nothing, so compare
with that row, too, and see what share of a processor each of the attackers and the coordinator had. Needs psutil.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import psutil
from honest import BOUND, square
from real_cluster import RealCluster, until

from jobrunner import Executor

HERE = Path(__file__).parent

ATTACKS: dict[str, tuple[str, int]] = {
    "alone": ("", 0),
    "burn: a process that takes a CPU": ("burn", 0),
    "port scan": ("scan", 0),
    "2,000 half-open connections": ("half-open", 2000),
    "5,000 idle connections": ("idle", 5000),
    "garbage, without a key": ("garbage", 0),
    "nonsense, with a client's key": ("nonsense", 0),
}
"""The program's name for each, and the number of connections that it holds."""

MAX_SECONDS = 60.0
"""Seconds after which an attacker ends whatever happens."""


class Figures(NamedTuple):
    """Per second; of processors, the share of one."""

    calls: float
    elements: float
    deeds: float
    attacker: float
    coordinator: float


class Attack:
    """An attacker's process, from its being ready to its end."""

    def __init__(self, cluster: RealCluster, usual: int, kind: str, count: int, keys: Path) -> None:
        self._cluster = cluster
        self._usual = usual
        """The coordinator's descriptors, without an attack."""
        self.deeds = 0
        self.popen: subprocess.Popen[str] | None = None
        if not kind:
            return
        arguments = [kind, str(cluster.socket_address[1]), str(MAX_SECONDS), str(count), str(keys)]
        self.popen = subprocess.Popen(
            [sys.executable, str(HERE / "attackers.py"), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.popen.stdout is not None
        if self.popen.stdout.readline() != "ready\n":
            raise RuntimeError(f"the attacker {kind!r} did not get ready: exit code {self.popen.wait()}")
        until(lambda: cluster.descriptors() >= self._usual + count, "the last connection")

    def seconds(self) -> float:
        """Of processor time."""
        if self.popen is None:
            return 0.0
        times = psutil.Process(self.popen.pid).cpu_times()
        return float(times.user + times.system)

    def stop(self) -> None:
        if self.popen is not None:
            output, _ = self.popen.communicate("", timeout=BOUND)
            self.deeds = int(output)
            until(
                lambda: self._cluster.descriptors() <= self._usual + 2,
                "the end of the connections",
            )


def calls(executor: Executor, seconds: float) -> float:
    """Per second, 500 at a time."""
    began, count = time.perf_counter(), 0
    while time.perf_counter() < began + seconds:
        futures = [executor.submit(square, n) for n in range(500)]
        assert [future.result(BOUND) for future in futures] == [n * n for n in range(500)]
        count += 500
    return count / (time.perf_counter() - began)


def elements(executor: Executor, seconds: float) -> float:
    """Of a map, per second."""
    began, count = time.perf_counter(), 0
    while time.perf_counter() < began + seconds:
        assert sum(executor.map(square, range(20_000), timeout=BOUND)) == 2_666_466_670_000
        count += 20_000
    return count / (time.perf_counter() - began)


def warm_up(executor: Executor) -> None:
    """At its first large message, pyzmq opens a few descriptors for good."""
    assert executor.submit(len, bytes(1_000_000)).result(BOUND) == 1_000_000
    assert len(executor.submit(bytes, 1_000_000).result(BOUND)) == 1_000_000
    calls(executor, 0.5)
    elements(executor, 0.5)


def measure(cluster: RealCluster, executor: Executor, attack: Attack, seconds: float) -> Figures:
    def used() -> float:
        times = cluster.coordinator.cpu_times()
        return float(times.user + times.system)

    began, before, by_attacker = time.perf_counter(), used(), attack.seconds()
    rates = calls(executor, seconds), elements(executor, seconds)
    took = time.perf_counter() - began
    coordinator, attacker = (used() - before) / took, (attack.seconds() - by_attacker) / took
    attack.stop()
    return Figures(*rates, attack.deeds / took, attacker, coordinator)


def table(figures: dict[str, list[Figures]]) -> str:
    head = ("calls/s", "ratio", "elements/s", "ratio", "attacks/s", "attacker", "coordinator")
    lines = [f"{'':34}" + "".join(f"{name:>12}" for name in head)]
    alone = [statistics.median(values) for values in zip(*figures["alone"], strict=True)]
    for name, rounds in figures.items():
        calls, elements, deeds, attacker, coordinator = map(statistics.median, zip(*rounds, strict=True))
        lines.append(
            f"{name:34}{calls:12,.0f}{calls / alone[0]:12.2f}{elements:12,.0f}{elements / alone[1]:12.2f}"
            f"{deeds:12,.0f}{attacker:12.0%}{coordinator:12.0%}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="for the calls, and for the map, each time"
    )
    parser.add_argument("--only", choices=[*ATTACKS], help="beside `alone`")
    options = parser.parse_args()
    figures: dict[str, list[Figures]] = defaultdict(list)
    chosen = {name: what for name, what in ATTACKS.items() if options.only in (None, name) or name == "alone"}
    with (
        tempfile.TemporaryDirectory(prefix="jobrunner-attack-") as folder,
        RealCluster(Path(folder), {}, 1, "--slots", "2") as cluster,
    ):
        keys = Path(folder) / "attacker.json"
        keys.touch(0o600)
        keys.write_text(cluster.identity("attacker", "client").to_text())
        with Executor(cluster.address) as executor:
            warm_up(executor)
            before, usual = cluster.megabytes(), cluster.descriptors()
            for number in range(options.rounds):
                for name, (kind, count) in chosen.items():
                    attack = Attack(cluster, usual, kind, count, keys)
                    figures[name].append(measure(cluster, executor, attack, options.seconds))
                print(f"round {number + 1} of {options.rounds}: {cluster.megabytes():.0f} MB", flush=True)
        problems = cluster.problems()
        print(table(figures))
        print(f"coordinator: {before:.0f} MB before, {cluster.megabytes():.0f} MB after")
        print(f"its log: {len(cluster.log('coordinator'))} lines")
    for problem in problems:
        print(f"WRONG: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
