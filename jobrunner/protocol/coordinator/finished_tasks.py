"""The ends of tasks, for tasks that depend on their results and clients that ask for them.

A client gets the outcomes of its own tasks without this module. Beyond that an outcome stays here for a while, and the
oldest go first when there is no more room; that of a detached task stays until it is forgotten, or too old.

An unknown task may still be named: by its client, on its way back to a restarted coordinator, or by a client that still
has the result. Until that is impossible, the coordinator looks for it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from jobrunner.protocol.bundles import index_of_call, place_of_call
from jobrunner.protocol.coordinator.accounts import Account
from jobrunner.protocol.coordinator.task import Interest, TaskRecord
from jobrunner.protocol.wire.batches import of_outcome
from jobrunner.protocol.wire.details import without_need
from jobrunner.protocol.wire.ids import TaskId, open_part, short_id
from jobrunner.protocol.wire.messages import OK, REFUSED, UNMET, Detail, Outcome
from jobrunner.protocol.wire.payloads import payload_size

OVERHEAD = 100
"""Approximate size in bytes of an outcome beyond its payload and the count of `of_outcome`."""


class FinishedTask(NamedTuple):
    """An outcome and its task's name; `at` is the time at which it came."""

    name: str
    outcome: Outcome
    at: float
    account: Account | None = None
    """The account that the task belonged to; if the outcome is kept, its account is charged."""
    bundle: bool = False
    """Whether somebody may ask for the calls of the task, which is a bundle."""

    @property
    def size(self) -> int:
        """The approximate size in bytes."""
        return payload_size(self.outcome.payload) + of_outcome(self.outcome) + OVERHEAD

    def is_of(self, account: Account) -> bool:
        """Return whether the outcome was told to peers of that account, or by them."""
        return self.account is not None and self.account.label == account.label


class UnknownTasks(OrderedDict[TaskId, Interest]):
    """The interest in unknown tasks, which can also be found by the bundle of which they are calls."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: dict[str, dict[TaskId, None]] = {}
        """The calls by the public part of their bundle's id."""

    def calls_of(self, bundle: TaskId) -> list[TaskId]:
        calls = self._calls.get(open_part(bundle), ()) if self._calls else ()
        return [call for call in calls if index_of_call(bundle, call) is not None]

    def __setitem__(self, task_id: TaskId, interest: Interest) -> None:
        super().__setitem__(task_id, interest)
        bundle = place_of_call(task_id)
        if bundle is not None:
            self._calls.setdefault(bundle[0], {})[task_id] = None

    def __delitem__(self, task_id: TaskId) -> None:
        super().__delitem__(task_id)
        bundle = place_of_call(task_id)
        if bundle is not None:
            calls = self._calls[bundle[0]]
            del calls[task_id]
            if not calls:
                del self._calls[bundle[0]]

    def take(self, task_id: TaskId) -> Interest | None:
        """Remove and return the interest in a task, if there is one."""
        interest = self.get(task_id)
        if interest is not None:
            del self[task_id]
        return interest


class Results:
    """The outcomes of ended tasks. `limit` is the size in bytes of those that nobody has asked to keep."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.detached: OrderedDict[TaskId, FinishedTask] = OrderedDict()
        """The outcomes of detached tasks, the oldest first."""
        self.unknown_tasks = UnknownTasks()
        self.size = 0
        """The size in bytes of the other outcomes."""
        self._recent: OrderedDict[TaskId, FinishedTask] = OrderedDict()
        self._bundles: dict[str, TaskId] = {}
        """The bundles among them, by the public part of their ids."""

    def find_bundle(self, part: str) -> FinishedTask | None:
        """Return the bundle whose id has that public part."""
        bundle = self._bundles.get(part)
        return None if bundle is None else self._recent.get(bundle)

    def find(self, task_id: TaskId) -> FinishedTask | None:
        return self._recent.get(task_id) or self.detached.get(task_id)

    def add(self, ended: FinishedTask) -> None:
        """Keep an outcome for a while."""
        size = ended.size
        if ended.outcome.id in self._recent:
            self._drop(ended.outcome.id)
        if size > self.limit:
            return
        self._recent[ended.outcome.id] = ended
        if ended.bundle:
            self._bundles[open_part(ended.outcome.id)] = ended.outcome.id
        self.size += size
        while self.size > self.limit:
            self._drop(next(iter(self._recent)))

    def keep(self, ended: FinishedTask) -> None:
        """Keep the outcome of a detached task until `forget_outcome`."""
        self.forget_outcome(ended.outcome.id)
        self.detached[ended.outcome.id] = ended
        if ended.account is not None:
            ended.account.add(ended.size)

    def forget_outcome(self, task_id: TaskId) -> FinishedTask | None:
        """Drop all that is known of a task; return the outcome if it was kept."""
        if task_id in self._recent:
            self._drop(task_id)
        ended = self.detached.pop(task_id, None)
        if ended is not None and ended.account is not None:
            ended.account.remove(ended.size)
        return ended

    def outdated(self, before: float) -> list[TaskId]:
        """Return the detached tasks that ended before that time."""
        old = []
        for task_id, ended in self.detached.items():
            if ended.at >= before:
                break
            old.append(task_id)
        return old

    def look_for(self, task_id: TaskId, now: float) -> Interest:
        """Return the interest in a task that is not known here."""
        interest = self.unknown_tasks.get(task_id)
        if interest is None:
            interest = self.unknown_tasks[task_id] = Interest(now)
        return interest

    def _drop(self, task_id: TaskId) -> None:
        ended = self._recent.pop(task_id)
        self.size -= ended.size
        if ended.bundle:
            self._bundles.pop(open_part(task_id), None)


def beyond_quota(task_id: TaskId, excess: str) -> Outcome:
    return Outcome(task_id, 0, REFUSED, detail={"error": excess, "quota": True})


def outcome_of_dependent(record: TaskRecord, dependency: Outcome, name: str) -> Outcome:
    """Return the outcome of a task with a failed dependency; in a chain, the first failure is the cause of all."""
    assert dependency.status != OK
    if dependency.status == UNMET:
        return dependency._replace(id=record.id, attempt=record.attempt)
    how = dependency.status.label
    named = f" ({name})" if name else ""
    why = (dependency.detail or {}).get("error")
    detail: Detail = {
        "error": f"it was not run: task {short_id(dependency.id)}{named}, whose result it needs, {how}"
        + (f": {why}" if why else ""),
        "need": dependency.id,
        "need_name": name,
        "need_status": dependency.status,
        "need_detail": None if dependency.detail is None else without_need(dependency.detail),
    }
    return Outcome(record.id, record.attempt, UNMET, dependency.payload, 0.0, detail)
