"""Hashes that tell whether a global has changed."""

from __future__ import annotations

import xxhash


def digest(stream: bytes) -> bytes:
    """A hash of a pickle, at memory's speed; nobody's attack is warded off by it."""
    return bytes(xxhash.xxh3_128_digest(stream))


def digest_of(stream: bytes, *buffers: memoryview) -> bytes:
    """The hash of a pickle with buffers beside it."""
    if not buffers:
        return digest(stream)
    state = xxhash.xxh3_128(stream)
    for buffer in buffers:
        state.update(buffer)
        state.update(buffer.nbytes.to_bytes(8, "big"))
    return bytes(state.digest())
