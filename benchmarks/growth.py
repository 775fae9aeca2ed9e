"""What grows with the number of tasks, workers and clients.

    python benchmarks/growth.py                            # all parts
    python benchmarks/growth.py --scale 0.05 queued core   # two of them, small

queued   1,000,000 calls on a cluster without workers: bytes per call in the client and coordinator, and the rate of
         `submit` at the start and at the end. The coordinator's window is opened for all of them; without
         that, all beyond 100,000 would wait in the client.
journal  the same with a journal.
core     the coordinator's state machine alone, no sockets: CPU time per task with 10 to 10,000 simulated workers.
workers  200 worker processes of one slot on this host: until all have joined, and calls per second with them.
clients  50 client processes at once on one worker of two slots: each one's rate against the mean.

`--scale` shrinks the counts. Needs psutil. Everything listens on loopback, with keys in a folder of its own.
"""

from __future__ import annotations

import argparse
import operator
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil

from benchmarks.lone_core import LoneCore
from benchmarks.peers.daemons import JobrunnerDaemons
from jobrunner import Executor
from jobrunner.admin import ClusterAdmin
from jobrunner.transport.service import rare_collections

PATIENCE = 300.0
"""Seconds for anything to come true."""


def until(condition: Callable[[], bool], what: str, pause: float = 0.05) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not within {PATIENCE:.0f} s")
        time.sleep(pause)


