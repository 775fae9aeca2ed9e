"""Facts about an outcome beside its payload: their names, meanings and types."""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Any, NewType, TypedDict, Union, get_args, get_origin, get_type_hints, is_typeddict

from jobrunner.protocol.wire.ids import TaskId


class OutcomeDetail(TypedDict, total=False):
    """Facts about an outcome; a peer may send others, which are passed on, in msgpack types only.

    A fact that is a bool is there only where it is true.
    """

    # --- what happened, and where ---
    error: str
    """The text of the failure."""
    host: str
    worker: str
    """The name of the worker."""
    pid: int
    exit_code: int | None
    signal: str | None
    """The name of the signal that ended the process."""
    peak_memory: int
    """In bytes."""
    out_of_memory: bool
    stderr: str
    """The last lines."""
    traceback: str
    """The traceback of the place where the process died."""
    timeout: float | None
    """The limit in seconds that was exceeded."""
    element: int
    """The absolute index of the element of a chunk that was running when the process died."""

    # --- whether, and how, it may run again ---
    final: bool
    """The exception is not among those after which the call may run again."""
    at_most_once: bool
    """True if the task is not run again because it may run only once."""
    attempts: Sequence[str]
    """A line per attempt."""
    limit: int
    """The crash limit that was reached."""
    most_calls: int
    """With CRASHED: it has more calls than a slot there makes before it is replaced, which is this number. It has not
    begun, and its client cuts it."""

    # --- with SPLIT ---
    running: int
    """The index of the call of a bundle that goes on as a task of its own."""
    stop: int
    """The index of the first element of a chunk that was given back."""

    # --- why it was not run ---
    setup: bool
    """Its initializer failed (with ERROR) or killed its process. To a client it tells that the initializer fails on
    every worker."""
    too_large: bool
    """With ERROR and no payload: there is a QuotaError instead."""
    quota: bool
    """With REFUSED: its owner has too much here already."""
    python: bool
    """With REFUSED: no worker has the version of Python that its function needs."""
    modules: Sequence[str]
    """With REFUSED: the modules that its function needs and no worker can import."""
    no_slot: bool
    """With REFUSED: it would need one more slot, which can be started nowhere."""
    deadlock: bool
    """With REFUSED: it needs resources that are held by tasks which wait for it."""
    unknown: bool
    """There is no such task here."""
    unable: bool
    """The other engine cannot run it."""
    engine_lost: bool
    """The other engine is gone."""

    # --- with UNMET: the task that did not succeed ---
    need: TaskId
    need_name: str
    need_status: int
    need_detail: OutcomeDetail | None


def types_on_the_wire(hint: Any) -> tuple[type, ...]:
    """Return the types of which a value may be when it has arrived."""
    if isinstance(hint, NewType):
        return types_on_the_wire(hint.__supertype__)
    if get_origin(hint) in (Union, UnionType):
        return tuple([kind for part in get_args(hint) for kind in types_on_the_wire(part)])
    if get_origin(hint) is Sequence:
        return (tuple,)
    if is_typeddict(hint):
        return (dict,)
    if hint is float:
        return (int, float)
    assert hint in (str, int, bool, NoneType), hint
    return (hint,)


DETAIL_TYPES = {name: types_on_the_wire(hint) for name, hint in get_type_hints(OutcomeDetail).items()}
"""The types of the known facts, by name."""
