"""The "threads" backend: calls run in threads of this process, without pickling, under the interpreter's lock.

The standard library's ThreadPoolExecutor owns the threads, and this package decides which call runs next: see
`thread_calls` for the calls, and `thread_runners` for the threads that take them.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from jobrunner.backends.base import CAPABILITIES, Backend, BackendSettings
from jobrunner.backends.futures_in_arguments import AnyFuture, may_hold_futures, replace_futures
from jobrunner.backends.thread_calls import ThreadCall, ThreadCalls
from jobrunner.backends.thread_chunks import SharedChunk
from jobrunner.backends.thread_context import ThreadContext
from jobrunner.backends.thread_initializer import ThreadInitializer
from jobrunner.backends.thread_runners import Runners
from jobrunner.calls.serialization import function_name, is_one_of
from jobrunner.errors import DependencyError, InitializerError, NotSupportedError
from jobrunner.fixed.elements import Columns, ElementResults
from jobrunner.futures import Future, resolve
from jobrunner.nested import wait_hooks as blocking
from jobrunner.protocol.retry import RetryAfter, decide
from jobrunner.protocol.wire.ids import ClientId, random_token, task_id
from jobrunner.protocol.wire.messages import DEFAULT_OPTIONS, ERROR, TaskOptions
from jobrunner.system import conditions
from jobrunner.system.atexit_hooks import finish_before_exit
from jobrunner.system.host import usable_cpus

THREADS_PER_TASK_WAITING = 4
"""The number of threads that the default has in addition to the CPUs, because threads are for work that waits.

