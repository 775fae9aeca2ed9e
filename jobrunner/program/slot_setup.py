"""The initializer around the program's own, which prepares a slot for the present calls of this program.

It compares the versions of modules that the program has reloaded. The initializer inside runs only once per slot.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from jobrunner.calls.initializers import NOTHING, Provided, Wrapper, run
from jobrunner.calls.serialization import (
    AROUND,
    KEY_BYTES,
    PROTOCOL,
    DumpedFunction,
    load_function,
    payloads_of,
)
from jobrunner.protocol.wire.payloads import OUT_OF_BAND, Payload, Store, buffers_of
from jobrunner.shipping import archive as shipment
from jobrunner.shipping.module_versions import PROGRAM, Version, check

_provided: dict[bytes, Provided] = {}
"""The globals that initializers have set in this process, by the initializers' keys."""


class SlotInitializer(Wrapper):
    """The initializer of one epoch of a program.

    `number` is the number of the epoch, and `versions` are the module versions to compare.
    """

    def __init__(
        self,
        initializer: DumpedFunction | None,
        *,
        number: int,
        versions: tuple[Version, ...] = (),
        program: str = PROGRAM,
    ) -> None:
        self.initializer = initializer
        self.number = number
        self.versions = versions
        self.program = program

        self.parts: Mapping[bytes, Payload] = {} if initializer is None else payloads_of(initializer)
        """The parts of the initializer inside, in its order. They travel apart, and are set where this is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        inner = self.initializer
        if inner is not None:
            inner = inner._replace(
                blob=in_one(inner.blob), parts=tuple([part._replace(blob=b"") for part in inner.parts])
            )
        return _rebuilt, (inner, self.number, self.versions, self.program)

    def dump(self, store: Store | None = None) -> DumpedFunction:
        """Return the pickled form, whose key is the same in every process; `store` may copy it to another place."""
        inner = self.initializer
        stream = bytes((AROUND, *sys.version_info[:2])) + pickle.dumps(self, PROTOCOL)
        blob: Payload = stream
        if len(stream) >= OUT_OF_BAND:
            blob = (None if store is None else store((stream,))) or (stream,)
        facts = (self.number, self.versions, self.program, None if inner is None else inner.key)
        key = blake2b(repr(facts).encode(), digest_size=KEY_BYTES).digest()
        if inner is None:
            return DumpedFunction(key, "for this program", blob, "", epoch=self.number)
        epoch = inner.epoch + self.number
        parts = tuple(
            [part._replace(blob=blob) for part, blob in zip(inner.parts, self.parts.values(), strict=True)]
        )
        return DumpedFunction(key, inner.name, blob, inner.python, inner.modules, inner.ships, parts, epoch)

    def __call__(self) -> Provided:
        """Run the initializer.

        Raises ConfigError if a module has another version here, and whatever the initializer inside raises.
        """
        for version in self.versions:
            check(version)
        inner = self.initializer
        provided = NOTHING
        if inner is not None:
            if inner.key not in _provided:
                _provided[inner.key] = run(load_function(inner.blob, self.parts))
            provided = _provided[inner.key]
        shipment.installed = self  # calls that these calls make need it in order to run here
        return provided


def in_one(blob: Payload) -> bytes:
    """Return the bytes of a function in one piece."""
    return blob if isinstance(blob, bytes) else bytes(buffers_of(blob)[0])


def _rebuilt(
    initializer: DumpedFunction | None,
    number: int,
    versions: tuple[Version, ...],
    program: str,
) -> SlotInitializer:
    return SlotInitializer(initializer, number=number, versions=versions, program=program)
