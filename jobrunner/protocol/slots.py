"""What the worker's core knows of one slot, and how many tasks to put into it at a time; pure.

Short tasks go into a slot several at a time, so that a call costs no message of its own. What a slot has not started
can be recalled, so a wrong guess costs `RECALL_AFTER`, not the length of the task in front.
"""

from __future__ import annotations

from jobrunner.ids import SlotId, TaskId
from jobrunner.payloads import Payload
from jobrunner.protocol.functions import UNKNOWN
from jobrunner.protocol.messages import Assignment, FunctionKey
from jobrunner.protocol.placement import LEAST_ESTIMATE

SLOT_SECONDS = 0.005
"""Estimated work that a slot may hold, the running task included, before it gets no further one."""

SLOT_LIMIT = 256
"""Tasks that a slot may hold."""

RECALL_AFTER = 0.02
"""Seconds without a finished task after which a slot gives back what it has not started."""

STARTING = "starting"
READY = "ready"
KILLED = "killed"
"""Told to die; its exit has not been confirmed."""


class WorkerTask:
    """A task at the worker, from its assignment until its outcome is on its way."""

    __slots__ = (
        "announced",
        "assignment",
        "estimate",
        "number",
        "slot",
        "stop_at",
        "stop_reason",
        "stop_stage",
    )

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self.slot: Slot | None = None
        self.number = 0
        self.estimate = 0.0
        self.announced = False
        """The coordinator was told that it runs."""
        self.stop_reason: int | None = None
        """The status that it will end with (CANCELLED or TIMED_OUT) once it is being stopped."""
        self.stop_stage = 0
        """How many of the steps SIGINT, SIGTERM, SIGKILL have been taken."""
        self.stop_at: float | None = None
        """When the next step is due (before the first: when its time is up)."""

    @property
    def id(self) -> TaskId:
        return self.assignment.id

    @property
    def elements(self) -> int:
        span = self.assignment.span
        return 1 if span is None else span[1] - span[0]

    @property
    def payload(self) -> Payload:
        return self.assignment.payload


class Slot:
    """One process of the worker."""

    __slots__ = (
        "blocked",
        "forget",
        "id",
        "known",
        "progress",
        "queue",
        "recalled",
        "seconds",
        "sent",
        "state",
    )

    def __init__(self, slot: SlotId) -> None:
        self.id = slot
        self.state = STARTING
        self.queue: dict[int, WorkerTask] = {}
        """By number, in the order in which it runs them; the first is the running one, as far as we know."""
        self.known: set[FunctionKey] = set()
        self.forget: list[FunctionKey] = []
        """Functions that its process may drop, when it is next given something."""
        self.sent = 0
        self.seconds = 0.0
        """Estimated work in it."""
        self.progress = 0.0
        """When it last began or finished something."""
        self.recalled = False
        self.blocked = False
        """Its task waits for other tasks, so another slot stands in for it."""

    def learns(self, key: FunctionKey) -> bool:
        """Note that the slot needs this function; True if it must be sent first."""
        if key in self.known:
            return False
        self.known.add(key)
        if key in self.forget:
            self.forget.remove(key)
        return True

    def forgets(self, key: FunctionKey) -> None:
        if key in self.known:
            self.known.remove(key)
            self.forget.append(key)

    def put(self, task: WorkerTask, now: float) -> None:
        self.sent += 1
        task.number = self.sent
        task.slot = self
        if not self.queue:
            self.progress = now
        self.queue[task.number] = task
        self.seconds += task.estimate

    def take(self, number: int) -> WorkerTask | None:
        task = self.queue.pop(number, None)
        if task is not None:
            task.slot = None
            self.seconds = self.seconds - task.estimate if self.queue else 0.0
        return task

    @property
    def idle(self) -> bool:
        return self.state == READY and not self.queue

    def running(self) -> WorkerTask | None:
        return next(iter(self.queue.values()), None)

    def stalled(self, now: float) -> bool:
        """Whether its task takes longer than was thought, or is being stopped: then nothing is to wait behind it."""
        first = self.running()
        return first is not None and (first.stop_reason is not None or now >= self.progress + RECALL_AFTER)

    def room(self, estimate: float, alone: bool) -> bool:
        """Whether one more task may be put behind the ones that it has."""
        if self.state != READY or self.blocked:
            return False
        if not self.queue:
            return True
        if alone or estimate == UNKNOWN or self.recalled or len(self.queue) >= SLOT_LIMIT:
            return False
        first = self.running()
        if first is not None and first.assignment.options.timeout is not None:
            return False
        return self.seconds + max(estimate, LEAST_ESTIMATE) <= SLOT_SECONDS
