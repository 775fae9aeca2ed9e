"""A sender's account of the functions that the other end knows, so that each travels once per connection.

The sender decides which functions the other end keeps, and tells it which ones to drop (`drop_functions`), so both
ends agree without questions. Parts (`FunctionDef.parts`) travel and are kept like functions of their own, and no hop
drops a part before all functions that need it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from jobrunner.protocol.wire.messages import FunctionDef, FunctionKey
from jobrunner.protocol.wire.payloads import payload_size

REMEMBERED = 256
"""Maximum number of functions that the other end keeps although no task needs them at the moment."""

REMEMBERED_BYTES = 128 * 1024 * 1024
"""Maximum size in bytes of these functions and their parts; the functions of the last message may exceed it."""


class KnownFunctions:
    """The functions that the other end knows: the most recently used ones, up to a limit.

    A part is known as long as a function that needs it is, so it is sent once, and dropped with the last of these
    functions.
    """

    __slots__ = ("_bytes", "_held", "_known", "_limit", "_most_bytes")

    def __init__(self, limit: int = REMEMBERED, most_bytes: int = REMEMBERED_BYTES) -> None:
        self._known: OrderedDict[FunctionKey, tuple[FunctionKey, ...]] = OrderedDict()
        """The functions that were named, with their parts; the longest unused ones first."""
        self._held: dict[FunctionKey, tuple[int, int]] = {}
        """Everything that the other end has: its number of occurrences in `_known`, as function or part, and its size
        in bytes."""
        self._limit = limit
        self._bytes = 0
        self._most_bytes = most_bytes

    def __contains__(self, key: FunctionKey) -> bool:
        return key in self._held

    def use(self, definition: FunctionDef, parts: Sequence[FunctionDef] = ()) -> list[FunctionDef]:
        """Note a use of the function, and return the parts and the function that the other end must be sent first."""
        if definition.key in self._known:
            self._known.move_to_end(definition.key)
            return []
        self._known[definition.key] = definition.parts
        fresh = []
        for each in (*parts, definition):
            count, size = self._held.get(each.key, (0, 0))
            if not count:
                size = payload_size(each.blob)
                self._bytes += size
                fresh.append(each)
            self._held[each.key] = count + 1, size
        return fresh

    def overflow(self, named: int = 1) -> list[FunctionKey]:
        """Return the functions that the other end is to drop, the longest unused ones first.

        `named` is the number of functions in the present message, which are not dropped for their bytes.
        """
        surplus: list[FunctionKey] = []
        while len(self._known) > self._limit or (self._bytes > self._most_bytes and len(self._known) > named):
            key, parts = self._known.popitem(last=False)
            for each in (key, *parts):
                count, size = self._held[each]
                if count > 1:
                    self._held[each] = count - 1, size
                else:
                    del self._held[each]
                    self._bytes -= size
                    surplus.append(each)
        return surplus

    def clear(self) -> None:
        self._known.clear()
        self._held.clear()
        self._bytes = 0
