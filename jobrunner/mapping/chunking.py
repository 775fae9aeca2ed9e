"""The sizes of packs and chunks of a map. Pure functions from measurements to numbers of elements.

The input is cut twice. In the caller's thread it becomes *packs*: elements that are pickled together, once. Later, as
results arrive, each pack is cut into *chunks*, and each chunk is one task. A chunk costs its task (some tens of
microseconds) and the transfer of its whole pack, so packs are limited in bytes. A chunk delays its neighbours by its
own duration, so chunks are limited in time, and shrink at the end so that all slots finish together.
"""

from __future__ import annotations

from dataclasses import dataclass

from jobrunner.protocol.tuning import (
    CHUNK_GROWTH,
    CHUNK_NEWEST_WEIGHT,
    CHUNK_SECONDS,
    CHUNK_SURE_SECONDS,
    CHUNK_TAIL_SECONDS,
    PACK_BYTES,
    PACK_LARGEST,
    PACK_UNMEASURED,
    SPREAD_BYTES,
)


def window(slots: int) -> int:
    """Return the number of chunks under way, with which each slot has a next one while outcomes travel."""
    return 4 * slots + 4


@dataclass
class Chunking:
    """The measurements of one map, and the sizes that follow from them."""

    per_call: float | None = None
    """Seconds per call, as a moving average; None until something was measured."""
    longest: int = 1
    """Number of elements of the longest measured chunk."""
    element_bytes: float = 0.0
    """Pickled bytes per element of the last pack."""
    taken: int = 0
    """Number of elements packed so far."""

    def packed(self, count: int, size: int) -> None:
        """Note that `count` elements gave a pack of `size` bytes."""
        self.taken += count
        self.element_bytes = size / count

    def measured(self, count: int, seconds: float) -> None:
        """Note that a chunk of `count` elements ran for `seconds`."""
        newest = max(seconds, 1e-9) / count
        if self.per_call is None:
            self.per_call = newest
        else:
            self.per_call += CHUNK_NEWEST_WEIGHT * (newest - self.per_call)
        self.longest = max(self.longest, count)

    def pack_size(self) -> int:
        """Return the number of elements of the next pack, at least 1.

        The first packs are small, so that large elements are noticed and the slots start working at once.
        """
        if self.per_call is None:
            size = min(1 + self.taken // 2, PACK_UNMEASURED)
        else:
            size = min(16 + self.taken, PACK_LARGEST)
            if self.per_call * self.longest >= CHUNK_SURE_SECONDS:
                size = min(size, int(CHUNK_SECONDS / self.per_call))
        if self.element_bytes > 0:
            size = min(size, int(PACK_BYTES / self.element_bytes))
        return max(1, size)

    def chunk_size(self, slots: int, remaining: int | None = None) -> int:
        """Return the number of elements of the next chunk, at least 1.

        `remaining` is the number of elements left, or None if unknown.
        """
        if self.per_call is None:
            return 1
        size = min(int(CHUNK_SECONDS / self.per_call), CHUNK_GROWTH * self.longest)
        if remaining is not None:
            tail = max(remaining // (2 * slots), int(CHUNK_TAIL_SECONDS / self.per_call))
            size = min(size, tail)
        return max(1, size)


def share(count: int, slots: int, pack_bytes: int) -> int:
    """Return the maximum size of the chunks into which `count` elements are cut that a chunk gave back.

    That chunk took longer than expected, and nobody knows which of its elements take long. So all slots get some,
    twice, as at the end of an input; there are fewer chunks if each has to carry a large pack.
    """
    chunks = min(2 * slots, max(2, SPREAD_BYTES // max(1, pack_bytes)))
    return max(1, count // chunks)


def halves(start: int, stop: int) -> list[tuple[int, int]]:
    """Return the range [start, stop), which has at least two elements, as two ranges."""
    middle = (start + stop) // 2
    return [(start, middle), (middle, stop)]


def cut(start: int, stop: int, most: int) -> list[tuple[int, int]]:
    """Return the range [start, stop) as ranges of at most `most` elements."""
    return [(begin, min(begin + most, stop)) for begin in range(start, stop, most)]


def around(guilty: int | None, start: int, stop: int) -> list[tuple[int, int]]:
    """Return the range [start, stop) with the guilty element apart, or as halves if it is unknown."""
    if guilty is None or not start <= guilty < stop:
        return halves(start, stop)
    spans = [(start, guilty), (guilty, guilty + 1), (guilty + 1, stop)]
    return [(begin, end) for begin, end in spans if begin < end]
