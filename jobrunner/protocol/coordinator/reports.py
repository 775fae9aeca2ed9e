"""The coordinator's reports about itself: answers to queries, in msgpack types; and the commands of operators."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from jobrunner.protocol.bundles import index_of_call, outcome_of_call
from jobrunner.protocol.coordinator.peers import ClientSession, WorkerSession
from jobrunner.protocol.coordinator.resources import shown
from jobrunner.protocol.coordinator.task import (
    ACTIVE,
    FAILED,
    MAX_HISTORY_LINE_LENGTH,
    QUEUED,
    RUNNING,
    STATE_NAMES,
    SUCCEEDED,
    TERMINAL,
    WAITING,
    TaskRecord,
    TaskState,
    WaitReason,
)
from jobrunner.protocol.wire.batches import of_value
from jobrunner.protocol.wire.ids import TaskId, call_id, short_id
from jobrunner.protocol.wire.kinds import Bundle
from jobrunner.protocol.wire.messages import CRASHED, LOST, OK, SPLIT, Query, Reply, error_of
from jobrunner.protocol.wire.principals import Principal

if TYPE_CHECKING:
    from jobrunner.protocol.coordinator.core import CoordinatorCore


MAX_ROWS = 50_000
"""Maximum number of tasks in one reply, which must fit into a message."""

MAX_BYTES = 32 * 1024 * 1024
"""Approximate size in bytes of all tasks at which a reply ends, because some tasks have long descriptions."""

MAX_PEER_BYTES = MAX_BYTES // 2
"""Approximate maximum size in bytes of the workers in a reply, and of the clients, because one reply has both."""

MAX_RESOURCES_TOLD = 64
"""Maximum number of resources of one worker in a reply."""

MAX_WORKERS_NAMED = 20
"""Maximum number of workers that an error suggests instead of an unknown name."""

Row: TypeAlias = "dict[str, Any]"


def fitting(rows: Iterable[Row], most: int) -> list[Row]:
    """Return the first rows, as many as take about `most` bytes.

    A reply that is too large for a message would be sent again and again, and hold up everything behind it.
    """
    told: list[Row] = []
    size = 0
    for row in rows:
        told.append(row)
        size += of_value(row)
        if size >= most:
            break
    return told


def answer(core: CoordinatorCore, who: Principal, query: Query, now: float) -> Reply:
    """Return the reply to a query of `who`. Unknown names or kinds and missing rights give its `error`."""
    describe = ANSWERS.get(query.kind)
    if describe is None:
        return Reply(query.number, None, f"the coordinator knows no query {query.kind!r}")
    if query.kind in COMMANDS and not who.submits:
        return Reply(
            query.number, None, f"the key {who.name!r} is an observer's, and may not {query.kind} anything"
        )
    try:
        return Reply(query.number, describe(core, who, query.argument, now))
    except (UnknownName, ValueError) as exc:
        return Reply(query.number, None, str(exc))


def looked_at(core: CoordinatorCore, query: Query) -> int:
    """Return how many tasks and peers an answer to this query looks at, at the most."""
    roster, tasks = core.scheduler.roster, core.scheduler.tasks
    peers = len(roster.workers) + len(roster.clients)
    return 1 + peers + (len(tasks) + len(tasks.recent) if query.kind in OF_TASKS else 0)


def status(core: CoordinatorCore, who: Principal, argument: str, now: float) -> Row:
    settings, scheduler = core.settings, core.scheduler
    counts = {state.label: scheduler.tasks.counts[state] for state in TaskState}
    return {
        "coordinator": {
            "id": settings.id,
            "version": settings.version,
            "address": settings.address,
            "host": settings.host,
            "pid": settings.pid,
            "uptime": now - core.started,
            "draining": core.draining,
            "rejected_messages": core.offences.count,
            "stale_outcomes": scheduler.attempts.stale_outcomes,
            "kept_outcomes": len(scheduler.results.detached),
        },
        "workers": workers(core, who, argument, now),
        "clients": fitting(
            (
                describe_client(c)
                for c in scheduler.roster.clients.values()
                if c.submitted and (who.sees_all or is_of(c, who))
            ),
            MAX_PEER_BYTES,
        ),
        "tasks": counts,
        "slots": core.scheduler.roster.slots,
        "busy": sum(min(len(worker.tasks), worker.slots) for worker in scheduler.roster.workers.values()),
    }


def workers(core: CoordinatorCore, who: Principal, argument: str, now: float) -> list[Row]:
    rows = (describe_worker(worker, now) for worker in core.scheduler.roster.workers.values())
    return fitting(rows, MAX_PEER_BYTES)


def tasks(core: CoordinatorCore, who: Principal, argument: str, now: float) -> list[Row]:
    """Return descriptions of tasks; `argument` is "STATE LIMIT", and an empty state means all."""
    state, _, limit = argument.rpartition(" ")
    if state and state not in STATE_NAMES:
        raise ValueError(f"there is no state {state!r}; the states are {', '.join(STATE_NAMES)}")
    rows = int(limit or 100)
    if not 0 <= rows <= MAX_ROWS:
        raise ValueError(f"at most {MAX_ROWS} tasks can be listed at a time, not {rows}")
    found = (
        record
        for source in (core.scheduler.tasks.values(), reversed(core.scheduler.tasks.recent))
        for record in source
        if (not state or record.state.label == state) and (who.sees_all or owns(who, record))
    )
    return fitting((describe_task(record, who, now) for record in islice(found, rows)), MAX_BYTES)


def task(core: CoordinatorCore, who: Principal, argument: str, now: float) -> Row:
    record = find_task(core, who, argument)
    described = describe_task(record, who, now)
    index = call_in(record, argument)
    if index is not None:
        described |= describe_call(record, index)
    described["why"] = why(core, record, who)
    return described


def cancel(core: CoordinatorCore, who: Principal, argument: str, now: float) -> Row:
    """Cancel a task; `argument` is its id, followed by "queued" if a running task must not be cancelled."""
    task_id, _, only = argument.partition(" ")
    running = only != "queued"
    record = find_task(core, who, task_id)
    index = call_in(record, task_id)
    if index is None:
        core.scheduler.cancellation.cancel(record.id, running, now)
        state = record.state.label
        return {"id": record.id, "cancelled": state == "cancelled", "state": state}
    call = describe_call(record, index)
    state = call["state"]
    goes_on = record.state not in TERMINAL or core.scheduler.orphans.named_later(call["id"])
    if goes_on and state not in DONE and (running or record.state != RUNNING):
        core.scheduler.cancellation.cancel_call(record, index, running)
        state = "cancelling" if running else state
    return {"id": call["id"], "cancelled": state == "cancelled", "state": state}


def drain(core: CoordinatorCore, who: Principal, argument: str, now: float) -> Row:
    if not who.operates:
        raise UnknownName(
            f"the key {who.name!r} is a {who.role}'s; only an operator may drain workers, which is the coordinator's"
            " user on its host"
        )
    worker = core.scheduler.roster.worker_named(argument)
    if worker is None:
        names = (
            some_of(sorted(w.name for w in core.scheduler.roster.workers.values()), MAX_WORKERS_NAMED)
            or "none"
        )
        raise UnknownName(f"there is no worker {argument!r} here; workers: {names}")
    core.drain_worker(worker, now)
    return describe_worker(worker, now)


def forget(core: CoordinatorCore, who: Principal, argument: str, now: float) -> Row:
    if TaskId(argument) in core.scheduler.tasks:
        raise UnknownName(f"task {argument} is not done; `jobrunner cancel {argument}` ends it")
    if not core.scheduler.endings.forget_outcome(TaskId(argument)):
        raise UnknownName(f"no outcome of a detached task {argument!r} is kept here")
    return {"id": argument, "forgotten": True}


ANSWERS = {
    "status": status,
    "workers": workers,
    "tasks": tasks,
    "task": task,
    "cancel": cancel,
    "drain": drain,
    "forget": forget,
}


DONE = tuple(state.label for state in TERMINAL)

OF_TASKS = ("tasks", "task", "cancel")
"""The names in ANSWERS for which tasks are looked up."""

COMMANDS = ("cancel", "drain", "forget")
"""The names in ANSWERS that change something."""


class UnknownName(LookupError):
    """The error for a name that the coordinator does not know; its text is meant for the user."""


def find_task(core: CoordinatorCore, who: Principal, argument: str) -> TaskRecord:
    """Return the task with this whole id, or with this public part of it if `who` may see the task."""
    record = core.scheduler.tasks.get(TaskId(argument))
    if record is not None:
        return record
    bundle = core.scheduler.tasks.bundle_with(TaskId(argument))
    if bundle is not None:
        return bundle[0]
    for record in reversed(core.scheduler.tasks.recent):
        if record.id == argument or call_in(record, argument) is not None:
            return record
    for source in (reversed(core.scheduler.tasks.recent), core.scheduler.tasks.values()):
        for record in source:
            if record.id.startswith(argument) and short_id(record.id) == argument and seen(who, record):
                return record
    raise UnknownName(f"the coordinator knows no task {argument!r}: the id is wrong, or it finished long ago")


def call_in(record: TaskRecord, argument: str) -> int | None:
    """Return the index of the call with that id in this bundle, or None if it is not there."""
    if not isinstance(record.body.kind, Bundle):
        return None
    index = index_of_call(record.id, TaskId(argument))
    return index if index is not None and index < record.body.kind.calls else None


def owns(who: Principal, record: TaskRecord) -> bool:
    return who.operates or is_of(record.client, who)


def is_of(client: ClientSession, who: Principal) -> bool:
    """Return whether the client connects under that key, or acts for it inside of a task; never for an observer."""
    return who.submits and who.key in (client.who.key, client.account.owner)


def describe_worker(worker: WorkerSession, now: float) -> Row:
    hello = worker.hello
    silent = now - worker.link.last_heard
    state = "draining" if worker.draining else "silent" if worker.unreachable_since is not None else "active"
    return {
        "id": worker.id,
        "name": worker.name,
        "host": hello.host,
        "pid": hello.pid,
        "slots": worker.slots,
        "busy": min(len(worker.tasks), hello.slots),
        "assigned": len(worker.tasks),
        "resources": dict(islice(hello.resources.items(), MAX_RESOURCES_TOLD)),
        "state": state,
        "last_seen": silent,
        "completed": worker.completed,
        "version": hello.version,
        "python": hello.python,
    }


def describe_client(client: ClientSession) -> Row:
    hello = client.hello
    return {
        "id": client.id,
        "host": hello.host,
        "pid": hello.pid,
        "submitted": client.submitted,
        "unfinished": client.unfinished,
        "state": "active" if client.lost_at is None else "lost",
    }


def describe_task(record: TaskRecord, who: Principal, now: float) -> Row:
    outcome = record.outcome
    finished = record.state in TERMINAL
    error = ""
    if outcome is not None and outcome.status != 0:
        error = error_of(outcome)[:MAX_HISTORY_LINE_LENGTH]
    return {
        "id": record.id if owns(who, record) else short_id(record.id),
        "name": record.name,
        "state": record.state.label,
        "client": record.client.id,
        "worker": "" if record.worker is None else record.worker.name,
        "attempt": record.begun,
        "priority": record.body.options.priority,
        "retries": record.body.options.retries,
        "elements": record.elements,
        "age": now - record.submitted,
        "running_for": now - record.since if record.state in ACTIVE else None,
        "duration": outcome.duration if finished and outcome is not None else None,
        "error": error,
        "history": list(record.history or ()),
    }


def calls_may_go_on(bundle: TaskRecord) -> bool:
    """Return whether the bundle has ended and some of its calls may continue."""
    return bundle.outcome is not None and bundle.outcome.status in (SPLIT, CRASHED, LOST)


MAX_HOLDERS_NAMED = 5


def some_of(names: Iterable[str], most: int) -> str:
    """Return the first of these names as text for people."""
    found = list(islice(names, most + 1))
    return ", ".join([*found[:most], "..."] if len(found) > most else found)


def held_by_others(core: CoordinatorCore, record: TaskRecord, who: Principal) -> str:
    """Return the text which tasks have the resources of a queued one.

    The task's caller may be among them, and then neither ever ends.
    """
    wanted = {name for name, _ in record.amounts}
    able = [
        worker
        for worker in core.scheduler.roster.workers.values()
        if worker.provides_all(record.requirements)
    ]
    holders = (
        f"{short_id(other.id)} ({other.name}) on {worker.name}"
        if seen(who, other)
        else f"another's on {worker.name}"
        for worker in able
        for other in worker.tasks.values()
        if any(name in wanted for name, _ in other.amounts)
    )
    named = some_of(holders, MAX_HOLDERS_NAMED)
    told = f"no worker has {shown(record.amounts)} free; it is taken by {named}"
    if record.body.depth:
        told += (
            "; it was submitted by a call, and neither ever ends if that call is among them and waits for it"
        )
    return told


def seen(who: Principal, record: TaskRecord) -> bool:
    """Return whether `who` may see that task."""
    return who.sees_all or owns(who, record)


def describe_call(bundle: TaskRecord, index: int) -> Row:
    """Return the facts in which one call differs from its bundle.

    A call of a split bundle waits for its client.
    """
    described: dict[str, Any] = {
        "id": call_id(bundle.id, index),
        "elements": 1,
        "state": bundle.state.label,
    }
    outcome = None if bundle.outcome is None else outcome_of_call(bundle.outcome, index)
    if outcome is None and calls_may_go_on(bundle):
        described["state"] = WAITING.label
    elif outcome is not None:
        failed = outcome.status != OK
        described |= {"state": (FAILED if failed else SUCCEEDED).label, "duration": outcome.duration}
    return described


def why(core: CoordinatorCore, record: TaskRecord, who: Principal) -> str:
    """Return the text of what the task is waiting for."""
    scheduler = core.scheduler
    if record.state == WAITING and record.unresolved_count:
        missing = [
            dependency
            for dependency in record.depends_on
            if dependency not in (record.dependency_results or ())
        ]
        return f"needs the results of {record.unresolved_count} other tasks, e.g. of {short_id(missing[0])}"
    if record.state == WAITING:
        if record.wait_reason is WaitReason.JOURNAL:
            return (
                "may run only once, and its beginning cannot be written to the journal;"
                " check whether the disk is full"
            )
        if record.wait_reason in (WaitReason.REATTACHMENT, WaitReason.MAY_HAVE_RUN):
            return "may be with a worker that has not come back since the coordinator was started again"
        return "waits before its next attempt"
    if record.state != QUEUED:
        return ""
    if not scheduler.roster.workers:
        return "no worker has joined the cluster"
    complaint = scheduler.missing_modules.why(record)
    if complaint:
        return complaint
    required = record.requirements
    if not any(worker.provides_all(required) for worker in scheduler.roster.workers.values()):
        return f"no worker provides {shown(required)}"
    if record.client.id in scheduler.dispatcher.queue.backpressured:
        return "its client does not receive the outcomes that are ready for it"
    if not any(worker.fits(required) for worker in scheduler.roster.workers.values()):
        return held_by_others(core, record, who)
    return f"all slots are taken; {scheduler.tasks.counts[QUEUED]} tasks are queued"
