"""The workloads. Each starts a pool, warms it up, measures, and says its figures; larger is not always better.

`scale` shrinks them: 1 is what docs/benchmarks.md describes. A runner that does few calls a second gets fewer of
them, and "calls" says how many, so that no row takes minutes.
"""

from __future__ import annotations

import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.peers.functions import hold, nap, pi, same
from benchmarks.peers.pools import WORKERS, Pool, Unsupported
from benchmarks.peers.processes import resident, resident_elsewhere

WARM_UP = 200
"""Calls before anything is measured."""

SLOW = 2_000
"""Calls per second below which a runner is given fewer calls."""

SLOW_SECONDS = 10.0
"""What such a runner's measurement shall take, about."""

MIB = 1024 * 1024
Start = Callable[[], Pool]


@contextmanager
def started(start: Start, warm_up: int = WARM_UP) -> Iterator[tuple[Pool, float]]:
    """A pool that has done something, and how many calls a second it did of those."""
    pool = start()
    try:
        pool.many(same, range(WORKERS))
        began = time.perf_counter()
        if warm_up:
            pool.many(same, range(warm_up))
        yield pool, warm_up / (time.perf_counter() - began)
    finally:
        pool.close()


def affordable(wanted: float, rate: float, scale: float, least: int = 20) -> int:
    """As many calls as wanted, or fewer of a slow runner, but at least so many."""
    if rate < SLOW:
        wanted = min(wanted, rate * SLOW_SECONDS)
    return max(least, round(wanted * scale))


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def check(done: list[Any], wanted: list[Any]) -> None:
    if done != wanted:
        raise RuntimeError("wrong results")


def submit(start: Start, scale: float) -> dict[str, float]:
    """Calls that do nothing, one by one, until the last result."""
    with started(start) as (pool, rate):
        count = affordable(20_000, rate, scale)
        began = time.perf_counter()
        check(pool.many(same, range(count)), list(range(count)))
        return {"rate": count / (time.perf_counter() - began), "calls": count}


def latency(start: Start, scale: float) -> dict[str, float]:
    """One call at a time: the median."""
    with started(start) as (pool, _):
        count = max(20, round(500 * scale))
        return {"seconds": statistics.median(timed(lambda: pool.many(same, [1])) for _ in range(count))}


def map_(start: Start, scale: float) -> dict[str, float]:
    """A map over integers, with the chunks that the runner takes by itself."""
    return _map(start, scale, lambda pool, values: pool.map(same, values))


def map_256(start: Start, scale: float) -> dict[str, float]:
    """The same, in chunks of 256."""
    return _map(start, scale, lambda pool, values: pool.map_chunks(same, values, 256))


def _map(start: Start, scale: float, run: Callable[[Pool, list[int]], list[Any]]) -> dict[str, float]:
    with started(start) as (pool, _):
        # The runners that make a call of each element are the slow ones: how slow, only a map can tell.
        probe = list(range(512))
        run(pool, probe[: 2 * WORKERS])
        rate = len(probe) / timed(lambda: run(pool, probe))
        values = list(range(affordable(100_000, rate, scale)))
        began = time.perf_counter()
        check(run(pool, values), values)
        return {"rate": len(values) / (time.perf_counter() - began), "calls": len(values)}


def arrays(start: Start, scale: float) -> dict[str, float]:
    """Arrays of 8 MiB there and back, four at a time: bytes per second, both ways counted."""
    return _arrays(start, 8 * MIB, max(4, round(64 * scale)), 4)


def array_256(start: Start, scale: float) -> dict[str, float]:
    """One array of 256 MiB there and back."""
    return _arrays(start, max(MIB, round(256 * MIB * min(1.0, scale))), 1, 1)


