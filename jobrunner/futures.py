"""Future, and the functions that wait for several of them.

A Future is a `concurrent.futures.Future`, so everything that accepts those accepts ours. `as_completed` and
`wait` are the standard library's, and take Futures of different executors together, the standard ones
included; around each wait they tell the task that waits (if it is one) to yield its slot, see `blocking`.

The standard Future makes a condition, with a lock and three containers, that most Futures of a long list never use: by
the time somebody looks they are done. Making these took a third of the time that `submit` takes, and half of a Future's
memory. So ours makes them when somebody waits, adds a callback or cancels; until then `_unwatched`, one lock for all
Futures, guards their states. Whoever finds that there is a condition goes the standard library's way.
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
from jobrunner.system import forks

__all__ = ["ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION", "Future", "as_completed", "gather", "wait"]

T = TypeVar("T")
F = TypeVar("F", bound=concurrent.futures.Future[Any])

Canceller = Callable[["Future[Any]", bool], bool]
"""Asks the backend to cancel a task (True: even a running one) and says whether it is cancelled."""

UNFINISHED = ("PENDING", "RUNNING", "CANCELLED")
"""The states of a Future on which a wait may still have to wait."""

DONE = ("FINISHED", "CANCELLED", "CANCELLED_AND_NOTIFIED")


class Batch(Protocol):
    """What calls have in common that were submitted one after the other."""

    name: str
    home: Any
    """A backend, with `cancel` as a Canceller."""

    def id_of(self, index: int) -> str:
        """The id of the call with that index."""


STATES = {
    "PENDING": "pending",
    "RUNNING": "running",
    "CANCELLED": "cancelled",
    "CANCELLED_AND_NOTIFIED": "cancelled",
    "FINISHED": "succeeded",
}
"""What a person is shown; a Future that finished with an exception has failed."""

LOGGER = logging.getLogger("concurrent.futures")
"""The standard library's, where programs look for what callbacks raise."""

_RESULT = methodcaller("result")

_unwatched = forks.lock()
"""Held while a condition is made or the state of a Future changes that has none; never while anything is called.

Reentrant, as a condition's lock is: a signal handler, or a finalizer that the garbage collector calls, may come to a
Future in a thread that has just taken it. Both come before or after the lines in between, never among them.
"""


