"""The runners of the "threads" backend: those that work and those that wait, and the start of further ones.

A *runner* is a job of the standard library's pool that takes one call after the other until none is left. Then it takes
elements, one by one, from the chunks of `map` that other runners run (see `thread_chunks`). At most `max_workers`
runners are not waiting. While a call waits for Futures, one more runner may start (see `wait_hooks` and
`thread_nests`), so that calls that wait for calls cannot cause a deadlock. A surplus runner leaves after its current
call.
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
"""The limit that is given to the pool, which never reaches it, because the number of runners is limited here."""


class Runners:
    """The runners of one pool. The `lock` of this class guards its fields and `calls`."""

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
        """True once no further call is added."""
        self.broken = ""
        """The reason why no call can run any more; empty if calls can run."""
        self.begin()

    def begin(self) -> None:
        """Begin without threads, at first and in a forked process, which has only the thread that forked."""
        self._pool = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix=self._prefix)
        # Callers of `submit` share this condition with all threads of the pool, and Ctrl-C must not break it.
        self._pool._idle_semaphore._cond = conditions.Condition()  # type: ignore[attr-defined]
        # The lock is reentrant, because the garbage collector may shut down another executor, or cancel a map, in a
        # thread that holds it.
        self.lock = threading.RLock()
        self._idle = conditions.Condition(self.lock)
        self._count = 0
        """The number of runners that have not left."""
        self._at_work: set[Runner] = set()
        """The runners that have begun and have not left."""
        self._waiting = 0
        """The number of runners among `_count` that wait."""
        self._nests = Nests(self.lock)

    @property
    def threads(self) -> set[threading.Thread]:
        return set(self._pool._threads)

    def counts(self) -> tuple[int, int]:
        """Return the numbers of runners that run and that wait; the lock must be held."""
        return self._count - self._waiting, self._waiting

    def free(self) -> int:
        """Return the number of calls that could begin now; the lock must be held."""
        busy = max(0, sum(runner.busy for runner in self._at_work) - self._waiting)
        return max(0, self._max_workers - busy)

    def add_nested(self, nest: Nest, future: Future[Any]) -> None:
        """Note a call that another call has submitted."""
        self._nests.add(nest, future)

    def start(self, owner: Backend) -> None:
        """Start a runner if there is a call for it and the limit permits it; the lock must be held."""
        calls = self._calls
        if self._count - self._waiting < self._max_workers and (calls.waiting or calls.shared() is not None):
            runner = Runner(owner)
            self._count += 1
            try:
                self._pool.submit(self._run_calls, runner)
            except BaseException as exc:
                runner.void = True  # Ctrl-C may come after the pool has taken the runner
                self._count -= 1
                # The interpreter starts no thread at its exit, but the present threads continue.
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
        """Handle the end of a runner by an unexpected exception, which fails the runner's call and no other.

        Examples are too little memory, and an exception that a library raises in threads of others.
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
            except RuntimeError:  # no thread can be started, and no other runner exists
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
                    if runner.waits or runner.still:  # the last call may not have closed a wait
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
                # The result must not live until the next call comes.
                runner.call, runner.ended = None, number if ends else NO_CALL
        finally:
            blocking.install(None)
            task_context.install_in_thread(None)
            self._context.leave()

    def _run_chunk(self, runner: Runner) -> bool:
        """Run elements of a chunk until none is left; return True if that has ended the chunk.

        Otherwise another runner still runs an element of it.
        """
        with self.lock:
            self.start(runner.owner)  # another runner takes the next element, and starts a further runner
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
        del future, call, chunk  # an exception may refer to this frame, see `_run`
        return ends

    def _run(self, runner: Runner) -> bool:
        call = runner.call
        assert call is not None
        future = call.future
        future.confirm_running()
        if not future.running():
            runner.busy = False
            return True  # the call was cancelled in the meantime
        started = time.perf_counter()
        self._context.begin(future)
        try:
            result = call.work()
        except BaseException as exc:
            future.duration = time.perf_counter() - started
            runner.busy = False  # first, because those who learn of the end may look for a free thread
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
        """Fail all waiting and future calls, because the initializer has failed."""
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
        """Note whether the runner's call stands still; the lock must be held."""
        runner.still = still
        self._note_wait(runner)

    def _note_wait(self, runner: Runner) -> None:
        """Note whether a runner waits, and start another one meanwhile; the lock must be held."""
        waiting = runner.still or runner.waits > 0
        if waiting == runner.waiting:
            return
        runner.waiting = waiting
        self._waiting += 1 if waiting else -1
        if waiting:
            self.start(runner.owner)

    # --- the end --------------------------------------------------------------------------------------------

    def _leave(self, runner: Runner) -> None:
        """Note that a runner takes no further call; the lock must be held. This may be repeated."""
        self._at_work.discard(runner)
        if not runner.left:
            self._count, runner.left = self._count - 1, True
        self.look_for_the_end()

    def look_for_the_end(self) -> None:
        """Wake those who wait for the end if no call is left; the lock must be held."""
        if self._count == 0 and not self._calls.held:
            self._idle.notify_all()
            self._nests.hurry()
            if self.closed:
                self._pool.shutdown(wait=False)

    def close(self) -> None:
        """End as soon as no call is left, and accept no further one; the lock must be held."""
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
        """End the threads without a runner, and do not wait for that."""
        self._pool.shutdown(wait=False)
