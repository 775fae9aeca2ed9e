"""What the worker's core knows of one slot, and how many tasks to put into it at a time; pure.

Short tasks go into a slot several at a time, so that a call costs no message of its own; of longer ones the next is at
hand. What a slot has not started can be recalled, so a wrong guess costs `RECALL_AFTER`, not the length of the task in
front; where another slot has nothing to do, `RETRACT_WHEN_IDLE_AFTER`. A slot may be unable to answer, because a call
keeps all else in its process from running: after `ANSWER_WITHIN` it is taken back without the slot.

A slot serves one owner in its life: what a task leaves behind in its process (environment variables, modules, open
files) is met by tasks of the same owner alone. Calls that bring modules along (FunctionDef.ships) have an owner of
their own here, so that nobody meets the modules of others, nor another version of his own. So have the calls that a
program makes after it has come to another version of one of its modules (FunctionDef.epoch): a process keeps what it
has imported.

Where calls leak, a slot may make only so many: each call of a bundle and each element of a chunk counts, from the
moment that the slot is given it until it gives it back. A slot that may make no more ends when it is idle, and a new
process takes its place. A task of more calls than that fits into no slot, and is not taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from jobrunner.protocol.tuning import (
    ANSWER_WITHIN,
    MIN_ESTIMATE,
    ONE_AHEAD_MAX_SECONDS,
    RECALL_AFTER,
    RETRACT_WHEN_IDLE_AFTER,
    SLOT_LIMIT,
    SLOT_SECONDS,
    UNKNOWN,
)
from jobrunner.protocol.wire.ids import SlotId, TaskId
from jobrunner.protocol.wire.kinds import Bundle, Chunk
from jobrunner.protocol.wire.messages import Assignment, FunctionDef, FunctionKey, Status, Wait
from jobrunner.protocol.wire.payloads import Payload

STARTING = "starting"
READY = "ready"
ENDING = "ending"
"""Told to end, or killed; its exit has not been confirmed."""

UNLIMITED = 2**62
"""Calls; more than a process can make."""


class Owner(NamedTuple):
    """Whose tasks a slot runs in its life."""

    key: str = ""
    """Of who has submitted them, as the coordinator tells it."""
    initializer: FunctionKey | None = None
    """What prepares the slots for them, where that makes them unfit for others."""
    epoch: int = 0
    """Of the program's modules, see FunctionDef."""

    def replaces(self, other: Owner) -> bool:
        """Whether slots of the other are of no more use where these tasks wait."""
        return self.key == other.key and self.epoch > other.epoch


NOBODY = Owner()


class WorkerTask:
    """A task at the worker, from its assignment until its outcome is on its way."""

    __slots__ = (
        "announced",
        "assignment",
        "estimate",
        "number",
        "owner",
        "slot",
        "stop_at",
        "stop_reason",
        "stop_stage",
        "wait",
        "was_split",
    )

    def __init__(self, assignment: Assignment, owner: Owner = NOBODY) -> None:
        self.assignment = assignment
        self.owner = owner
        self.slot: Slot | None = None
        self.number = 0
        self.estimate = 0.0
        self.announced = False
        """The coordinator was told that it runs."""
        self.wait: Wait | None = None
        """What it waits for, as its slot has told."""
        self.was_split = False
        """A bundle (or chunk) that is being stopped, and that its slot has split (or divided) meanwhile."""
        self.stop_reason: Status | None = None
        """The status that it will end with (CANCELLED or TIMED_OUT) once it is being stopped."""
        self.stop_stage = 0
        """How many of the steps SIGINT, SIGTERM, SIGKILL have been taken."""
        self.stop_at: float | None = None
        """When the next step is due (before the first: when its time is up)."""

    @property
    def id(self) -> TaskId:
        return self.assignment.id

    @property
    def begun_before(self) -> bool:
        """Whether an earlier attempt has begun: this one may end as that did, with its process."""
        return self.assignment.attempt - self.assignment.unbegun > 1

    @property
    def elements(self) -> int:
        return self.assignment.body.kind.calls

    @property
    def bundled(self) -> bool:
        """Whether its slot can split it."""
        return isinstance(self.assignment.body.kind, Bundle)

    @property
    def is_chunk(self) -> bool:
        """Whether its slot can give back what it has not begun of it."""
        return isinstance(self.assignment.body.kind, Chunk)

    @property
    def may_be_divided(self) -> bool:
        """Whether a part of it can be a task of its own, see `division`."""
        return self.is_chunk and not (self.assignment.values or self.assignment.body.options.detach)

    @property
    def payload(self) -> Payload:
        return self.assignment.body.payload


