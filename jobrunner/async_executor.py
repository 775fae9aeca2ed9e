"""AsyncExecutor: an Executor whose calls are awaited, with `async` forms of everything that waits.

The event loop never blocks here: `Executor.submit` does not wait for the work of a call, and opening and shutting down
happen in a thread. Outcomes arrive in the backend's threads and are *delivered* to the loop. All outcomes that arrive
while the loop is busy are delivered with one wake-up.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from jobrunner.backends.futures_in_arguments import may_hold_futures, replace_futures
from jobrunner.errors import ConfigError
from jobrunner.executor import Executor, check_sizes
from jobrunner.futures import Future
from jobrunner.mapping.run import MapRun
from jobrunner.nested.wait_hooks import waiting

if TYPE_CHECKING:
    from jobrunner.mapping.submitted import SubmittedMap

T = TypeVar("T")
F = TypeVar("F", bound="asyncio.Future[Any]")

ENDED_BY = (asyncio.CancelledError, KeyboardInterrupt, SystemExit)
"""The exceptions that stop the calls, instead of waiting for them, when they leave the block."""


class AsyncFuture(asyncio.Future[T]):
    """The outcome of one call, which is awaited in the event loop that submitted the call.

    Cancelling this Future, or an asyncio task that awaits it, cancels the call. If the call is running, its process is
    stopped; a thread cannot be stopped. `cancel` does not wait for the stop, but leaving the executor's block does.
    """

    def __init__(
        self, call: Future[T], loop: asyncio.AbstractEventLoop, stop: Callable[[Future[T]], None] | None
    ) -> None:
        super().__init__(loop=loop)
        self.id = call.id
        self.name = call.name
        self.duration: float | None = None
        """The execution time in seconds, measured where the task ran; None until it is done, or if it never ran."""
        self._call: Future[T] | None = call
        self._stop = stop

    def cancel(self, msg: Any = None) -> bool:
        """Cancel the call, and stop it if it is running; return False if it is already done."""
        call, stop = self._call, self._stop
        if not super().cancel(msg):
            return False
        if call is not None and stop is not None and not call.done():
            stop(call)
        return True

    @property
    def call(self) -> Future[T]:
        """The same outcome as a Future of the underlying Executor."""
        if self._call is not None:
            return self._call
        outcome: Future[T] = Future()
        outcome.id, outcome.name, outcome.duration = self.id, self.name, self.duration
        if self.cancelled():
            outcome.cancel_pending()
        elif (failure := self.exception()) is not None:
            outcome.set_exception(failure)
        else:
            outcome.set_result(self.result())
        return outcome

    def _resolve(self) -> None:
        """Take over the outcome of the call, which is done, and release the call; this may be repeated."""
        call = self._call
        if call is not None and not self.done():
            self._take(call)
        self._call = None

    def _take(self, call: Future[T]) -> None:
        self.duration = call.duration
        if call.cancelled():
            super().cancel()
            return
        failure = call.exception()
        if failure is None:
            self.set_result(call.result())
        elif isinstance(failure, StopIteration):  # which asyncio refuses: an `await` would swallow it
            raised = RuntimeError(f"the call raised {failure!r}")
            raised.__cause__ = failure
            self.set_exception(raised)
        else:
            self.set_exception(failure)


class Deliveries:
    """Calls functions in the thread of one event loop, for callers in any thread.

    Ctrl-C may come at any line in the loop's thread, and a notebook's loop continues after it. The function that was
    being called is then called again, which must be harmless, and those that wait behind it are not lost.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        # Reentrant: an iterator that the garbage collector closes may have news in a thread that is in here.
        self._lock = threading.RLock()
        self._waiting: deque[Callable[[], object]] = deque()
        self._woken = False

    def post(self, deliver: Callable[[], object]) -> None:
        """Have `deliver` called in the loop's thread; only the first of several waiting functions wakes the loop."""
        self._waiting.append(deliver)
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            if self._woken or not self._waiting:
                return
            self._woken = True
        try:
            self.loop.call_soon_threadsafe(self._deliver)
        except BaseException as exc:
            self._woken = False
            if not isinstance(exc, RuntimeError):
                raise
            self._waiting.clear()  # the loop is closed, so nobody waits for this any more

    def _deliver(self) -> None:
        with self._lock:
            self._woken, count = False, len(self._waiting)
        try:
            while count and self._waiting:
                self._waiting[0]()
                self._waiting.popleft()
                count -= 1
        except BaseException as exc:
            if not isinstance(exc, KeyboardInterrupt):
                self._waiting.popleft()
            self._wake()
            raise


