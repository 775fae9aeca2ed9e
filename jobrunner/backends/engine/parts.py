"""Parts of functions that an engine keeps for us: each is given to it once, for all calls of functions that have it.

For engines that have a way of their own for that. Others get them with each call, see `EngineBackend.head`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from jobrunner.calls.serialization import DumpedFunction
from jobrunner.protocol.known_functions import REMEMBERED_BYTES
from jobrunner.protocol.wire.payloads import Payload, payload_size


class PartsThere:
    """Used by the backend's thread alone.

    `give` hands a payload to the engine: what stands for it among the arguments of a call, and whether the engine keeps
    it as long as we have that.
    """

    def __init__(
        self, give: Callable[[Payload], tuple[Any, bool]], most_bytes: int = REMEMBERED_BYTES
    ) -> None:
        self._give = give
        self._most_bytes = most_bytes
        self._bytes = 0
        self._there: OrderedDict[bytes, tuple[Any, int]] = OrderedDict()
        """By key, what stands for each and its bytes; the longest unused ones first."""

    def arguments(self, parts: Sequence[DumpedFunction]) -> list[Any]:
        """What stands for the parts of one call. Beyond these, as much is kept as may be."""
        arguments = [self._argument(part) for part in parts]
        while self._bytes > self._most_bytes and len(self._there) > len(parts):
            _, (_, size) = self._there.popitem(last=False)
            self._bytes -= size
        return arguments

    def clear(self) -> None:
        """The engine may have lost some of them: give them anew."""
        self._there.clear()
        self._bytes = 0

    def _argument(self, part: DumpedFunction) -> Any:
        there = self._there.get(part.key)
        if there is not None:
            self._there.move_to_end(part.key)
            return there[0]
        argument, kept = self._give(part.blob)
        if kept:
            size = payload_size(part.blob)
            self._there[part.key] = argument, size
            self._bytes += size
        return argument
