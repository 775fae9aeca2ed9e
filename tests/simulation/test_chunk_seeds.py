"""Bugs that divided chunks could have, planted: some seed finds each. And histories of chunks, each a short one."""

from __future__ import annotations

import pytest
from support.seeking import find

from jobrunner.protocol.client.endings import Endings
from jobrunner.protocol.coordinator.attempts import Attempts
from jobrunner.protocol.coordinator.division import Division
from jobrunner.protocol.effects import ChunkDivided
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.kinds import Chunk
from jobrunner.protocol.worker.splitting import Splitting
from jobrunner.testing.simulation import Call, Scenario, World
from jobrunner.testing.simulation.laws import Violation
from jobrunner.testing.simulation.simulated_program import function


def test_a_part_that_goes_on_and_is_started_again_is_found(monkeypatch):
    monkeypatch.setattr(Attempts, "goes_on", lambda self, worker, outcome, now: None)
    find()


def test_a_part_that_its_client_does_not_wait_for_is_found(monkeypatch):
    real = Endings._divided

    def divided(self, chunk, outcome):
        real(self, chunk, outcome)
        self._tasks.forget(self._effects[-1].part)

    monkeypatch.setattr(Endings, "_divided", divided)
    find(first=23)


def test_a_worker_that_goes_on_under_the_name_of_the_chunk_is_found(monkeypatch):
    real = Splitting.chunk_divided

    def slot_divided(self, event, now):
        task = self._slots[event.slot].queue.get(event.number) if event.slot in self._slots else None
        chunk = None if task is None else task.id
        real(self, event, now)
        if task is not None and task.id != chunk and task.id in self._local_tasks.tasks:
            del self._local_tasks.tasks[task.id]
            task.assignment = task.assignment._replace(id=chunk)
            self._local_tasks.tasks[task.id] = task

    monkeypatch.setattr(Splitting, "chunk_divided", slot_divided)
    find(first=23)


# --- histories --------------------------------------------------------------------------------------------------------


def make(**options) -> World:
    world = World(1, Scenario(**options))
    world.run_for(1.0)
    return world


def chunk(world: World, *seconds: float, **options) -> str:
    node = world.clients[0]
    call = Call(tuple(seconds))
    kind = Chunk(0, len(seconds))
    body = m.CallBody(function(0).key, call.payload(), kind, m.TaskOptions(**options))
    spec = m.TaskSpec(node.new_id(), body)
    world.truth.chunks.add(spec.id)
    node.submit([spec], [function(0)])
    return spec.id


def begun(world: World, task: str) -> list[int]:
    """The elements that have begun in any piece of a chunk."""
    pieces = {task, *world.truth.pieces_of(task)}
    executions = {e for piece in pieces for e in world.truth.executions.get(piece, ())}
    return sorted(element for execution in executions for element in execution.began())


def finish(world: World) -> None:
    world.finish_work()
    world.finish_clients()


def test_slow_elements_behind_fast_ones_run_at_the_same_time():
    world = make(workers=[2, 2])
    task = chunk(world, *[1e-5] * 4, 10.0, 10.0, 10.0, 10.0)
    world.run_for(1.0)
    assert begun(world, task) == list(range(8))
    finish(world)
    assert begun(world, task) == list(range(8)), "none began twice"


def test_what_was_given_back_is_divided_again():
    world = make(workers=[1, 1, 1, 1])
    task = chunk(world, *[5.0] * 8)
    world.run_for(2.0)
    assert len(begun(world, task)) == 4
    finish(world)
    assert begun(world, task) == list(range(8))


def test_a_chunk_whose_worker_dies_after_the_division_costs_what_it_had_begun():
    world = make(workers=[1, 1], peer_timeout=1.0)
    task = chunk(world, *[3.0] * 4, at_most_once=True)
    world.run_for(1.0)
    part = world.truth.pieces_of(task)[0]
    (execution,) = world.truth.executions[part]
    next(node for node in world.workers if node.name == execution.worker).crash()
    world.run_for(1.0)
    world.revive()
    finish(world)
    statuses = [world.truth.expected[piece].outcome.status for piece in world.truth.pieces_of(task)]
    assert statuses == [m.LOST] + [m.OK] * (len(statuses) - 1)
    assert len(begun(world, task)) == len(set(begun(world, task)))


def test_a_coordinator_that_is_started_again_finds_the_part_that_runs():
    world = make(workers=[1, 1], peer_timeout=1.0)
    task = chunk(world, 8.0, 8.0)
    world.run_for(1.0)
    world.coordinator.crash()
    world.run_for(0.5)
    world.revive()
    finish(world)
    assert begun(world, task) == [0, 1]


# --- and bugs that such a history finds -------------------------------------------------------------------------------


def test_slots_that_stay_idle_beside_elements_that_wait_are_found(monkeypatch):
    monkeypatch.setattr(Division, "ask", lambda self, now: None)
    world = make(workers=[1, 1])
    chunk(world, 5.0, 5.0)
    with pytest.raises(Violation, match="is idle beside elements of"):
        world.run_for(2.0)


def test_a_chunk_that_is_divided_when_it_begins_or_never_is_found(monkeypatch):
    """While no slot is idle there is nothing to be gained, but one may become so later."""
    real = Division.started

    def started(self, record):
        real(self, record)
        self.ask(0.0)
        self.released(record)

    monkeypatch.setattr(Division, "started", started)
    world = make(workers=[1, 1])
    chunk(world, 5.0, 5.0)
    chunk(world, 1.0)
    with pytest.raises(Violation, match="is idle beside elements of"):
        world.run_for(3.0)


def test_an_element_that_runs_and_is_given_back_is_found(monkeypatch):
    """Of what may run once, it would run twice."""
    real = Endings._divided

    def divided(self, chunk, outcome):
        real(self, chunk, outcome)
        told = self._effects.pop()
        self._effects.append(ChunkDivided(told.id, told.part, told.stop - 1))

    monkeypatch.setattr(Endings, "_divided", divided)
    world = make(workers=[1, 1, 1])
    chunk(world, 0.00001, 5.0, 5.0, at_most_once=True)
    with pytest.raises(Violation, match="began as"):
        world.run_for(2.0)
