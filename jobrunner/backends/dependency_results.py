"""The Futures that calls of this client have as arguments, kept as long as the cluster may ask for their results.

The coordinator remembers the results of recent tasks. It asks this client for a result that it does not remember, and
for the results of Futures that do not belong to this cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError
from functools import partial
from typing import Any

from jobrunner.backends.futures_in_arguments import AnyFuture, replace_futures
from jobrunner.backends.home import Home
from jobrunner.calls import serialization
from jobrunner.errors import SerializationError
from jobrunner.futures import Future
from jobrunner.protocol.bundles import place_of_call
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.system import forks


def with_placeholders(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], list[AnyFuture]]:
    """Return the arguments with a ResultPlaceholder in place of each Future, and the list of these Futures.

    Raises SerializationError for containers that are nested very deeply or contain themselves.
    """
    depends_on: dict[int, serialization.ResultPlaceholder] = {}
    futures: list[AnyFuture] = []

    def dependency(future: AnyFuture) -> serialization.ResultPlaceholder:
        if id(future) not in depends_on:
            depends_on[id(future)] = serialization.ResultPlaceholder(len(futures))
            futures.append(future)
        return depends_on[id(future)]

    try:
        return replace_futures(args, dependency), replace_futures(kwargs, dependency), futures
    except RecursionError as exc:
        raise SerializationError(
            "the arguments contain a Future, and lists, tuples or dicts that are nested too deeply or contain"
            " themselves"
        ) from exc


class DependencyResults:
    """The dependencies of pending calls. Thread-safe.

    `reply` sends outcomes, and the ids of tasks whose outcome is not known here.
    """

    def __init__(self, reply: Callable[[list[m.Outcome], list[TaskId]], None], home: Home) -> None:
        self._reply = reply
        self._home = home
        self._lock = forks.lock()
        self._futures: dict[TaskId, AnyFuture] = {}
        self._users: dict[TaskId, int] = {}

    def add(self, futures: Sequence[AnyFuture], new_id: Callable[[], TaskId]) -> tuple[TaskId, ...]:
        """Keep the dependencies of a call, and return the task ids under which the call names them.

        A Future of the same cluster has its own id, and any other Future gets a new one.
        """
        ids = []
        for future in futures:
            # A call in a bundle is not a task on which others could depend, so this client sends its result.
            own = (
                isinstance(future, Future)
                and self._is_here(future)
                and place_of_call(TaskId(future.id)) is None
            )
            task = TaskId(future.id) if own and isinstance(future, Future) else new_id()
            with self._lock:
                self._futures[task] = future
                self._users[task] = self._users.get(task, 0) + 1
            ids.append(task)
        return tuple(ids)

    def are_done(self, ids: Iterable[TaskId]) -> bool:
        """Return whether a call that depends on these tasks does not have to wait for any of them."""
        with self._lock:
            futures = [self._futures[task] for task in ids if task in self._futures]  # others are done
        return all(future.done() for future in futures)

    def release(self, ids: Iterable[TaskId]) -> None:
        """Note that a call that depended on these tasks is done."""
        with self._lock:
            for task in ids:
                self._users[task] -= 1
                if not self._users[task]:
                    del self._users[task], self._futures[task]

    def requested(self, ids: list[TaskId]) -> None:
        """Send the outcomes of these tasks, at once or when they have ended."""
        outcomes: list[m.Outcome] = []
        unknown: list[TaskId] = []
        for task in ids:
            with self._lock:
                future = self._futures.get(task)
            if future is None:
                unknown.append(task)
            elif future.done():
                outcomes.append(outcome_of(task, future))
            elif isinstance(future, Future) and future.id == task:
                unknown.append(task)  # only the cluster itself could tell this client more
            else:
                future.add_done_callback(partial(self._tell, task))
        if outcomes or unknown:
            self._reply(outcomes, unknown)

    def _tell(self, task: TaskId, future: AnyFuture) -> None:
        try:
            self._reply([outcome_of(task, future)], [])
        except BaseException:  # for example too little memory; the dependent call must not wait for ever
            self._reply([], [task])
            raise

    def _is_here(self, future: Future[Any]) -> bool:
        home = future.home
        if home is self._home:
            return True
        address = None if home is None else getattr(home, "cluster", None)
        return address is not None and address == self._home.cluster


def outcome_of(task: TaskId, future: AnyFuture) -> m.Outcome:
    """Return the outcome of a Future that is done."""
    try:
        failure = future.exception()
    except CancelledError:
        return m.Outcome(task, 0, m.CANCELLED)
    if failure is None:
        try:
            return m.Outcome(task, 0, m.OK, serialization.dump_result(future.result()))
        except SerializationError as exc:
            failure = exc
    detail: m.Detail = {"error": serialization.describe(failure)}
    return m.Outcome(task, 0, m.ERROR, serialization.dump_exception(failure), detail=detail)
