r"""The run of a `map`: elements in, results out in input order, through few tasks.

    caller's thread                     backend's threads                      consumer
    take(elements) -> packs             outcomes -> results, by position       results()
         \____ feed: packs -> chunks -> Backend.submit_chunk ____/

The caller's thread takes the elements and packs them (`packing`), so every call is fixed when `map` returns. A queue
cuts the packs into chunks (`chunk_queue`), of which a window is kept under way (`chunk_runner`), and elements that fail
may run again (`repeating`, `pauses`). There is no Future per element: results stay in the chunks in which they came
until they are handed out (`progress`).

Locking: one lock per map guards the state and is never held while a backend, a Future or the input is called, since
each of these may call back into this map at once. It is reentrant because the garbage collector may close an abandoned
result iterator, and thereby call `cancel`, in a thread that holds it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from typing import Any

from jobrunner.backends.lifetime import Lifetime
from jobrunner.fixed.elements import Input
from jobrunner.mapping.chunk_queue import ChunkQueue
from jobrunner.mapping.chunk_runner import ChunkRunner
from jobrunner.mapping.chunking import Chunking
from jobrunner.mapping.packing import Packer
from jobrunner.mapping.progress import Progress
from jobrunner.mapping.spans import Pack
from jobrunner.nested.wait_hooks import wait_until, waiting
from jobrunner.protocol.wire.messages import TaskOptions
from jobrunner.system import forks


class MapRun:
    """One call of `Executor.map`: makes the parts, takes the input, and hands out the results."""

    def __init__(
        self, lifetime: Lifetime, prepared: Any, options: TaskOptions, chunksize: int | None = None
    ) -> None:
        backend = self._backend = lifetime.backend
        lock = forks.lock()
        self._chunksize = chunksize
        self._chunking = Chunking()
        self._packer = Packer(backend, prepared)
        self._progress = Progress(lock, lifetime)
        queue = ChunkQueue(self._chunking, options, chunksize)
        self._runner = ChunkRunner(lock, backend, prepared, options, self._progress, queue, self._chunking)

    @property
    def taken(self) -> int:
        """Elements taken from the input."""
        return self._progress.taken

    @property
    def done(self) -> int:
        """Elements whose result (or failure) is known."""
        return self._progress.done

    @property
    def complete(self) -> bool:
        """True once the input is known to have ended."""
        return self._progress.complete

    @property
    def on_progress(self) -> Callable[[int], None] | None:
        """Called with `done` after each chunk, in the thread that brought its result."""
        return self._progress.on_progress

    @on_progress.setter
    def on_progress(self, on_progress: Callable[[int], None] | None) -> None:
        self._progress.on_progress = on_progress

    # --- the caller's thread: taking the input --------------------------------------------------------------

    def take_from(self, elements: Input, limit: int) -> int:
        """Take up to `limit` elements as one pack and set them on their way; the number taken.

        Where the input raises, what it has yielded before is on its way, and `Input.check` raises. Raises RuntimeError
        after shutdown, BrokenExecutor, and NotSupportedError for an option that the backend refuses.
        """
        batch, count, failures = self._packer.take(elements, limit)
        base = self._progress.take(count, count < limit, self._runner)
        if not count:
            return 0
        packer = self._packer
        packed = (
            packer.pack_around(failures, batch, base, count) if failures else packer.pack(batch, base, count)
        )
        for made in packed:
            if isinstance(made, Pack):
                self._runner.add_pack(made)
            else:
                self._progress.record(made.position, made.results, self._runner)
        self._runner.feed()
        if self._runner.refusal is not None:
            self._raise_refusal()
        return count

    def take_all(self, elements: Input) -> None:
        """Take the whole input."""
        while not self._progress.complete:
            self.take_from(elements, self._chunksize or self._chunking.pack_size())
        self._runner.feed()  # the end of the input is known now, and the last chunks are cut accordingly
        if self._runner.refusal is not None:
            self._raise_refusal()

    def _raise_refusal(self) -> None:
        """Raise why the backend takes no more calls: nobody will ask for results then."""
        refusal = self._runner.take_refusal()
        self._progress.drop_results()
        try:
            raise refusal
        finally:
            del refusal, self  # what is raised knows this frame, and this would know what is raised

    def cancel(self) -> None:
        """Run nothing more of this map; what has started ends as it will. Does not wait."""
        self._runner.cancel()

    def abandon(self) -> None:
        """Cancel, and let nobody wait for the rest: an interrupt may have torn elements out of the books."""
        self._runner.abandon()

    # --- the consumer ---------------------------------------------------------------------------------------

    def results(self, deadline: float | None, refill: Callable[[int], None] | None = None) -> Iterator[Any]:
        """Yield the results in input order; raise at the first element that failed.

        `deadline` is in time.monotonic()'s seconds; TimeoutError is raised when a result is not there by
        then. `refill` is called with the number of elements handed out, before each of them.
        """
        position = 0
        progress = self._progress
        try:
            while True:
                chunk = progress.hand_out(position)
                if chunk is None:
                    if position >= progress.taken:
                        return
                    self._await(position, deadline)
                    continue
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
        return self._progress.is_ready(position)

    def at_end_of_chunk(self, position: int) -> bool:
        """Whether `position` elements are all that the chunks had which were handed out."""
        return self._progress.at_end_of_chunk(position)

    def buffered_results(self, elements: Input, buffersize: int, deadline: float | None) -> Iterator[Any]:
        """`results`, with no more than `buffersize` elements taken beyond those handed out.

        Takes the first `buffersize` at once. Iterating raises what the input raises from then on.
        """
        most = max(1, buffersize // (2 * self._backend.max_workers))  # of one pack: it is refilled in one go
        progress = self._progress

        def refill(handed_out: int) -> None:
            while not progress.complete and progress.lifetime is not None and not progress.lifetime.closed:
                size = self._chunksize or min(self._chunking.pack_size(), most)
                if progress.taken - handed_out + size > buffersize:
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
        lifetime = self._progress.lifetime
        if not self._progress.complete and lifetime is not None:
            if elements.take(1):
                lifetime.check_open()
            elements.check()

    def _await(self, position: int, deadline: float | None) -> None:
        with waiting(partial(self._runner.awaited_at, position) if deadline is None else None):
            wait_until(
                lambda: self._progress.has_result(position),
                None if deadline is None else deadline - time.monotonic(),
            )
            self._progress.wait(position, deadline)
