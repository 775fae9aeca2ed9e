"""An attacker among the peers gets nothing, and keeps nobody from anything; where it would, that is seen."""

from __future__ import annotations

import dataclasses

import pytest

from jobrunner.protocol.coordinator import reports, sessions
from jobrunner.protocol.coordinator.core import CoordinatorCore
from jobrunner.protocol.coordinator.dependencies import Dependencies
from jobrunner.protocol.coordinator.offences import Offences
from jobrunner.protocol.effects import Received
from jobrunner.protocol.wire.ids import short_id
from jobrunner.testing.simulation import Incident, Scenario, World
from jobrunner.testing.simulation.laws import Violation

RESTARTS = [Incident(at, "crash coordinator", 0.5) for at in (1.0, 2.5, 4.0)]


def attacked(seed: int, **options: object) -> World:
    """Two attackers among clients and workers of two owners, and a coordinator that is started again and again."""
    return World(
        seed,
        Scenario(
            profile="crashes",
            clients=2,
            tasks=20,
            owners=2,
            attackers=2,
            incidents=RESTARTS,
            client_grace=2.0,
            peer_timeout=1.0,
            **options,  # type: ignore[arg-type]
        ),
    )


@pytest.mark.parametrize("journal", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_an_attacker_gets_nothing_and_keeps_nobody_from_anything(seed, journal):
    world = attacked(seed, journal=journal, bundles=True)
    world.run()
    for attacker in world.attackers:
        assert attacker.moves > 50
        assert attacker.refusals > 5


# --- the law can be broken, and that is seen ------------------------------------------------------------------------


def find(*laws: str, seeds: int = 30) -> None:
    """The first of these seeds that fails says that one of these laws was broken."""
    broken = next(filter(None, map(violation, range(seeds))), "no seed has found the planted bug")
    assert any(law in broken for law in laws), broken


def violation(seed: int) -> str:
    """The law that is broken; empty: none."""
    try:
        attacked(seed, dependencies=True).run()
    except Violation as broken:
        return str(broken)
    return ""


def test_a_name_that_belongs_to_whoever_greets_first_is_found(monkeypatch):
    monkeypatch.setattr(sessions, "is_bound", lambda token, key: True)
    find("is known as")


def test_observers_who_are_taken_for_clients_are_found(monkeypatch):
    monkeypatch.setattr(sessions, "of_observer", lambda client: client)
    find("is known as", "is told", "gives up")


def test_whole_ids_that_everybody_sees_are_found(monkeypatch):
    monkeypatch.setattr(reports, "owns", lambda who, record: True)
    find("with a whole id", "nobody asked for that")


def test_a_call_that_can_be_watched_by_the_part_of_its_id_that_is_no_secret_is_found(monkeypatch):
    real = Dependencies.watch

    def watch(self, client, task_id, now):
        whole = [task for task in self._tasks if short_id(task) == task_id]
        real(self, client, whole[0] if whole else task_id, now)

    monkeypatch.setattr(Dependencies, "watch", watch)
    find("is told")


def test_a_connection_that_speaks_for_its_holder_whoever_speaks_is_found(monkeypatch):
    real = CoordinatorCore.handle

    def handle(self, event, now):
        peer = self.sessions.peers.get(event.source) if type(event) is Received else None
        return real(self, event if peer is None else dataclasses.replace(event, who=peer.who), now)

    monkeypatch.setattr(CoordinatorCore, "handle", handle)
    find("nobody asked for that", "is known as", "gives up", "is disconnected", "a second time", seeds=60)


def test_who_is_blamed_for_what_another_says_in_its_name_is_found(monkeypatch):
    def note(self, source, reason, now):
        self._rejections.note(source, "somebody", reason, now)
        if self._rejections.intolerable(source):
            self._intolerable[source] = None

    monkeypatch.setattr(Offences, "note", note)
    find("is disconnected", "gives up")
