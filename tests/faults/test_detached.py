"""Detached calls while everything dies: clients, workers, and the coordinator again and again."""

from __future__ import annotations

import random
import signal
import subprocess
import sys

from support.daemons import connected, free_port

from jobrunner.testing.waiting import BOUND

CLIENT = """
import sys
from jobrunner import Executor
address, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with Executor(address) as executor:
    view = executor.with_options(detach=True)
    squares = [view.submit(pow, number, 2) for number in range(first, first + count)]
    total = view.submit(sum, squares)
print(*[future.id for future in squares], total.id)
"""
ROUNDS = 4
CALLS = 150


def test_what_was_accepted_is_done_whoever_dies(cluster, tmp_path):
    port, rng = free_port(), random.Random(5)
    options = ("--journal", str(tmp_path / "journal"), "--client-grace", "1")
    coordinator = cluster.coordinator(*options, port=port)
    workers = [cluster.worker(coordinator.address, f"w{n}", slots=2) for n in range(2)]
    accepted = []
    for round_ in range(ROUNDS):
        clients = [
            subprocess.Popen(
                [sys.executable, "-c", CLIENT, coordinator.address, str(first), str(CALLS)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for first in (1000 * round_, 1000 * round_ + 300)
        ]
        victim = rng.randrange(2)
        workers[victim].send(signal.SIGKILL)
        coordinator.send(signal.SIGKILL)
        coordinator.wait()
        coordinator = cluster.coordinator(*options, port=port)
        workers[victim] = cluster.worker(coordinator.address, f"w{victim}", slots=2, joined=False)
        for first, client in zip((1000 * round_, 1000 * round_ + 300), clients, strict=True):
            out, _ = client.communicate(timeout=2 * BOUND)
            assert client.returncode == 0
            accepted.append((first, out.split()))
    with connected(coordinator.address) as executor:
        for first, ids in accepted:
            expected = [number**2 for number in range(first, first + CALLS)]
            futures = [executor.future(task_id) for task_id in ids]
            assert [future.result(2 * BOUND) for future in futures] == [*expected, sum(expected)]
        for _, ids in accepted:
            for task_id in ids[:3]:
                executor.forget(task_id)
