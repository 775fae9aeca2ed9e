"""Hashes that show whether a global has changed."""

from __future__ import annotations

import xxhash


def digest(stream: bytes) -> bytes:
    """Return a hash of a pickle. It is computed at the speed of memory, and does not resist attacks."""
    return bytes(xxhash.xxh3_128_digest(stream))


def digest_of(stream: bytes, *buffers: memoryview) -> bytes:
    """Return the hash of a pickle and the buffers beside it."""
    if not buffers:
        return digest(stream)
    state = xxhash.xxh3_128(stream)
    for buffer in buffers:
        state.update(buffer)
        state.update(buffer.nbytes.to_bytes(8, "big"))
    return bytes(state.digest())
