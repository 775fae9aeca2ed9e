"""The three kinds of a task: one call, a chunk of `map`, or a bundle of short calls."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias


class SingleCall(NamedTuple):
    """One call of `submit`, whose payload holds its arguments."""

    @property
    def calls(self) -> int:
        return 1


class Chunk(NamedTuple):
    """The elements [start, stop) of a `map`, whose columns the payload holds.

    The range is not in the payload, so that a chunk can be divided without unpickling it; see `chunks`.
    """

    start: int
    stop: int

    @property
    def calls(self) -> int:
        return self.stop - self.start


class Bundle(NamedTuple):
    """This number of short calls of one function, whose payloads the payload holds; see `bundles`."""

    calls: int


Kind: TypeAlias = SingleCall | Chunk | Bundle

SINGLE_CALL = SingleCall()
