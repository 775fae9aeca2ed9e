"""The connected clients and workers, what they provide, and when they count as lost.

A worker is lost after the silence that its greeting allows, and a client after `CLIENT_PATIENCE` times as much. Either
of them is lost `UNREACHABLE_GRACE` after the transport has reported that its connection is gone. A lost worker's tasks
run elsewhere at once; a lost client's tasks get a grace period.
"""

from __future__ import annotations

import math
from collections import deque

from jobrunner.config import UNREACHABLE_GRACE
from jobrunner.protocol.coordinator.accounts import Account
from jobrunner.protocol.coordinator.placement import is_long
from jobrunner.protocol.coordinator.resources import MODULE, Requirements, exact, python_requirement
from jobrunner.protocol.coordinator.task import TaskRecord
from jobrunner.protocol.effects import Source
from jobrunner.protocol.link import Link
from jobrunner.protocol.wire.ids import ClientId, TaskId, WorkerId, open_part
from jobrunner.protocol.wire.kinds import Bundle
from jobrunner.protocol.wire.messages import (
    CancelRequest,
    ClientHello,
    FunctionKey,
    Outcome,
    OutputChunk,
    WorkerHello,
)
from jobrunner.protocol.wire.principals import ANYONE, Principal

REF_BYTES = 500
"""Approximate size in bytes of a client's right to name a function."""

CLIENT_PATIENCE = 6
"""Factor of the usual timeout by which a connected client may be silent."""


class Peer:
    """The other end of a session, as the coordinator sees it."""

    __slots__ = ("came_with", "greeting", "link", "serial", "source", "unreachable_since", "who")

    def __init__(self, source: Source, link: Link, who: Principal) -> None:
        self.greeting = ""
        """The name under which the present session was requested."""
        self.serial = 0
        """The serial number of that greeting."""
        self.source = source
        self.link = link
        self.who = who
        self.came_with = who.key
        """The key among whose peers it counts as long as it is here."""
        self.unreachable_since: float | None = None

    @property
    def connected(self) -> bool:
        """Whether the peer has a connection by which messages can reach it."""
        return self.source != b""

    def disconnect(self) -> None:
        """Note that the connection is gone, or somebody else's; the peer may come back by another one."""
        self.source = b""

    def renew_link(self, link: Link) -> None:
        """Begin a new stream of messages, or none; the present one is given up together with its messages."""
        self.link.drop_early()
        self.link = link

    def silent(self, now: float) -> bool:
        return self.link.silent(now)

    def lost(self, now: float) -> bool:
        if self.silent(now):
            return True
        since = self.unreachable_since
        return since is not None and now - since >= UNREACHABLE_GRACE


