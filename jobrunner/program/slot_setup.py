"""The initializer around the program's own: it prepares a slot for the calls of this program, at this time.

It compares the modules that the program has reloaded. The initializer inside is run once per slot, whatever comes.
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
"""By the key of an initializer that has run in this process, what it has set."""


class SlotInitializer(Wrapper):
    """`number`: that of the program's epoch; `versions` are compared, where there are any."""

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
        """Those of the initializer, in its order. They travel apart, so where it is unpickled it is given them."""

    def __reduce__(self) -> tuple[Any, ...]:
        inner = self.initializer
        if inner is not None:
            inner = inner._replace(
                blob=in_one(inner.blob), parts=tuple([part._replace(blob=b"") for part in inner.parts])
            )
        return _rebuilt, (inner, self.number, self.versions, self.program)

    def dump(self, store: Store | None = None) -> DumpedFunction:
        """As `Shipment.dump`; `store` may copy it to where it is wanted."""
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
        """Raises ConfigError where a module is another version here, and what the initializer inside raises."""
        for version in self.versions:
            check(version)
        inner = self.initializer
        provided = NOTHING
        if inner is not None:
            if inner.key not in _provided:
                _provided[inner.key] = run(load_function(inner.blob, self.parts))
            provided = _provided[inner.key]
        shipment.installed = self  # the calls of these calls need it to be at home here
        return provided


def in_one(blob: Payload) -> bytes:
    """The bytes of a function, wherever they are."""
    return blob if isinstance(blob, bytes) else bytes(buffers_of(blob)[0])


def _rebuilt(
    initializer: DumpedFunction | None,
    number: int,
    versions: tuple[Version, ...],
    program: str,
) -> SlotInitializer:
    return SlotInitializer(initializer, number=number, versions=versions, program=program)