def _arrays(start: Start, size: int, count: int, ahead: int) -> dict[str, float]:
    import numpy

    array = numpy.random.default_rng(1).random(size // 8)
    with started(start) as (pool, _):
        pool.stream(same, [array[:1000]] * 4, 4)
        began = time.perf_counter()
        done = pool.stream(same, (array for _ in range(count)), ahead)
        seconds = time.perf_counter() - began
        if done[0] is array:
            raise Unsupported("copies nothing")
        if len(done) != count or any(len(a) != len(array) or a[-1] != array[-1] for a in done):
            raise RuntimeError("wrong results")
        return {"rate": 2 * size * count / seconds}


def cpu(start: Start, scale: float) -> dict[str, float]:
    """pi, eight times, against the built-in map in the same process: the speed-up."""
    probe = 200_000
    pi(probe)
    factors = round(probe * (4.0 * scale / 8) / timed(lambda: pi(probe)))
    values = [factors] * 8
    alone = timed(lambda: list(map(pi, values)))
    with started(start) as (pool, _):
        pool.map(same, range(2 * WORKERS))
        together = timed(lambda: pool.map(pi, values))
    alone = (alone + timed(lambda: list(map(pi, values)))) / 2
    return {"speed-up": alone / together, "seconds": alone}


def closures(start: Start, scale: float) -> dict[str, float]:
    """Calls of a lambda that closes over a value."""
    with started(start) as (pool, rate):
        one, count = 1, affordable(5_000, rate, scale)
        began = time.perf_counter()
        check(pool.many(lambda value: value + one, range(count)), list(range(1, count + 1)))
        return {"rate": count / (time.perf_counter() - began), "calls": count}


def stragglers(start: Start, scale: float) -> dict[str, float]:
    """A call of 2 s, then 200 of 10 ms, by submit: how much longer than two busy workers would take."""
    return _stragglers(start, scale, lambda pool, values: pool.many(nap, values))


def stragglers_map(start: Start, scale: float) -> dict[str, float]:
    """The same by map."""
    return _stragglers(start, scale, lambda pool, values: pool.map(nap, values))


def _stragglers(
    start: Start, scale: float, run: Callable[[Pool, list[float]], list[Any]]
) -> dict[str, float]:
    values = [2.0 * scale, *[0.01] * max(2, round(200 * scale))]
    with started(start) as (pool, _):
        run(pool, [0.0] * (2 * WORKERS))
        seconds = timed(lambda: check(run(pool, values), values))
    return {"of ideal": seconds / (sum(values) / WORKERS)}


def start_up(start: Start, scale: float) -> dict[str, float]:
    """From the start of the interpreter to the first result; `BENCHMARK_BEGAN` is when that was (monotonic)."""
    pool = start()
    try:
        pool.many(same, [1])
        return {"seconds": time.monotonic() - float(os.environ["BENCHMARK_BEGAN"])}
    finally:
        pool.close()


def backlog(start: Start, scale: float) -> dict[str, float]:
    """Calls that queue behind two busy workers: what they cost where, how fast they come in, how fast they leave."""
    with started(start) as (pool, rate), tempfile.TemporaryDirectory() as folder:
        count = affordable(100_000, rate, scale, least=1_000)
        gate = os.path.join(folder, "gate")
        held = [pool.submit(hold, gate) for _ in range(WORKERS)]
        time.sleep(0.5)
        gc.collect()
        here, elsewhere = resident(), resident_elsewhere()
        tenth = count // 10
        results: list[Any] = []
        marks = [time.perf_counter()]
        for step in range(10):
            results += [pool.submit(same, value) for value in range(step * tenth, (step + 1) * tenth)]
            marks.append(time.perf_counter())
        now_here, now_elsewhere = settled()
        began = time.perf_counter()
        open(gate, "x").close()
        check(pool.gather(results), list(range(len(results))))
        drained = time.perf_counter() - began
        pool.gather(held)
        return {
            "bytes here": (now_here - here) / count,
            "bytes elsewhere": (now_elsewhere - elsewhere) / count,
            "first": tenth / (marks[1] - marks[0]),
            "last": tenth / (marks[10] - marks[9]),
            "drain": count / drained,
            "calls": count,
        }


def settled(patience: float = 15.0) -> tuple[int, int]:
    """The resident bytes here and elsewhere, once they grow no more."""
    deadline = time.monotonic() + patience
    before = (0, 0)
    while True:
        now = (resident(), resident_elsewhere())
        if time.monotonic() > deadline or sum(now) - sum(before) < MIB // 4:
            return now
        before = now
        time.sleep(0.7)


@dataclass(frozen=True)
class Column:
    """A figure of a table: which of the workload's, what it is multiplied by, and how it is written."""

    workload: str
    figure: str
    title: str
    factor: float = 1.0
    form: str = ",.0f"


WORKLOADS: dict[str, Callable[[Start, float], dict[str, float]]] = {
    "start-up": start_up,
    "submit": submit,
    "latency": latency,
    "map": map_,
    "map-256": map_256,
    "arrays": arrays,
    "array-256": array_256,
    "cpu": cpu,
    "closures": closures,
    "stragglers": stragglers,
    "stragglers-map": stragglers_map,
    "backlog": backlog,
}

TABLES: dict[str, tuple[Column, ...]] = {
    "Calls": (
        Column("start-up", "seconds", "start-up, s", form=".2f"),
        Column("submit", "rate", "calls/s"),
        Column("latency", "seconds", "one call, us", factor=1e6),
        Column("closures", "rate", "closures/s"),
        Column("map", "rate", "map, elements/s"),
        Column("map-256", "rate", "map in 256s, elements/s"),
    ),
    "Work": (
        Column("arrays", "rate", "8 MiB arrays, GB/s", factor=1e-9, form=".2f"),
        Column("array-256", "rate", "256 MiB array, GB/s", factor=1e-9, form=".2f"),
        Column("cpu", "speed-up", "pi, speed-up", form=".2f"),
        Column("stragglers", "of ideal", "stragglers, submit / ideal", form=".2f"),
        Column("stragglers-map", "of ideal", "stragglers, map / ideal", form=".2f"),
    ),
    "Backlog": (
        Column("backlog", "bytes here", "bytes/call in the client"),
        Column("backlog", "bytes elsewhere", "bytes/call elsewhere"),
        Column("backlog", "first", "submit/s, first 10 %"),
        Column("backlog", "last", "submit/s, last 10 %"),
        Column("backlog", "drain", "drained/s"),
    ),
}
"""Titles of the report's tables and their columns."""
