"""What a payload is: bytes that are opaque to everything between the one who pickled and the one who unpickles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview


class MappedPayload:
    """A payload whose bytes lie in memory that several processes of a host map; see `shared_memory`."""

    __slots__ = ()

    size: int
    """Bytes of all buffers."""

    def views(self) -> tuple[Buffer, ...]:
        """The pickle and its out-of-band buffers. Raises SharedMemoryError, MemoryError."""
        raise NotImplementedError


Payload: TypeAlias = bytes | tuple[Buffer, ...] | MappedPayload
"""`bytes` where everything is in one small pickle; else the pickle followed by its out-of-band buffers."""

Store: TypeAlias = "Callable[[Sequence[Buffer]], Payload | None]"
"""Copies what is large to where it is wanted; None where it does not."""

OUT_OF_BAND = 64 * 1024
"""Bytes from which a buffer travels beside the pickle, and a pickle as a buffer of its own."""


BUFFER_BYTES = 400
"""What a buffer takes beside its bytes where messages pass, about: a frame, and objects around it."""


def payload_size(payload: Payload) -> int:
    """Bytes of a payload."""
    if isinstance(payload, bytes):
        return len(payload)
    if isinstance(payload, MappedPayload):
        return payload.size
    return sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in payload)


def buffer_count(payload: Payload) -> int:
    """Frames that a payload takes in a message, where it does not ride inside."""
    return len(payload) if isinstance(payload, tuple) else 0


def kept_size(payload: Payload) -> int:
    """Bytes that it takes to keep a payload, about: one of very many empty buffers is not for nothing."""
    return payload_size(payload) + BUFFER_BYTES * buffer_count(payload)


def buffers_of(payload: tuple[Buffer, ...] | MappedPayload) -> tuple[Buffer, ...]:
    """The pickle and its buffers, wherever they are. Raises SharedMemoryError, MemoryError."""
    return payload.views() if isinstance(payload, MappedPayload) else payload
