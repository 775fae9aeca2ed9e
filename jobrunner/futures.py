"""Future, and the functions that wait for several of them.

A Future is a `concurrent.futures.Future`, so everything that accepts those accepts ours. `as_completed` and `wait` call
the standard library's functions of these names, so they accept Futures of different executors together, including the
standard ones. If the code that waits is part of a task, they tell the task to yield its slot meanwhile, see
`nested.wait_hooks`.

The standard Future creates a condition, with a lock and three containers, which most Futures of a long list never use,
because they are done by the time somebody looks at them. Creating these took a third of the time of `submit` and half
of a Future's memory. Our Future therefore creates them when somebody waits, adds a callback or cancels. Until then
`_unwatched`, one lock for all Futures, guards their states. Code that finds a condition uses the standard library's
methods.
"""

from __future__ import annotations

import concurrent.futures
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, InvalidStateError
from contextlib import contextmanager
from functools import partial
from itertools import islice
from operator import methodcaller
from typing import Any, Protocol, TypeVar

from jobrunner.display.notebooks import Fact, html_table, present, shown
from jobrunner.errors import JobRunnerError, NotPicklableError, wait_timeout
from jobrunner.nested.wait_hooks import Awaited, wait_until, waiting
from jobrunner.system import conditions, forks

__all__ = ["ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION", "Future", "as_completed", "gather", "wait"]

T = TypeVar("T")
F = TypeVar("F", bound=concurrent.futures.Future[Any])

Canceller = Callable[["Future[Any]", bool], bool]
"""A function that asks the backend to cancel a task (even a running one, if True) and returns whether it did."""

UNFINISHED = ("PENDING", "RUNNING", "CANCELLED")
"""The states of a Future for which a wait may have to block."""

DONE = ("FINISHED", "CANCELLED", "CANCELLED_AND_NOTIFIED")


class Batch(Protocol):
    """The attributes shared by calls that were submitted one after the other."""

    name: str
    home: Any
    """A backend, with `cancel` as a Canceller."""

    def id_of(self, index: int) -> str:
        """Return the id of the call with that index."""


STATES = {
    "PENDING": "pending",
    "RUNNING": "running",
    "CANCELLED": "cancelled",
    "CANCELLED_AND_NOTIFIED": "cancelled",
    "FINISHED": "succeeded",
}
"""The state that is shown to people, by internal state; a Future that finished with an exception is shown as failed."""

LOGGER = logging.getLogger("concurrent.futures")
"""The standard library's logger, which programs watch for exceptions of callbacks."""

_RESULT = methodcaller("result")

_unwatched = forks.lock()
"""The lock for creating a condition, and for state changes of Futures without one; nothing is called while it is held.

It is reentrant, like a condition's lock, because a signal handler, or a finalizer that the garbage collector calls, may
use a Future in a thread that has just taken the lock. Both run before or after the guarded lines, never between them.
"""


class CancelWait:
    """A wait of one or more threads for the answer to their `cancel` of one call.

    One of these threads calls the callbacks of the Future, because the standard library calls them within `cancel`. A
    callback may therefore acquire an RLock that the cancelling thread holds. In another thread the callback would wait
    for the cancelling thread, which waits for the answer.
    """

    def __init__(self) -> None:
        self.threads = 0
        """The number of threads that wait or are about to; CancelWaits keeps it."""
        self._lock = threading.Lock()
        self._ended = conditions.Event()
        self._answered = conditions.Event()
        self._left = 0
        """The number of threads that would still call the callbacks."""
        self._callbacks: Callable[[], None] | None = None

    def wait(self, ask: Callable[[], None], timeout: float, stop: bool) -> None:
        """Call `ask`, and wait for the answer for at most `timeout` seconds.

        With `stop`, the request is to end the call even if it runs; the report that it runs is then not an answer.
        """
        counted = 0
        try:
            with self._lock:
                self._left, counted = self._left + 1, 1  # in one step: Ctrl-C may come after any other
            ask()
            (self._ended if stop else self._answered).wait(timeout)
        finally:
            with self._lock:
                self._left -= counted
                callbacks, self._callbacks = self._callbacks, None
            if callbacks is not None:
                callbacks()

    def hand_over(self, callbacks: Callable[[], None]) -> bool:
        """Let one of the waiting threads call `callbacks`; return False if none is left."""
        with self._lock:
            if self._left == 0:
                return False
            self._callbacks = callbacks
            return True

    def refuse(self) -> None:
        """End the waits that do not stop a running call, because the call runs."""
        self._answered.set()

    def end(self) -> None:
        """End all waits, because the call has ended or no answer will come."""
        self._answered.set()
        self._ended.set()


