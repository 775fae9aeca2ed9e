"""Who is in the cluster, what they provide, and when they count as lost.

A worker is lost after as much silence as its greeting allows, a client after `CLIENT_PATIENCE` times as much, and
either one `UNREACHABLE_GRACE` after the transport said that its connection is gone. A lost worker's tasks run elsewhere
at once; a lost client's tasks get a grace period.
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
"""What it takes here, about, that a client may name a function."""

CLIENT_PATIENCE = 6
"""Times the usual timeout that a connected client may be silent."""


class Peer:
    """The other end of a session, seen from the coordinator."""

    __slots__ = ("came_with", "greeting", "link", "serial", "source", "unreachable_since", "who")

    def __init__(self, source: Source, link: Link, who: Principal) -> None:
        self.greeting = ""
        """The name under which the present session was asked for."""
        self.serial = 0
        """Of that greeting."""
        self.source = source
        self.link = link
        self.who = who
        self.came_with = who.key
        """The key among whose peers it counts as long as it is here."""
        self.unreachable_since: float | None = None

    @property
    def connected(self) -> bool:
        """Whether it has a connection by which it can be told something."""
        return self.source != b""

    def disconnect(self) -> None:
        """Its connection is gone, or somebody else's; it may come back by another one."""
        self.source = b""

    def renew_link(self, link: Link) -> None:
        """Begin a stream of messages anew, or begin none; the present one is given up with all that it holds."""
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
    """A client, and what waits to be sent to it at the end of the turn."""

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
        self, hello: ClientHello, source: Source, link: Link, account: Account, who: Principal = ANYONE
    ) -> None:
        super().__init__(source, link, who)
        self.id: ClientId = hello.client
        self.account = account
        self.hello = hello
        self.submitted = 0
        """Calls that it has ever submitted; 0 for who only looks."""
        self.unfinished = 0
        """Calls in `tasks`."""
        self.tasks: dict[TaskId, TaskRecord] = {}
        """What it has here that has not ended: when it leaves, nobody has to look at what others have."""
        self.function_refs: dict[FunctionKey, FunctionKey] = {}
        """Functions that it may name without sending them again: as it calls them, and as they are called here."""
        self.is_new = True
        """This is its first session here: it may have submitted, to another coordinator, what is not known here."""
        self.resubmission_complete = False
        """It has named, in this session, all that it still waits for."""
        self.lost_at: float | None = None
        """When the client was found to be gone; its tasks end after a grace."""
        self.outcomes: list[Outcome] = []
        self.resent: set[TaskId] = set()
        """Calls that were known before, and that it has named again, or asked for, in this turn."""
        self.watching: set[TaskId] = set()
        """Calls that it watches and that have not ended."""
        self.running: list[TaskId] = []
        self.refused: list[TaskId] = []
        self.output: list[OutputChunk] = []
        self.output_characters = 0
        self.accepted: list[TaskId] = []
        self.result_requests: list[TaskId] = []
        self.needs_told: set[TaskId] = set()
        """Its calls that it has named again in this session, and for whose needs it was asked therefore."""
        self.cancels: dict[TaskId, bool] = {}
        """Calls in its bundles that others want cancelled, which it has to do; also while they run?"""
        self.unacked_replies = 0
        """Answers that it has not acknowledged in this session."""
        self.done: dict[TaskId, TaskRecord] = {}
        """Finished tasks whose outcome the client has not acknowledged."""
        self.done_bundles: dict[str, TaskRecord] = {}
        """The bundles among them, by the open part of their ids."""
        self.awaiting_resubmission: set[str] = set()
        """The open parts of the ids of bundles that it was told, in this session, to have been split, and of which it
        has named no call since: it does so once it has heard. What it said before that (ResubmissionComplete, say) knew
        nothing of them."""
        self.untaken_slots = 0
        """How often it was told, in this session, how many slots there are, and has not acknowledged it."""
        self.unnamed: dict[TaskId, bool] = {}
        """Parts of its chunks that it has not named since they were divided off; whether it has acknowledged their
        outcomes. The message that names one may be late, and would else be taken for a new task."""

    def refer(self, function: FunctionKey, here: FunctionKey) -> None:
        """It may name that function from now on."""
        self.function_refs[function] = here
        self.account.bytes += REF_BYTES

    def refer_no_more(self, function: FunctionKey) -> FunctionKey | None:
        """Return the function's key here, if it was there."""
        here = self.function_refs.pop(function, None)
        if here is not None:
            self.account.bytes -= REF_BYTES
        return here

    def take_function_refs(self) -> list[FunctionKey]:
        """It may name none any more; return their keys here, in the same order in every process."""
        refs = sorted(self.function_refs.values())
        self.account.bytes -= REF_BYTES * len(refs)
        self.function_refs.clear()
        return refs

    def add_task(self, record: TaskRecord) -> None:
        self.tasks[record.id] = record
        self.unfinished += record.weight

    def remove_task(self, record: TaskRecord) -> None:
        """It has ended, or belongs to another session of its client."""
        del self.tasks[record.id]
        self.needs_told.discard(record.id)
        self.unfinished -= record.weight

    def forget_unnamed(self) -> None:
        """A session begins: no message that names what it had acknowledged can come any more."""
        for part in [part for part, acknowledged in self.unnamed.items() if acknowledged]:
            del self.unnamed[part]
            self.take_done(part)

    def add_done(self, record: TaskRecord) -> None:
        self.done[record.id] = record
        if isinstance(record.body.kind, Bundle):
            self.done_bundles[open_part(record.id)] = record

    def take_done(self, task_id: TaskId) -> TaskRecord | None:
        """Remove and return it, if it is there."""
        record = self.done.pop(task_id, None)
        if record is not None and isinstance(record.body.kind, Bundle):
            self.done_bundles.pop(open_part(task_id), None)
        return record

    def clear_done(self) -> None:
        self.done.clear()
        self.done_bundles.clear()
        self.unnamed.clear()

    def silent(self, now: float) -> bool:
        """A client's program may keep it from speaking (a slow callback, say), so it is given more time.

        A connection that is really gone the transport notices, and says so.
        """
        return self.link.peer_timeout > 0 and now - self.link.last_heard >= (
            CLIENT_PATIENCE * self.link.peer_timeout
        )


