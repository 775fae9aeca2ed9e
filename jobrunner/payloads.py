"""What a payload is: bytes that are opaque to everything between the one who pickled and the one who unpickles."""

from __future__ import annotations

from typing import TypeAlias

Buffer: TypeAlias = "bytes | bytearray | memoryview"

Payload: TypeAlias = "bytes | tuple[Buffer, ...]"
"""`bytes` where everything is in one small pickle; else the pickle followed by its out-of-band buffers."""


def payload_size(payload: Payload) -> int:
    """Bytes of a payload."""
    if isinstance(payload, bytes):
        return len(payload)
    return sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in payload)