class ClientSession(Peer):
    """A client, and the messages for it at the end of the turn."""

    __slots__ = (
        "accepted",
        "account",
        "awaiting_resubmission",
        "cancels",
        "done",
        "done_bundles",
        "function_refs",
        "hello",
        "id",
        "is_new",
        "lost_at",
        "needs_told",
        "outcomes",
        "output",
        "output_characters",
        "refused",
        "resent",
        "resubmission_complete",
        "result_requests",
        "running",
        "submitted",
        "tasks",
        "unacked_replies",
        "unfinished",
        "unnamed",
        "untaken_slots",
        "watching",
    )

    def __init__(
        self,
        hello: ClientHello,
        source: Source,
        link: Link,
        account: Account,
        who: Principal = ANYONE,
        lost_at: float | None = None,
    ) -> None:
        super().__init__(source, link, who)
        self.id: ClientId = hello.client
        self.account = account
        self.hello = hello
        self.submitted = 0
        """Number of calls that the client has ever submitted; 0 for a client that only asks."""
        self.unfinished = 0
        """Number of calls in `tasks`."""
        self.tasks: dict[TaskId, TaskRecord] = {}
        """The client's unfinished tasks, so that tasks of others need not be examined when it leaves."""
        self.function_refs: dict[FunctionKey, FunctionKey] = {}
        """The functions that the client may name without sending them again: its own keys, and the keys here."""
        self.is_new = True
        """True in the client's first session here, when it may name calls that only another coordinator knew."""
        self.resubmission_complete = False
        """True if the client has named, in this session, all tasks that it still waits for."""
        self.lost_at = lost_at
        """The time when the client was found to be gone; its tasks end after a grace period."""
        self.outcomes: list[Outcome] = []
        self.resent: set[TaskId] = set()
        """The calls that were already known and that the client has named again, or asked for, in this turn."""
        self.watching: set[TaskId] = set()
        """The unfinished calls that the client watches."""
        self.running: list[TaskId] = []
        self.refused: list[TaskId] = []
        self.output: list[OutputChunk] = []
        self.output_characters = 0
        self.accepted: list[TaskId] = []
        self.result_requests: list[TaskId] = []
        self.needs_told: set[TaskId] = set()
        """Its calls that it has named again in this session, and for whose needs it was asked therefore."""
        self.cancels: dict[TaskId, bool] = {}
        """The calls in the client's bundles that others want cancelled, which only the client can do; True: also if
        they run."""
        self.unacked_replies = 0
        """Number of answers that the client has not acknowledged in this session."""
        self.done: dict[TaskId, TaskRecord] = {}
        """Finished tasks whose outcomes the client has not acknowledged."""
        self.done_bundles: dict[str, TaskRecord] = {}
        """The bundles among them, by the public part of their ids."""
        self.awaiting_resubmission: set[str] = set()
        """The public parts of the ids of split bundles.

        The client was told of the split in this session, and has named no call of them since, which it does as soon as
        it has heard. Earlier messages, such as ResubmissionComplete, do not take them into account.
        """
        self.untaken_slots = 0
        """Number of unacknowledged messages in this session about the number of slots."""
        self.unnamed: dict[TaskId, bool] = {}
        """The parts of the client's chunks that it has not named since their division, and whether it has acknowledged
        their outcomes. The message that names one may be late, and would otherwise be taken for a new task."""

    def begin_session(self) -> None:
        """Forget what counts in one session only."""
        self.lost_at = None
        self.resubmission_complete = False
        self.unacked_replies = 0
        self.untaken_slots = 0
        self.outcomes.clear()
        self.resent.clear()
        self.result_requests.clear()
        self.awaiting_resubmission.clear()
        self.forget_unnamed()
        self.accepted.clear()
        self.needs_told.clear()

    def complete_resubmission(self) -> None:
        """Note that it has named, in this session, all tasks that it still waits for."""
        self.resubmission_complete = True

    def refer(self, function: FunctionKey, here: FunctionKey) -> None:
        """Note that the client may name that function from now on."""
        self.function_refs[function] = here
        self.account.bytes += REF_BYTES

    def refer_no_more(self, function: FunctionKey) -> FunctionKey | None:
        """Return the function's key here, if it was there."""
        here = self.function_refs.pop(function, None)
        if here is not None:
            self.account.bytes -= REF_BYTES
        return here

    def take_function_refs(self) -> list[FunctionKey]:
        """Remove all functions that the client may name; return their keys here, in the same order in every process."""
        refs = sorted(self.function_refs.values())
        self.account.bytes -= REF_BYTES * len(refs)
        self.function_refs.clear()
        return refs

    def add_task(self, record: TaskRecord) -> None:
        self.tasks[record.id] = record
        self.unfinished += record.weight

    def remove_task(self, record: TaskRecord) -> None:
        """Remove a task that has ended, or belongs to another session of its client."""
        del self.tasks[record.id]
        self.needs_told.discard(record.id)
        self.unfinished -= record.weight

    def forget_unnamed(self) -> None:
        """Drop unnamed parts with acknowledged outcomes, because no message from before this session can name them."""
        for part in [part for part, acknowledged in self.unnamed.items() if acknowledged]:
            del self.unnamed[part]
            self.take_done(part)

    def add_done(self, record: TaskRecord) -> None:
        self.done[record.id] = record
        if isinstance(record.body.kind, Bundle):
            self.done_bundles[open_part(record.id)] = record

    def take_done(self, task_id: TaskId) -> TaskRecord | None:
        """Remove and return the task, if it is there."""
        record = self.done.pop(task_id, None)
        if record is not None and isinstance(record.body.kind, Bundle):
            self.done_bundles.pop(open_part(task_id), None)
        return record

    def clear_done(self) -> None:
        self.done.clear()
        self.done_bundles.clear()
        self.unnamed.clear()

    def silent(self, now: float) -> bool:
        """Return whether the client has been silent for too long.

        It gets more time than a worker, because its program may keep it from sending, for example in a slow callback.
        If its connection is really gone, the transport reports that.
        """
        return self.link.peer_timeout > 0 and now - self.link.last_heard >= (
            CLIENT_PATIENCE * self.link.peer_timeout
        )


MAX_SERVED = 64
"""Number of clients of a worker that are remembered after their tasks there have ended."""


