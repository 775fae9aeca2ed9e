"""Threads of this process: no pickling, shared memory, and the interpreter's lock around Python code.

The standard library's ThreadPoolExecutor keeps the threads; which call runs next is decided here. A *runner*
is a job of that pool that takes one call after the other from a heap until none is left; then it takes elements from
the chunks of `map` that other runners are at, one by one (see `thread_chunks`). There are at most
`max_workers` runners that are not waiting: a call that waits for Futures lets one more start (see
`blocking` and `thread_nests`), so that calls that wait for calls do not lock each other out, and a runner too
many leaves after its current call.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.thread import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from jobrunner.backends.base import CAPABILITIES, Backend, BackendSettings
from jobrunner.backends.borrowed import BorrowedBackend
from jobrunner.backends.futures_in_arguments import AnyFuture, may_hold_futures, replace_futures
from jobrunner.backends.thread_chunks import SharedChunk
from jobrunner.backends.thread_nests import Nest, Nests
from jobrunner.calls.serialization import function_name, is_one_of
from jobrunner.errors import DependencyError, InitializerError, NotSupportedError
from jobrunner.fixed.elements import Columns, ElementResults
from jobrunner.futures import Future, resolve
from jobrunner.nested import task_context
from jobrunner.nested import wait_hooks as blocking
from jobrunner.protocol.retry import backoff
from jobrunner.protocol.wire.ids import ClientId, random_token, task_id
from jobrunner.protocol.wire.messages import DEFAULT_OPTIONS, TaskOptions
from jobrunner.system import conditions
from jobrunner.system.atexit_hooks import do_all, finish_before_exit
from jobrunner.system.host import usable_cpus

if TYPE_CHECKING:
    pass

MAX_THREADS = 1_000_000
"""What the pool is told; how many there really are follows from the number of runners."""

THREADS_PER_TASK_WAITING = 4
"""Added to the CPUs for the default number, as the standard library does: threads are for work that waits."""


NO_CALL = 0
"""No call has this number; the first one has 1."""


class _Call(NamedTuple):
    """A call in the heap: the most urgent first, then the oldest. `work` gives the Future's result."""

    urgency: int
    number: int
    future: Future[Any]
    work: Callable[[], Any]
    chunk: SharedChunk | None = None
    """Of a chunk, its elements, which several runners may take from."""


class _Runner:
    """A job of the pool. It is not counted, and does nothing, if an exception interrupted its submission."""

    __slots__ = ("busy", "call", "ended", "left", "still", "void", "waiting", "waits")

    def __init__(self) -> None:
        self.void = False
        self.busy = False
        """It has a call whose Future is not resolved."""
        self.call: _Call | None = None
        """The one that it is at."""
        self.ended = NO_CALL
        """The number of the last one, where that has ended."""
        self.left = False
        self.waits = 0
        """Waits that its call is in, one within the other."""
        self.still = False
        """Its call has unfinished calls of its own, and does nothing; see `thread_nests`."""
        self.waiting = False
        """For one of the two reasons, another one may run instead."""


class _ThreadContext(threading.local):
    """What runs in a thread of the pool, see `context`."""

    future: Future[Any] | None = None
    attempt = 1
    runner: _Runner | None = None
    _nest: Nest | None = None

    def __init__(self, backend: weakref.ref[ThreadsBackend]) -> None:
        self._backend = backend  # weakly, so that the backend goes as soon as nobody holds it

    def begin(self, future: Future[Any]) -> None:
        self.future, self.attempt = future, 1

    def nest(self) -> Nest | None:
        """That of the call which this thread runs, if it runs one."""
        runner = self.runner
        if self._nest is None and self.future is not None and runner is not None:
            backend = self._backend()
            assert backend is not None, "its own thread holds it"
            self._nest = Nest(partial(backend._set_still, runner))
        return self._nest

    def again(self) -> None:
        self.attempt += 1

    def end(self) -> None:
        self.future = None
        if self._nest is not None:
            self._nest.end()
            self._nest = None

    def task(self) -> task_context.Task | None:
        future = self.future
        return None if future is None else task_context.Task(future.id, future.name, self.attempt, "threads")

    def cluster(self) -> Backend:
        backend = self._backend()
        assert backend is not None, "its own thread, which asks, holds it"
        return _NestedThreads(backend, self.nest())


_all: weakref.WeakSet[ThreadsBackend] = weakref.WeakSet()


