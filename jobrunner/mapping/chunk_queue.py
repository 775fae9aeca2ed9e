"""The elements of a `map` that are in no chunk under way, and the chunk that is cut from them next.

Whoever calls this holds the lock of the map.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from jobrunner.mapping.chunking import Chunking, window
from jobrunner.mapping.spans import Pack, Span
from jobrunner.protocol.wire.messages import TaskOptions


class ChunkQueue:
    """The packs of one map and what is left of them, cut as `chunking` has measured."""

    def __init__(self, chunking: Chunking, options: TaskOptions, chunksize: int | None) -> None:
        self._chunking = chunking
        self._options = options
        self._chunksize = chunksize
        self._packs: deque[Pack] = deque()
        self._ready: deque[Span] = deque()
        """Chunks that wait for no window: of a fixed size, or to be run again."""
        self._rests: deque[tuple[Span, int]] = deque()
        """What chunks gave back, and how many of these elements may be in one chunk; they go before the packs."""

    def add_pack(self, pack: Pack) -> None:
        if self._chunksize is None:
            self._packs.append(pack)
        else:
            self._ready.append(Span(pack, 0, pack.count, self._options.retries))

    def add_chunks(self, spans: Iterable[Span]) -> None:
        """Queue chunks that are submitted as they are, regardless of the window."""
        self._ready.extend(spans)

    def add_rest(self, rest: Span, most: int) -> None:
        """Queue what a chunk gave back, to be cut into chunks of at most `most` elements."""
        self._rests.append((rest, most))

    def next(self, slots: int, under_way: int, end: int | None) -> Span | None:
        """Return the next chunk; None if nothing waits, or enough chunks are under way for so many slots.

        `end` is the number of elements of the input, None while it is unknown.
        """
        if self._ready:
            return self._ready.popleft()
        if under_way >= window(slots):
            return None
        if self._rests:
            return self._cut_rest(slots)
        if not self._packs:
            return None
        pack = self._packs[0]
        if self._options.timeout is not None:
            size = 1  # the timeout is that of a call
        else:
            # Elements that are in no chunk yet; after the first pack that is everything.
            remaining = None if end is None else end - pack.base - pack.cut
            size = self._chunking.chunk_size(slots, remaining)
        size = min(size, pack.count - pack.cut)
        span = Span(pack, pack.cut, pack.cut + size, self._options.retries)
        pack.cut += size
        if pack.cut == pack.count:
            self._packs.popleft()
        return span

    def _cut_rest(self, slots: int) -> Span:
        rest, most = self._rests[0]
        stop = min(rest.start + min(most, self._chunking.chunk_size(slots)), rest.stop)
        span = Span(rest.pack, rest.start, stop, rest.retries)
        rest.start = stop
        if not len(rest):
            self._rests.popleft()
        return span

    def take_all(self) -> list[Span]:
        """Remove and return everything."""
        spans = [
            *self._ready,
            *(rest for rest, _ in self._rests),
            *(Span(pack, pack.cut, pack.count, 0) for pack in self._packs),
        ]
        self._ready.clear()
        self._rests.clear()
        self._packs.clear()
        return spans
