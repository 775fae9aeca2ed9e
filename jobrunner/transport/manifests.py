"""Manifests: payloads in shared memory do not cross a connection within one host; messages tell where they are.

Such a message, or a hello, starts with one more frame, the *manifest*. No header has its first byte:

    0xC1 | msgpack [probe or None, [[index of the frame, address], ...]]
    address, probe: [pid, descriptor, segment, fill, sizes]

These frames are empty; the receiver opens /proc/PID/fd/DESCRIPTOR, which only this user's processes can,
and makes sure that it is what was meant. Whether that works is tried first: a client's hello brings a probe, a few
bytes in shared memory, and so does the answer of a coordinator that could read it.

Only ends that were told to (`Wire.share`) do this, and only on sockets in a folder of this user's. A payload is pointed
to once: when it must be sent again, something was wrong, and its bytes go.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any
from weakref import WeakSet

import msgpack

from jobrunner.protocol.effects import Source
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.codec import Frame, Frames, Shared, encode_sharing, plain_frame
from jobrunner.protocol.wire.payloads import Buffer, MappedPayload, buffers_of
from jobrunner.shared_memory.segment_pool import SegmentPool
from jobrunner.shared_memory.shared_payload import SharedMemoryError, SharedPayload, checked_label, opened

MANIFEST = 0xC1
"""The first byte of a manifest, which msgpack does not use."""

PROBE = b"jobrunner"
MAX_MANIFEST_BYTES = 16 * 1024 * 1024
OPENERS = (m.ClientHello, m.Welcome)
"""The messages that carry a probe."""


class Sharing:
    """One end of a connection with shared memory, for the wire's thread; `asks` is true at the client's end.

    The client's end sends the first probe.
    """

    def __init__(self, *, asks: bool) -> None:
        self._asks = asks
        self._peers: set[Source] = set()
        """The peers whose probe could be read."""
        self._sent: WeakSet[MappedPayload] = WeakSet()
        pool = SegmentPool(0, share_from=0)
        self._probe = pool.store([PROBE])
        pool.close()  # of its only segment when the probe is gone

    def close(self) -> None:
        """End the use of shared memory; nothing is sent or received any more."""
        self._probe = None

    def encode(self, destination: Source, envelope: m.Envelope) -> Frames:
        """Return the frames of a message, with a manifest if it needs one."""
        knows = destination in self._peers
        frames: Frames = []
        entries = []
        for index, frame in enumerate(encode_sharing(envelope, self._may_point_to if knows else None)):
            if isinstance(frame, SharedPayload):
                entries.append((index, address_of(frame)))
                frames.append(b"")
            else:
                frames.append(plain_frame(frame))
        opens = isinstance(envelope.message, OPENERS) and (knows or self._asks) and self._probe is not None
        if not entries and not opens:
            return frames
        probe = address_of(self._probe) if opens and self._probe is not None else None
        return [bytes((MANIFEST,)) + msgpack.packb((probe, entries)), *frames]

    def resolve(self, source: Source, frames: Sequence[Buffer]) -> Sequence[Frame] | None:
        """Return the message without its manifest, and with the payloads to which the manifest points.

        The result is None if a payload is not available (any more); then the message counts as lost.
        """
        manifest = frames[0]
        if not len(manifest) or manifest[0] != MANIFEST:
            return frames
        try:
            probe, entries = unpacked(manifest)
            if probe is not None:
                self._try(source, probe)
            rest: list[Frame] = [*frames[1:]]
            for index, address in entries:
                rest[index] = open_address(address)
        except (SharedMemoryError, ValueError, TypeError, IndexError, msgpack.UnpackException):
            return None
        return rest

    def _may_point_to(self, payload: MappedPayload) -> bool:
        if payload in self._sent:
            return False
        self._sent.add(payload)
        return True

    def _try(self, source: Source, probe: Any) -> None:
        try:
            found = bytes(buffers_of(open_address(probe))[0])
        except (SharedMemoryError, ValueError, TypeError, MemoryError):
            found = b""
        if found == PROBE:
            self._peers.add(source)
        else:
            self._peers.discard(source)


def address_of(payload: SharedPayload) -> tuple[Any, ...]:
    return os.getpid(), payload.fileno(), *payload.label


def open_address(address: Any) -> Shared:
    """Return the payload at an address; raise SharedMemoryError, ValueError or TypeError if that fails."""
    pid, fd, *label = address
    if type(pid) is not int or type(fd) is not int:
        raise SharedMemoryError("not an address")
    return opened(f"/proc/{pid}/fd/{fd}", checked_label(*label))


def unpacked(manifest: Buffer) -> tuple[Any, Any]:
    if len(manifest) > MAX_MANIFEST_BYTES:
        raise ValueError("a manifest of that size")
    probe, entries = msgpack.unpackb(memoryview(manifest)[1:])
    return probe, entries
