"""The threads of the "threads" backend: which are at work, which wait, and whether one more is to start.

A *runner* is a job of the standard library's pool that takes one call after the other until none is left; then it takes
elements from the chunks of `map` that other runners are at, one by one (see `thread_chunks`). There are at most
`max_workers` runners that are not waiting: a call that waits for Futures lets one more start (see `blocking` and
`thread_nests`), so that calls that wait for calls do not lock each other out, and a runner too many leaves after its
current call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures.thread import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

from jobrunner.backends.base import Backend
from jobrunner.backends.thread_calls import NO_CALL, Runner, ThreadCall, ThreadCalls
from jobrunner.backends.thread_context import ThreadContext
from jobrunner.backends.thread_initializer import ThreadInitializer
from jobrunner.backends.thread_nests import Nest, Nests
from jobrunner.errors import InitializerError
from jobrunner.futures import Future, resolve
from jobrunner.nested import task_context
from jobrunner.nested import wait_hooks as blocking
from jobrunner.system import conditions
from jobrunner.system.atexit_hooks import do_all

MAX_THREADS = 1_000_000
"""What the pool is told; how many there really are follows from the number of runners."""


class Runners:
    """The runners of one pool. `calls` are guarded by the `lock` of this class, as are its fields."""

    def __init__(
        self,
        calls: ThreadCalls,
        context: ThreadContext,
        initializer: ThreadInitializer,
        max_workers: int,
        thread_name_prefix: str,
    ) -> None:
        self._calls = calls
        self._context = context
        self._initializer = initializer
        self._max_workers = max_workers
        self._prefix = thread_name_prefix
        self.closed = False
        """No call is added any more."""
        self.broken = ""
        """Why no call can run any more."""
        self.begin()

    def begin(self) -> None:
        """Without any thread: at first, and in a process that was forked, where only the thread that forked is."""
        self._pool = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix=self._prefix)
        # Callers of `submit` share it with all threads of the pool, and Ctrl-C is to leave it whole.
        self._pool._idle_semaphore._cond = conditions.Condition()  # type: ignore[attr-defined]
        # Reentrant: the garbage collector may shut down another executor, or cancel a map, in a thread that
        # is in here.
        self.lock = threading.RLock()
        self._idle = conditions.Condition(self.lock)
        self._count = 0
        """The runners that have not left."""
        self._at_work: set[Runner] = set()
        """Those that have begun, and not left."""
        self._waiting = 0
        """Of `_count`, those that wait."""
        self._nests = Nests(self.lock)

    @property
    def threads(self) -> set[threading.Thread]:
        return set(self._pool._threads)

    def counts(self) -> tuple[int, int]:
        """With the lock held: how many runners run, and how many wait."""
        return self._count - self._waiting, self._waiting

    def free(self) -> int:
        """With the lock held: how many calls could begin now."""
        busy = max(0, sum(runner.busy for runner in self._at_work) - self._waiting)
        return max(0, self._max_workers - busy)

    def add_nested(self, nest: Nest, future: Future[Any]) -> None:
        """Note a call of a call."""
        self._nests.add(nest, future)

    def start(self, owner: Backend) -> None:
        """With the lock held: start a runner if there is a call for it and it would not be one too many."""
        calls = self._calls
        if self._count - self._waiting < self._max_workers and (calls.waiting or calls.shared() is not None):
            runner = Runner(owner)
            self._count += 1
            try:
                self._pool.submit(self._run_calls, runner)
            except BaseException as exc:
                runner.void = True  # Ctrl-C may come after the pool has taken it
                self._count -= 1
                # At its end the interpreter starts no thread; those that run go on.
                if not isinstance(exc, RuntimeError) or self._count == 0:
                    raise

    # --- in a runner's thread -------------------------------------------------------------------------------

    def _run_calls(self, runner: Runner) -> None:
        try:
            self._take_calls(runner)
        except BaseException as exc:
            self._lost(runner, exc)
            raise

    def _lost(self, runner: Runner, cause: BaseException) -> None:
        """A runner ends by what nobody foresaw: too little memory, or what a library raises in threads of others.

        It costs the call that the runner was at, and no other.
        """
        call = runner.call
        if call is not None:
            resolve(call.future, exception=cause)
        stranded: list[ThreadCall] = []
        with self.lock:
            self._calls.ended(runner.ended)
            runner.waits = 0
            self._set_still(runner, False)
            if call is not None:
                self._calls.ended(call.number)
                self._calls.chunk_ended(call.number)
            if not runner.void:
                self._leave(runner)
            try:
                self.start(runner.owner)
            except RuntimeError:  # no thread can be started, and no other is there
                stranded = self._calls.take_waiting()
        do_all(*(partial(resolve, waiting.future, exception=cause) for waiting in stranded))

    def _take_calls(self, runner: Runner) -> None:
        blocking.install(partial(self._while_waiting, runner))
        task_context.install_in_thread(self._context)
        self._context.enter(runner, self._set_still, self.add_nested)
        try:
            with self.lock:
                if runner.void:
                    return
                self._at_work.add(runner)
            failure = self._initializer.run()
            if failure is not None:
                self._break(failure, runner)
                return
            while True:
                with self.lock:
                    self._calls.ended(runner.ended)
                    if runner.waits or runner.still:  # its last call may have left a wait open
                        runner.waits = 0
                        self._set_still(runner, False)
                    if self._count - self._waiting <= self._max_workers:
                        self._calls.take_next(runner)
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
            self._context.leave()

    def _run_chunk(self, runner: Runner) -> bool:
        """Run elements of a chunk until none is left. True if that has ended it: no other runner is still at it."""
        with self.lock:
            self.start(runner.owner)  # which takes the next element, and does as this one
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
            with self.lock:
                self._calls.chunk_ended(call.number)
            future.duration = chunk.seconds
            resolve(future, call.work())
        del future, call, chunk  # as in `_run`
        return ends

    def _run(self, runner: Runner) -> bool:
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

    def _break(self, cause: BaseException, runner: Runner) -> None:
        """Fail what waits, and whatever is submitted from now on, because the initializer has failed."""
        message = f"the initializer of the threads raised {cause!r}, so this Executor cannot be used any more"
        with self.lock:
            self.broken = message
            dropped = self._calls.take_queued()
            self._leave(runner)
        for call in dropped:
            call.future.confirm_running()
            if call.future.running():
                error = InitializerError(message)
                error.__cause__ = cause
                resolve(call.future, exception=error)

    # --- waits ----------------------------------------------------------------------------------------------

    @contextmanager
    def _while_waiting(self, runner: Runner, awaited: blocking.AwaitedCalls | None = None) -> Iterator[None]:
        with self.lock:
            runner.waits += 1
        try:
            with self.lock:
                self._note_wait(runner)
            yield
        finally:
            with self.lock:
                runner.waits = max(0, runner.waits - 1)
                self._note_wait(runner)

    def _set_still(self, runner: Runner, still: bool) -> None:
        """With the lock held."""
        runner.still = still
        self._note_wait(runner)

    def _note_wait(self, runner: Runner) -> None:
        """With the lock held: note whether it waits, and have another one run meanwhile."""
        waiting = runner.still or runner.waits > 0
        if waiting == runner.waiting:
            return
        runner.waiting = waiting
        self._waiting += 1 if waiting else -1
        if waiting:
            self.start(runner.owner)

    # --- the end --------------------------------------------------------------------------------------------

    def _leave(self, runner: Runner) -> None:
        """With the lock held. May be called again."""
        self._at_work.discard(runner)
        if not runner.left:
            self._count, runner.left = self._count - 1, True
        self.look_for_the_end()

    def look_for_the_end(self) -> None:
        """With the lock held: tell who waits for the end that it is there."""
        if self._count == 0 and not self._calls.held:
            self._idle.notify_all()
            self._nests.hurry()
            if self.closed:
                self._pool.shutdown(wait=False)

    def close(self) -> None:
        """With the lock held: end as soon as no call is left; none is added from now on."""
        self.closed = True

    def wait_idle(self) -> None:
        """Wait until no call is left."""
        with blocking.waiting(), self.lock:
            while self._count or self._calls.held:
                self._idle.wait()

    def join(self) -> None:
        """Wait for the threads, once `wait_idle` has returned."""
        self._nests.join()
        self._pool.shutdown(wait=True)

    def end_idle_threads(self) -> None:
        """End the threads that no runner is in. Does not wait."""
        self._pool.shutdown(wait=False)
