"""The chunks of a `map` that are under way, in the backend's threads: each is submitted, and its outcome is taken.

A feeder keeps a window of chunks under way; it runs in whichever thread has just made room (or work) for it, and in one
thread at a time. A backend, and a Future, may call back into this module at once, so the lock is not held while they
are called.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import BrokenExecutor, CancelledError
from functools import partial
from typing import Any

from jobrunner.backends.base import Backend
from jobrunner.errors import NotSupportedError
from jobrunner.fixed.elements import ElementResults, all_failed
from jobrunner.futures import Future, awaited_of
from jobrunner.mapping.chunk_queue import ChunkQueue
from jobrunner.mapping.chunking import Chunking, share
from jobrunner.mapping.pauses import Pauses
from jobrunner.mapping.progress import Progress
from jobrunner.mapping.repeating import after_failure, after_raising, options_of
from jobrunner.mapping.spans import Pack, Span, bytes_of
from jobrunner.nested.wait_hooks import Awaited
from jobrunner.protocol.retry import RetryAfter
from jobrunner.protocol.wire.messages import TaskOptions


class ChunkRunner:
    """Runs the chunks of one map, and is what the executor's `Lifetime` can cancel of it.

    `lock` guards the queue, the measurements of `chunking` and the fields of this class.
    """

    def __init__(
        self,
        lock: threading.RLock,
        backend: Backend,
        prepared: Any,
        options: TaskOptions,
        progress: Progress,
        queue: ChunkQueue,
        chunking: Chunking,
    ) -> None:
        self._lock = lock
        self._backend = backend
        self._prepared = prepared
        self._options = options
        self._progress = progress
        self._queue = queue
        self._chunking = chunking
        self._feeding = False
        """A thread is feeding."""
        self._flying = 0
        """The number of chunks under way, and of those that are about to be submitted."""
        self._futures: dict[Future[ElementResults], Span] = {}
        """The Futures of the chunks under way."""
        self.refusal: Exception | None = None
        """The reason why the backend takes no more calls."""
        self._pauses: Pauses[Span] | None = None
        """The pauses, once an element needs one.

        They refer to this object, which would otherwise wait for the collector of cycles.
        """

    # --- feeding --------------------------------------------------------------------------------------------

    def add_pack(self, pack: Pack) -> None:
        """Queue a pack; `feed` submits its chunks."""
        size = bytes_of(pack.packed)
        with self._lock:
            self._chunking.packed(pack.count, size)
            cancelled = self._progress.cancelled
            if not cancelled:
                self._queue.add_pack(pack)
        if cancelled:
            self._progress.record(pack.base, all_failed(self._progress.why_not(), pack.count), self)

    def feed(self) -> None:
        """Submit chunks until the window is full, unless another thread does so, which then continues."""
        with self._lock:
            if self._feeding:
                return
            self._feeding = True
        try:
            progress = self._progress
            while True:
                slots = self._backend.max_workers
                with self._lock:
                    span = self._queue.next(
                        slots, self._flying, progress.taken if progress.complete else None
                    )
                    if span is None:
                        self._feeding = False  # under the lock: the author of any later change feeds it
                        return
                    self._flying += 1
                self._submit(span)
        except BaseException:
            with self._lock:
                self._feeding = False
            raise

    def _submit(self, span: Span) -> None:
        options = options_of(span, self._options)
        try:
            future = self._backend.submit_chunk(
                self._prepared, span.pack.packed, span.start, span.stop, options
            )
        except Exception as exc:
            with self._lock:
                self._flying -= 1
                if isinstance(exc, (NotSupportedError, BrokenExecutor)) or type(exc) is RuntimeError:
                    self.refusal = exc  # it holds for all calls, so `map` raises it, as `submit` does
            self._progress.record(span.position, all_failed(exc, len(span)), self)
            return
        with self._lock:
            self._futures[future] = span
            cancelled = self._progress.cancelled
        future.when_divided(partial(self._on_given_back, span))
        future.add_done_callback(partial(self._on_done, span))
        if cancelled:
            self._backend.cancel_all([future])

    def take_refusal(self) -> Exception:
        """Return, once, why the backend takes no more calls."""
        refusal, self.refusal = self.refusal, None
        assert refusal is not None
        return refusal

    def awaited_at(self, position: int) -> Awaited | None:
        """Return the chunk with the element at that position, if it is under way; see `wait_hooks`."""
        for future, span in self._futures.copy().items():
            if span.position <= position < span.position + len(span):
                return awaited_of([future], every=True)
        return None

    # --- outcomes -------------------------------------------------------------------------------------------

    def _on_done(self, span: Span, future: Any) -> None:
        try:
            self._take_outcome(span, future)
        except BaseException as exc:
            self.abandon(exc)
            raise

    def _take_outcome(self, span: Span, future: Any) -> None:
        failure: BaseException | None
        try:
            failure = future.exception()
        except CancelledError:
            # A new error: the Future's own refers to this frame, and would keep objects that keep it.
            failure = self._progress.why_not()
        if failure is None and 0 < len(future.result()) < len(span):
            self._give_back(span, span.start + len(future.result()))
        with self._lock:
            self._flying -= 1
            self._futures.pop(future, None)
            if failure is None and future.duration is not None:
                self._chunking.measured(len(span), future.duration)
        if failure is None:
            self._resolve(span, future.result())
        elif self._progress.cancelled:
            self._progress.record(span.position, all_failed(failure, len(span)), self)
        else:
            again, failed = after_failure(span, failure, self._options)
            if again:
                self._run_again(again)
            if failed:
                self._progress.record(span.position, all_failed(failure, failed), self)
        self.feed()

    def _on_given_back(self, span: Span, stop: int) -> None:
        try:
            self._give_back(span, stop)
            self.feed()
        except BaseException as exc:
            self.abandon(exc)
            raise

    def _give_back(self, span: Span, stop: int) -> None:
        """End a chunk at `stop`; the elements from there on have not begun, and go into other chunks."""
        size, slots = bytes_of(span.pack.packed), self._backend.max_workers
        with self._lock:
            rest = Span(span.pack, stop, span.stop, span.retries)
            span.stop, span.divided = stop, True
            if not self._progress.cancelled:
                self._queue.add_rest(rest, share(len(rest), slots, size))
                return
        self._give_up([rest])

    def _resolve(self, span: Span, results: ElementResults) -> None:
        """Keep the results; elements that raised run again, each alone, if they have retries left."""
        if not results.failures or span.retries == 0 or self._progress.cancelled:
            self._progress.record(span.position, results, self)
            return
        kept = 0
        for index, failure in sorted(results.failures.items()):
            final = None if results.final is None else index in results.final
            verdict = after_raising(span, failure, final, self._options)
            if not isinstance(verdict, RetryAfter):
                continue
            if kept < index:
                self._progress.record(span.position + kept, results.part(kept, index), self)
            kept = index + 1
            begin = span.start + index
            self._run_later(Span(span.pack, begin, begin + 1, span.retries - 1), verdict.seconds)
        if kept < len(results):
            self._progress.record(span.position + kept, results.part(kept, len(results)), self)

    def _run_later(self, span: Span, seconds: float) -> None:
        """Run an element that raised again, after a pause."""
        if seconds <= 0:
            self._run_again([span])
            return
        with self._lock:
            pauses = self._pauses
            if pauses is None:
                pauses = self._pauses = Pauses(self._resume)
        pauses.add(span, seconds)
        if self._progress.cancelled:
            self._give_up(pauses.clear())

    def _resume(self, spans: list[Span]) -> None:
        """Run elements again whose pauses are over."""
        try:
            if self._run_again(spans):
                self.feed()
        except BaseException as exc:
            self.abandon(exc)
            raise

    def _run_again(self, spans: list[Span]) -> bool:
        """Queue chunks; return False if they are given up instead, because nothing more is to run."""
        with self._lock:
            if not self._progress.cancelled:
                self._queue.add_chunks(spans)
                return True
        self._give_up(spans)
        return False

    def _give_up(self, spans: Iterable[Span]) -> None:
        for span in spans:
            self._progress.record(span.position, all_failed(self._progress.why_not(), len(span)), self)

    # --- the end --------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether the map has no unfinished elements, for now; see `Lifetime.end`."""
        return self._progress.idle

    def cancel(self) -> None:
        """Start nothing more of this map, without waiting; running calls end by themselves."""
        try:
            if not self.hold():
                return
            with self._lock:
                futures = list(self._futures)
            if futures:
                self._backend.cancel_all(futures)
        except BaseException:
            self._progress.let_go(self)
            raise

    def hold(self) -> bool:
        """Give the backend no more of this map; it handles what it has.

        Return False if the map was cancelled before.
        """
        with self._lock:
            if not self._progress.cancel():
                return False
            spans = self._queue.take_all()
            pauses = self._pauses
        self._give_up([*spans, *(() if pauses is None else pauses.clear())])
        return True

    def abandon(self, cause: BaseException | None = None) -> None:
        """Cancel, and let nobody wait for the rest: an interrupt may have torn elements out of the books.

        `cause`: see `Progress.blame`.
        """
        self._progress.blame(cause)
        try:
            self.cancel()
        finally:
            self._progress.let_go(self)
