"""What a payload is: bytes that are opaque to everything between the one who pickled and the one who unpickles."""

from __future__ import annotations

from typing import TypeAlias

from jobrunner.shared_memory.payload import SharedPayload

Buffer: TypeAlias = "bytes | bytearray | memoryview"

Payload: TypeAlias = "bytes | tuple[Buffer, ...] | SharedPayload"
"""`bytes` where everything is in one small pickle; else the pickle followed by its out-of-band buffers: here, or
between processes of one host in shared memory."""


def payload_size(payload: Payload) -> int:
    """Bytes of a payload."""
    if isinstance(payload, bytes):
        return len(payload)
    if isinstance(payload, SharedPayload):
        return payload.size
    return sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in payload)


def buffers_of(payload: tuple[Buffer, ...] | SharedPayload) -> tuple[Buffer, ...]:
    """The pickle and its buffers, wherever they are. Raises SharedMemoryError, MemoryError."""
    return payload.views() if isinstance(payload, SharedPayload) else payload
