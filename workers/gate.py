"""The gate, by which a worker takes back tasks that a slot has not begun, when the slot does not answer.

A call may prevent all other threads of its process from running for any time, for example by C code that does not
release the GIL. Then the slot's control thread cannot give back the tasks behind that call. So the worker can take
them. Both look at the crash board, and the law is that a slot never begins anything that was taken from it.

    slot, before it begins anything:              worker:
      note on the crash board what begins           close the gate
      look at the gate; while it is closed, wait    wait for SETTLE
      if it says what was taken: leave that         read what has begun, write what is taken, and tell the slot

"Anything" is a task, a call of a bundle, an element of a chunk, or the end of a bundle or chunk, after which nothing
can be taken from it. The two cannot miss each other: a slot that has not seen the gate closed has noted its next step
before, and a processor delays writes for much less than SETTLE, so the worker reads the note. A slot that sees the gate
closed begins nothing before it knows whether its next step was taken. Only the worker closes the gate, and only from
OPEN. Only the slot opens it again after a decision, possibly as late as when its call returns.

Everything is taken at once. A slot that has not learnt of a decision is still at the same step, so there is nothing
more to take, and the gate is not closed for it again.

The board may change while the gate is closed, because the running call may end then. So the worker takes nothing from
a slot whose board has changed during SETTLE, or whose messages have not all arrived.
"""

from __future__ import annotations

from collections.abc import Container
from time import sleep
from typing import NamedTuple

from jobrunner.workers.crash_board import (
    BUNDLE,
    CHUNK,
    GATE,
    KEPT,
    KEPT_ELEMENT,
    UNTIL,
    CrashBoard,
    Fields,
    State,
)

OPEN, CLOSED, DECIDED = range(3)

SETTLE = 0.001
"""Time in seconds for writes to become visible, because a processor keeps them to itself for less than a millionth of
it."""

WAIT = 0.0002
"""Time in seconds after which a slot looks again at a closed gate."""

ALL = 2**62
"""The kept element if nothing was taken of the running task."""


class Decision(NamedTuple):
    """The decision about the tasks of a slot that does not answer.

    The slot continues the task `number`, up to `element` if it is a bundle or a chunk. It runs no task after that one
    up to and including `until`.
    """

    number: int
    element: int
    until: int

    @property
    def taken(self) -> range:
        """The numbers of the tasks that were taken."""
        return range(self.number + 1, self.until + 1)


def decided(fields: Fields) -> Decision | None:
    """Wait, in a slot that has found the gate not open, until the gate holds a decision.

    The result is None if nothing was taken. Otherwise the slot notes what was taken, and then opens the gate.
    """
    while fields[GATE] == CLOSED:
        sleep(WAIT)
    if fields[GATE] == OPEN:
        return None
    sleep(SETTLE)  # after this, all earlier writes of the worker are visible
    return Decision(fields[KEPT], fields[KEPT_ELEMENT], fields[UNTIL])


class Closed:
    """A context manager in which the worker has closed the gate of a crash board.

    The gate is open again at the end, unless something was decided.
    """

    def __init__(self, board: CrashBoard) -> None:
        self._board = board
        self.state: State | None = None
        """The state of the slot; None if something moves there, or if it has not heard of an earlier decision."""

    def __enter__(self) -> Closed:
        board = self._board
        if board.fields[GATE] == OPEN:
            before = board.state()
            board.fields[GATE] = CLOSED
            sleep(SETTLE)
            self.state = before if board.state() == before else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._board.fields[GATE] == CLOSED:
            self._board.fields[GATE] = OPEN

    def decide(self, decision: Decision) -> None:
        if decision.element == ALL and not decision.taken:
            return
        fields = self._board.fields
        fields[KEPT], fields[KEPT_ELEMENT], fields[UNTIL] = decision
        fields[GATE] = DECIDED


def decision_for(state: State, until: int, chunks: Container[int]) -> Decision:
    """Return the decision for a slot in this state; `until` is the last task that it was given.

    The slot continues a bundle up to the running call, one of `chunks` up to the running element, and any other task
    as a whole.
    """
    running = state.number != 0 and state.ending != state.number and state.element >= 0
    divided = running and (state.kind == BUNDLE or (state.kind == CHUNK and state.number in chunks))
    return Decision(state.last, state.element if divided else ALL, until)