class AsyncExecutor:
    """An `Executor` for asyncio programs.

        async with AsyncExecutor("processes") as ex:
            print(await ex.submit(f, x))
            async for result in ex.map(f, xs):
                print(result)

    The block is left when every call is done. If CancelledError, KeyboardInterrupt or SystemExit ends the block,
    waiting calls are cancelled and running calls are stopped instead. An AsyncExecutor belongs to the event loop in
    which it is first used.

    Args:
        backend: The backend, as Executor takes it; the Executor is opened when the block is entered. Or an open
            Executor: then no block is needed, and its owner shuts it down; a block would shut it down, too.
        settings: The other arguments of Executor.

    Raises:
        ConfigError: An open Executor is given together with settings. Entering the block raises the errors of
            Executor.
    """

    def __init__(self, backend: Any = None, **settings: Any) -> None:
        if isinstance(backend, Executor) and settings:
            raise ConfigError(
                f"the Executor is open already, so {', '.join(settings)} cannot be given here; give it to the Executor"
            )
        self._settings = {"backend": backend, **settings}
        self._executor: Executor | None = backend if isinstance(backend, Executor) else None
        self._deliveries: Deliveries | None = None
        self._yielding = ExitStack()

    @property
    def executor(self) -> Executor:
        """The underlying Executor; raises RuntimeError before the block is entered."""
        if self._executor is None:
            raise RuntimeError(
                "this AsyncExecutor is not open yet; use it in a block `async with AsyncExecutor(...)`"
            )
        return self._executor

    # --- calls ----------------------------------------------------------------------------------------------

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> AsyncFuture[T]:
        """Start `fn(*args, **kwargs)`, as `Executor.submit` does, and return its AsyncFuture at once.

        An AsyncFuture among the arguments, or inside a list, tuple or dict among them, stands for its result, too.

        Raises:
            RuntimeError: The executor is not open or has been shut down, or no event loop is running, or another
                one than before.
        """
        if may_hold_futures(args, kwargs, AsyncFuture):
            args, kwargs = replace_futures((args, kwargs), lambda future: future.call, AsyncFuture)
        backend = self.executor._lifetime.backend
        deliveries = self._bound()
        return self._awaitable(
            self.executor.submit(fn, *args, **kwargs),
            deliveries,
            lambda call: backend.cancel_all([call], running=True),
        )

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> AsyncIterator[T]:
        """Call `fn` on the elements of `iterables`, as `Executor.map` does; iterate over the results with `async for`.

        The iterables are ordinary ones, which are read in the event loop's thread. Without `buffersize` they are read
        at once, otherwise as results are taken. If the iteration is cancelled, or its iterator closed, the calls that
        have not started are cancelled. Arguments and errors are those of `Executor.map`.
        """
        check_sizes(chunksize, buffersize)
        deadline = None if timeout is None else time.monotonic() + timeout
        deliveries = self._bound()
        run, results = self.executor._begin_map(fn, iterables, deadline, chunksize, buffersize)
        return _iterate(run, results, deliveries, deadline)

    def with_options(self, **options: Any) -> AsyncExecutor:
        """Return a view of this executor whose calls have the given options, those of `Executor.with_options`."""
        view = type(self).__new__(type(self))
        view.__dict__.update(self.__dict__)
        view._executor = self.executor.with_options(**options)
        return view

    async def as_completed(self, futures: Iterable[F], timeout: float | None = None) -> AsyncIterator[F]:
        """Yield each of the given Futures once, in the order in which they finish.

        Args:
            futures: AsyncFutures, or other Futures of the same event loop.
            timeout: The maximum time in seconds from the request for the first Future to the end of the last one.
                Default: no limit.

        Raises:
            TimeoutError: Some Futures are not done after `timeout`.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        left = set(futures)
        finished: deque[F] = deque()
        news = asyncio.Event()

        def is_done(future: Any) -> None:
            finished.append(future)
            news.set()

        del futures  # nothing here refers to a Future that has been handed out
        for future in [*left]:
            future.add_done_callback(is_done)
            del future
        try:
            while left:
                news.clear()
                if not finished and not await in_time(news, deadline):
                    raise TimeoutError(f"{len(left)} futures are not done after {timeout} s")
                while finished:
                    left.remove(finished[0])
                    yield finished.popleft()
        finally:
            for future in left:
                future.remove_done_callback(is_done)

    def future(self, task_id: str) -> AsyncFuture[Any]:
        """Return an AsyncFuture for the call with this id, see `Executor.future`.

        Cancelling it does not affect the call.
        """
        return self._awaitable(self.executor.future(task_id), self._bound(), None)

    async def forget(self, task_id: str) -> None:
        """Delete the outcome of a detached call from the cluster, see `Executor.forget`."""
        await asyncio.to_thread(self.executor.forget, task_id)

    async def status(self) -> dict[str, Any]:
        """Return the state of the workers and calls as a dict, like `jobrunner status --json` prints it."""
        return await asyncio.to_thread(self.executor.status)

    @property
    def max_workers(self) -> int:
        """The number of calls that can run at the same time now; on a cluster it changes with the workers."""
        return self.executor.max_workers

    def _awaitable(
        self, call: Future[T], deliveries: Deliveries, stop: Callable[[Future[T]], None] | None
    ) -> AsyncFuture[T]:
        future = AsyncFuture(call, deliveries.loop, stop)
        call.add_done_callback(lambda _: deliveries.post(future._resolve))
        return future

    def _bound(self) -> Deliveries:
        """Return the Deliveries of the running event loop; raise RuntimeError if there is none or a new one."""
        loop = asyncio.get_running_loop()
        if self._deliveries is None:
            self._deliveries = Deliveries(loop)
        elif self._deliveries.loop is not loop:
            raise RuntimeError("this AsyncExecutor belongs to another event loop; create one for each loop")
        return self._deliveries

    # --- its life -------------------------------------------------------------------------------------------

    async def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut down as `Executor.shutdown` does, while the event loop goes on.

        If this wait is cancelled, running calls are stopped.
        """
        end = partial(self.executor.shutdown, wait, cancel_futures=cancel_futures)
        ending = asyncio.ensure_future(asyncio.to_thread(end))
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:
            await self._kill()
            await ending
            raise

    async def _kill(self) -> None:
        await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(self.executor._lifetime.kill)))

    async def __aenter__(self) -> AsyncExecutor:
        self._bound()
        if self._executor is None:
            opening = asyncio.ensure_future(asyncio.to_thread(partial(Executor, **self._settings)))
            try:
                self._executor = await asyncio.shield(opening)
            except asyncio.CancelledError:
                opening.add_done_callback(_shut_down_what_was_opened)
                raise
        self._yielding.enter_context(
            waiting()
        )  # in a task, whose slot would be idle while it awaits its calls
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        with self._yielding:
            if exc_type is not None and issubclass(exc_type, ENDED_BY):
                await self._kill()
            else:
                await self.shutdown()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._executor!r}>"