def _after_fork() -> None:
    for backend in _all:
        backend._begin()
        finish_before_exit(backend._wait_idle, backend.kill)  # what is submitted here


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class _NestedThreads(BorrowedBackend):
    """For one call, which may use it in threads of its own, too."""

    name = "threads"

    def __init__(self, backend: ThreadsBackend, nest: Nest | None) -> None:
        super().__init__(backend)
        self._threads, self._nest = backend, nest

    @property
    def can_wait(self) -> bool:
        return True  # for calls of a call, while which another thread goes on

    def _own(self, future: Future[Any]) -> Future[Any]:
        if self._nest is not None and self._nest is not self._threads._context.nest():
            self._threads._nests.add(self._nest, future)
        return super()._own(future)


class ThreadsBackend(Backend):
    """Calls run in threads of this process."""

    name = "threads"
    capabilities = frozenset(CAPABILITIES) - {
        "copies",
        "apart",
        "crashes",
        "tells",
        "renews",
        "stops",
        "ends",
        "shared",
    }

    def __init__(self, settings: BackendSettings) -> None:
        settings.refuse_unknown(self.name)
        self._max_workers = settings.max_workers or min(32, usable_cpus() + THREADS_PER_TASK_WAITING)
        self._initializer = settings.initializer
        self._initargs = settings.initargs
        self._prefix = settings.thread_name_prefix or "jobrunner"
        self._client = ClientId(random_token())
        self._numbers = itertools.count(1)
        self._thread = threading.local()
        self._context = _ThreadContext(weakref.ref(self))
        self._closed = False
        self._killed = conditions.Event()
        self._begin()
        _all.add(self)
        finish_before_exit(self._wait_idle, self.kill)

    def _begin(self) -> None:
        """Without any thread: at first, and in a process that was forked, where only the thread that forked is."""
        self._pool = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix=self._prefix)
        # Callers of `submit` share it with all threads of the pool, and Ctrl-C is to leave it whole.
        self._pool._idle_semaphore._cond = conditions.Condition()  # type: ignore[attr-defined]
        # Reentrant: the garbage collector may shut down another executor, or cancel a map, in a thread that
        # is in here.
        self._lock = threading.RLock()
        self._idle = conditions.Condition(self._lock)
        self._calls: list[_Call] = []
        self._held: dict[int, _Call] = {}
        """Those that wait for the Futures among their arguments."""
        self._dropped: dict[int, _Call] = {}
        """Those that `shutdown` has taken away, and whose Futures it has yet to cancel."""
        self._chunks: dict[int, _Call] = {}
        """Those under way, that may have elements which nobody has taken."""
        self._runners = 0
        self._at_work: set[_Runner] = set()
        """Those that have begun, and not left."""
        self._under_way: set[int] = set()
        """The numbers of the calls that runners have taken."""
        self._waiting = 0
        """Of `_runners`, those that wait."""
        self._nests = Nests(self._lock)

    @property
    def max_workers(self) -> int:
        return self._max_workers

    @property
    def same_host(self) -> bool:
        return True

    @property
    def unfinished(self) -> int:
        return len(self._calls) + len(self._held) + len(self._under_way)

    def prepare(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        return fn

    def submit(
        self,
        prepared: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: TaskOptions = DEFAULT_OPTIONS,
    ) -> Future[Any]:
        refuse_options(options)
        if not may_hold_futures(args, kwargs):
            return self._add(lambda: self._attempt(options, prepared, *args, **kwargs), prepared, options)
        depends_on: dict[int, AnyFuture] = {}

        def dependency(future: AnyFuture) -> AnyFuture:
            depends_on[id(future)] = future
            return future

        replace_futures((args, kwargs), dependency)

        def work() -> Any:
            values, named = replace_futures((args, kwargs), result_of_dependency)
            return self._attempt(options, prepared, *values, **named)

        return self._add(work, prepared, options, list(depends_on.values()))

    def pack(self, elements: Columns) -> Columns:
        return elements

    def submit_chunk(
        self,
        prepared: Callable[..., Any],
        packed: Columns,
        start: int,
        stop: int,
        options: TaskOptions = DEFAULT_OPTIONS,
    ) -> Future[ElementResults]:
        refuse_options(options)
        chunk = SharedChunk(prepared, packed, start, stop)
        return self._add(chunk.results, prepared, options, chunk=chunk)

    def _add(
        self,
        work: Callable[[], Any],
        fn: Callable[..., Any],
        options: TaskOptions,
        depends_on: Sequence[AnyFuture] = (),
        chunk: SharedChunk | None = None,
    ) -> Future[Any]:
        future: Future[Any] = Future()
        number = next(self._numbers)
        future.bind(task_id(self._client, number), options.name or function_name(fn), cancel)
        call = _Call(-options.priority, number, future, work, chunk)
        try:
            with self._lock:
                if self.broken:
                    raise InitializerError(self.broken)
                if self._closed:
                    raise RuntimeError("cannot schedule new futures after shutdown")
                if depends_on:
                    self._held[number] = call
                else:
                    heapq.heappush(self._calls, call)
                    self._start_runner()
            nest = self._context.nest()
            if nest is not None:
                self._nests.add(nest, future)
            if depends_on:
                future.add_done_callback(partial(_release, weakref.ref(self), number))
                self._run_after(call, depends_on)
        except BaseException:  # Ctrl-C, or no thread can be started: nobody has this call
            self._take_back(number)
            raise
        return future

    def _take_back(self, number: int) -> None:
        """A call is not to run, unless that has begun."""
        with self._lock:
            self._held.pop(number, None)
            self._calls = [call for call in self._calls if call.number != number]
            heapq.heapify(self._calls)
            self._look_for_the_end()

    def _run_after(self, call: _Call, depends_on: Sequence[AnyFuture]) -> None:
        """Queue a call once all that it needs is done. One that failed makes it fail when its turn comes.

        What it needs may outlive it, and must not keep its arguments then: it is found by its number.
        """
        number, waiting = call.number, call.future
        left = itertools.count(len(depends_on) - 1, -1)

        def one_is_done(_: AnyFuture) -> None:
            try:
                if next(left):  # an atomic step
                    return
                with self._lock:
                    held = self._held.pop(number, None)
                    if held is not None:
                        heapq.heappush(self._calls, held)
                        self._start_runner()
            except BaseException as exc:
                self._take_back(number)
                resolve(waiting, exception=exc)
                raise

        for future in depends_on:
            future.add_done_callback(one_is_done)

    def release(self, number: int) -> None:
        """A call is done. If it still waits for what it needs, which may never come, nobody waits for it now."""
        with self._lock:
            if self._held.pop(number, None) is not None:
                self._look_for_the_end()

    # --- runners --------------------------------------------------------------------------------------------

    def _start_runner(self) -> None:
        """With the lock held: start a runner if there is a call for it and it would not be one too many."""
        if self._runners - self._waiting < self._max_workers and (self._calls or self._shared() is not None):
            runner = _Runner()
            self._runners += 1
            try:
                self._pool.submit(self._run_calls, runner)
            except BaseException as exc:
                runner.void = True  # Ctrl-C may come after the pool has taken it
                self._runners -= 1
                # At its end the interpreter starts no thread; those that run go on.
                if not isinstance(exc, RuntimeError) or self._runners == 0:
                    raise

    def _run_calls(self, runner: _Runner) -> None:
        try:
            self._take_calls(runner)
        except BaseException as exc:
            self._lost(runner, exc)
            raise

    def _lost(self, runner: _Runner, cause: BaseException) -> None:
        """A runner ends by what nobody foresaw: too little memory, or what a library raises in threads of others.

        It costs the call that the runner was at, and no other.
        """
        call = runner.call
        if call is not None:
            resolve(call.future, exception=cause)
        stranded: list[_Call] = []
        with self._lock:
            self._under_way.discard(runner.ended)
            runner.waits = 0
            self._set_still(runner, False)
            if call is not None:
                self._under_way.discard(call.number)
                self._chunks.pop(call.number, None)
            if not runner.void:
                self._leave(runner)
            try:
                self._start_runner()
            except RuntimeError:  # no thread can be started, and no other is there
                stranded, self._calls = self._calls, []
        do_all(*(partial(resolve, waiting.future, exception=cause) for waiting in stranded))

    def _take_calls(self, runner: _Runner) -> None:
        blocking.install(partial(self._while_waiting, runner))
        task_context.install_in_thread(self._context)
        self._context.runner = runner
        try:
            with self._lock:
                if runner.void:
                    return
                self._at_work.add(runner)
            if not self._initialize(runner):
                return
            while True:
                with self._lock:
                    self._under_way.discard(runner.ended)
                    runner.waits = 0  # its last call may have left one open
                    self._set_still(runner, False)
                    self._next(runner)
                    if runner.call is None:
                        self._leave(runner)
                        return
                    runner.busy = True
                number = runner.call.number
                ends = self._run(runner) if runner.call.chunk is None else self._run_chunk(runner)
                # Its result must not live until the next call comes.
                runner.call, runner.ended = None, number if ends else NO_CALL
        finally:
            blocking.install(None)
            task_context.install_in_thread(None)
            self._context.runner = None

    def _next(self, runner: _Runner) -> None:
        """With the lock held: the next call, or one of those under way that others can help with, or none."""
        if self._runners - self._waiting > self._max_workers:
            return
        while self._calls:
            runner.call = call = heapq.heappop(self._calls)
            if call.chunk is not None:
                call.future.confirm_running()
                if not call.future.running():
                    runner.call = None
                    continue  # cancelled in the meantime
                self._chunks[call.number] = call
            self._under_way.add(call.number)
            return
        runner.call = self._shared()

    def _shared(self) -> _Call | None:
        """With the lock held: a chunk under way that has elements which nobody has taken."""
        for number, call in list(self._chunks.items()):
            if call.chunk is not None and call.chunk.has_more:
                return call
            del self._chunks[number]
        return None

    def _run_chunk(self, runner: _Runner) -> bool:
        """Run elements of a chunk until none is left. True if that has ended it: no other runner is still at it."""
        with self._lock:
            self._start_runner()  # which takes the next element, and does as this one
        call = runner.call
        assert call is not None
        assert call.chunk is not None
        future, chunk = call.future, call.chunk
        self._context.begin(future)
        try:
            ends = chunk.work()
        finally:
            self._context.end()
        runner.busy = False
        if ends:
            with self._lock:
                self._chunks.pop(call.number, None)
            future.duration = chunk.seconds
            resolve(future, call.work())
        del future, call, chunk  # as in `_run`
        return ends

    def _leave(self, runner: _Runner) -> None:
        """With the lock held. May be called again."""
        self._at_work.discard(runner)
        if not runner.left:
            self._runners, runner.left = self._runners - 1, True
        self._look_for_the_end()

    def _look_for_the_end(self) -> None:
        """With the lock held: tell who waits for the end that it is there."""
        if self._runners == 0 and not self._held:
            self._idle.notify_all()
            self._nests.hurry()
            if self._closed:
                self._pool.shutdown(wait=False)

    def _run(self, runner: _Runner) -> bool:
        call = runner.call
        assert call is not None
        future = call.future
        future.confirm_running()
        if not future.running():
            runner.busy = False
            return True  # cancelled in the meantime
        started = time.perf_counter()
        self._context.begin(future)
        try:
            result = call.work()
        except BaseException as exc:
            future.duration = time.perf_counter() - started
            runner.busy = False  # before anybody hears of the end, and finds a free thread here
            resolve(future, exception=exc)
            del future, call  # the exception refers to this frame, which must not refer to it
        else:
            future.duration = time.perf_counter() - started
            runner.busy = False
            resolve(future, result)
        finally:
            self._context.end()
        return True

    def _attempt(self, options: TaskOptions, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call `fn`, and again where it raises, as the options allow."""
        for failures in range(1, options.retries + 1):
            try:
                return fn(*args, **kwargs)
            except Exception as exc:
                if options.retry_on is not None and not is_one_of(exc, options.retry_on):
                    raise
                with blocking.waiting():
                    if self._killed.wait(backoff(failures, options.backoff)):
                        raise
            self._context.again()
        return fn(*args, **kwargs)

    def _initialize(self, runner: _Runner) -> bool:
        """Run the initializer once per thread, at its start. False where it fails: then all calls do."""
        if self._initializer is None or getattr(self._thread, "initialized", False):
            return True
        try:
            self._initializer(*self._initargs)
        except BaseException as exc:
            log = logging.getLogger("concurrent.futures")  # as the standard library's pools do
            log.critical("Exception in initializer:", exc_info=True)
            self._break(exc, runner)
            return False
        self._thread.initialized = True
        return True

    def _break(self, cause: BaseException, runner: _Runner) -> None:
        """Fail what waits, and whatever is submitted from now on."""
        message = f"the initializer of the threads raised {cause!r}, so this Executor cannot be used any more"
        with self._lock:
            self.broken = message
            dropped = [*self._calls, *self._held.values()]
            self._calls = []
            self._held.clear()
            self._leave(runner)
        for call in dropped:
            call.future.confirm_running()
            if call.future.running():
                error = InitializerError(message)
                error.__cause__ = cause
                resolve(call.future, exception=error)

    @contextmanager
    def _while_waiting(self, runner: _Runner, awaited: blocking.AwaitedCalls | None = None) -> Iterator[None]:
        with self._lock:
            runner.waits += 1
        try:
            with self._lock:
                self._count(runner)
            yield
        finally:
            with self._lock:
                runner.waits = max(0, runner.waits - 1)
                self._count(runner)

    def _set_still(self, runner: _Runner, still: bool) -> None:
        """With the lock held."""
        runner.still = still
        self._count(runner)

    def _count(self, runner: _Runner) -> None:
        """With the lock held: note whether it waits, and have another one run meanwhile."""
        waiting = runner.still or runner.waits > 0
        if waiting == runner.waiting:
            return
        runner.waiting = waiting
        self._waiting += 1 if waiting else -1
        if waiting:
            self._start_runner()

    # --- the end --------------------------------------------------------------------------------------------

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with self._lock:
            self._closed = True
            if cancel_futures:
                self._cut()
            self._look_for_the_end()
        # Also those of an earlier time, which Ctrl-C or a lack of memory may have ended at any point.
        before, self._thread.cancels = self._cancels, True
        try:
            for number, call in list(self._dropped.items()):
                call.future.cancel_pending()
                self._dropped.pop(number, None)
        finally:
            self._thread.cancels = before
        if wait and self.can_wait:
            self._wait_idle()
            self._nests.join()
            self._pool.shutdown(wait=True)

    @property
    def can_wait(self) -> bool:
        # In a callback of a call that this thread cancels, the others, which may be a map's, are yet to be cancelled.
        return self._context.runner is None and not self._cancels

    @property
    def _cancels(self) -> bool:
        """Whether this thread is at the cancelling of what `shutdown` has taken away."""
        return getattr(self._thread, "cancels", False)

    def _cut(self) -> None:
        """With the lock held: take away what waits, but for the calls that free threads are about to begin."""
        busy = max(0, sum(runner.busy for runner in self._at_work) - self._waiting)
        free = 0 if self._killed.is_set() else max(0, self._max_workers - busy)
        wanted = sorted(call for call in self._calls if not call.future.done())
        self._dropped.update((call.number, call) for call in (*wanted[free:], *self._held.values()))
        self._calls = wanted[:free]  # sorted, and so a heap
        self._held.clear()

    def _wait_idle(self) -> None:
        with blocking.waiting(), self._lock:
            while self._runners or self._held:
                self._idle.wait()

    @property
    def queued(self) -> int:
        return len(self._calls) + len(self._held)

    @property
    def threads(self) -> set[threading.Thread]:
        return set(self._pool._threads)

    def kill(self) -> None:
        """Cancel what waits. A thread cannot be stopped: what runs goes on, and is not waited for."""
        self._killed.set()
        self.shutdown(wait=False, cancel_futures=True)
        # Also where runners are left, so that the idle threads end: a pool whose `submit` was interrupted by
        # Ctrl-C has threads that it would not end at the interpreter's exit, which would wait for them.
        self._pool.shutdown(wait=False)

    def status(self) -> dict[str, Any]:
        with self._lock:
            queued = sum(call.future._state == "PENDING" for call in (*self._calls, *self._held.values()))
            return {
                "backend": self.name,
                "max_workers": self._max_workers,
                "running": self._runners - self._waiting,
                "waiting": self._waiting,
                "queued": queued,
            }


def refuse_options(options: TaskOptions) -> None:
    """Raises NotSupportedError for what threads cannot do."""
    if options.timeout is not None:
        raise NotSupportedError(
            'a thread cannot be stopped, so the "threads" backend has no timeout;'
            ' use "processes" or "cluster"'
        )
    if options.detach:
        raise NotSupportedError(
            'detach=True: no call on the "threads" backend outlives this program; use the address of a cluster'
        )
    if options.resources:
        raise NotSupportedError('the "threads" backend has no resources; use "cluster"')


def _release(backend: weakref.ref[ThreadsBackend], number: int, _: AnyFuture) -> None:
    """See `ThreadsBackend.release`; a Future keeps no backend."""
    present = backend()
    if present is not None:
        present.release(number)


def cancel(future: Future[Any], running: bool) -> bool:
    """The threads' answer to `Future.cancel`."""
    if future.cancel_pending():
        return True
    if running and future.running():
        raise NotSupportedError(
            f"{future.name} runs in a thread, which cannot be stopped; use the"
            ' "processes" or "cluster" backend to cancel running calls'
        )
    return False


def result_of_dependency(future: AnyFuture) -> Any:
    """The result of a Future that is done. Raises DependencyError where it failed."""
    try:
        return future.result()
    except BaseException as exc:
        cause = exc.__cause__ if isinstance(exc, DependencyError) and exc.__cause__ is not None else exc
        name = getattr(future, "name", "") or repr(future)
        raise DependencyError(
            f"the call was not run, because {name}, on whose result it depends, failed: {cause!r}"
        ) from cause
