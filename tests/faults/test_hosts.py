"""Several hosts whose cables are cut, healed and bad. Needs root, iproute2 and a kernel with namespaces.

A cut cable says nothing: no connection is closed, packets just do not arrive. Everything must drain after the heal.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import pytest
from support import TESTS
from support.daemons import Cluster, Daemon
from support.hosts import Hosts, why_not
from support.work import executions

from jobrunner.testing.waiting import until

WORKERS = ("one", "two", "three")
PORT = 7077

WHY_NOT = why_not()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "it works")

IN_A_NAMESPACE = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"
"""`Cluster.run` starts Python programs; this one becomes another, in the same process."""


class Site:
    """The cluster of one test: a coordinator's host, three workers' hosts, a client's host."""

    def __init__(self, cluster: Cluster, hosts: Hosts) -> None:
        self._cluster = cluster
        self.hosts = hosts
        self.address = f"tcp://{hosts.address('coordinator')}:{PORT}"
        own = hosts.address("coordinator")
        self.coordinator = self.jobrunner(
            "coordinator", "coordinator", "start", "--host", own, "--port", str(PORT)
        )
        self.coordinator.wait_for("worker start")
        self.workers = {name: self.start_worker(name) for name in WORKERS}
        for worker in self.workers.values():
            worker.wait_for("joined coordinator")

    def start(self, host: str, *arguments: str) -> Daemon:
        command = [*self.hosts.command(host), sys.executable, *arguments]
        return self._cluster.run("-c", IN_A_NAMESPACE, *command)

    def jobrunner(self, host: str, *arguments: str) -> Daemon:
        return self.start(host, "-m", "jobrunner", *arguments)

    def start_worker(self, name: str) -> Daemon:
        arguments = ["--name", name, "--slots", "2", "--stop-grace", "0.5"]
        return self.jobrunner(name, "worker", "start", self.address, *arguments)

    def client(self, notes: str, count: int, seconds: float) -> Daemon:
        program = str(TESTS / "support" / "work.py")
        return self.start("client", program, self.address, notes, str(count), str(seconds))

    def joined(self, name: str) -> int:
        return self.workers[name].output.count("joined coordinator")

    def wait_lost(self, *names: str) -> None:
        """Until the coordinator has found these workers to be lost."""
        for name in names:
            self.coordinator.wait_for(f"worker {name} is lost")


@pytest.fixture
def site(cluster: Cluster) -> Iterator[Site]:
    hosts = Hosts(["coordinator", *WORKERS, "client"])
    try:
        yield Site(cluster, hosts)
    finally:
        hosts.end()


def check(client: Daemon, notes: str, count: int, repeats: bool) -> None:
    assert client.wait() == 0, client.output
    assert f"right {count}" in client.output
    started = executions(notes)
    assert set(started) == set(range(count))
    assert repeats or started.total() == count


def test_a_workers_cable_is_cut_and_healed(site, notes):
    client = site.client(notes, 1000, 0.005)
    client.wait_for("done 20 %")
    site.hosts.cut("one")
    site.wait_lost("one")
    site.hosts.heal("one")
    until(lambda: site.joined("one") == 2, "the return of the worker")
    check(client, notes, 1000, repeats=True)


def test_the_coordinators_cable_is_cut_and_healed(site, notes):
    """Nobody can reach anybody; nobody is to blame."""
    client = site.client(notes, 1000, 0.005)
    client.wait_for("done 20 %")
    site.hosts.cut("coordinator")
    for worker in site.workers.values():
        worker.wait_for("lost the coordinator")
    site.wait_lost(*WORKERS)
    site.hosts.heal("coordinator")
    check(client, notes, 1000, repeats=True)
    until(lambda: all(site.joined(name) == 2 for name in WORKERS), "the return of all workers")


def test_the_clients_cable_is_cut_and_healed(site, notes):
    """The work goes on meanwhile, and is not done twice."""
    client = site.client(notes, 600, 0.005)
    client.wait_for("done 20 %")
    site.hosts.cut("client")
    until(lambda: len(executions(notes)) == 600, "the end of the tasks without their client")
    site.hosts.heal("client")
    check(client, notes, 600, repeats=False)


def test_a_host_vanishes_without_a_word(site, notes):
    client = site.client(notes, 600, 0.005)
    client.wait_for("done 20 %")
    site.hosts.cut("two")  # before the kill, so that no closed connection tells of it
    site.workers["two"].send(signal.SIGKILL)
    check(client, notes, 600, repeats=True)
    site.wait_lost("two")


def test_packets_are_lost_and_late(cluster, notes):
    """A fifth of the packets, and 200 ms: TCP falters for seconds, so that peers are lost and come back."""
    cluster.environment["JOBRUNNER_PEER_TIMEOUT"] = "2"
    hosts = Hosts(["coordinator", *WORKERS, "client"])
    try:
        site = Site(cluster, hosts)
        client = site.client(notes, 80, 0.05)
        client.wait_for("done 5 %")
        for name in ("one", "two"):
            hosts.make_bad(name, loss=0.2, delay=0.2)
        check(client, notes, 80, repeats=True)
    finally:
        hosts.end()
