"""A pickled function on its way into the protocol: its definition, and those of its parts."""

from __future__ import annotations

from typing import NamedTuple

from jobrunner.protocol.messages import FunctionDef
from jobrunner.serialization import DumpedFunction


class Prepared(NamedTuple):
    """A function, pickled as it was when `prepare` was called."""

    definition: FunctionDef
    parts: tuple[FunctionDef, ...] = ()

    @property
    def definitions(self) -> tuple[FunctionDef, ...]:
        """All that whoever has not seen it must be sent, in that order."""
        return (*self.parts, self.definition)


def prepared(dumped: DumpedFunction) -> Prepared:
    """The definitions of a function that `serialization` has pickled."""
    if not dumped.parts:
        return Prepared(FunctionDef(*dumped.definition()))
    parts = tuple([FunctionDef(*part.definition()) for part in dumped.parts])
    return Prepared(FunctionDef(*dumped.definition()), parts)
