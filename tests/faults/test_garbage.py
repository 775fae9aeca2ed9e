"""Strangers on the coordinator's port: noise, scans, connections that say nothing. Work goes on beside them.

Nothing here depends on how honest peers prove who they are: no stranger gets as far as that.
"""

from __future__ import annotations

import random
import resource
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
from support.daemons import Cluster, Daemon, connected
from support.work import noted_square

from jobrunner import Executor
from jobrunner.admin import ClusterAdmin
from jobrunner.testing.waiting import BOUND, until

RESPONSIVE = 5.0
"""Seconds for one answer while strangers do their worst; a fraction of that on a machine with nothing else to do."""

GROWTH = 30e6
"""Bytes that the coordinator may grow by meanwhile: its own work, and what the system keeps per connection."""

SIGNATURE = b"\xff" + bytes(8) + b"\x7f"


def greeting(mechanism: bytes, version: bytes = b"\x03\x01") -> bytes:
    """ZeroMQ's own, of 64 bytes."""
    return SIGNATURE + version + mechanism.ljust(20, b"\0") + bytes(32)


def port_of(daemon: Daemon) -> tuple[str, int]:
    return "127.0.0.1", int(daemon.address.rpartition(":")[2])


def memory(daemon: Daemon) -> int:
    size: int = psutil.Process(daemon.pid).memory_info().rss
    return size


def descriptors(daemon: Daemon) -> int:
    count: int = psutil.Process(daemon.pid).num_fds()
    return count


def answers_in_time(daemon: Daemon) -> None:
    """A stranger to the strangers connects, asks, and is answered."""
    began = time.monotonic()
    with ClusterAdmin(daemon.address, BOUND) as admin:
        assert len(admin.workers()) == 1
    assert time.monotonic() - began < RESPONSIVE


def work_goes_on(executor: Executor, notes: str, count: int = 100) -> None:
    futures = [executor.submit(noted_square, notes, n, 0.0) for n in range(count)]
    assert [future.result(BOUND) for future in futures] == [n * n for n in range(count)]


@pytest.fixture
def coordinator(cluster: Cluster) -> Daemon:
    """With one worker."""
    coordinator = cluster.coordinator()
    cluster.worker(coordinator.address, "w")
    return coordinator


# --- noise --------------------------------------------------------------------------------------------------------


class Noise:
    """Connections that send bytes as fast as they are taken, and come again when they are closed."""

    def __init__(self, socket_address: tuple[str, int], beginnings: list[bytes]) -> None:
        self._socket_address = socket_address
        self._over = threading.Event()
        self.connections = 0
        self._threads = [
            threading.Thread(target=self._run, args=(number, beginning))
            for number, beginning in enumerate(beginnings)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, seed: int, beginning: bytes) -> None:
        rng = random.Random(seed)
        noise = rng.randbytes(64 * 1024)
        while not self._over.is_set():
            start = rng.randrange(1024)
            try:
                with socket.create_connection(self._socket_address, BOUND) as connection:
                    self.connections += 1
                    connection.sendall(beginning + noise[start:])
                    while not self._over.is_set():
                        connection.sendall(noise)
            except OSError:
                pass  # it was closed on us

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(BOUND)


@contextmanager
def noise(daemon: Daemon, beginnings: list[bytes]) -> Iterator[Noise]:
    noise = Noise(port_of(daemon), beginnings)
    try:
        yield noise
    finally:
        noise.stop()


OLD_PEER = b"\x01\x00" + b"".join(bytes([n + 1, 0]) + b"x" * n for n in range(1, 100))
"""A valid beginning in ZeroMQ's first protocol, which has no greeting: then any bytes are messages."""


def test_random_bytes_at_full_speed_do_not_disturb_work(coordinator, notes):
    with connected(coordinator.address) as executor:
        work_goes_on(executor, notes, 20)
        before = memory(coordinator)
        with noise(coordinator, [b"", OLD_PEER, SIGNATURE]) as strangers:
            rounds = 0
            while rounds < 10 or strangers.connections < 3000:
                work_goes_on(executor, notes)
                rounds += 1
                assert memory(coordinator) < before + GROWTH
            answers_in_time(coordinator)
        work_goes_on(executor, notes)
    assert memory(coordinator) < before + GROWTH
    assert len(coordinator.lines) < 100, "the log is not flooded"


