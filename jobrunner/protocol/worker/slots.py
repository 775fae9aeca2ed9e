"""The state of one slot in the worker's core, and the number of tasks that it may hold. Pure.

Short tasks go into a slot several at a time, so that a call costs less than a message; of longer tasks, only the next
one waits there. Tasks that a slot has not started can be recalled, so a wrong guess costs `RECALL_AFTER` instead of the
duration of the task in front; it costs only `RETRACT_WHEN_IDLE_AFTER` if another slot is idle. A slot cannot answer
while a call blocks its whole process: after `ANSWER_WITHIN` its tasks are taken back without it.

A slot serves one owner in its life, so that whatever a task leaves behind in its process (environment variables,
modules, open files) is seen only by tasks of the same owner. Calls with shipped modules (FunctionDef.ships) have an
owner of their own here, so that no call meets modules of others, or another version of its own modules. So do calls
that a program makes after it has changed to another version of one of its modules (FunctionDef.epoch), because a
process keeps the modules that it has imported.

If calls leak memory, the number of calls per slot can be limited. Each call of a bundle and each element of a chunk
counts, from the moment when the slot is given it until the slot gives it back. A slot that has reached the limit ends
when it is idle, and a new process takes its place. A task with more calls than the limit fits into no slot, and is
refused.
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
"""The slot was told to end, or was killed; its exit has not been confirmed."""

UNLIMITED = 2**62
"""A number of calls that no process can reach."""


class Owner(NamedTuple):
    """The owner of the tasks that a slot runs in its life."""

    key: str = ""
    """The key that has submitted the tasks, as the coordinator tells it."""
    initializer: FunctionKey | None = None
    """The initializer of the tasks, if it makes their slots unfit for other tasks."""
    epoch: int = 0
    """The epoch of the program's modules, see FunctionDef."""

    def replaces(self, other: Owner) -> bool:
        """Return whether slots of the other owner are of no more use once these tasks wait."""
        return self.key == other.key and self.epoch > other.epoch


NOBODY = Owner()