def resident(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


# --- queued -------------------------------------------------------------------------------------------------------


def queued(scale: float, *, journal: bool = False) -> None:
    count = max(1_000, round(1_000_000 * scale))
    os.environ["JOBRUNNER_CLIENT_WINDOW_TASKS"] = str(2 * count)
    os.environ["JOBRUNNER_CLIENT_WINDOW_BYTES"] = str(2**40)
    with JobrunnerDaemons(0, journal=journal) as daemons, ClusterAdmin(daemons.address, 60.0) as admin:
        executor = Executor(daemons.address)
        admin.status()
        own, coordinator = os.getpid(), daemons.coordinator.pid
        before = resident(own), resident(coordinator)
        tenth = count // 10
        futures = []
        marks = [time.perf_counter()]
        for step in range(10):
            futures += [executor.submit(operator.pos, n) for n in range(step * tenth, (step + 1) * tenth)]
            marks.append(time.perf_counter())
        until(lambda: admin.status()["tasks"]["queued"] == len(futures), "all calls at the coordinator", 0.2)
        there = time.perf_counter() - marks[0]
        after = resident(own), resident(coordinator)
        print(
            f"queued: {count:,} calls, journal {'on' if journal else 'off'}:"
            f" client {(after[0] - before[0]) / count:,.0f} bytes a call,"
            f" coordinator {(after[1] - before[1]) / count:,.0f},"
            f" journal {journal_bytes(daemons.journal) / count:,.0f};"
            f" submit/s {tenth / (marks[1] - marks[0]):,.0f} in the first tenth,"
            f" {tenth / (marks[10] - marks[9]):,.0f} in the last; all at the coordinator at {count / there:,.0f}/s",
            flush=True,
        )
        began = time.perf_counter()
        executor.shutdown(cancel_futures=True)
        print(f"queued: all cancelled within {time.perf_counter() - began:.1f} s", flush=True)


def journal_bytes(path: Path) -> int:
    """With the files that SQLite keeps beside it."""
    return sum(file.stat().st_size for file in path.parent.glob(path.name + "*") if file.is_file())


# --- core ---------------------------------------------------------------------------------------------------------


@rare_collections()  # as in a coordinator
def core(scale: float) -> None:
    for workers in (10, 100, 1_000, 10_000):
        count = max(10, round(workers * min(1.0, scale * 10)))
        lone = LoneCore(count)
        joined = lone.spent / count
        tasks = max(2 * count, round(100_000 * scale))
        print(
            f"core: {count:,} workers: {lone.run(tasks) * 1e6:,.1f} us of CPU per task ({tasks:,} tasks of 1 s),"
            f" {joined * 1e6:,.0f} us per worker that joins",
            flush=True,
        )


# --- workers ------------------------------------------------------------------------------------------------------


def workers(scale: float) -> None:
    count = max(2, round(200 * scale))
    with JobrunnerDaemons(0, journal=False) as daemons, ClusterAdmin(daemons.address, 60.0) as admin:
        began = time.perf_counter()
        for number in range(count):
            daemons.worker(f"w{number}", 1)
        until(lambda: len(admin.workers()) == count, "all workers have joined", 0.2)
        joined = time.perf_counter() - began
        with Executor(daemons.address) as executor:
            list(executor.map(operator.pos, range(count), chunksize=1))
            calls = max(500, round(20_000 * scale))
            start = time.perf_counter()
            futures = [executor.submit(operator.pos, n) for n in range(calls)]
            if [future.result() for future in futures] != list(range(calls)):
                raise SystemExit("wrong results")
            rate = calls / (time.perf_counter() - start)
            coordinator = resident(daemons.coordinator.pid) / 2**20
    print(
        f"workers: {count} joined within {joined:.1f} s; {rate:,.0f} calls/s ({calls:,} calls);"
        f" coordinator {coordinator:.0f} MiB",
        flush=True,
    )


# --- clients ------------------------------------------------------------------------------------------------------

CLIENT = """
import operator, sys, time
from jobrunner import Executor
seconds = float(sys.argv[2])
with Executor(sys.argv[1]) as executor:
    executor.submit(operator.pos, 1).result()
    print("ready", flush=True)
    sys.stdin.readline()
    end, done = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        for future in [executor.submit(operator.pos, n) for n in range(100)]:
            future.result()
        done += 100
    print(done, flush=True)
    sys.stdin.readline()
"""
"""A client: ready, go, as many calls as it gets done in some seconds, a hundred at a time; then it waits."""


def clients(scale: float) -> None:
    count, seconds = max(2, round(50 * scale)), max(1.0, 10 * min(1.0, scale))
    with JobrunnerDaemons(2, journal=False) as daemons:
        started = [
            subprocess.Popen(
                [sys.executable, "-c", CLIENT, daemons.address, str(seconds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(count)
        ]
        try:
            answers = []
            for wanted in ("ready", "counts"):
                answers = [client.stdout.readline().strip() for client in started if client.stdout]
                if wanted == "ready" and answers != ["ready"] * count:
                    raise SystemExit("clients: one did not start")
                for client in started:
                    assert client.stdin is not None
                    print(file=client.stdin, flush=True)
            rates = [int(answer) / seconds for answer in answers]
        finally:
            for client in started:
                client.kill()
                client.communicate()
    mean = statistics.mean(rates)
    print(
        f"clients: {count} at once, {sum(rates):,.0f} calls/s together; each against the mean:"
        f" least {min(rates) / mean:.2f}, most {max(rates) / mean:.2f},"
        f" standard deviation {statistics.pstdev(rates) / mean:.2f}",
        flush=True,
    )


PARTS: dict[str, Callable[[float], None]] = {
    "queued": queued,
    "journal": partial(queued, journal=True),
    "core": core,
    "workers": workers,
    "clients": clients,
}


@contextmanager
def own_settings() -> Iterator[None]:
    """Keys and state in a folder that goes again; none of this user's settings."""
    for name in [name for name in os.environ if name.startswith("JOBRUNNER_")]:
        del os.environ[name]
    with tempfile.TemporaryDirectory(prefix="growth-") as folder:
        for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME"):
            os.environ[name] = folder
        yield


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"any of: {', '.join(PARTS)}")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = sorted(set(options.parts) - set(PARTS))
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}")
    if options.part is not None:
        with own_settings():
            PARTS[options.part](options.scale)
        return
    for part in options.parts or PARTS:
        # Each in a process of its own, so that one's memory is not another's.
        subprocess.run([sys.executable, __file__, "--scale", str(options.scale), "--part", part], check=True)


if __name__ == "__main__":
    main()
