from __future__ import annotations

import msgpack

from jobrunner.protocol.wire.kinds import SINGLE_CALL, Bundle, Chunk


def test_each_kind_counts_its_calls():
    assert [kind.calls for kind in (SINGLE_CALL, Chunk(3, 10), Bundle(64))] == [1, 7, 64]


def test_the_number_of_fields_tells_the_kind():
    """A slot is given only the fields."""
    assert [
        len(msgpack.unpackb(msgpack.packb(kind))) for kind in (SINGLE_CALL, Bundle(64), Chunk(3, 10))
    ] == [0, 1, 2]