class WorkerSession(Peer):
    """A worker, its tasks, and the messages for it at the end of the turn."""

    __slots__ = (
        "assigned",
        "assigned_seconds",
        "cancels",
        "completed",
        "divides",
        "draining",
        "free",
        "hello",
        "id",
        "kept_waiting",
        "long",
        "missing_modules",
        "name",
        "prefetch",
        "provides",
        "served",
        "slots",
        "strays",
        "stuck",
        "tasks",
    )

    def __init__(
        self, hello: WorkerHello, name: str, source: Source, link: Link, who: Principal = ANYONE
    ) -> None:
        super().__init__(source, link, who)
        self.id: WorkerId = hello.worker
        self.hello = hello
        self.name = name
        self.slots = hello.slots
        python = python_requirement(hello.python)[0]
        self.provides: dict[str, float] = {**exact(hello.resources.items()), python: math.inf}
        self.free = dict(self.provides)
        """The amounts of its resources that no task holds; they are integers, except unlimited ones."""
        self.kept_waiting: dict[str, int] = {}
        """The amounts that are held by tasks which wait for calls, see `deadlocks`."""
        self.missing_modules: dict[str, float] = {}
        """The modules that it cannot import, and the times at which it said so, see `missing_modules`."""
        self.draining = False
        self.stuck = ""
        """The reason why it cannot start a slot for the calls for which all of its tasks wait; empty if it can."""
        self.prefetch = True
        """False from when it gave tasks back until it finishes one, because our estimates were wrong for it."""
        self.tasks: dict[TaskId, TaskRecord] = {}
        self.strays = 0
        """Number of its tasks that no client has named yet; they take slots like others."""
        self.served: deque[ClientId] = deque(maxlen=MAX_SERVED)
        """The clients whose tasks it has had, the latest last, because code of theirs may still print in its slots."""
        self.assigned_seconds = 0.0
        """Estimated seconds of work, without the long tasks."""
        self.long = 0
        """Number of tasks behind which no other task should wait, see `placement.is_long`."""
        self.completed = 0
        self.assigned: list[TaskRecord] = []
        self.cancels: list[CancelRequest] = []
        self.divides: list[TaskId] = []

    @property
    def held(self) -> int:
        """The number of tasks that it has or is about to get."""
        return len(self.tasks) + self.strays

    def fits(self, requirements: Requirements) -> bool:
        return all(
            self.free.get(name, 0) >= amount or self._can_import(name) for name, amount in requirements
        )

    def provides_all(self, requirements: Requirements) -> bool:
        """Return whether it could run such a task if nothing else ran here."""
        return all(
            self.provides.get(name, 0) >= amount or self._can_import(name) for name, amount in requirements
        )

    def provides_beside_waiting(self, requirements: Requirements) -> bool:
        """Return whether it could run such a task beside those tasks that wait for calls."""
        kept = self.kept_waiting
        return all(
            self.provides.get(name, 0) - kept.get(name, 0) >= amount or self._can_import(name)
            for name, amount in requirements
        )

    def keep_waiting(self, amounts: Requirements, sign: int) -> None:
        """Note that a task of this worker begins to wait for calls (+1), or ceases to (-1)."""
        for name, amount in amounts:
            self.kept_waiting[name] = self.kept_waiting.get(name, 0) + sign * amount

    def _can_import(self, requirement: str) -> bool:
        return requirement.startswith(MODULE) and requirement[len(MODULE) :] not in self.missing_modules

    def take(self, record: TaskRecord) -> None:
        """Count a task that is now with this worker."""
        self.tasks[record.id] = record
        client = record.client.id
        if not self.served or self.served[-1] != client:
            if client in self.served:
                self.served.remove(client)
            self.served.append(client)
        if is_long(record.estimate):
            self.long += 1
        else:
            self.assigned_seconds += record.estimate
        self._adjust(record.amounts, -1)
        record.worker = self

    def release(self, record: TaskRecord) -> None:
        """Count a task that is no longer with this worker."""
        del self.tasks[record.id]
        if is_long(record.estimate):
            self.long -= 1
        else:
            self.assigned_seconds -= record.estimate
        if len(self.tasks) == self.long:
            self.assigned_seconds = 0.0  # rounding errors may have left something
        self._adjust(record.amounts, +1)

    def _adjust(self, amounts: Requirements, sign: int) -> None:
        for name, amount in amounts:
            self.free[name] = self.free.get(name, 0) + sign * amount
