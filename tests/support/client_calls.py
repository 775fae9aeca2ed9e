"""What a program has its client's core do: the calls that it submits and cancels."""

from __future__ import annotations

from jobrunner.protocol.effects import CancelRequested, SubmitRequested
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId
from support.cores import DOUBLE, ids


def submit(world, *tasks, functions=(DOUBLE,)):
    world.handle(SubmitRequested(list(tasks), list(functions)))


def sent(world, *tasks, functions=(DOUBLE,)):
    """Submit, and swallow the one message that results."""
    submit(world, *tasks, functions=functions)
    assert ids(world.heard_one(m.Submit).tasks) == ids(tasks)


def cancel(world, *numbers, running=False):
    """Cancel tasks of client "c" by their numbers."""
    world.handle(CancelRequested([TaskId(f"c-{n}") for n in numbers], running))
