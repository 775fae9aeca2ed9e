"""Many peers at once: they all come back after a restart, and they are more than the coordinator has descriptors."""

from __future__ import annotations

import os
import random
import resource
import signal
import socket
import time
from collections.abc import Iterator

import psutil
import pytest
import zmq
from support.daemons import Daemon, connected, free_port
from support.work import noted_square

from jobrunner.admin import ClusterAdmin
from jobrunner.keys.credentials import CLIENT_ROLES, credentials_for
from jobrunner.protocol.effects import Send
from jobrunner.protocol.session import Session
from jobrunner.protocol.wire.codec import decode, encode
from jobrunner.protocol.wire.ids import ClientId, new_id
from jobrunner.protocol.wire.messages import ClientHello
from jobrunner.testing.waiting import BOUND, until
from jobrunner.transport.curve import to_z85
from jobrunner.version import __version__

PEERS = 200
RESPONSIVE = 5.0
"""Seconds for one call while all others knock; a fraction of that where the machine has nothing else to do."""


class Crowd:
    """Idle clients: real sessions over sockets of their own, turned by hand in one thread."""

    def __init__(self, address: str) -> None:
        self._context = zmq.Context()
        self._peers: list[tuple[zmq.Socket[bytes], Session]] = []
        now = time.monotonic()
        for number in range(PEERS):
            dealer = self._context.socket(zmq.DEALER)
            dealer.setsockopt(zmq.LINGER, 0)
            dealer.setsockopt(zmq.RECONNECT_IVL, 20)
            dealer.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)
            keys = credentials_for(address, CLIENT_ROLES)
            assert keys is not None
            dealer.curve_serverkey = to_z85(keys.server)
            dealer.curve_publickey, dealer.curve_secretkey = map(to_z85, keys.pair)
            dealer.connect(address)
            hello = ClientHello(ClientId(new_id(keys.key)), __version__, "3", "here", os.getpid(), 2.0)
            self._peers.append((dealer, Session(lambda serial, h=hello: h, random.Random(number), now, 2.0)))

    def turn(self) -> None:
        now = time.monotonic()
        for dealer, session in self._peers:
            while dealer.getsockopt(zmq.EVENTS) & zmq.POLLIN:
                session.receive(decode(dealer.recv_multipart()), now)
            for effect in session.due(now):
                assert isinstance(effect, Send)
                dealer.send_multipart(encode(effect.envelope))

    def welcomed_by(self, coordinator: str) -> int:
        """How many are in a session with that coordinator."""
        self.turn()
        welcomes = [session.welcome for _, session in self._peers if session.open]
        return sum(welcome is not None and welcome.coordinator == coordinator for welcome in welcomes)

    def close(self) -> None:
        self._context.destroy(linger=0)


@pytest.fixture
def crowds() -> Iterator[list[Crowd]]:
    crowds: list[Crowd] = []
    yield crowds
    for crowd in crowds:
        crowd.close()


def id_of(address: str) -> str:
    with ClusterAdmin(address, BOUND) as admin:
        return str(admin.status()["coordinator"]["id"])


def test_200_peers_come_back_at_once_and_the_coordinator_answers(cluster, crowds, notes):
    port = free_port()
    first = cluster.coordinator(port=port)
    cluster.worker(first.address, "w")
    crowd = Crowd(first.address)
    crowds.append(crowd)
    before = id_of(first.address)
    until(lambda: crowd.welcomed_by(before) == PEERS, "the greeting of all")
    first.send(signal.SIGKILL)
    first.wait()
    second = cluster.coordinator(port=port)
    after = id_of(second.address)
    slowest = 0.0
    with connected(second.address) as executor:
        calls = 0
        while crowd.welcomed_by(after) < PEERS or not calls:
            began = time.monotonic()
            future = executor.submit(noted_square, notes, calls, 0.0)
            until(lambda f=future: crowd.turn() or f.done())
            assert future.result() == calls**2
            slowest = max(slowest, time.monotonic() - began)
            calls += 1
    assert slowest < RESPONSIVE


def descriptors(daemon: Daemon) -> int:
    return psutil.Process(daemon.pid).num_fds()


def test_descriptors_run_out_and_come_back(cluster, notes):
    """New connections wait until others have gone; those that are there do not notice."""
    coordinator = cluster.coordinator()
    cluster.worker(coordinator.address, "w")
    raw: list[socket.socket] = []
    with connected(coordinator.address) as executor:
        assert executor.submit(noted_square, notes, 1, 0.0).result(BOUND) == 1
        usual = descriptors(coordinator)
        limit = usual + 10
        resource.prlimit(coordinator.pid, resource.RLIMIT_NOFILE, (limit, limit))
        try:
            port = int(coordinator.address.rpartition(":")[2])
            raw += [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
            until(lambda: descriptors(coordinator) == limit, "the last descriptor")
            assert [
                f.result(BOUND) for f in [executor.submit(noted_square, notes, n, 0.0) for n in range(100)]
            ] == [n * n for n in range(100)]
        finally:
            for connection in raw:
                connection.close()
        until(lambda: descriptors(coordinator) <= usual + 2, "the end of the connections")
        with connected(coordinator.address) as another:
            assert another.submit(noted_square, notes, 5, 0.0).result(BOUND) == 25
    assert coordinator.popen.poll() is None
