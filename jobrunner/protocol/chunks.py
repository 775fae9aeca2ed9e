"""The division of running chunks of `map`; pure functions.

A chunk is one task of several elements. A chunk that turns out to be slow is divided (SPLIT): the slot keeps the
elements that it has begun, including the running one, and gives back the others. The kept part continues as a task of
its own. Its id is that of the chunk with the index of the first element that is not kept, so the id tells the content
of the part to everybody, whether or not they have heard of the division. Its outcome has the results of all kept
elements. The client names the part, and submits the other elements as new chunks, because only the client knows how
many retries an element has left and which other elements of its `map` wait, and it cuts them like any other input.

`division` decides when a chunk is divided.
"""

from __future__ import annotations

from typing import TypeVar

from jobrunner.protocol.bundles import SEPARATOR, is_index
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.wire.kinds import Chunk
from jobrunner.protocol.wire.messages import Assignment, Outcome, TaskSpec

Task = TypeVar("Task", TaskSpec, Assignment)


def part_id(chunk: TaskId, stop: int) -> TaskId:
    """Return the id of the part [start, stop) of a chunk that continues."""
    return TaskId(f"{chunk}{SEPARATOR}{stop}")


def chunk_of(part: TaskId) -> TaskId | None:
    """Return the chunk, or part of one, of which this id names a part; None if it names none."""
    chunk, separator, stop = part.rpartition(SEPARATOR)
    return TaskId(chunk) if separator and is_index(stop) else None


def stop_of(task: TaskSpec | Assignment, outcome: Outcome) -> int | None:
    """Return the end of the part of this chunk that continues, from its outcome SPLIT; None if that is senseless."""
    stop = (outcome.detail or {}).get("stop", -1)
    return stop if may_stop(task, stop) else None


def may_stop(task: TaskSpec | Assignment, stop: int) -> bool:
    """Return whether [start, stop) is a part of a chunk, but not the whole chunk."""
    kind = task.body.kind
    return isinstance(kind, Chunk) and kind.start < stop < kind.stop


def kept(task: Task, stop: int) -> Task:
    """Return the part [start, stop) of a chunk as a task of its own, with its share of the chunk's time limit."""
    body = task.body
    assert isinstance(body.kind, Chunk)
    part = Chunk(body.kind.start, stop)
    options = body.options
    if options.timeout is not None:
        options = options._replace(timeout=options.timeout * (part.calls / body.kind.calls))
    return task._replace(id=part_id(task.id, stop), body=body._replace(kind=part, options=options))
