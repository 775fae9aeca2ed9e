"""Nonsense over real sockets: do coordinator and workers live on, and does an honest client get what it asks for?

    python benchmarks/fuzz_sockets.py                             # 50,000 messages of each kind, some minutes
    python benchmarks/fuzz_sockets.py --messages 2000 --seed 7

Starts a coordinator with keys and two workers on loopback, and an honest client that works all the time. Meanwhile

- insiders (two with a client's key, two with a worker's, one with an observer's) send damaged and well-formed
  nonsense, most of it in sessions that are open; who is shut out comes again, under a new name;
- as many connections without a known key send noise, other protocols, and handshakes with damage.

The law: no process of the cluster ends or writes a traceback; each result of the honest client is right; the
coordinator's memory and descriptors stay flat; each message that cannot be decoded is counted; the log is not flooded.
Exit code 1 where it is broken. Everything that is sent is the same for the same seed, but for what only the
coordinator can know. Needs psutil.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import zmq
from fuzzing.insiders import Insider
from fuzzing.strangers import Strangers
from honest import Honest
from real_cluster import BOUND, RealCluster, until

from jobrunner.admin import ClusterAdmin
from jobrunner.protocol.coordinator.rejections import QUIET, REMEMBERED

BURST = 8
"""Messages of an insider between two looks at what became of them."""

GROWTH = 30.0
"""Megabytes that the coordinator may grow by, once a tenth of the messages have been sent."""

MAX_LINE_LENGTH = 1000
"""Characters of a line in the log."""

ENVIRONMENT = {
    "JOBRUNNER_PEER_TIMEOUT": "5",
    "JOBRUNNER_CLIENT_GRACE": "2",  # so that what insiders leave behind is cleared while others still come
    "JOBRUNNER_RESULT_CACHE": "4M",  # full, and so of its final size, within seconds
}

WORKER_OPTIONS = ("--slots", "1", "--stop-grace", "0.5", "--resources", "honest=1000")


class Siege:
    """Of one cluster, by insiders and strangers in turns, from this thread."""

    def __init__(self, cluster: RealCluster, seed: str) -> None:
        self.cluster = cluster
        credentials = {
            role: cluster.identity(f"odd-{role}", role).credentials
            for role in ("client", "worker", "observer")
        }
        self.insiders = [
            Insider(cluster.address, credentials[role], role, number, seed)
            for role, number in (("client", 0), ("client", 1), ("worker", 0), ("worker", 1), ("observer", 0))
        ]
        self.strangers = Strangers(cluster.socket_address, cluster.keys.server.public, seed)
        self.memory: list[float] = []
        """The coordinator's, in MB, a hundred times or so."""
        self.seconds = 0.0

    def run(self, messages: int) -> None:
        """Until all are sent, or a process of the cluster has ended."""
        began = time.monotonic()
        per_turn = BURST * len(self.insiders)
        turns = -(-messages // per_turn)
        for turn in range(turns):
            if not self.cluster.alive():
                break
            if turn % max(1, turns // 100) == 0:
                self.memory.append(self.cluster.megabytes())
            self._until_all(Insider.ready)
            for insider in self.insiders:
                insider.burst(BURST)
            self.strangers.come(per_turn)
            self._until_all(Insider.has_settled)
            if turn % 100 == 99:
                rate = per_turn * (turn + 1) / (time.monotonic() - began)
                print(f"{per_turn * (turn + 1):,} of each, {rate:,.0f} a second", flush=True)
        self.seconds = time.monotonic() - began

    def _until_all(self, done: Callable[[Insider], bool]) -> None:
        deadline = time.monotonic() + BOUND
        waiting = self.insiders
        while waiting := [insider for insider in waiting if not done(insider)]:
            if not self.cluster.alive() or time.monotonic() > deadline:
                return
            zmq.select([insider.socket for insider in waiting], [], [], 0.05)

    def close(self) -> None:
        self.strangers.close()
        for insider in self.insiders:
            insider.close()


def broken(siege: Siege, honest: Honest, usual: int) -> list[str]:
    """What of the law, once all is over; and prints the figures."""
    cluster = siege.cluster
    if problems := cluster.problems():
        return problems
    found = [f"the honest client: {wrong}" for wrong in honest.wrong]
    with ClusterAdmin(cluster.address) as admin:
        status = admin.status()
    rejected = status["coordinator"]["rejected_messages"]
    certain = sum(insider.taken["certainly rejected"] for insider in siege.insiders)
    if rejected < certain:
        found.append(f"{certain} messages cannot be decoded, but {rejected} were counted")
    missing = set(cluster.workers) - {worker["name"] for worker in status["workers"]}
    if missing:
        found.append(f"not in the cluster any more: {missing}")
    memory = [*siege.memory, cluster.megabytes()]
    warm = memory[len(memory) // 10]
    if memory[-1] > warm + GROWTH:
        found.append(f"the coordinator's memory grew from {warm:.0f} to {memory[-1]:.0f} MB")
    try:
        until(lambda: cluster.descriptors() <= usual + 2, "the end of the connections", 20.0)
    except TimeoutError as exc:
        found.append(f"{exc}: {usual} descriptors before, {cluster.descriptors()} now")
    log = cluster.log("coordinator")
    about = [line for line in log if "rejected" in line]
    most = (REMEMBERED + 1) * (2 + int(siege.seconds / QUIET))
    if len(about) > most:
        found.append(f"{len(about)} lines about rejected messages in the log, more than {most}")
    if (longest := max(map(len, log))) > MAX_LINE_LENGTH:
        found.append(f"a line of {longest} characters in the log")
    print(f"honest client: {honest.calls:,} calls, the slowest 220 in {honest.slowest:.1f} s")
    print(
        f"coordinator: {warm:.0f} MB after a tenth, {memory[-1]:.0f} MB at the end, at most {max(memory):.0f};"
    )
    print(
        f"  {rejected:,} messages rejected ({certain:,} for certain); lines in the log: {len(log)}, ", end=""
    )
    print(f"{len(about)} of them about rejected messages (at most {most})")
    return found


def print_figures(siege: Siege) -> None:
    for role in ("client", "worker", "observer"):
        theirs = [insider for insider in siege.insiders if insider.role == role]
        print(f"{role}s' keys: {told(sum((i.taken for i in theirs), Counter()))}")
        for error, count in sum((i.errors for i in theirs), Counter()).most_common(8):
            print(f"  refused {count} times: {error}")
    print(f"strangers: {told(siege.strangers.taken)}")


def told(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.most_common())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=50_000, help="of insiders, and as many strangers")
    parser.add_argument("--seed", default="1")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="jobrunner-fuzz-") as folder,
        RealCluster(Path(folder), ENVIRONMENT, 2, *WORKER_OPTIONS) as cluster,
    ):
        honest = Honest(cluster.address)
        usual = cluster.descriptors()
        siege = Siege(cluster, arguments.seed)
        try:
            siege.run(arguments.messages)
        finally:
            siege.close()
            honest.stop(at_once=not cluster.alive())
        print_figures(siege)
        problems = broken(siege, honest, usual)
    for problem in problems:
        print(f"WRONG: {problem}")
    print("the law is broken" if problems else f"the law holds; {siege.seconds:.0f} s")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