The standard library's default is the same.
"""

_all: weakref.WeakSet[ThreadsBackend] = weakref.WeakSet()


def _after_fork() -> None:
    for backend in _all:
        backend._begin_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class ThreadsBackend(Backend):
    """The backend whose calls run in threads of this process."""

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
        self._client = ClientId(random_token())
        self._numbers = itertools.count(1)
        self._context = ThreadContext()
        self._thread = threading.local()
        self._killed = conditions.Event()
        self._calls = ThreadCalls()
        self._runners = Runners(
            self._calls,
            self._context,
            ThreadInitializer(settings.initializer, settings.initargs),
            self._max_workers,
            settings.thread_name_prefix or "jobrunner",
        )
        _all.add(self)
        finish_before_exit(self._wait_idle, self.kill)

    def _begin_in_child(self) -> None:
        """Begin anew in a forked process, which does not have the threads and calls of its parent."""
        self._calls.begin()
        self._runners.begin()
        finish_before_exit(self._wait_idle, self.kill)  # for the calls that the forked process submits

    @property
    def max_workers(self) -> int:
        return self._max_workers

    @property
    def same_host(self) -> bool:
        return True

    @property
    def broken(self) -> str:  # type: ignore[override]
        return self._runners.broken

    @property
    def unfinished(self) -> int:
        return self._calls.unfinished

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
        call = ThreadCall(-options.priority, number, future, work, chunk)
        runners = self._runners
        try:
            with runners.lock:
                if runners.broken:
                    raise InitializerError(runners.broken)
                if runners.closed:
                    raise RuntimeError("cannot schedule new futures after shutdown")
                if depends_on:
                    self._calls.hold(call)
                else:
                    self._calls.push(call)
                    runners.start(self)
            nest = self._context.nest()
            if nest is not None:
                runners.add_nested(nest, future)
            if depends_on:
                future.add_done_callback(partial(_release, weakref.ref(self), number))
                self._run_after(call, depends_on)
        except BaseException:  # after Ctrl-C, or if no thread can be started, no caller has this Future
            self._take_back(number)
            raise
        return future

    def _take_back(self, number: int) -> None:
        """Drop a call that is not to run, unless it has begun."""
        with self._runners.lock:
            self._calls.take_back(number)
            self._runners.look_for_the_end()

    def _run_after(self, call: ThreadCall, depends_on: Sequence[AnyFuture]) -> None:
        """Queue a call once all its dependencies are done; if one of them failed, the call fails when its turn comes.

        The dependencies may outlive the call, and must not keep its arguments, so their callbacks refer to its number.
        """
        number, waiting = call.number, call.future
        left = itertools.count(len(depends_on) - 1, -1)

        def one_is_done(_: AnyFuture) -> None:
            try:
                if next(left):  # an atomic step
                    return
                with self._runners.lock:
                    if self._calls.let_wait(number):
                        self._runners.start(self)
            except BaseException as exc:
                self._take_back(number)
                resolve(waiting, exception=exc)
                raise

        for future in depends_on:
            future.add_done_callback(one_is_done)

    def release(self, number: int) -> None:
        """Note that a call is done; if it still waits for its dependencies, which may never end, drop it."""
        with self._runners.lock:
            if self._calls.release(number):
                self._runners.look_for_the_end()

    def _attempt(self, options: TaskOptions, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call `fn`, and call it again after exceptions as the options allow."""
        failures = 0
        while True:
            try:
                return fn(*args, **kwargs)
            except Exception as exc:
                failures += 1
                final = options.retry_on is not None and not is_one_of(exc, options.retry_on)
                verdict = decide(options, ERROR, failures=failures, final=final)
                if not isinstance(verdict, RetryAfter):
                    raise
                with blocking.waiting():
                    if self._killed.wait(verdict.seconds):
                        raise
            self._context.again()

    # --- the end --------------------------------------------------------------------------------------------

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        runners = self._runners
        with runners.lock:
            runners.close()
            if cancel_futures:
                self._calls.drop_beyond(0 if self._killed.is_set() else runners.free())
            runners.look_for_the_end()
        before, self._thread.cancels = self._cancels, True
        try:
            self._calls.cancel_dropped()
        finally:
            self._thread.cancels = before
        if wait and self.can_wait:
            runners.wait_idle()
            runners.join()

    @property
    def can_wait(self) -> bool:
        # While this thread cancels calls, a callback of one of them must not wait for the others.
        return self._context.runner is None and not self._cancels

    @property
    def _cancels(self) -> bool:
        """Whether this thread is cancelling the calls that `shutdown` has taken away."""
        return getattr(self._thread, "cancels", False)

    def _wait_idle(self) -> None:
        self._runners.wait_idle()

    @property
    def queued(self) -> int:
        return self._calls.queued

    @property
    def threads(self) -> set[threading.Thread]:
        return self._runners.threads

    def kill(self) -> None:
        """Cancel the waiting calls, and do not wait for the running ones, because a thread cannot be stopped."""
        self._killed.set()
        self.shutdown(wait=False, cancel_futures=True)
        # Idle threads end even if there are runners. Otherwise the interpreter's exit could wait for threads that the
        # pool does not end, which exist after Ctrl-C has interrupted its `submit`.
        self._runners.end_idle_threads()

    def status(self) -> dict[str, Any]:
        with self._runners.lock:
            running, waiting = self._runners.counts()
            return {
                "backend": self.name,
                "max_workers": self._max_workers,
                "running": running,
                "waiting": waiting,
                "queued": self._calls.pending(),
            }


def refuse_options(options: TaskOptions) -> None:
    """Raise NotSupportedError for options that threads cannot honour."""
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
    """Call `ThreadsBackend.release`, unless the backend is gone; a Future must not keep its backend."""
    present = backend()
    if present is not None:
        present.release(number)


def cancel(future: Future[Any], running: bool) -> bool:
    """Do what `Future.cancel` does for calls in threads."""
    if future.cancel_pending():
        return True
    if running and future.running():
        raise NotSupportedError(
            f"{future.name} runs in a thread, which cannot be stopped; use the"
            ' "processes" or "cluster" backend to cancel running calls'
        )
    return False


def result_of_dependency(future: AnyFuture) -> Any:
    """Return the result of a Future that is done, or raise DependencyError if it failed."""
    try:
        return future.result()
    except BaseException as exc:
        cause = exc.__cause__ if isinstance(exc, DependencyError) and exc.__cause__ is not None else exc
        name = getattr(future, "name", "") or repr(future)
        raise DependencyError(
            f"the call was not run, because {name}, on whose result it depends, failed: {cause!r}"
        ) from cause
