"""Symbolic calls: payloads that tell simulated slots what to do, and results that can be recognized."""

from __future__ import annotations

from typing import NamedTuple

import msgpack

from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.wire.kinds import Kind
from jobrunner.protocol.wire.payloads import Payload, buffers_of

RETURN = "return"
RAISE = "raise"
CRASH = "crash"

SIGINT = 0
SIGTERM = 1
SIGKILL = 2

BIG = 20_000
"""Size in bytes of a payload that has frames of its own."""


class Call(NamedTuple):
    """A task's behaviour in a simulated slot. `seconds` has an entry per element of its pack."""

    seconds: tuple[float, ...]
    ending: str = RETURN
    guilty: int = 0
    """The element in which it raises or crashes."""
    bad_runs: int = 1_000_000
    """The number of executions that end badly; later ones return."""
    stopped_by: int = SIGINT
    """The mildest signal that ends it."""
    prints: bool = False
    blocks: bool = False
    """Whether it waits, in its middle third, for tasks of its own."""
    big: bool = False
    """Whether its payload and result are large."""
    holds: bool = False
    """Whether nothing else in its process runs while one of its elements does."""

    def payload(self) -> Payload:
        told = self if self.holds else self[:-1]  # so that all else of a seed stays what it was
        head: bytes = msgpack.packb(tuple(told))
        return (head, bytes(BIG), b"") if self.big else head


def read_call(payload: Payload) -> Call:
    head = payload if isinstance(payload, bytes) else buffers_of(payload)[0]
    return Call(*msgpack.unpackb(head, use_list=False))


def result_of(task: TaskId, kind: Kind, call: Call) -> Payload:
    """Return the result of the task, which no other task returns."""
    head: bytes = msgpack.packb(("result of", task, kind, call.seconds[:1]))
    return (head, bytes(BIG)) if call.big else head


def error_of(task: TaskId) -> bytes:
    """Return the exception that the task raises."""
    packed: bytes = msgpack.packb(("error of", task))
    return packed


def flat(payload: Payload) -> bytes:
    """Return a payload in one piece."""
    return payload if isinstance(payload, bytes) else b"".join(bytes(part) for part in buffers_of(payload))