class CancelWait:
    """Threads that wait for the answer to their `cancel` of one call. One of them calls the callbacks of its Future.

    In the standard library they are called within `cancel`. A callback may therefore take an RLock that the thread
    holds which cancels; in another thread it would wait for that one, which waits for the answer.
    """

    def __init__(self) -> None:
        self.threads = 0
        """That wait, or are about to; for CancelWaits."""
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._answered = threading.Event()
        self._left = 0
        """Of `threads`, those that would still take callbacks."""
        self._callbacks: Callable[[], None] | None = None

    def wait(self, ask: Callable[[], None], timeout: float, stop: bool) -> None:
        """Call `ask`, and wait for the answer. Raises nothing when it does not come in time.

        With `stop` the call is asked to end even if it runs: then that it runs is no answer.
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
        """Have one of the threads call it; False if none is left."""
        with self._lock:
            if self._left == 0:
                return False
            self._callbacks = callbacks
            return True

    def refuse(self) -> None:
        """The call runs."""
        self._answered.set()

    def end(self) -> None:
        """The call has ended, or nobody will tell."""
        self._answered.set()
        self._ended.set()


class CancelWaits:
    """By Future, the threads that wait for the answer to their `cancel` of it."""

    def __init__(self) -> None:
        self._lock = forks.lock()
        self._waits: dict[Future[Any], CancelWait] = {}

    def __bool__(self) -> bool:
        return bool(self._waits)

    def of(self, future: Future[Any]) -> CancelWait | None:
        return self._waits.get(future)

    @contextmanager
    def one_more(self, future: Future[Any]) -> Iterator[CancelWait]:
        """For a thread that is going to wait: it shares the wait with others that do."""
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
        """Nobody will answer any more."""
        with self._lock:
            waits = list(self._waits.values())
        for wait in waits:
            wait.end()


class Future(concurrent.futures.Future[T]):
    """The outcome of one call, wherever it runs."""

    duration: float | None = None
    """Seconds of execution, measured where the task ran; None until it is done, or if it never ran."""

    _canceller: Canceller | None = None

    _home: Any = None
    """The backend that made it, where other processes can ask for it by its id."""

    _id: str = ""
    _name: str = ""
    _batch: Batch | None = None
    """What it shares with others that were submitted with it: all of the four above, which it then has not itself."""
    _index: int = 0
    """In its batch."""

    _divided: Callable[[int], None] | None = None
    _given_back: int | None = None
    """Of a chunk of `map`, see `give_back`."""

    _state: str = "PENDING"
    _result: Any = None
    _exception: BaseException | None = None
    _watched: threading.Condition | None = None
    """The condition, once there is one; `_waiters` and `_done_callbacks` come with it."""
    _waiters: Sequence[Any] = ()  # type: ignore[assignment]
    _done_callbacks: Sequence[Any] = ()

    def __init__(self, batch: Batch | None = None, index: int = 0) -> None:
        """Nothing is made here, see the module; what the standard library's makes are the class's attributes.

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
        """Unique among all tasks of the cluster; what `jobrunner task ID` takes. Empty: it has none."""
        return self._batch.id_of(self._index) if self._batch is not None else self._id

    @id.setter
    def id(self, value: str) -> None:
        self._id = value

    @property
    def name(self) -> str:
        """The option `name`, else the function's qualified name."""
        return self._batch.name if self._batch is not None else self._name

    @name.setter
    def name(self, value: str) -> None:
        self._name = value

    @property
    def home(self) -> Any:
        """For backends: the one that made it, where other processes can ask for it by its id; else None."""
        return self._batch.home if self._batch is not None else self._home

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        """As the standard library's code calls it."""
        watched = self._watched
        if watched is None:
            # Made before the lock is taken: to make a list may call the garbage collector.
            fresh, waiters, callbacks = threading.Condition(), list[Any](), list[Any]()
            with _unwatched:
                watched = self._watched
                if watched is None:
                    self._waiters, self._done_callbacks = waiters, callbacks
                    watched = self._watched = fresh
        return watched

    def done(self) -> bool:
        return self._state in DONE

    def running(self) -> bool:
        return self._state == "RUNNING"

    def cancelled(self) -> bool:
        return self._state in ("CANCELLED", "CANCELLED_AND_NOTIFIED")

    def set_result(self, result: T) -> None:
        """For backends. Raises InvalidStateError where it is done already."""
        if not self._resolve(result, None):
            super().set_result(result)

    def set_exception(self, exception: BaseException | None) -> None:
        """For backends. Raises InvalidStateError where it is done already."""
        if not self._resolve(None, exception):
            super().set_exception(exception)

    def _resolve(self, result: Any, exception: BaseException | None) -> bool:
        """End a Future that nobody watches; False if that is not what it is."""
        with _unwatched:
            if self._watched is not None or self._state in DONE:
                return False
            self._result, self._exception = result, exception
            self._state = "FINISHED"
            return True

    def _invoke_callbacks(self) -> None:
        """As the standard library's; and what is no Exception does not end the thread that all outcomes come through.

        In the main thread it goes on once all callbacks have been called: Ctrl-C may have come during one of them.
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
        """The value, or what the call raised, after waiting for at most `timeout` seconds.

        Raises TimeoutError when it is not done by then, CancelledError when it was cancelled.
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
        """What the call raised, or None; waits and raises as `result` does."""
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
        why = f"; `jobrunner task {self.id} --address {address}` says where it is" if reachable else ""
        raise wait_timeout(f"the call{name} is not done after {timeout} s{why}")

    def cancel(self, *, running: bool = False) -> bool:
        """Cancel the call; True if it will not run (any more), False if it has started or is done.

        `running=True` also stops a call that has started: its process gets SIGINT, then SIGTERM, then
        SIGKILL, and the Future is cancelled once the stop is confirmed. Raises NotSupportedError where that
        cannot be done (threads). On a cluster the answer takes a round trip to the coordinator; without an
        answer in time (see `cancel_wait` in `config`) it is False, though the request stands.
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
                "this Future cannot be sent to another process, where nothing could be asked for it;"
                ' those of the "cluster" and "processes" backends can'
            )
        reduced: tuple[Any, ...] = there
        return reduced

    def give_back(self, stop: int) -> None:
        """For backends: this chunk of `map` goes on without its elements from `stop` on, which `map` submits again.

        `stop` is an index of the packed elements, as those of `submit_chunk`; only elements that have not begun may be
        given back, not all of them, and once. Then the result has those of the elements before `stop`.
        """
        with _unwatched:
            told, self._given_back = self._divided, stop
        if told is not None:
            told(stop)

    def when_divided(self, told: Callable[[int], None]) -> None:
        """For `map`: have `told` called with what is given to `give_back`, now if that has happened."""
        with _unwatched:
            self._divided, stop = told, self._given_back
        if stop is not None:
            told(stop)

    def confirm_cancelled(self, wait: CancelWait | None = None) -> None:
        """For backends: the task will not run any more. From any state but a finished one, and once only.

        Threads in `wait` call the callbacks, if there are any: as in the standard library, whoever cancels does.
        """
        due = self._to_cancelled(("PENDING", "RUNNING", "CANCELLED"))
        if due and not (wait is not None and wait.hand_over(self._invoke_callbacks)):
            self._invoke_callbacks()

    def cancel_pending(self) -> bool:
        """For backends: cancel the call for good unless it has started; True if it is cancelled."""
        if self._to_cancelled(("PENDING", "CANCELLED")):
            self._invoke_callbacks()
        return self.cancelled()

    def _to_cancelled(self, from_states: tuple[str, ...]) -> bool:
        """Whether the callbacks have to be called now."""
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
        """For backends: the task has started. Does nothing unless the Future is pending."""
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
    """For backends: end a Future. Raises nothing but what Ctrl-C does in the main thread.

    The thread that calls this has other Futures to end, so nothing that the program does with one may cost the others:
    it may have ended it itself, which is between the two, and what watches it may raise.
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
    """The named tuple (done, not_done) of sets of Futures, after at most `timeout` seconds.

    `return_when` is FIRST_COMPLETED, FIRST_EXCEPTION or ALL_COMPLETED. Does not raise TimeoutError.
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
    """What a wait for these is for, see `blocking`."""
    unfinished: list[str] = []
    for future in list(futures):  # in one step: another thread may be at them
        if isinstance(future, Future) and future.id and not future.done():
            unfinished.append(future.id)
        elif not every:
            return None  # that one may end the wait, or has
    return Awaited(unfinished, every)


def as_completed(fs: Iterable[F], timeout: float | None = None) -> Iterator[F]:
    """Yield Futures in the order in which they finish, each once.

    Raises TimeoutError when the last is not there `timeout` seconds after the first was asked for.
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
    """The results of all `futures`, in their order; raises the first exception in that order.

    Raises TimeoutError when they are not all done after `timeout` seconds.
    """
    futures = list(futures)
    not_done = wait(futures, timeout).not_done
    if not_done:
        raise TimeoutError(f"{len(not_done)} of {len(futures)} futures are not done after {timeout} s")
    try:
        return list(map(_RESULT, futures))
    finally:
        del futures  # as in Future.result
