"""Payloads: bytes that are opaque to everything between the processes that pickle and unpickle them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview


class MappedPayload:
    """A payload whose bytes are in memory that several processes of a host map; see `shared_memory`."""

    __slots__ = ()

    size: int
    """The total size of all buffers in bytes."""

    def views(self) -> tuple[Buffer, ...]:
        """Return the pickle and its out-of-band buffers; raise SharedMemoryError or MemoryError."""
        raise NotImplementedError


Payload: TypeAlias = bytes | tuple[Buffer, ...] | MappedPayload
"""`bytes` if everything is in one small pickle; else the pickle followed by its out-of-band buffers."""

Store: TypeAlias = "Callable[[Sequence[Buffer]], Payload | None]"
"""A function that copies large buffers to another place, or returns None for buffers that do not belong there."""

OUT_OF_BAND = 64 * 1024
"""Minimum size in bytes of a buffer that travels beside the pickle, and of a pickle that is a buffer of its own."""


BUFFER_BYTES = 400
"""Approximate overhead of a buffer in bytes while messages pass: a frame, and the objects around it."""


def payload_size(payload: Payload) -> int:
    """Return the size of a payload in bytes."""
    if isinstance(payload, bytes):
        return len(payload)
    if isinstance(payload, MappedPayload):
        return payload.size
    return sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in payload)


def buffer_count(payload: Payload) -> int:
    """Return the number of frames of a payload in a message; 0 if the payload is inside the header."""
    return len(payload) if isinstance(payload, tuple) else 0


def kept_size(payload: Payload) -> int:
    """Return the approximate size in bytes that is needed to keep a payload, including the overhead of its buffers."""
    return payload_size(payload) + BUFFER_BYTES * buffer_count(payload)


def buffers_of(payload: tuple[Buffer, ...] | MappedPayload) -> tuple[Buffer, ...]:
    """Return the pickle and its buffers, wherever they are; raise SharedMemoryError or MemoryError."""
    return payload.views() if isinstance(payload, MappedPayload) else payload