class WorkerTask:
    """A task at the worker, from its assignment until its outcome is sent."""

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
        """True if the coordinator was told that the task runs."""
        self.wait: Wait | None = None
        """The calls for which the task waits, as its slot has reported."""
        self.was_split = False
        """True for a bundle or chunk that its slot has split or divided while it was being stopped."""
        self.stop_reason: Status | None = None
        """The status with which the task will end (CANCELLED or TIMED_OUT), once it is being stopped."""
        self.stop_stage = 0
        """The number of steps taken, of SIGINT, SIGTERM and SIGKILL."""
        self.stop_at: float | None = None
        """The time of the next step; before the first step, the time at which the task's time limit ends."""

    @property
    def id(self) -> TaskId:
        return self.assignment.id

    def enter(self, slot: Slot, number: int) -> None:
        """Note that it is in that slot, as its task with this number."""
        self.slot, self.number = slot, number
        self.announced = False

    def leave_slot(self) -> None:
        self.slot = None

    @property
    def begun_before(self) -> bool:
        """Whether an earlier attempt has begun, so that this one may end as that did: with its process."""
        return self.assignment.attempt - self.assignment.unbegun > 1

    @property
    def elements(self) -> int:
        return self.assignment.body.kind.calls

    @property
    def bundled(self) -> bool:
        """Whether the task is a bundle, which its slot can split."""
        return isinstance(self.assignment.body.kind, Bundle)

    @property
    def is_chunk(self) -> bool:
        """Whether the task is a chunk, of which its slot can give back elements that have not begun."""
        return isinstance(self.assignment.body.kind, Chunk)

    @property
    def may_be_divided(self) -> bool:
        """Whether a part of the task can be a task of its own, see `division`."""
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
        """The number of calls that the process may still be given."""
        self.state = STARTING
        self.queue: dict[int, WorkerTask] = {}
        """The tasks by number, in the order in which the process runs them; the first is presumably the running one."""
        self.known: set[FunctionKey] = set()
        self.to_drop: list[FunctionKey] = []
        """Functions that the process may drop, as it will be told with its next task."""
        self.sent = 0
        self.seconds = 0.0
        """Estimated duration in seconds of the work in the slot."""
        self.progress = 0.0
        """The time at which the process last began or finished something."""
        self.recalled = False
        self.recalled_at = -math.inf
        self.division = 0
        """The number of the chunk that the slot was asked to divide, until it answers; 0 if there is none."""
        self.division_asked_at = -math.inf
        self.retracted_at = -math.inf
        """The last time at which tasks were taken back without the slot's help."""
        self.owner: Owner | None = None
        """The owner of the slot's tasks, once it has run one."""
        self.owned_since = 0.0
        self.kill_at: float | None = None
        """The time at which the process is killed if it has not ended by itself."""
        self.last: tuple[TaskId, str] | None = None
        """Id and name of a task that has ended here; text that is printed between tasks is attributed to it."""
        self.leaving = False
        """True if the slot gets no more tasks, and ends when it is idle."""
        self.blocked = False
        """True if the slot's task waits for other tasks, so that another slot stands in for this one."""

    def learns(self, key: FunctionKey) -> bool:
        """Note that the slot needs this function; return True if the function must be sent first."""
        if key in self.known:
            return False
        self.known.add(key)
        if key in self.to_drop:  # it was not told yet, so it still has the function
            self.to_drop.remove(key)
            return False
        return True

    def lacks(
        self, definition: FunctionDef, functions: Mapping[FunctionKey, FunctionDef]
    ) -> list[FunctionDef]:
        """Return the functions to send before a call of this one, parts first; they count as sent from now on."""
        parts = [functions[part] for part in definition.parts]
        return [each for each in (*parts, definition) if self.learns(each.key)]

    def drop_function(self, key: FunctionKey) -> None:
        if key in self.known:
            self.known.remove(key)
            self.to_drop.append(key)

    def leave(self) -> None:
        """Give the slot no more tasks, and end it when it is idle."""
        self.leaving = True

    def take_to_drop(self) -> list[FunctionKey]:
        """Return the functions that the process must now be told to drop."""
        to_drop, self.to_drop = self.to_drop, []
        return to_drop

    def put(self, task: WorkerTask, now: float) -> None:
        if self.owner is None:
            self.owner, self.owned_since = task.owner, now
        self.sent += 1
        self.calls_left -= task.elements
        task.enter(self, self.sent)
        if not self.queue:
            self.progress = now
        self.queue[task.number] = task
        self.seconds += task.estimate

    def progresses(self, now: float) -> None:
        """Note that the process has finished something."""
        self.progress = now

    def give_back_calls(self, calls: int) -> None:
        """Note that the process will not make this number of calls that it was given."""
        self.calls_left += calls

    def take_back(self, number: int) -> WorkerTask | None:
        """Take back a task that the slot has not begun."""
        task = self.take(number)
        if task is not None:
            self.calls_left += task.elements
        return task

    def take(self, number: int) -> WorkerTask | None:
        task = self.queue.pop(number, None)
        if task is not None:
            task.leave_slot()
            self.seconds = self.seconds - task.estimate if self.queue else 0.0
        return task

    @property
    def stays(self) -> bool:
        """Whether the slot is neither ending nor about to leave."""
        return self.state != ENDING and not self.leaving

    @property
    def idle(self) -> bool:
        return self.state == READY and not self.queue

    def running(self) -> WorkerTask | None:
        return next(iter(self.queue.values()), None)

    @property
    def holds_back(self) -> bool:
        """Whether calls in the slot wait behind the running one."""
        if len(self.queue) > 1:
            return True
        running = self.running()
        return running is not None and running.bundled and not running.was_split

    def recall_at(self, spare: bool) -> float | None:
        """Return the time to recall waiting calls, which is repeated while a bundle cannot be split.

        `spare` tells that another slot is idle. A bundle is not split for that reason, because it will end very soon.
        """
        if self.recalled or not self.holds_back:
            return None
        soon = spare and len(self.queue) > 1
        return max(self.progress, self.recalled_at) + (RETRACT_WHEN_IDLE_AFTER if soon else RECALL_AFTER)

    def retract_at(self) -> float | None:
        """Return the time to take recalled tasks back without the slot's help."""
        if not (self.recalled or self.division):
            return None
        recalled = self.recalled_at if self.recalled and self.holds_back else math.inf
        divides = self.division_asked_at if self.division in self.queue else math.inf
        asked = min(recalled, divides)
        return None if asked == math.inf else max(asked, self.retracted_at) + ANSWER_WITHIN

    def is_stuck(self, now: float) -> bool:
        """Return whether the running call takes longer than other calls should wait for it."""
        return now >= self.progress + RECALL_AFTER

    def stalled(self, now: float) -> bool:
        """Return whether the running task is late or being stopped, so that no task should wait behind it."""
        first = self.running()
        return first is not None and (first.stop_reason is not None or self.is_stuck(now))

    def serves(self, owner: Owner, now: float) -> bool:
        """Return whether tasks of that owner run here as soon as the present ones have ended."""
        return self.owner == owner and self.state == READY and not self.blocked and not self.stalled(now)

    def has_capacity(self, estimate: float, alone: bool, calls: int = 1) -> bool:
        """Return whether one more task with this number of calls may be put behind the present ones."""
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