MAX_SERVED = 64
"""Clients of a worker that are remembered after their tasks there have ended."""


class WorkerSession(Peer):
    """A worker, what it runs, and what waits to be sent to it at the end of the turn."""

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
        """Amounts of what it provides that no task holds: integers, but for what it has without end."""
        self.kept_waiting: dict[str, int] = {}
        """Amounts that are held by tasks which wait for calls, see `deadlocks`."""
        self.missing_modules: dict[str, float] = {}
        """Modules that it cannot import, and when it said so; see `missing`."""
        self.draining = False
        self.stuck = ""
        """Why it cannot start a slot for the tasks that all of its tasks wait for; empty: it is not so."""
        self.prefetch = True
        """False from the moment it gave tasks back until it finishes one: our estimates were wrong for it."""
        self.tasks: dict[TaskId, TaskRecord] = {}
        self.strays = 0
        """Tasks that it has and that no client has named yet: they take slots as others do."""
        self.served: deque[ClientId] = deque(maxlen=MAX_SERVED)
        """Whose tasks it has had, the last one behind: what these have left in its slots may still print."""
        self.assigned_seconds = 0.0
        """Estimated work, without that of the long tasks."""
        self.long = 0
        """Tasks behind which nothing is to wait, see `placement.is_long`."""
        self.completed = 0
        self.assigned: list[TaskRecord] = []
        self.cancels: list[CancelRequest] = []
        self.divides: list[TaskId] = []

    @property
    def held(self) -> int:
        """All that it has, or is about to get."""
        return len(self.tasks) + self.strays

    def fits(self, requirements: Requirements) -> bool:
        return all(
            self.free.get(name, 0) >= amount or self._can_import(name) for name, amount in requirements
        )

    def provides_all(self, requirements: Requirements) -> bool:
        """Whether it could run such a task if nothing else ran here."""
        return all(
            self.provides.get(name, 0) >= amount or self._can_import(name) for name, amount in requirements
        )

    def provides_beside_waiting(self, requirements: Requirements) -> bool:
        """As `provides_all`, if nothing ran here but the tasks that wait for calls."""
        kept = self.kept_waiting
        return all(
            self.provides.get(name, 0) - kept.get(name, 0) >= amount or self._can_import(name)
            for name, amount in requirements
        )

    def keep_waiting(self, amounts: Requirements, sign: int) -> None:
        """A task of this worker begins to wait for calls (+1), or does so no more (-1)."""
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
        """Count a task that is not with this worker any more."""
        del self.tasks[record.id]
        if is_long(record.estimate):
            self.long -= 1
        else:
            self.assigned_seconds -= record.estimate
        if len(self.tasks) == self.long:
            self.assigned_seconds = 0.0  # whatever rounding has left of it
        self._adjust(record.amounts, +1)

    def _adjust(self, amounts: Requirements, sign: int) -> None:
        for name, amount in amounts:
            self.free[name] = self.free.get(name, 0) + sign * amount
