"""What a payload is: bytes that are opaque to everything between the one who pickled and the one who unpickles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pickle import PickleBuffer
from typing import TypeAlias

from jobrunner.shared_memory.payload import SharedPayload

Buffer: TypeAlias = "bytes | bytearray | memoryview"

Payload: TypeAlias = "bytes | tuple[Buffer, ...] | SharedPayload"
"""`bytes` where everything is in one small pickle; else the pickle followed by its out-of-band buffers: here, or
between processes of one host in shared memory."""

Store: TypeAlias = "Callable[[Sequence[Buffer]], Payload | None]"
"""Copies what is large to where it is wanted; None where it does not."""

OUT_OF_BAND = 64 * 1024
"""Bytes from which a buffer travels beside the pickle, and a pickle as a buffer of its own."""


BUFFER_BYTES = 400
"""What a buffer takes beside its bytes where messages pass, about: a frame, and objects around it."""


def apart_from(least: int, large: list[memoryview]) -> Callable[[PickleBuffer], bool]:
    """The callback of a pickler that is to put buffers of at least so many bytes into `large`, not into the pickle."""

    def in_band(buffer: PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < least:
            return True
        large.append(raw)
        return False

    return in_band


def payload_size(payload: Payload) -> int:
    """Bytes of a payload."""
    if isinstance(payload, bytes):
        return len(payload)
    if isinstance(payload, SharedPayload):
        return payload.size
    return sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in payload)


def buffer_count(payload: Payload) -> int:
    """Frames that a payload takes in a message, where it does not ride inside."""
    return len(payload) if isinstance(payload, tuple) else 0


def kept_size(payload: Payload) -> int:
    """Bytes that it takes to keep a payload, about: one of very many empty buffers is not for nothing."""
    return payload_size(payload) + BUFFER_BYTES * buffer_count(payload)


def buffers_of(payload: tuple[Buffer, ...] | SharedPayload) -> tuple[Buffer, ...]:
    """The pickle and its buffers, wherever they are. Raises SharedMemoryError, MemoryError."""
    return payload.views() if isinstance(payload, SharedPayload) else payload
