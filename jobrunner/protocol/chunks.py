"""Chunks of `map` that are divided while they run; pure.

A chunk is one task of several elements. One that turns out to take long is divided (SPLIT): the slot keeps the elements
that it has begun, the one that runs included, and gives back the others. What it keeps goes on as a task of its own
under an id of its own, the chunk's with the index of the first element behind it that is not kept: so the id says what
is in it, whoever has heard of the division and whoever has not. Its outcome has the results of all elements that it
kept. The client names it, and submits what was given back as new chunks: only the client knows how many retries an
element has left and what else of its `map` waits, and cuts the rest as it cuts any other input.

When a chunk is divided is decided in `division`.
"""

from __future__ import annotations

from typing import TypeVar

from jobrunner.protocol.bundles import SEPARATOR, is_index
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.wire.messages import Assignment, Outcome, TaskSpec

Task = TypeVar("Task", TaskSpec, Assignment)


def part_id(chunk: TaskId, stop: int) -> TaskId:
    """The id of the part [start, stop) that goes on of a chunk."""
    return TaskId(f"{chunk}{SEPARATOR}{stop}")


def chunk_of(part: TaskId) -> TaskId | None:
    """The chunk (or part of one) of which that id names a part; None if it names none."""
    chunk, separator, stop = part.rpartition(SEPARATOR)
    return TaskId(chunk) if separator and is_index(stop) else None


def stop_of(task: TaskSpec | Assignment, outcome: Outcome) -> int | None:
    """Where the part ends that goes on of this chunk, as its outcome SPLIT says; None if that makes no sense."""
    stop = (outcome.detail or {}).get("stop", -1)
    return stop if may_stop(task, stop) else None


def may_stop(task: TaskSpec | Assignment, stop: int) -> bool:
    """Whether [start, stop) is a part of a chunk, and not all of it."""
    span = task.span
    return isinstance(span, tuple) and span[0] < stop < span[1]


def kept(task: Task, stop: int) -> Task:
    """The part [start, stop) of a chunk as a task of its own, with its share of the chunk's time."""
    assert isinstance(task.span, tuple)
    start, end = task.span
    options = task.options
    if options.timeout is not None:
        options = options._replace(timeout=options.timeout * ((stop - start) / (end - start)))
    return task._replace(id=part_id(task.id, stop), span=(start, stop), options=options)
