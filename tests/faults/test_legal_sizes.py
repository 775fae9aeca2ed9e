"""Messages of legal size, from peers with keys, that are made to cost a coordinator its life or its memory."""

from __future__ import annotations

import msgpack
import psutil
import pytest
from fuzzing.insiders import Insider
from support.daemons import connected
from support.work import noted_square

from jobrunner.admin import ClusterAdmin
from jobrunner.keys.keyring import default_folder, open_keyring
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.codec import NUMBERS, VERSION, encode
from jobrunner.testing.waiting import BOUND, until

SIZE = 8_000_000
"""Bytes of a message; of that many empty maps, half a gigabyte would be made."""

GROWTH = 150e6
"""Bytes that the coordinator may grow by; twenty times the message are less than what it would have made."""

Frames = list[bytes]


def of_maps(peer: Insider) -> Frames:
    head = msgpack.packb([VERSION, peer.link.session, 1, 0, NUMBERS[m.Query], 1, "status"])
    return [bytes([head[0] + 1]) + head[1:] + b"\xdd" + SIZE.to_bytes(4, "big") + b"\x80" * SIZE]


def of_a_question(peer: Insider) -> Frames:
    return encode(m.Envelope(peer.link.session, 1, 0, m.Query(1, "tasks", "\0" * SIZE + " 1")))


def of_amounts(peer: Insider) -> Frames:
    options = m.TaskOptions(resources=(("gpu", 1.7e308), ("gpu", 1.7e308)))
    task = m.TaskSpec(f"{peer.name}-1-r", m.CallBody(b"key", b"", options=options))
    return encode(m.Envelope(peer.link.session, 1, 0, m.Submit([task], [m.FunctionDef(b"key", "f", b"")])))


@pytest.mark.parametrize(
    ("role", "message"),
    [
        ("client", of_maps),
        ("observer", of_maps),
        ("client", of_a_question),
        ("observer", of_a_question),
        ("client", of_amounts),
    ],
)
def test_a_message_of_legal_size_costs_no_more_than_it_has_bytes(cluster, notes, role, message):
    coordinator = cluster.coordinator()
    cluster.worker(coordinator.address, "w")
    keys = open_keyring(default_folder()).issue("mallory", role)
    peer = Insider(coordinator.address, keys.credentials, role, 0, "legal")
    process = psutil.Process(coordinator.pid)
    try:
        until(peer.ready, "the session")
        with connected(coordinator.address) as executor, ClusterAdmin(coordinator.address) as admin:
            assert executor.submit(noted_square, notes, 3, 0.0).result(BOUND) == 9
            before = process.memory_info().rss
            for _ in range(3):
                peer.send(message(peer))
            until(lambda: admin.status()["coordinator"]["rejected_messages"] >= 3, "that they are refused")
            # Asked now, for an allocator keeps most of what it ever had.
            assert process.memory_info().rss < before + GROWTH
            assert executor.submit(noted_square, notes, 4, 0.0).result(BOUND) == 16
    finally:
        peer.close()
    assert coordinator.popen.poll() is None
