"""Hours of work with faults: is anything lost or wrong, and do memory and descriptors stay flat?

    python benchmarks/soak.py                              # 30 minutes
    python benchmarks/soak.py --minutes 300 --restart-coordinator 600

A coordinator, two workers and some clients, all processes of their own. The clients submit, map, cancel, retry, fail
and crash, and check every result. Meanwhile slots are killed, workers are stopped for longer than the timeout, and the
second worker is killed and started again. At the end: a table, and exit code 1 if a call was lost or wrong, or if the
median of the last quarter of the samples is above that of the second quarter by more than a fifth and 10 MB (or 10
descriptors). Needs psutil.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil
from processes import Processes

HERE = Path(__file__).parent
PEER_TIMEOUT = 2.0
STOPPED = 1.5 * PEER_TIMEOUT
SLOTS = 2
CRASH_LIMIT = "5"  # a kill must not be the last straw for a call that others have hit already
ENVIRONMENT = {
    "JOBRUNNER_PEER_TIMEOUT": str(PEER_TIMEOUT),
    "JOBRUNNER_RESULT_CACHE": "4M",  # full, and so of its final size, within seconds
    "PYTHONPATH": str(HERE),
}
LAST_ROUND = 180.0
"""Seconds that the clients have to finish, beyond the time that they were given."""


class Sample(NamedTuple):
    time: float
    megabytes: float
    descriptors: int


class Soak:
    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.rng = random.Random(options.seed)
        self.folder = folder
        self.processes = Processes(folder, ENVIRONMENT)
        self.samples: dict[str, list[Sample]] = {}
        self.faults: dict[str, int] = {}
        self.clients = [f"client-{number}" for number in range(1, options.clients + 1)]
        self.workers = ["worker-1", "worker-2"]
        self.harms = itertools.cycle([self.kill_slot, self.stop_worker, self.kill_slot, self.kill_worker])
        self.asleep: dict[str, float] = {}
        """Workers that were stopped, and when they go on."""
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = str(found.getsockname()[1])
        self.address = f"tcp://127.0.0.1:{self.port}"

    def run(self) -> list[str]:
        """What was wrong."""
        self.start_coordinator()
        for worker in self.workers:
            self.start_worker(worker)
        seconds = 60 * self.options.minutes
        for number, client in enumerate(self.clients):
            (self.folder / f"{client}.files").mkdir()
            arguments = [str(seconds), str(self.options.seed + number), str(self.folder / f"{client}.files")]
            self.processes.start(client, str(HERE / "soak_client.py"), self.address, *arguments)
        self.watch(seconds)
        return self.reports() + self.not_flat()

    def start_coordinator(self) -> None:
        options = [
            "--port",
            self.port,
            "--crash-limit",
            CRASH_LIMIT,
            "--journal",
            str(self.folder / "journal"),
        ]
        self.processes.start("coordinator", "-m", "jobrunner", "coordinator", "start", *options)

    def start_worker(self, name: str) -> None:
        options = ["--name", name, "--slots", str(SLOTS), "--stop-grace", "0.5"]
        self.processes.start(name, "-m", "jobrunner", "worker", "start", self.address, *options)

    def watch(self, seconds: float) -> None:
        """Samples and faults until the time is over, then without faults until the clients are done."""
        options = self.options
        start = time.monotonic()
        end = start + seconds
        never = float("inf")
        sample, fault, restart = start + options.sample, start + options.fault_every, never
        if options.restart_coordinator:
            restart = start + options.restart_coordinator
        while self.busy() and time.monotonic() < end + LAST_ROUND:
            now = time.monotonic()
            if now >= sample:
                self.take_samples(now - start)
                sample += options.sample
            if now >= fault and now < end:
                self.harm(now)
                fault = now + options.fault_every * self.rng.uniform(0.5, 1.5)
            if now >= restart and now < end:
                self.restart_coordinator()
                restart += options.restart_coordinator
            for worker in [w for w, until in self.asleep.items() if now >= until or now >= end]:
                del self.asleep[worker]
                self.processes.send(worker, signal.SIGCONT)
            time.sleep(0.1)

    def busy(self) -> bool:
        return any(self.processes.of[client].poll() is None for client in self.clients)

    # --- faults ---

    def harm(self, now: float) -> None:
        """In turn, so that a short soak sees all of them."""
        name = next(self.harms)(now)
        if name:
            self.faults[name] = self.faults.get(name, 0) + 1

    def kill_slot(self, now: float) -> str:
        slots = self.processes.slots(self.rng.choice(self.workers))
        if not slots:
            return ""
        try:
            os.kill(self.rng.choice(slots), signal.SIGKILL)
        except ProcessLookupError:
            return ""
        return "slots killed"

    def stop_worker(self, now: float) -> str:
        worker = self.rng.choice(self.workers)
        if self.asleep:
            return ""  # one is left to work
        self.asleep[worker] = now + STOPPED
        self.processes.send(worker, signal.SIGSTOP)
        return "workers stopped"

    def kill_worker(self, now: float) -> str:
        """Always the second, so that the samples of the first are those of one process."""
        worker = self.workers[1]
        self.asleep.pop(worker, None)
        self.processes.of[worker].kill()
        self.processes.of[worker].wait()
        self.start_worker(worker)
        return "workers killed"

    def restart_coordinator(self) -> None:
        self.processes.of["coordinator"].kill()
        self.processes.of["coordinator"].wait()
        self.start_coordinator()
        self.faults["coordinators killed"] = self.faults.get("coordinators killed", 0) + 1

    # --- findings ---

    def take_samples(self, moment: float) -> None:
        for role in ["coordinator", *self.workers, *self.clients]:
            try:
                process = psutil.Process(self.processes.of[role].pid)
                sample = Sample(moment, process.memory_info().rss / 1e6, process.num_fds())
            except psutil.Error:
                continue  # a client that is done
            self.samples.setdefault(role, []).append(sample)

    def reports(self) -> list[str]:
        """What the clients, the coordinator and the first worker have to complain about."""
        problems = []
        for client in self.clients:
            process = self.processes.of[client]
            if process.poll() is None:
                process.send_signal(signal.SIGUSR1)  # it writes where it hangs
                time.sleep(1.0)
            text = self.processes.output_of(client).read_text()
            lines = text.splitlines()
            if process.poll() != 0 or not lines or not lines[-1].startswith("{"):
                problems.append(f"{client} did not finish (exit code {process.poll()}):\n{text[-5000:]}")
                continue
            report = json.loads(lines[-1])
            problems += [f"{client}: {wrong}" for wrong in report["wrong"]]
            rounds = ", ".join(f"{count} {kind}" for kind, count in sorted(report["rounds"].items()))
            print(
                f"{client}: {report['calls']} calls, {report['repeats']} of them repeated; rounds: {rounds}"
            )
        print(
            "faults:", ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items())) or "none"
        )
        for role in ["coordinator", *self.workers]:
            if self.processes.of[role].poll() is not None:
                problems.append(f"{role} has ended:\n{self.processes.output_of(role).read_text()[-5000:]}")
            if "Traceback" in self.processes.output_of(role).read_text():
                problems.append(
                    f"{role} wrote a traceback:\n{self.processes.output_of(role).read_text()[-5000:]}"
                )
        return problems

    def not_flat(self) -> list[str]:
        """Prints the table."""
        print(f"\n{'':12} {'':4} {'start':>9} {'warm':>9} {'end':>9} {'per hour':>9}")
        problems = []
        for role, samples in self.samples.items():
            for unit, index, allowed in (("MB", 1, 10.0), ("fds", 2, 10.0)):
                values = [float(sample[index]) for sample in samples]
                if len(values) < 8:
                    problems.append(f"{role}: too few samples to judge")
                    break
                quarter = len(values) // 4
                warm = statistics.median(values[quarter : 2 * quarter])
                end = statistics.median(values[-quarter:])
                times = [sample.time / 3600 for sample in samples]
                slope = statistics.linear_regression(times[quarter:], values[quarter:]).slope
                print(f"{role:12} {unit:4} {values[0]:9.1f} {warm:9.1f} {end:9.1f} {slope:9.1f}")
                if end > 1.2 * warm + allowed:
                    problems.append(f"{role}: {unit} grew from {warm:.1f} to {end:.1f}")
        return problems


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--sample", type=float, default=10.0, metavar="SECONDS")
    parser.add_argument("--fault-every", type=float, default=5.0, metavar="SECONDS")
    parser.add_argument("--restart-coordinator", type=float, default=0.0, metavar="SECONDS", help="0: never")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="jobrunner-soak-") as folder:
        soak = Soak(options, Path(folder))
        try:
            problems = soak.run()
        finally:
            soak.processes.end()
    for problem in problems:
        print(f"WRONG: {problem}", file=sys.stderr)
    print("\nsomething is wrong" if problems else "\nnothing was lost, nothing was wrong, all is flat")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
