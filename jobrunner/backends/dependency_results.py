"""The Futures that calls of this client have got as arguments, for as long as the cluster may ask for their results.

The coordinator takes the result of a needed task from what it remembers. Where it does not (any more), and for Futures
that are not this cluster's at all, it asks here.
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
    """The arguments with a `serialization.ResultPlaceholder` in place of each Future, and these Futures.

    Raises SerializationError for containers that are nested very deeply or hold themselves.
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
    """Thread-safe. `reply` sends outcomes, and the ids of tasks whose outcome cannot be told."""

    def __init__(self, reply: Callable[[list[m.Outcome], list[TaskId]], None], home: Home) -> None:
        self._reply = reply
        self._home = home
        self._lock = forks.lock()
        self._futures: dict[TaskId, AnyFuture] = {}
        self._users: dict[TaskId, int] = {}

    def add(self, futures: Sequence[AnyFuture], new_id: Callable[[], TaskId]) -> tuple[TaskId, ...]:
        """Ids under which a call that needs them names these Futures: their own, where they are this cluster's."""
        ids = []
        for future in futures:
            # One that may travel in a bundle is no task that others could wait for: its result goes from here.
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
        """Whether a call that needs these waits for none of them any more."""
        with self._lock:
            futures = [self._futures[task] for task in ids if task in self._futures]  # else released, so done
        return all(future.done() for future in futures)

    def release(self, ids: Iterable[TaskId]) -> None:
        """A call that needed these is done."""
        with self._lock:
            for task in ids:
                self._users[task] -= 1
                if not self._users[task]:
                    del self._users[task], self._futures[task]

    def requested(self, ids: list[TaskId]) -> None:
        """Say how these ended; what is not done is told when it is."""
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
                unknown.append(task)  # not done as far as we know, and it is the cluster that tells us
            else:
                future.add_done_callback(partial(self._tell, task))
        if outcomes or unknown:
            self._reply(outcomes, unknown)

    def _tell(self, task: TaskId, future: AnyFuture) -> None:
        try:
            self._reply([outcome_of(task, future)], [])
        except BaseException:  # too little memory, say: the call that needs it must not wait for ever
            self._reply([], [task])
            raise

    def _is_here(self, future: Future[Any]) -> bool:
        home = future.home
        if home is self._home:
            return True
        address = None if home is None else getattr(home, "cluster", None)
        return address is not None and address == self._home.cluster


def outcome_of(task: TaskId, future: AnyFuture) -> m.Outcome:
    """The outcome of a Future that is done."""
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
