r"""The run of a `map`: elements in, results out in input order, through few tasks.

    caller's thread                     backend's threads                      consumer
    take(elements) -> packs             _on_done -> results, by position       results()
         \____ _feed: packs -> chunks -> Backend.submit_chunk ____/

The caller's thread takes the elements and packs them, so every call is fixed when `map` returns. A feeder
then keeps a window of chunks under way; it runs in whichever thread has just made room (or work) for it, and
in one thread at a time. There is no Future per element: results stay in the chunks in which they came until
they are handed out.

Locking: `_lock` guards the state and is never held while a backend, a Future or the input is called, since
each of these may call back into this module at once. It is reentrant because the garbage collector may close
an abandoned result iterator, and thereby call `cancel`, in a thread that holds it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any

from jobrunner.backends.base import Backend
from jobrunner.backends.lifetime import Lifetime
from jobrunner.calls.serialization import is_one_of
from jobrunner.errors import JobRunnerError, NotSupportedError, TaskLostError, TaskTimeoutError, wait_timeout
from jobrunner.fixed import FixedElements, FixingInput
from jobrunner.fixed.elements import Columns, ElementResults, Input, all_failed
from jobrunner.futures import Future, awaited_of
from jobrunner.mapping.chunking import Chunking, around, cut, halves, share, window
from jobrunner.mapping.pauses import Pauses
from jobrunner.nested.wait_hooks import Awaited, wait_until, waiting
from jobrunner.protocol.retry import backoff
from jobrunner.protocol.wire.messages import TaskOptions
from jobrunner.protocol.wire.payloads import payload_size
from jobrunner.system import conditions, forks


@dataclass(slots=True, eq=False)
class Pack:
    """Elements that were pickled together. `base` is the position of the first in the input."""

    packed: Any
    base: int
    count: int
    cut: int = 0
    """Elements that went into chunks so far."""


@dataclass(slots=True, eq=False)
class Span:
    """The elements [start, stop) of a pack: what one task runs. `retries` are left for each element."""

    pack: Pack
    start: int
    stop: int
    retries: int
    divided: bool = False
    """What was behind `stop` was given back while it ran."""

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def position(self) -> int:
        """Where the first element is in the input."""
        return self.pack.base + self.start


class MapRun:
    """One call of `Executor.map`."""

    def __init__(
        self, lifetime: Lifetime, prepared: Any, options: TaskOptions, chunksize: int | None = None
    ) -> None:
        self._lifetime: Lifetime | None = lifetime
        """Held until the last element is done: results that somebody keeps do not keep an executor open."""
        self._backend: Backend = lifetime.backend
        self._prepared = prepared
        self._options = options
        self._chunksize = chunksize
        self.chunking = Chunking()
        self.taken = 0
        """Elements taken from the input."""
        self.done = 0
        """Elements whose result (or failure) is known."""
        self.complete = False
        """True once the input is known to have ended."""
        self.on_progress: Callable[[int], None] | None = None
        """Called with `done` after each chunk, in the thread that brought its result."""
        self._lock = forks.lock()
        self._arrived = conditions.Condition(self._lock)
        self._awaited = -1
        self._taken_out = 0
        """Where the chunk ends whose results are being handed out."""
        self._packs: deque[Pack] = deque()
        self._ready: deque[Span] = deque()
        """Chunks that wait for no window: of a fixed size, or to be run again."""
        self._rests: deque[tuple[Span, int]] = deque()
        """What chunks gave back, and how many of these elements may be in one chunk; they go before the packs."""
        self._flying = 0
        self._futures: dict[Future[ElementResults], Span] = {}
        """Those of the chunks under way."""
        self._results: dict[int, ElementResults] = {}
        self._feeding = False
        self._cancelled = False
        self._abandoned = False
        self._cause: BaseException | None = None
        """Why it was abandoned, for a consumer who waits."""
        self._refusal: Exception | None = None
        self._fixing: FixingInput | None = None
        self._pauses: Pauses[Span] | None = None
        """Once an element has to pause: they refer to this, which would otherwise wait for the collector of cycles."""

    # --- the caller's thread: taking the input --------------------------------------------------------------

    def take_from(self, elements: Input, limit: int) -> int:
        """Take up to `limit` elements as one pack and set them on their way; the number taken.

        Where the input raises, what it has yielded before is on its way, and `Input.check` raises. Raises RuntimeError
        after shutdown, BrokenExecutor, and NotSupportedError for an option that the backend refuses.
        """
        batch: Columns | FixedElements
        failures: dict[int, Exception] = {}
        if self._backend.copies:
            if self._fixing is None:
                self._fixing = FixingInput(elements, self._backend.held(self._prepared))
            batch, failures = self._fixing.take(limit)
            count = len(batch)
        else:
            batch = elements.take(limit)
            count = len(batch[0]) if batch else 0
        with self._lock:
            # Together with what was taken: else a result that comes now would end the map before that.
            self.complete = count < limit
            base, was_idle = self.taken, self.taken == self.done
            if not count:
                if was_idle:
                    self._lifetime = None
                return 0
            self.taken += count  # first: who is about to say that this map has ended sees that it goes on
            if was_idle:
                assert self._lifetime is not None, "the input had ended"
                try:
                    self._lifetime.begin(self)
                except BaseException:
                    self.taken = base
                    raise
        if failures:
            self._pack_around(failures, batch, base, count)
        else:
            self._pack(batch, base, count)
        self._feed()
        self._raise_refusal()
        return count

    def take_all(self, elements: Input) -> None:
        """Take the whole input."""
        while not self.complete:
            self.take_from(elements, self._chunksize or self.chunking.pack_size())
        self._feed()  # the end of the input is known now, and the last chunks are cut accordingly
        self._raise_refusal()

    def _raise_refusal(self) -> None:
        """Raise why the backend takes no more calls, if that is so: then nobody will ask for results."""
        refusal, self._refusal = self._refusal, None
        if refusal is not None:
            with self._lock:
                self._results.clear()
            try:
                raise refusal
            finally:
                del refusal, self  # what is raised knows this frame, and this would know what is raised

    def _pack_around(self, failures: dict[int, Exception], batch: Any, base: int, count: int) -> None:
        """Pack the elements between those that could not be pickled, and record these as failed."""
        start = 0
        for row, failure in sorted(failures.items()):
            if start < row:
                self._pack(_part(batch, start, row), base + start, row - start)
            self._record(base + row, all_failed(failure, 1))
            start = row + 1
        if start < count:
            self._pack(_part(batch, start, count), base + start, count - start)

    def _pack(self, batch: Columns | FixedElements, base: int, count: int) -> None:
        """Pickle `batch`; where that fails, its halves, so that in the end only the guilty elements fail."""
        try:
            packed = self._backend.pack(batch)
        except Exception as exc:
            if count == 1:
                self._record(base, all_failed(exc, 1))
                return
            for start, stop in halves(0, count):
                self._pack(_part(batch, start, stop), base + start, stop - start)
            return
        pack = Pack(packed, base, count)
        size = _bytes_of(packed)
        with self._lock:
            self.chunking.packed(count, size)
            cancelled = self._cancelled
            if self._chunksize is None and not cancelled:
                self._packs.append(pack)
            elif not cancelled:
                self._ready.append(Span(pack, 0, pack.count, self._options.retries))
        if cancelled:
            self._record(base, all_failed(self._why_not(), count))

    # --- any thread: feeding chunks -------------------------------------------------------------------------

    def _feed(self) -> None:
        """Submit chunks until the window is full, unless another thread is at it: that one goes on then."""
        with self._lock:
            if self._feeding:
                return
            self._feeding = True
        try:
            while True:
                slots = self._backend.max_workers
                with self._lock:
                    span = self._cut(slots)
                    if span is None:
                        self._feeding = False  # under the lock: what changes from now on is fed by its author
                        return
                    self._flying += 1
                self._submit(span)
        except BaseException:
            with self._lock:
                self._feeding = False
            raise

    def _cut(self, slots: int) -> Span | None:
        if self._ready:
            return self._ready.popleft()
        if self._flying >= window(slots):
            return None
        if self._rests:
            return self._cut_rest(slots)
        if not self._packs:
            return None
        pack = self._packs[0]
        left = pack.count - pack.cut
        if self._options.timeout is not None:
            size = 1  # the timeout is that of a call
        else:
            size = self.chunking.chunk_size(slots, self._uncut() if self.complete else None)
        size = min(size, left)
        span = Span(pack, pack.cut, pack.cut + size, self._options.retries)
        pack.cut += size
        if pack.cut == pack.count:
            self._packs.popleft()
        return span

    def _cut_rest(self, slots: int) -> Span:
        rest, most = self._rests[0]
        stop = min(rest.start + min(most, self.chunking.chunk_size(slots)), rest.stop)
        span = Span(rest.pack, rest.start, stop, rest.retries)
        rest.start = stop
        if not len(rest):
            self._rests.popleft()
        return span

    def _uncut(self) -> int:
        """Elements that are in no chunk yet; after the first pack that is everything."""
        return self.taken - self._packs[0].base - self._packs[0].cut if self._packs else 0

    def _submit(self, span: Span) -> None:
        options = self._options_of(span)
        try:
            future = self._backend.submit_chunk(
                self._prepared, span.pack.packed, span.start, span.stop, options
            )
        except Exception as exc:
            with self._lock:
                self._flying -= 1
                if isinstance(exc, (NotSupportedError, BrokenExecutor)) or type(exc) is RuntimeError:
                    self._refusal = exc  # it holds for all calls: `map` raises it, as `submit` does
            self._record(span.position, all_failed(exc, len(span)))
            return
        with self._lock:
            self._futures[future] = span
            cancelled = self._cancelled
        future.when_divided(partial(self._on_given_back, span))
        future.add_done_callback(partial(self._on_done, span))
        if cancelled:
            self._backend.cancel_all([future])

    def _options_of(self, span: Span) -> TaskOptions:
        """A chunk of several elements is not repeated as a whole: this module splits it."""
        options = self._options
        count = len(span)
        if count == 1:
            return options if options.retries == span.retries else options._replace(retries=span.retries)
        if options.timeout is not None:
            return options._replace(retries=0, timeout=options.timeout * count)
        return options._replace(retries=0) if options.retries else options

    # --- the backend's threads: outcomes --------------------------------------------------------------------

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
            # A new one: that one knows this frame, and would keep what it is kept by.
            failure = self._why_not()
        if failure is None and 0 < len(future.result()) < len(span):
            self._give_back(span, span.start + len(future.result()))
        with self._lock:
            self._flying -= 1
            self._futures.pop(future, None)
            if failure is None and future.duration is not None:
                self.chunking.measured(len(span), future.duration)
        if failure is None:
            self._resolve(span, future.result())
        elif len(span) > 1 and not self._cancelled and isinstance(failure, (TaskLostError, TaskTimeoutError)):
            guilty = getattr(failure, "element", None)
            most = getattr(failure, "detail", {}).get("most_calls")
            if most:  # it has not begun: where it was to run, a process makes so many calls at most
                self._run_again(span, cut(span.start, span.stop, most), span.retries)
            elif self._options.at_most_once:
                self._fail_begun(span, guilty, failure)
            else:
                self._run_again(span, around(guilty, span.start, span.stop), span.retries)
        elif self._may_take_longer(span, failure):
            self._run_again(span, [(span.start, span.stop)], span.retries - 1)
        else:
            self._record(span.position, all_failed(failure, len(span)))
        self._feed()

    def _on_given_back(self, span: Span, stop: int) -> None:
        try:
            self._give_back(span, stop)
            self._feed()
        except BaseException as exc:
            self.abandon(exc)
            raise

    def _give_back(self, span: Span, stop: int) -> None:
        """A chunk ends at `stop`: its elements from there on have not begun, and go into other chunks."""
        size, slots = _bytes_of(span.pack.packed), self._backend.max_workers
        with self._lock:
            rest = Span(span.pack, stop, span.stop, span.retries)
            span.stop, span.divided = stop, True
            if not self._cancelled:
                self._rests.append((rest, share(len(rest), slots, size)))
                return
        self._record(rest.position, all_failed(self._why_not(), len(rest)))

    def _may_take_longer(self, span: Span, failure: BaseException) -> bool:
        """Whether an element that ran out of time may run again, which its backend took for a chunk."""
        options = self._options
        timed_out = span.divided and isinstance(failure, TaskTimeoutError) and not self._cancelled
        return timed_out and span.retries > 0 and options.retry_timeouts and not options.at_most_once

    def _resolve(self, span: Span, results: ElementResults) -> None:
        """Keep the results; elements that raised run again, each alone, if they have retries left."""
        if not results.failures or span.retries == 0 or self._cancelled:
            self._record(span.position, results)
            return
        kept = 0
        for index, failure in sorted(results.failures.items()):
            if not self._may_retry(failure, None if results.final is None else index in results.final):
                continue
            if kept < index:
                self._record(span.position + kept, results.part(kept, index))
            kept = index + 1
            begin = span.start + index
            self._run_later(Span(span.pack, begin, begin + 1, span.retries - 1))
        if kept < len(results):
            self._record(span.position + kept, results.part(kept, len(results)))

    def _fail_begun(self, span: Span, guilty: int | None, failure: BaseException) -> None:
        """Elements that may have run must not run again; those after the guilty one have not begun."""
        begun = span.stop if guilty is None else guilty + 1
        if begun < span.stop:
            self._run_again(span, [(begun, span.stop)], span.retries)
        self._record(span.position, all_failed(failure, begun - span.start))

    def _may_retry(self, exc: Any, final: bool | None) -> bool:
        """`final`: what was said where it raised; None: nothing was, and the exception is as it was raised."""
        classes = self._options.retry_on
        return classes is None or (is_one_of(exc, classes) if final is None else not final)

    def _run_later(self, span: Span) -> None:
        """Run an element that raised again, after a pause that grows with its failures."""
        seconds = backoff(self._options.retries - span.retries, self._options.backoff)
        if seconds <= 0:
            self._run_again(span, [(span.start, span.stop)], span.retries)
            return
        with self._lock:
            pauses = self._pauses
            if pauses is None:
                pauses = self._pauses = Pauses(self._resume)
        pauses.add(span, seconds)
        if self._cancelled:
            self._give_up(pauses.clear())

    def _resume(self, spans: list[Span]) -> None:
        """The pauses of these are over."""
        try:
            with self._lock:
                cancelled = self._cancelled
                if not cancelled:
                    self._ready.extend(spans)
            if cancelled:
                self._give_up(spans)
            else:
                self._feed()
        except BaseException as exc:
            self.abandon(exc)
            raise

    def _give_up(self, spans: Iterable[Span]) -> None:
        for span in spans:
            self._record(span.position, all_failed(self._why_not(), len(span)))

    def _why_not(self) -> Exception:
        """For an element that will not run any more."""
        cause = self._cause
        if cause is None:
            return CancelledError()
        error = JobRunnerError(f"this map has ended: {cause!r}")
        error.__cause__ = cause
        return error

    def _run_again(self, span: Span, parts: list[tuple[int, int]], retries: int) -> None:
        spans = [Span(span.pack, start, stop, retries) for start, stop in parts]
        with self._lock:
            if not self._cancelled:
                self._ready.extend(spans)
                return
        self._give_up(spans)

    def _record(self, position: int, results: ElementResults) -> None:
        with self._lock:
            self._results[position] = results
            self.done += len(results)
            is_idle = self.done == self.taken and not self._abandoned
            lifetime = self._lifetime
            if is_idle and self.complete:
                self._lifetime = None
            if self._awaited == position:
                self._arrived.notify_all()
        on_progress = self.on_progress
        if on_progress is not None:
            on_progress(self.done)
        if is_idle and lifetime is not None:
            lifetime.end(self)

    def cancel(self) -> None:
        """Run nothing more of this map; what has started ends as it will. Does not wait."""
        try:
            if not self.hold():
                return
            with self._lock:
                futures = list(self._futures)
            if futures:
                self._backend.cancel_all(futures)
        except BaseException:
            self._let_go()
            raise

    def hold(self) -> bool:
        """Hand no more of this map to the backend, whose affair is what it has; False if it was cancelled before."""
        with self._lock:
            if self._cancelled:
                return False
            self._cancelled = True
            spans = [
                *self._ready,
                *(rest for rest, _ in self._rests),
                *(Span(pack, pack.cut, pack.count, 0) for pack in self._packs),
            ]
            self._ready.clear()
            self._rests.clear()
            self._packs.clear()
            pauses = self._pauses
        self._give_up([*spans, *(() if pauses is None else pauses.clear())])
        return True

    def abandon(self, cause: BaseException | None = None) -> None:
        """Cancel, and let nobody wait for the rest: an interrupt may have torn elements out of the books.

        `cause`: why, where it is not the consumer who abandons it and gets to know anyway.
        """
        self._cause = cause
        try:
            self.cancel()
        finally:
            self._let_go()

    @property
    def idle(self) -> bool:
        """Whether it has no unfinished elements, for now; see `Lifetime.end`."""
        return self._abandoned or self.done == self.taken

    def _let_go(self) -> None:
        """What is not done by now will not be."""
        with self._lock:
            self._cancelled = self._abandoned = True
            lifetime, self._lifetime = self._lifetime, None
            self._arrived.notify_all()
        if lifetime is not None:
            lifetime.end(self)
        on_progress = self.on_progress
        if on_progress is not None:
            on_progress(self.done)

    # --- the consumer ---------------------------------------------------------------------------------------

    def results(self, deadline: float | None, refill: Callable[[int], None] | None = None) -> Iterator[Any]:
        """Yield the results in input order; raise at the first element that failed.

        `deadline` is in time.monotonic()'s seconds; TimeoutError is raised when a result is not there by
        then. `refill` is called with the number of elements handed out, before each of them.
        """
        position = 0
        try:
            while True:
                chunk = self._results.pop(position, None)
                if chunk is None:
                    if position >= self.taken:
                        return
                    self._await(position, deadline)
                    continue
                self._taken_out = position + len(chunk)
                values, failures = chunk.values, chunk.failures
                values.reverse()  # each is released when it is handed out
                if refill is None and not failures:
                    position += len(values)
                    take = values.pop
                    for _ in repeat(None, len(values)):  # `yield from` an iterator would know no `send`
                        yield take()
                    continue
                for index in range(len(values)):
                    position += 1
                    if index in failures:
                        raise failures.pop(index)
                    if refill is not None:
                        refill(position)
                    yield values.pop()
        finally:
            self.cancel()

    def ready(self, position: int) -> bool:
        """Whether `results`, having handed out `position` elements, goes on without a wait."""
        return (
            position < self._taken_out
            or position >= self.taken
            or position in self._results
            or self._abandoned
        )

    def at_end_of_chunk(self, position: int) -> bool:
        """Whether `position` elements are all that the chunks had which were handed out."""
        return position == self._taken_out

    def buffered_results(self, elements: Input, buffersize: int, deadline: float | None) -> Iterator[Any]:
        """`results`, with no more than `buffersize` elements taken beyond those handed out.

        Takes the first `buffersize` at once. Iterating raises what the input raises from then on.
        """
        most = max(1, buffersize // (2 * self._backend.max_workers))  # of one pack: it is refilled in one go

        def refill(handed_out: int) -> None:
            while not self.complete and self._lifetime is not None and not self._lifetime.closed:
                size = self._chunksize or min(self.chunking.pack_size(), most)
                if self.taken - handed_out + size > buffersize:
                    return
                try:
                    self.take_from(elements, size)
                    if handed_out:
                        elements.check()
                except BaseException:
                    self.abandon()
                    raise

        refill(0)
        return self._until_closed(elements, self.results(deadline, refill))

    def _until_closed(self, elements: Input, results: Iterator[Any]) -> Iterator[Any]:
        """Yield the results; raise where the executor was shut down before the input ended."""
        yield from results
        if not self.complete and self._lifetime is not None:
            if elements.take(1):
                self._lifetime.check_open()
            elements.check()

    def _await(self, position: int, deadline: float | None) -> None:
        with waiting(partial(self._awaited_at, position) if deadline is None else None):
            wait_until(
                lambda: position in self._results or self._abandoned,
                None if deadline is None else deadline - time.monotonic(),
            )
            self._wait(position, deadline)

    def _awaited_at(self, position: int) -> Awaited | None:
        """The chunk with the element at that position, if it is under way; see `blocking`."""
        for future, span in self._futures.copy().items():
            if span.position <= position < span.position + len(span):
                return awaited_of([future], every=True)
        return None

    def _wait(self, position: int, deadline: float | None) -> None:
        with self._lock:
            self._awaited = position
            while position not in self._results:
                if self._abandoned:
                    raise self._why_not()
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    unfinished = self.taken - self.done
                    raise wait_timeout(f"{unfinished} of {self.taken} calls of map are not done in time")
                self._arrived.wait(remaining)


def _bytes_of(packed: Any) -> int:
    """What each chunk of a pack brings along; 0 where it is not pickled."""
    if type(packed) is bytes:
        return len(packed)
    return payload_size(packed) if isinstance(packed, (bytes, tuple)) else getattr(packed, "carried", 0)


def _part(batch: Columns | FixedElements, start: int, stop: int) -> Columns | FixedElements:
    """The elements [start, stop)."""
    if isinstance(batch, FixedElements):
        return batch.part(start, stop)
    return [column[start:stop] for column in batch]