def _shut_down_what_was_opened(opening: asyncio.Future[Executor]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().shutdown(wait=False)


async def _iterate(
    run: MapRun | SubmittedMap | None, results: Iterator[T], deliveries: Deliveries, deadline: float | None
) -> AsyncIterator[T]:
    """Yield `results`; whenever the next one would block, await news of the map first."""
    if run is None:  # the function cannot be sent, and iterating says so
        next(results, None)
        return
    news = asyncio.Event()
    run.on_progress = lambda _: deliveries.post(news.set)
    handed_out = 0
    try:
        while True:
            while not run.ready(handed_out):
                news.clear()
                if not run.ready(handed_out) and not await in_time(news, deadline):
                    break  # `results` raises that the time is over
            given = list(islice(results, 1))
            if not given:
                return
            handed_out += 1
            yield given.pop()  # which nothing here refers to any more
            if run.at_end_of_chunk(handed_out):
                await asyncio.sleep(0)  # results that are all there must not keep others from their turn
    finally:
        run.on_progress = None
        run.cancel()


async def in_time(event: asyncio.Event, deadline: float | None) -> bool:
    """Wait for `event`; return False if time.monotonic() reaches the deadline first."""
    if deadline is None:
        return await event.wait()
    try:
        return await asyncio.wait_for(event.wait(), max(0.0, deadline - time.monotonic()))
    except TimeoutError:
        return event.is_set()
