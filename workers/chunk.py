"""A chunk of `map` in its slot: elements that run one after the other, and that may be divided meanwhile.

The cost per element is close to zero. The main thread iterates over a list, as it would without a division, and the
control thread cuts off the end of that list. Both are single steps of the interpreter, so an element is either taken
or cut off. If the control thread cannot run, the worker takes elements away, see `gate`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

from jobrunner.workers.crash_board import ELEMENT, Fields


class Chunk:
    """A chunk; the main thread runs its elements, and the control thread may give back those that have not begun.

    It is created before its elements are loaded, because loading them, and the function, may take long as well.
    """

    def __init__(self, number: int, start: int, stop: int, fields: Fields) -> None:
        """Create the chunk of the elements [start, stop) of task `number`.

        The main thread notes the running element in `fields`.
        """
        self.number = number
        self._start = start
        self._count = stop - start
        self._fields = fields
        self._elements: list[Any] = []
        self._left: Iterator[Any] | None = None
        self._lock = threading.Lock()
        self._closed = False

    def begin(self, elements: list[Any]) -> Iterator[tuple[int, Any]]:
        """Return the elements that were not given back, with their indices; the main thread calls this."""
        with self._lock:
            del elements[self._count :]
            self._elements = elements
            self._left = iter(elements)
            return enumerate(self._left, self._start)

    def give_back(self, tell: Callable[[int], None]) -> bool:
        """Keep the elements that have begun, at least one, and `tell` the index of the first one that is given back.

        Returns False, and does nothing, if all have begun or if this was done before. The chunk's outcome must not
        overtake the message of `tell`, so `end` waits for it.
        """
        with self._lock:
            keep = max(self._taken(), 1)
            if self._closed or keep >= self._count:
                return False
            del self._elements[keep:]
            # From here on the main thread cannot take these elements, but it may have taken some of them before.
            keep = max(self._taken(), keep)
            if keep < self._count:
                self._closed, self._count = True, keep
                tell(self._start + keep)
            return self._closed

    def keep(self, element: int) -> bool:
        """Note that the worker has taken the elements after this one.

        Return whether this one is the last that has begun.
        """
        with self._lock:
            count = element + 1 - self._start
            del self._elements[count:]
            self._closed, self._count = True, min(count, self._count)
            last, self._fields[ELEMENT] = self._fields[ELEMENT], element
            return last == element

    def end(self) -> None:
        """End the chunk after its last element; nothing is given back from now on."""
        with self._lock:
            self._closed = True

    def _taken(self) -> int:
        """Return the number of elements that the main thread has taken."""
        if self._left is None:
            return 0
        state = self._left.__reduce__()
        if len(state) > 2:
            return int(state[2])
        # The iterator is at the end of the list, so the last element that was taken has been noted.
        return self._fields[ELEMENT] - self._start + 1
