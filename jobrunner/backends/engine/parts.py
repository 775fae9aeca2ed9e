"""Parts of functions that an engine keeps, so that it gets each part once for all calls.

This is for engines that can keep objects. Other engines get the parts with each call, see `EngineBackend.head`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from jobrunner.calls.serialization import DumpedFunction
from jobrunner.protocol.known_functions import REMEMBERED_BYTES
from jobrunner.protocol.wire.payloads import Payload, payload_size


class PartsThere:
    """The parts that the engine has; only the backend's thread uses this.

    `give` passes a payload to the engine. It returns the object that replaces the payload among the arguments of a
    call, and whether the engine keeps the payload as long as that object exists.
    """

    def __init__(
        self, give: Callable[[Payload], tuple[Any, bool]], most_bytes: int = REMEMBERED_BYTES
    ) -> None:
        self._give = give
        self._most_bytes = most_bytes
        self._bytes = 0
        self._there: OrderedDict[bytes, tuple[Any, int]] = OrderedDict()
        """The replacement of each part and its size in bytes, by the part's key; the longest unused ones come first."""

    def arguments(self, parts: Sequence[DumpedFunction]) -> list[Any]:
        """Return the replacements of the parts of one call, and keep as many further ones as permitted."""
        arguments = [self._argument(part) for part in parts]
        while self._bytes > self._most_bytes and len(self._there) > len(parts):
            _, (_, size) = self._there.popitem(last=False)
            self._bytes -= size
        return arguments

    def clear(self) -> None:
        """Forget all parts, because the engine may have lost some of them."""
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