class CancelWaits:
    """The waits of threads for the answers to their `cancel`, one CancelWait per Future."""

    def __init__(self) -> None:
        self._lock = forks.lock()
        self._waits: dict[Future[Any], CancelWait] = {}

    def __bool__(self) -> bool:
        return bool(self._waits)

    def of(self, future: Future[Any]) -> CancelWait | None:
        return self._waits.get(future)

    @contextmanager
    def one_more(self, future: Future[Any]) -> Iterator[CancelWait]:
        """Give a thread that is going to wait the CancelWait of `future`, which it shares with other such threads."""
        with self._lock:
            wait = self._waits.setdefault(future, CancelWait())
            wait.threads += 1
        try:
            yield wait
        finally:
            with self._lock:
                wait.threads -= 1
                if not wait.threads:
                    del self._waits[future]

    def end(self) -> None:
        """End all waits, because no answer will come any more."""
        with self._lock:
            waits = list(self._waits.values())
        for wait in waits:
            wait.end()


class Future(concurrent.futures.Future[T]):
    """The outcome of one call, which is available when the call is done.

    It is a `concurrent.futures.Future` with additions: `id`, `name`, `duration` and `cancel(running=True)`. Futures of
    the "cluster" and "processes" backends can be pickled. A Future among the arguments of a call stands for its result.
    """

    duration: float | None = None
    """The execution time in seconds, measured where the task ran; None until the call is done, or if it never ran."""

    _canceller: Canceller | None = None

    _home: Any = None
    """The backend that created this Future, if other processes can ask for the call by its id."""

    _id: str = ""
    _name: str = ""
    _batch: Batch | None = None
    """The batch in which the call was submitted; if there is one, it holds the four attributes above."""
    _index: int = 0
    """The index of the call in its batch."""

    _divided: Callable[[int], None] | None = None
    _given_back: int | None = None
    """The index at which a chunk of `map` was divided, see `give_back`; None if it was not."""

    _state: str = "PENDING"
    _result: Any = None
    _exception: BaseException | None = None
    _watched: conditions.Condition | None = None
    """The condition, once it has been created together with `_waiters` and `_done_callbacks`."""
    _waiters: Sequence[Any] = ()  # type: ignore[assignment]
    _done_callbacks: Sequence[Any] = ()

    def __init__(self, batch: Batch | None = None, index: int = 0) -> None:
        """Create a pending Future; its attributes are those of the class until they change, see the module.

        `batch` and `index` are for backends: what the call has in common with others, instead of `bind`.
        """
        if batch is not None:
            self._batch, self._index = batch, index

    def bind(self, id: str, name: str = "", canceller: Canceller | None = None, home: Any = None) -> None:
        """For backends: say whose Future this is, before anybody has it.

        `canceller(future, running)` is what `cancel` calls, and whose answer it gives; without it, `cancel` is the
        standard library's. `home` is the backend where other processes can ask for the call by its id.
        """
        self._id, self._name, self._canceller, self._home = id, name, canceller, home

    @property
    def id(self) -> str:
        """The task id, which is unique in the cluster and which `jobrunner task ID` takes; empty if there is none."""
        return self._batch.id_of(self._index) if self._batch is not None else self._id

    @id.setter
    def id(self, value: str) -> None:
        self._id = value

    @property
    def name(self) -> str:
        """The name of the call: the option `name`, or else the function's qualified name."""
        return self._batch.name if self._batch is not None else self._name

    @name.setter
    def name(self, value: str) -> None:
        self._name = value

    @property
    def home(self) -> Any:
        """For backends: the creator of this Future, if other processes can ask it for the call by id; else None."""
        return self._batch.home if self._batch is not None else self._home

    @property
    def _condition(self) -> conditions.Condition:  # type: ignore[override]
        """The condition, under the name that the standard library's code uses; it is created at the first use."""
        watched = self._watched
        if watched is None:
            # Made before the lock is taken: to make a list may call the garbage collector.
            fresh, waiters, callbacks = conditions.Condition(), list[Any](), list[Any]()
            with _unwatched:
                watched = self._watched
                if watched is None:
                    self._waiters, self._done_callbacks = waiters, callbacks
                    watched = self._watched = fresh
        return watched

    def done(self) -> bool:
        """Return whether the call has finished, failed or been cancelled."""
        return self._state in DONE

    def running(self) -> bool:
        """Return whether the call is running now."""
        return self._state == "RUNNING"

    def cancelled(self) -> bool:
        """Return whether the call was cancelled."""
        return self._state in ("CANCELLED", "CANCELLED_AND_NOTIFIED")

    def set_result(self, result: T) -> None:
        """For backends: end the Future with a result. Raises InvalidStateError if it is already done."""
        if not self._resolve(result, None):
            super().set_result(result)

    def set_exception(self, exception: BaseException | None) -> None:
        """For backends: end the Future with an exception. Raises InvalidStateError if it is already done."""
        if not self._resolve(None, exception):
            super().set_exception(exception)

    def _resolve(self, result: Any, exception: BaseException | None) -> bool:
        """End the Future if it is unfinished and has no condition; return whether it was."""
        with _unwatched:
            if self._watched is not None or self._state in DONE:
                return False
            self._result, self._exception = result, exception
            self._state = "FINISHED"
            return True

    def _invoke_callbacks(self) -> None:
        """Call the callbacks, as the standard library does, and log the exceptions that they raise.

        An exception like KeyboardInterrupt is logged as well, so that it does not end the thread through which all
        outcomes arrive. In the main thread it is raised after the last callback, because Ctrl-C may have caused it.
        """
        raised: BaseException | None = None
        for callback in self._done_callbacks:
            try:
                callback(self)
            except Exception:
                LOGGER.exception("exception calling callback for %r", self)
            except BaseException as exc:
                LOGGER.exception("exception calling callback for %r", self)
                raised = exc
        if raised is not None and threading.current_thread() is threading.main_thread():
            raise raised

    def result(self, timeout: float | None = None) -> T:
        """Wait until the call is done, and return its value or raise its exception.

        Args:
            timeout: The maximum wait in seconds. Default: no limit.

        Raises:
            TimeoutError: The call is not done after `timeout`.
            CancelledError: The call was cancelled.
        """
        if self._state == "FINISHED" and self._exception is None:
            return self._result  # type: ignore[no-any-return]
        try:
            if self._state not in UNFINISHED:
                return super().result(timeout)
            self._wait(timeout)
            return super().result(0)
        finally:
            del self  # what is raised knows this frame, and this knows what is raised

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait until the call is done, and return its exception, or None if it succeeded.

        Args:
            timeout: The maximum wait in seconds. Default: no limit.

        Raises:
            TimeoutError: The call is not done after `timeout`.
            CancelledError: The call was cancelled.
        """
        if self._state == "FINISHED":
            return self._exception
        if self._state not in UNFINISHED:
            return super().exception(timeout)
        self._wait(timeout)
        return super().exception(0)

    def _wait(self, timeout: float | None) -> None:
        with waiting(partial(awaited_of, [self], every=True) if timeout is None else None):
            try:
                super().exception(wait_until(self.done, timeout))
                return
            except concurrent.futures.CancelledError:
                return  # the caller's own look at the outcome raises it
            except TimeoutError:
                pass  # raised below, where it gets no context
        name = f" ({self.name})" if self.name else ""
        address = getattr(self.home, "cluster", None)
        # Only where others reach the cluster, too: then the command does.
        reachable = self.id and address is not None and address.startswith("tcp://")
        why = f"; `jobrunner task {self.id} --address {address}` shows its state" if reachable else ""
        raise wait_timeout(f"the call{name} is not done after {timeout} s{why}")

    def cancel(self, *, running: bool = False) -> bool:
        """Cancel the call, and return whether it is cancelled; a call that has started or is done is not.

        On a cluster the answer takes a round trip to the coordinator. If none arrives within the setting
        `cancel_wait` (5 s by default), the result is False, but the request remains in effect.

        Args:
            running: Whether to stop the call even if it has started. Its process receives SIGINT, then
                SIGTERM, then SIGKILL, and the Future is cancelled when the stop is confirmed.

        Raises:
            NotSupportedError: `running` is True and the backend cannot stop a call, like "threads".
        """
        if self.done():
            return self.cancelled()
        if self._batch is not None:
            return self._batch.home.cancel(self, running)  # type: ignore[no-any-return]
        if self._canceller is None:
            return super().cancel()
        return self._canceller(self, running)

    def _facts(self) -> list[Fact]:
        state = self._state
        failure = self._exception if state == "FINISHED" else None
        detail = failure.detail if isinstance(failure, JobRunnerError) else {}
        succeeded = state == "FINISHED" and failure is None
        return present(
            [
                ("name", self.name),
                ("state", STATES[state] if failure is None else "failed"),
                ("id", self.id),
                ("result", type(self._result).__qualname__ if succeeded else None),
                ("exception", failure),
                ("worker", detail.get("worker")),
                ("host", detail.get("host")),
                ("duration", None if self.duration is None else f"{self.duration:.3g} s"),
            ]
        )

    def _repr_html_(self) -> str:
        return html_table(type(self).__name__, self._facts())

    def __rich_repr__(self) -> Iterator[Fact]:
        for name, value in self._facts():
            yield name, shown(value)

    def __reduce__(self) -> tuple[Any, ...]:
        there = None if self.home is None else self.home.future_there(self)
        if there is None:
            raise NotPicklableError(
                "this Future cannot be sent to another process, which could not obtain its result;"
                ' Futures of the "cluster" and "processes" backends can be sent'
            )
        reduced: tuple[Any, ...] = there
        return reduced

    def give_back(self, stop: int) -> None:
        """For backends: remove the elements from `stop` on from this chunk of `map`, which submits them again.

        `stop` is an index of the packed elements, like the indexes of `submit_chunk`. A chunk is divided at most once.
        The elements from `stop` on must not have begun, and at least one element must remain. The result of the chunk
        then holds the results of the elements before `stop`.
        """
        with _unwatched:
            told, self._given_back = self._divided, stop
        if told is not None:
            told(stop)

    def when_divided(self, told: Callable[[int], None]) -> None:
        """For `map`: call `told` with the argument of `give_back`, at once if that has been called already."""
        with _unwatched:
            self._divided, stop = told, self._given_back
        if stop is not None:
            told(stop)

    def confirm_cancelled(self, wait: CancelWait | None = None) -> None:
        """For backends: mark an unfinished Future as cancelled, because its task will not run any more.

        The callbacks are called by a thread of `wait`, if one is left: in the standard library, the thread that cancels
        calls them.
        """
        due = self._to_cancelled(("PENDING", "RUNNING", "CANCELLED"))
        if due and not (wait is not None and wait.hand_over(self._invoke_callbacks)):
            self._invoke_callbacks()

    def cancel_pending(self) -> bool:
        """For backends: cancel the call finally, unless it has started; return whether it is cancelled."""
        if self._to_cancelled(("PENDING", "CANCELLED")):
            self._invoke_callbacks()
        return self.cancelled()

    def _to_cancelled(self, from_states: tuple[str, ...]) -> bool:
        """Cancel a Future that is in one of these states; return whether its callbacks have to be called now."""
        with self._condition:
            if self._state not in from_states:
                return False
            told = self._state == "CANCELLED"  # by the plain cancel(), which has called the callbacks
            self._state = "CANCELLED_AND_NOTIFIED"
            for waiter in self._waiters:
                waiter.add_cancelled(self)
            self._condition.notify_all()
        return not told

    def confirm_running(self) -> None:
        """For backends: mark a pending Future as running, because its task has started."""
        with _unwatched:
            if self._watched is None:
                if self._state == "PENDING":
                    self._state = "RUNNING"
                return
        with self._condition:
            if self._state == "PENDING":
                self._state = "RUNNING"


def resolve(
    future: concurrent.futures.Future[Any], result: Any = None, exception: BaseException | None = None
) -> None:
    """For backends: end a Future; raise nothing, except KeyboardInterrupt and its like in the main thread.

    The calling thread has other Futures to end, so an error with one Future must not affect the others: the program
    may have ended the Future itself, and its watchers may raise exceptions, which are logged.
    """
    for _ in range(2):
        try:
            if exception is None:
                future.set_result(result)
            else:
                future.set_exception(exception)
            return
        except InvalidStateError:
            return
        except BaseException:
            if threading.current_thread() is threading.main_thread():
                raise
            LOGGER.exception("exception while %r was resolved", future)


def wait(
    fs: Iterable[concurrent.futures.Future[T]],
    timeout: float | None = None,
    return_when: str = ALL_COMPLETED,
) -> concurrent.futures._base.DoneAndNotDoneFutures[T]:
    """Wait for Futures, and return the named tuple (done, not_done) of two sets of them.

    Args:
        fs: The Futures, which may belong to different executors.
        timeout: The maximum wait in seconds, after which this returns without an error. Default: no limit.
        return_when: The end of the wait: FIRST_COMPLETED, FIRST_EXCEPTION or ALL_COMPLETED.
    """
    fs = list(fs)

    def enough() -> bool:
        if return_when == FIRST_COMPLETED:
            return any(future.done() for future in fs)
        return all(future.done() for future in fs)

    every = return_when == ALL_COMPLETED  # of FIRST_EXCEPTION, any one may raise
    with waiting(partial(awaited_of, fs, every=every) if timeout is None else None):
        return concurrent.futures.wait(fs, wait_until(enough, timeout), return_when)


def awaited_of(futures: Iterable[concurrent.futures.Future[Any]], *, every: bool) -> Awaited | None:
    """Return the ids of the tasks that a wait for `futures` waits for, see `nested.wait_hooks`."""
    unfinished: list[str] = []
    for future in list(futures):  # in one step: another thread may be at them
        if isinstance(future, Future) and future.id and not future.done():
            unfinished.append(future.id)
        elif not every:
            return None  # that one may end the wait, or has
    return Awaited(unfinished, every)


def as_completed(fs: Iterable[F], timeout: float | None = None) -> Iterator[F]:
    """Yield each Future once, in the order in which they finish.

    Args:
        fs: The Futures, which may belong to different executors.
        timeout: The maximum time in seconds from the request for the first Future to the end of the last
            one. Default: no limit.

    Raises:
        TimeoutError: Some Futures are not done after `timeout`.
    """
    pending = set(fs)
    del fs  # from here on nothing refers to a Future that has been handed out
    finished: Iterator[Any] = concurrent.futures.as_completed(pending.copy(), timeout)
    while True:
        try:
            with waiting(partial(awaited_of, pending, every=False) if timeout is None else None):
                wait_until(lambda: not pending or any(future.done() for future in pending), timeout)
                given = list(islice(finished, 1))
        except TimeoutError as exc:
            raise TimeoutError(*exc.args) from None
        if not given:
            return
        pending.discard(given[0])
        yield given.pop()


def gather(futures: Iterable[concurrent.futures.Future[T]], timeout: float | None = None) -> list[T]:
    """Wait for all `futures`, and return a list of their results in the same order.

    If calls failed, the exception of the first failed one in that order is raised.

    Args:
        futures: The Futures, which may belong to different executors.
        timeout: The maximum wait in seconds. Default: no limit.

    Raises:
        TimeoutError: Some Futures are not done after `timeout`.
        CancelledError: The first Future without a result was cancelled.
    """
    futures = list(futures)
    not_done = wait(futures, timeout).not_done
    if not_done:
        raise TimeoutError(f"{len(not_done)} of {len(futures)} futures are not done after {timeout} s")
    try:
        return list(map(_RESULT, futures))
    finally:
        del futures  # as in Future.result
