"""The table of messages at the top of their module says who sends what."""

from __future__ import annotations

import re

import pytest
from protocol.test_illegal_messages import ANY
from support import cores

from jobrunner.protocol.wire import messages as m

BESIDE_SESSIONS = {m.ClientHello, m.WorkerHello, m.Join, m.Heartbeat}
"""Those that are no matter of an open session, or come from anyone."""


def table() -> dict[str, set[str]]:
    """The messages of each row, by its first column."""
    assert m.__doc__ is not None
    rows: dict[str, set[str]] = {}
    row = ""
    for begins, names in re.findall(r"^    (\w.*?  |  +)\s*(\w.*)$", m.__doc__, re.MULTILINE):
        row = begins.strip() or row
        rows.setdefault(row, set()).update(re.findall(r"\b[A-Z]\w+", names))
    return rows


def test_it_names_every_message_and_nothing_else() -> None:
    assert set().union(*table().values()) == {kind.__name__ for kind in ANY}


@pytest.mark.parametrize("role", ["client", "worker"])
def test_it_names_what_a_coordinator_takes_from_a_peer(role: str) -> None:
    taken = set()
    for kind, message in ANY.items():
        world = cores.Coordinator()
        peer = world.client("x") if role == "client" else world.worker("x")
        world.give(peer.source, peer.link.send(message, world.now))
        if kind not in BESIDE_SESSIONS and not any("may not send it" in line for line in world.logs):
            taken.add(kind.__name__)
    assert taken == table()[f"{role} -> coordinator"] - {kind.__name__ for kind in BESIDE_SESSIONS}
