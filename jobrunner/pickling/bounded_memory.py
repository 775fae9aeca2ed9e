"""A cache with limits on its number of values and their size."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Kept(Generic[K, V]):
    """A cache of the values that were put there last, limited in number and in total bytes.

    A value that alone exceeds the limit is not kept.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._bytes = 0

    def get(self, key: K) -> V | None:
        found = self._values.get(key)
        return None if found is None else found[0]

    def put(self, key: K, value: V, size: int) -> None:
        """Put a value there; `size` is its approximate size in bytes."""
        before = self._values.pop(key, None)
        if before is not None:
            self._bytes -= before[1]
        if size > self._most_bytes:
            return
        self._values[key] = value, size
        self._bytes += size
        while len(self._values) > self._most or self._bytes > self._most_bytes:
            _, (_, dropped) = self._values.popitem(last=False)
            self._bytes -= dropped
