"""The calls of a pool of threads, from their submission until they have ended.

A call waits first for the Futures among its arguments, and then in a heap for a thread. A chunk of `map` that a thread
has begun stays known while it has elements that no thread has taken, because other threads may help with them.

The pool's lock must be held for everything here, unless a docstring states an exception.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, NamedTuple

from jobrunner.backends.base import Backend
from jobrunner.backends.thread_chunks import SharedChunk
from jobrunner.futures import Future

NO_CALL = 0
"""A number that no call has; the first call has 1."""


class ThreadCall(NamedTuple):
    """A call in the heap, ordered by urgency and then by age. `work` returns the result for the Future."""

    urgency: int
    number: int
    future: Future[Any]
    work: Callable[[], Any]
    chunk: SharedChunk | None = None
    """The elements of a chunk, which several threads may take; None for a single call."""


class Runner:
    """A job of the pool, which takes one call after the other."""

    __slots__ = ("busy", "call", "ended", "left", "owner", "still", "void", "waiting", "waits")

    def __init__(self, owner: Backend) -> None:
        self.owner = owner
        """The backend, which is kept while the job runs, because calls may use it after the program has dropped it."""
        self.void = False
        """True if an exception interrupted the job's submission; then it is not counted, and does nothing."""
        self.busy = False
        """True while the runner has a call whose Future is not resolved."""
        self.call: ThreadCall | None = None
        """The call that it runs, or None."""
        self.ended = NO_CALL
        """The number of the last call if that has ended, or NO_CALL."""
        self.left = False
        """True once the runner takes no further call."""
        self.waits = 0
        """The number of nested waits that its call is in."""
        self.still = False
        """True if its call has unfinished calls of its own, and does nothing; see `thread_nests`."""
        self.waiting = False
        """True if another runner may run meanwhile, because of `waits` or `still`."""


class ThreadCalls:
    """The unfinished calls of one pool, by their numbers."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Begin without calls, at first and in a forked process, which does not have the calls of its parent."""
        self.waiting: list[ThreadCall] = []
        """The heap of calls that a thread may begin."""
        self.held: dict[int, ThreadCall] = {}
        """The calls that wait for the Futures among their arguments."""
        self._dropped: dict[int, ThreadCall] = {}
        """The calls that `shutdown` has taken away, and whose Futures it has yet to cancel."""
        self._chunks: dict[int, ThreadCall] = {}
        """The running chunks that may have elements which no thread has taken."""
        self._under_way: set[int] = set()
        """The numbers of the calls that threads have taken."""

    @property
    def unfinished(self) -> int:
        """The number of calls that have not ended; the lock need not be held."""
        return self.queued + len(self._under_way)

    @property
    def queued(self) -> int:
        """The number of calls that no thread has taken; the lock need not be held."""
        return len(self.waiting) + len(self.held)

    def pending(self) -> int:
        """Return the number of calls that no thread has taken and nobody has cancelled."""
        return sum(call.future._state == "PENDING" for call in (*self.waiting, *self.held.values()))

    # --- before a thread has them ---------------------------------------------------------------------------

    def push(self, call: ThreadCall) -> None:
        heapq.heappush(self.waiting, call)

    def hold(self, call: ThreadCall) -> None:
        """Keep a call until `let_wait`, because it depends on other results."""
        self.held[call.number] = call

    def let_wait(self, number: int) -> bool:
        """Have a held call wait for a thread; return False if the call is not held any more."""
        call = self.held.pop(number, None)
        if call is None:
            return False
        heapq.heappush(self.waiting, call)
        return True

    def release(self, number: int) -> bool:
        """Drop a held call that is done; return False if the call is not held any more."""
        return self.held.pop(number, None) is not None

    def take_back(self, number: int) -> None:
        """Drop a call that is not to run, unless it has begun."""
        self.held.pop(number, None)
        self.waiting = [call for call in self.waiting if call.number != number]
        heapq.heapify(self.waiting)

    def take_waiting(self) -> list[ThreadCall]:
        """Remove and return the calls that wait for a thread."""
        calls, self.waiting = self.waiting, []
        return calls

    def take_queued(self) -> list[ThreadCall]:
        """Remove and return all calls that no thread has taken."""
        calls = [*self.waiting, *self.held.values()]
        self.waiting = []
        self.held.clear()
        return calls

    def drop_beyond(self, free: int) -> None:
        """Take away the calls that no thread has taken, except those that `free` threads are about to begin."""
        wanted = sorted(call for call in self.waiting if not call.future.done())
        self._dropped.update((call.number, call) for call in (*wanted[free:], *self.held.values()))
        self.waiting = wanted[:free]  # a sorted list is a heap
        self.held.clear()

    def cancel_dropped(self) -> None:
        """Cancel the Futures of calls that were taken away; the lock must not be held.

        This includes the calls of an earlier shutdown, which Ctrl-C or a lack of memory may have interrupted.
        """
        for number, call in list(self._dropped.items()):
            call.future.cancel_pending()
            self._dropped.pop(number, None)

    # --- while threads have them ----------------------------------------------------------------------------

    def take_next(self, runner: Runner) -> None:
        """Set the runner's next call: a waiting one, else a running chunk that it can help with, else None.

        The runner has the call in the same step in which the heap loses it, so an exception in its thread never loses
        another call.
        """
        while self.waiting:
            runner.call = call = heapq.heappop(self.waiting)
            if call.chunk is not None:
                call.future.confirm_running()
                if not call.future.running():
                    runner.call = None
                    continue  # the call was cancelled in the meantime
                self._chunks[call.number] = call
            self._under_way.add(call.number)
            return
        runner.call = self.shared()

    def shared(self) -> ThreadCall | None:
        """Return a running chunk with elements that no thread has taken, or None."""
        for number, call in list(self._chunks.items()):
            if call.chunk is not None and call.chunk.has_more:
                return call
            del self._chunks[number]
        return None

    def ended(self, number: int) -> None:
        """Note that a call that a thread had taken has ended."""
        self._under_way.discard(number)

    def chunk_ended(self, number: int) -> None:
        """Note that a chunk has no elements left with which threads could help."""
        self._chunks.pop(number, None)
