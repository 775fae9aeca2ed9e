"""When the stops of tasks are due, and which of them are of tasks whose time is up."""

from __future__ import annotations

from support.cores import assignment

from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.worker.slots import WorkerTask
from jobrunner.protocol.worker.stops import Stops


def test_a_task_is_due_when_its_time_is_up_and_not_before():
    stops, task = Stops(), WorkerTask(assignment(1))
    stops.limit(task, 5.0)
    assert stops.due(4.9) == []
    assert task.stop_reason is None
    assert stops.due(5.0) == [task]
    assert task.stop_reason == m.TIMED_OUT


def test_a_task_that_is_cancelled_stays_so_when_its_time_is_up():
    stops, task = Stops(), WorkerTask(assignment(1))
    stops.limit(task, 5.0)
    stops.cancel(task)
    assert stops.due(5.0) == [task]
    assert task.stop_reason == m.CANCELLED


def test_after_the_last_step_nothing_is_due():
    stops, task = Stops(), WorkerTask(assignment(1))
    stops.cancel(task)
    stops.took_step(task, 2.0)
    assert stops.due(2.0) == [task]
    stops.took_step(task, None)
    assert stops.due(1e9) == []
    assert task.stop_stage == 2


def test_a_task_that_returns_to_the_queue_begins_anew():
    stops, task = Stops(), WorkerTask(assignment(1))
    stops.limit(task, 5.0)
    stops.due(5.0)
    stops.took_step(task, 6.0)
    stops.reset(task)
    assert (task.stop_at, task.stop_reason, task.stop_stage, len(stops)) == (None, None, 0, 0)
