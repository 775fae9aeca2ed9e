"""Functions travel once per connection: a sender's account of what the other end knows.

The one who sends decides what the other end keeps, and says what it may drop (`drop_functions`), so both ends agree
without asking. Parts (`FunctionDef.parts`) travel and are kept like functions of their own, and no hop drops one before
all that need it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from jobrunner.protocol.wire.messages import FunctionDef, FunctionKey
from jobrunner.protocol.wire.payloads import payload_size

REMEMBERED = 256
"""Functions that a sender takes the other end to know although no task needs them at the moment."""

REMEMBERED_BYTES = 128 * 1024 * 1024
"""As REMEMBERED, bytes of them and their parts; what the last message has named may be more."""


class KnownFunctions:
    """A sender's account of what the other end knows: the most recently used ones, up to a limit.

    A part is known as long as a function is that needs it: so it is sent once, and forgotten with the last of them.
    """

    __slots__ = ("_bytes", "_held", "_known", "_limit", "_most_bytes")

    def __init__(self, limit: int = REMEMBERED, most_bytes: int = REMEMBERED_BYTES) -> None:
        self._known: OrderedDict[FunctionKey, tuple[FunctionKey, ...]] = OrderedDict()
        """Functions that were named, and their parts; the longest unused ones first."""
        self._held: dict[FunctionKey, tuple[int, int]] = {}
        """All that the other end has: how often it is in `_known`, as function or part, and its bytes."""
        self._limit = limit
        self._bytes = 0
        self._most_bytes = most_bytes

    def __contains__(self, key: FunctionKey) -> bool:
        return key in self._held

    def use(self, definition: FunctionDef, parts: Sequence[FunctionDef] = ()) -> list[FunctionDef]:
        """Note that it is named now; what the other end must be sent first: of its `parts`, then itself."""
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
