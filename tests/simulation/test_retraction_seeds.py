"""Bugs that could be in what is taken back from slots that do not answer, planted: some seed finds each. And histories
of calls that keep all else in their process from running."""

from __future__ import annotations

import pytest
from support.seeking import find

from jobrunner.protocol.bundles import pack_calls
from jobrunner.protocol.tuning import ANSWER_WITHIN
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import call_id
from jobrunner.protocol.wire.kinds import Bundle, Chunk, Kind
from jobrunner.protocol.worker.recalling import Recalling
from jobrunner.protocol.worker.slots import Slot
from jobrunner.testing.simulation import Call, Scenario, World
from jobrunner.testing.simulation.laws import Violation
from jobrunner.testing.simulation.simulated_calls import SIGKILL, flat
from jobrunner.testing.simulation.simulated_program import ENDLESS, function
from jobrunner.testing.simulation.simulated_slots import SlotProcess


def test_tasks_that_are_retracted_and_run_in_their_slot_too_are_found(monkeypatch):
    real = SlotProcess.retract

    def retract(self, chunks):
        real(self, chunks)
        self._retracted = range(0)

    monkeypatch.setattr(SlotProcess, "retract", retract)
    find(first=59)


def test_a_task_that_runs_and_is_retracted_is_found(monkeypatch):
    real = SlotProcess.retract

    def retract(self, chunks):
        self._begun -= self.task is not None
        real(self, chunks)
        self._begun += self.task is not None

    monkeypatch.setattr(SlotProcess, "retract", retract)
    find(first=35)


def test_retracted_tasks_that_are_forgotten_are_found(monkeypatch):
    real = Recalling.retracted

    def slot_retracted(self, event, now):
        slot = self._slots.get(event.slot)
        for number in event.numbers if slot is not None else ():
            task = slot.take_back(number)
            if task is not None:
                del self._local_tasks.tasks[task.id]
        real(self, event, now)

    monkeypatch.setattr(Recalling, "retracted", slot_retracted)
    find(first=35)


def test_calls_that_are_held_up_by_another_are_found(monkeypatch):
    monkeypatch.setattr(Slot, "retract_at", lambda self: None)
    find("calm", first=55)


# --- histories --------------------------------------------------------------------------------------------------------

SOON = 3 * ANSWER_WITHIN
SHORT = Call((0.0001,))


def make(*workers: int) -> World:
    world = World(1, Scenario(workers=list(workers)))
    world.run_for(1.0)
    return world


def submit(world: World, payload, kind: Kind) -> str:
    node = world.clients[0]
    spec = m.TaskSpec(node.new_id(), m.CallBody(function(0).key, payload, kind))
    if isinstance(kind, Chunk):
        world.truth.chunks.add(spec.id)
    node.submit([spec], [function(0)])
    return spec.id


def bundle(world: World, *calls: Call) -> list[str]:
    task = submit(world, pack_calls([flat(call.payload()) for call in calls]), Bundle(len(calls)))
    return [call_id(task, index) for index in range(len(calls))]


def finish(world: World) -> None:
    world.finish_work()
    world.finish_clients()


def statuses(world: World, *calls: str) -> list[int | None]:
    outcomes = [world.truth.expected[call].outcome for call in calls]
    return [None if outcome is None else outcome.status for outcome in outcomes]


@pytest.mark.parametrize("workers", [(2,), (1, 1), (1,)])
def test_a_call_that_holds_its_process_holds_nobody_up(workers):
    world = make(*workers)
    calls = bundle(world, SHORT, Call((60.0,), holds=True), SHORT, SHORT)
    world.run_for(SOON)
    behind = m.OK if sum(workers) > 1 else None
    assert statuses(world, *calls) == [m.OK, None, behind, behind]
    finish(world)
    assert statuses(world, *calls) == [m.OK] * 4
    assert [world.truth.runs_of(call) for call in calls] == [1] * 4


@pytest.mark.parametrize("stopped_by", [0, SIGKILL])
def test_it_can_be_cancelled_and_costs_the_others_nothing(stopped_by):
    world = make(1, 1)
    calls = bundle(world, SHORT, Call((ENDLESS,), holds=True, stopped_by=stopped_by), SHORT)
    world.run_for(0.1)
    world.clients[0].cancel([calls[1]], True)
    finish(world)
    assert statuses(world, *calls) == [m.OK, m.CANCELLED, m.OK]
    assert [world.truth.runs_of(call) for call in calls] == [1] * 3


def test_elements_behind_one_that_holds_its_process_run_elsewhere():
    world = make(1, 1)
    task = submit(world, Call((0.1, 60.0, 0.1, 0.1), holds=True).payload(), Chunk(0, 4))
    world.run_for(SOON)
    pieces = world.truth.pieces_of(task)
    assert statuses(world, *pieces) == [None] + [m.OK] * (len(pieces) - 1)
    assert len(pieces) > 1
    finish(world)


def test_elements_that_nobody_takes_are_found(monkeypatch):
    monkeypatch.setattr(Slot, "retract_at", lambda self: None)
    world = make(1, 1)
    submit(world, Call((0.1, 60.0, 0.1, 0.1), holds=True).payload(), Chunk(0, 4))
    with pytest.raises(Violation, match="is idle beside elements of"):
        world.run_for(10.0)