# --- scans, and connections that get stuck ------------------------------------------------------------------------


STUCK = [
    b"",
    b"\xff",
    SIGNATURE,
    SIGNATURE + b"\x03",
    greeting(b"NULL")[:63],
    greeting(b"NULL"),
    greeting(b"CURVE"),
    greeting(b"PLAIN"),
    greeting(b"GARBAGE"),
    greeting(b"NULL", b"\x02\x00"),
    greeting(b"NULL") + b"\x04\x05",
    greeting(b"NULL") + b"\x06" + struct.pack("!Q", 2**62),
    greeting(b"CURVE") + b"\x06" + struct.pack("!Q", 2**40) + b"x",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"SSH-2.0-scanner\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
]
"""How far a connection gets: nothing, parts of a greeting, a whole one, another protocol's."""


def connect_and_close(socket_address: tuple[str, int], number: int) -> None:
    with socket.create_connection(socket_address, BOUND) as connection:
        if number % 3 == 0:  # with a reset instead of an orderly end
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif number % 3 == 1:
            connection.sendall(STUCK[number % len(STUCK)])


def test_port_scans_and_half_open_connections_do_not_disturb_work(coordinator, notes):
    socket_address = port_of(coordinator)
    stuck: list[socket.socket] = []
    with connected(coordinator.address) as executor:
        work_goes_on(executor, notes, 20)
        before, usual = memory(coordinator), descriptors(coordinator)
        try:
            for beginning in STUCK * 4:
                stuck.append(socket.create_connection(socket_address, BOUND))
                stuck[-1].sendall(beginning)
            for scanned in range(5):
                for number in range(100):
                    connect_and_close(socket_address, 100 * scanned + number)
                work_goes_on(executor, notes)
            answers_in_time(coordinator)
            assert memory(coordinator) < before + GROWTH
        finally:
            for connection in stuck:
                connection.close()
        until(lambda: descriptors(coordinator) <= usual + 2, "the end of the connections")
        work_goes_on(executor, notes)


# --- very many ----------------------------------------------------------------------------------------------------


LOW_LIMIT = """\
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (128, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
from jobrunner.cli.app import main
sys.exit(main())
"""
"""As a system does that gives programs few descriptors, unless they ask for more."""


@contextmanager
def own_limit_raised(to: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] != resource.RLIM_INFINITY and before[1] < to:
        pytest.skip(f"this system allows {before[1]} descriptors, {to} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], to), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("count", [500, pytest.param(5000, marks=pytest.mark.heavy)])
def test_very_many_idle_connections_do_not_disturb_work(cluster, notes, count):
    with own_limit_raised(count + 500):
        coordinator = cluster.run("-c", LOW_LIMIT, "coordinator", "start", "--port", "0")
        coordinator.address = coordinator.wait_for(r"coordinator at (tcp://\S+)")[1]
        cluster.worker(coordinator.address, "w")
        idle: list[socket.socket] = []
        try:
            with connected(coordinator.address) as executor:
                work_goes_on(executor, notes, 20)
                before, usual = memory(coordinator), descriptors(coordinator)
                for number in range(count):
                    idle.append(socket.create_connection(port_of(coordinator), BOUND))
                    idle[-1].sendall(STUCK[number % 3])
                until(lambda: descriptors(coordinator) >= usual + count, "the last connection")
                work_goes_on(executor, notes)
                answers_in_time(coordinator)
                assert memory(coordinator) < before + GROWTH + 50_000 * count
                for connection in idle:
                    connection.close()
                until(lambda: descriptors(coordinator) <= usual + 2, "the end of the connections")
                work_goes_on(executor, notes)
        finally:
            for connection in idle:
                connection.close()
    assert coordinator.popen.poll() is None
