"""The units of a `map`: packs of elements that were pickled together, and spans of packs that run as one task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobrunner.protocol.wire.payloads import payload_size


@dataclass(slots=True, eq=False)
class Pack:
    """Elements that were pickled together. `base` is the position of the first in the input."""

    packed: Any
    base: int
    count: int
    cut: int = 0
    """Elements that went into chunks so far."""


@dataclass(slots=True, eq=False)
class Span:
    """The elements [start, stop) of a pack: what one task runs. `retries` are left for each element."""

    pack: Pack
    start: int
    stop: int
    retries: int
    divided: bool = False
    """What was behind `stop` was given back while it ran."""

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def position(self) -> int:
        """Where the first element is in the input."""
        return self.pack.base + self.start


def bytes_of(packed: Any) -> int:
    """Return the size in bytes of what each chunk of a pack brings along; 0 where it is not pickled."""
    if type(packed) is bytes:
        return len(packed)
    return payload_size(packed) if isinstance(packed, (bytes, tuple)) else getattr(packed, "carried", 0)