class Slot:
    """One process of the worker."""

    __slots__ = (
        "blocked",
        "calls_left",
        "division",
        "division_asked_at",
        "id",
        "kill_at",
        "known",
        "last",
        "leaving",
        "owned_since",
        "owner",
        "progress",
        "queue",
        "recalled",
        "recalled_at",
        "retracted_at",
        "seconds",
        "sent",
        "state",
        "to_drop",
    )

    def __init__(self, slot: SlotId, calls: int | None = None) -> None:
        self.id = slot
        self.calls_left = UNLIMITED if calls is None else calls
        """Calls that its process may still be given."""
        self.state = STARTING
        self.queue: dict[int, WorkerTask] = {}
        """By number, in the order in which it runs them; the first is the running one, as far as we know."""
        self.known: set[FunctionKey] = set()
        self.to_drop: list[FunctionKey] = []
        """Functions that its process may drop, when it is next given something."""
        self.sent = 0
        self.seconds = 0.0
        """Estimated work in it."""
        self.progress = 0.0
        """When it last began or finished something."""
        self.recalled = False
        self.recalled_at = -math.inf
        self.division = 0
        """The number of the chunk that it was asked to divide, until it answers; 0: none."""
        self.division_asked_at = -math.inf
        self.retracted_at = -math.inf
        """When it was last tried to take tasks back without its help."""
        self.owner: Owner | None = None
        """Whose tasks it has run, once it has run one."""
        self.owned_since = 0.0
        self.kill_at: float | None = None
        """When it is killed, while it ends by itself."""
        self.last: tuple[TaskId, str] | None = None
        """Id and name of a task that has ended here: what is printed between tasks is put down to it."""
        self.leaving = False
        """It gets no more tasks, and ends when it is idle."""
        self.blocked = False
        """Its task waits for other tasks, so another slot stands in for it."""

    def learns(self, key: FunctionKey) -> bool:
        """Note that the slot needs this function; True if it must be sent first."""
        if key in self.known:
            return False
        self.known.add(key)
        if key in self.to_drop:  # it was not told yet, and still has it
            self.to_drop.remove(key)
            return False
        return True

    def lacks(
        self, definition: FunctionDef, functions: Mapping[FunctionKey, FunctionDef]
    ) -> list[FunctionDef]:
        """What must be sent before a call of this function, each part before it; from now on it counts as sent."""
        parts = [functions[part] for part in definition.parts]
        return [each for each in (*parts, definition) if self.learns(each.key)]

    def drop_function(self, key: FunctionKey) -> None:
        if key in self.known:
            self.known.remove(key)
            self.to_drop.append(key)

    def leave(self) -> None:
        """Give it no more tasks, and end it when it is idle."""
        self.leaving = True

    def take_to_drop(self) -> list[FunctionKey]:
        """Functions that its process is now told to drop."""
        to_drop, self.to_drop = self.to_drop, []
        return to_drop

    def put(self, task: WorkerTask, now: float) -> None:
        if self.owner is None:
            self.owner, self.owned_since = task.owner, now
        self.sent += 1
        self.calls_left -= task.elements
        task.number = self.sent
        task.slot = self
        task.announced = False
        if not self.queue:
            self.progress = now
        self.queue[task.number] = task
        self.seconds += task.estimate

    def progresses(self, now: float) -> None:
        """Its process has finished something."""
        self.progress = now

    def give_back_calls(self, calls: int) -> None:
        """Calls that it was given are not made by its process after all."""
        self.calls_left += calls

    def take_back(self, number: int) -> WorkerTask | None:
        """Take a task out of it that it has not begun."""
        task = self.take(number)
        if task is not None:
            self.calls_left += task.elements
        return task

    def take(self, number: int) -> WorkerTask | None:
        task = self.queue.pop(number, None)
        if task is not None:
            task.slot = None
            self.seconds = self.seconds - task.estimate if self.queue else 0.0
        return task

    @property
    def stays(self) -> bool:
        """Neither dying nor about to."""
        return self.state != ENDING and not self.leaving

    @property
    def idle(self) -> bool:
        return self.state == READY and not self.queue

    def running(self) -> WorkerTask | None:
        return next(iter(self.queue.values()), None)

    @property
    def holds_back(self) -> bool:
        """Whether there are calls in it that wait for the one that runs."""
        if len(self.queue) > 1:
            return True
        running = self.running()
        return running is not None and running.bundled and not running.was_split

    def recall_at(self, spare: bool) -> float | None:
        """When to take back what it holds back; again and again, where a bundle cannot be split yet.

        `spare`: another slot has nothing to do. A bundle is not split for that, since it will be over in no time.
        """
        if self.recalled or not self.holds_back:
            return None
        soon = spare and len(self.queue) > 1
        return max(self.progress, self.recalled_at) + (RETRACT_WHEN_IDLE_AFTER if soon else RECALL_AFTER)

    def retract_at(self) -> float | None:
        """When to take back what was asked for without its help."""
        if not (self.recalled or self.division):
            return None
        recalled = self.recalled_at if self.recalled and self.holds_back else math.inf
        divides = self.division_asked_at if self.division in self.queue else math.inf
        asked = min(recalled, divides)
        return None if asked == math.inf else max(asked, self.retracted_at) + ANSWER_WITHIN

    def is_stuck(self, now: float) -> bool:
        """Whether its call takes longer than any that others should wait behind."""
        return now >= self.progress + RECALL_AFTER

    def stalled(self, now: float) -> bool:
        """Whether its task takes longer than was thought, or is being stopped: then nothing is to wait behind it."""
        first = self.running()
        return first is not None and (first.stop_reason is not None or self.is_stuck(now))

    def serves(self, owner: Owner, now: float) -> bool:
        """Whether that owner's tasks get into it as soon as those in it are over."""
        return self.owner == owner and self.state == READY and not self.blocked and not self.stalled(now)

    def has_capacity(self, estimate: float, alone: bool, calls: int = 1) -> bool:
        """Whether one more task, of so many calls, may be put behind the ones that it has."""
        if self.state != READY or self.blocked or self.leaving or calls > self.calls_left:
            return False
        if not self.queue:
            return True
        if alone or estimate == UNKNOWN or self.recalled or len(self.queue) >= SLOT_LIMIT:
            return False
        first = self.running()
        if first is not None and first.assignment.body.options.timeout is not None:
            return False
        if self.seconds + max(estimate, MIN_ESTIMATE) <= SLOT_SECONDS:
            return True
        return len(self.queue) == 1 and max(self.seconds, estimate) <= ONE_AHEAD_MAX_SECONDS
