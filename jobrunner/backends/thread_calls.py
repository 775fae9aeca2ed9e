"""The calls of a pool of threads, from their submission until they have ended.

A call waits for the Futures among its arguments, then in a heap for a thread. A chunk of `map` that a thread has begun
stays known while it has elements that nobody has taken, since other threads may help with them.

Everything is done with the lock of the pool held, unless it says something else.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, NamedTuple

from jobrunner.backends.base import Backend
from jobrunner.backends.thread_chunks import SharedChunk
from jobrunner.futures import Future

NO_CALL = 0
"""No call has this number; the first one has 1."""


class ThreadCall(NamedTuple):
    """A call in the heap: the most urgent first, then the oldest. `work` gives the Future's result."""

    urgency: int
    number: int
    future: Future[Any]
    work: Callable[[], Any]
    chunk: SharedChunk | None = None
    """Of a chunk, its elements, which several threads may take from."""


class Runner:
    """A job of the pool, which takes one call after the other.

    It is not counted, and does nothing, if an exception interrupted its submission.
    """

    __slots__ = ("busy", "call", "ended", "left", "owner", "still", "void", "waiting", "waits")

    def __init__(self, owner: Backend) -> None:
        self.owner = owner
        """Held while the job runs: its calls may use it although the program has dropped it."""
        self.void = False
        self.busy = False
        """It has a call whose Future is not resolved."""
        self.call: ThreadCall | None = None
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


class ThreadCalls:
    """The unfinished calls of one pool, by their numbers."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Have no calls: at first, and in a process that was forked, which has none of the calls of its parent."""
        self.waiting: list[ThreadCall] = []
        """The heap of calls that a thread may begin."""
        self.held: dict[int, ThreadCall] = {}
        """Those that wait for the Futures among their arguments."""
        self._dropped: dict[int, ThreadCall] = {}
        """Those that `shutdown` has taken away, and whose Futures it has yet to cancel."""
        self._chunks: dict[int, ThreadCall] = {}
        """Those under way that may have elements which nobody has taken."""
        self._under_way: set[int] = set()
        """The numbers of the calls that threads have taken."""

    @property
    def unfinished(self) -> int:
        """The number of calls that have not ended; the lock is not needed."""
        return self.queued + len(self._under_way)

    @property
    def queued(self) -> int:
        """The number of calls that no thread has taken; the lock is not needed."""
        return len(self.waiting) + len(self.held)

    def pending(self) -> int:
        """Return the number of calls that no thread has taken and nobody has cancelled."""
        return sum(call.future._state == "PENDING" for call in (*self.waiting, *self.held.values()))

    # --- before a thread has them ---------------------------------------------------------------------------

    def push(self, call: ThreadCall) -> None:
        heapq.heappush(self.waiting, call)

    def hold(self, call: ThreadCall) -> None:
        """Keep a call until `let_wait`, because it needs results."""
        self.held[call.number] = call

    def let_wait(self, number: int) -> bool:
        """Have a held call wait for a thread; return False if it is not held any more."""
        call = self.held.pop(number, None)
        if call is None:
            return False
        heapq.heappush(self.waiting, call)
        return True

    def release(self, number: int) -> bool:
        """Drop a held call, for which nobody waits now; return False if it is not held any more."""
        return self.held.pop(number, None) is not None

    def take_back(self, number: int) -> None:
        """Drop a call that is not to run, unless that has begun."""
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
        """Take away the calls that no thread has taken, but for those that so many free threads are about to begin."""
        wanted = sorted(call for call in self.waiting if not call.future.done())
        self._dropped.update((call.number, call) for call in (*wanted[free:], *self.held.values()))
        self.waiting = wanted[:free]  # sorted, and so a heap
        self.held.clear()

    def cancel_dropped(self) -> None:
        """Cancel the Futures of calls that were taken away; without the lock.

        Also those of an earlier time, which Ctrl-C or a lack of memory may have ended at any point.
        """
        for number, call in list(self._dropped.items()):
            call.future.cancel_pending()
            self._dropped.pop(number, None)

    # --- while threads have them ----------------------------------------------------------------------------

    def take_next(self, runner: Runner) -> None:
        """Give a thread its next call: one that waits, or one under way that others can help with, or none.

        It has the call in the same step in which nobody else has it: whatever ends the thread, ends no other call.
        """
        while self.waiting:
            runner.call = call = heapq.heappop(self.waiting)
            if call.chunk is not None:
                call.future.confirm_running()
                if not call.future.running():
                    runner.call = None
                    continue  # cancelled in the meantime
                self._chunks[call.number] = call
            self._under_way.add(call.number)
            return
        runner.call = self.shared()

    def shared(self) -> ThreadCall | None:
        """Return a chunk under way that has elements which nobody has taken."""
        for number, call in list(self._chunks.items()):
            if call.chunk is not None and call.chunk.has_more:
                return call
            del self._chunks[number]
        return None

    def ended(self, number: int) -> None:
        """Note that a call has ended, which a thread had taken."""
        self._under_way.discard(number)

    def chunk_ended(self, number: int) -> None:
        """Note that nothing is left of a chunk to help with."""
        self._chunks.pop(number, None)
