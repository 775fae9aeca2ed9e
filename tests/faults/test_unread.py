"""Peers with a key that ask and ask, and read no answer: the coordinator must not keep all of them."""

from __future__ import annotations

import psutil
import pytest
from fuzzing.insiders import LATEST, Insider
from support.daemons import Cluster, Daemon, connected
from support.work import noted_square

from jobrunner.keys.keyring import default_folder, open_keyring
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.codec import encode
from jobrunner.testing.waiting import BOUND, until

MARK = 100
"""Messages that wait at our end."""

ASKED = 500_000
GROWTH = 15e6
"""Bytes; a tenth of what so many unread answers take, and less."""


def memory(daemon: Daemon) -> int:
    size: int = psutil.Process(daemon.pid).memory_info().rss
    return size


QUESTIONS = {
    "the status": lambda peer: peer.link.outside(m.Query(1, "status", ""), 0.0),
    "a session that is open": lambda peer: m.Envelope(
        "again", 0, 0, m.ClientHello(peer.name, "1", "3", "here", 1, 10.0, True, LATEST)
    ),
    "a session that nobody has": lambda peer: m.Envelope("nobody's", 0, 0, m.Heartbeat()),
}


@pytest.mark.parametrize("about", QUESTIONS)
def test_answers_that_nobody_reads_do_not_fill_the_coordinator(cluster: Cluster, notes, about):
    coordinator = cluster.coordinator()
    cluster.worker(coordinator.address, "w")
    keys = open_keyring(default_folder()).issue("asks", "observer")
    peer = Insider(coordinator.address, keys.credentials, "observer", 0, "unread", mark=MARK)
    try:
        until(peer.ready, "the session")
        question = encode(QUESTIONS[about](peer))
        before = memory(coordinator)
        with connected(coordinator.address) as executor:
            for n in range(0, ASKED, 1000):
                for _ in range(1000):
                    peer.send(question)
                assert memory(coordinator) < before + GROWTH, f"after {n} questions"
                if peer.taken["not sent"]:
                    break  # it is not listened to any more
            assert executor.submit(noted_square, notes, 3, 0.0).result(BOUND) == 9
    finally:
        peer.close()
    assert coordinator.popen.poll() is None
