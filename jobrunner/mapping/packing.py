"""How the elements of a `map` are taken from its input and pickled, in the caller's thread.

Only the elements that cannot be pickled fail, and not those that were pickled with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from jobrunner.backends.base import Backend
from jobrunner.fixed import FixedElements, FixingInput
from jobrunner.fixed.elements import Columns, ElementResults, Input, all_failed
from jobrunner.mapping.chunking import halves
from jobrunner.mapping.spans import Pack

Batch: TypeAlias = "Columns | FixedElements"


@dataclass(slots=True, eq=False)
class Failed:
    """Elements that will not run. `position` is that of the first in the input."""

    position: int
    results: ElementResults


class Packer:
    """Takes and packs the elements of one map."""

    def __init__(self, backend: Backend, prepared: Any) -> None:
        self._backend = backend
        self._prepared = prepared
        self._fixing: FixingInput | None = None
        """The input as it was first seen; None until something was taken, or if the backend copies nothing."""

    def take(self, elements: Input, limit: int) -> tuple[Batch, int, dict[int, Exception]]:
        """Return up to `limit` elements, how many they are, and by index why some cannot be pickled."""
        if self._backend.copies:
            if self._fixing is None:
                self._fixing = FixingInput(elements, self._backend.held(self._prepared))
            fixed, failures = self._fixing.take(limit)
            return fixed, len(fixed), failures
        columns = elements.take(limit)
        return columns, len(columns[0]) if columns else 0, {}

    def pack(self, batch: Batch, base: int, count: int) -> list[Pack | Failed]:
        """Pickle `batch`; where that fails, its halves, so that in the end only the guilty elements fail."""
        try:
            return [Pack(self._backend.pack(batch), base, count)]
        except Exception as exc:
            # What is returned is in no variable: the exception knows this frame, which would know it.
            if count == 1:
                return [Failed(base, all_failed(exc, 1))]
            return [
                made
                for start, stop in halves(0, count)
                for made in self.pack(_part(batch, start, stop), base + start, stop - start)
            ]

    def pack_around(
        self, failures: dict[int, Exception], batch: Batch, base: int, count: int
    ) -> Iterator[Pack | Failed]:
        """Pack the elements between those that cannot be pickled, which are yielded as failed."""
        start = 0
        for row, failure in sorted(failures.items()):
            if start < row:
                yield from self.pack(_part(batch, start, row), base + start, row - start)
            yield Failed(base + row, all_failed(failure, 1))
            start = row + 1
        if start < count:
            yield from self.pack(_part(batch, start, count), base + start, count - start)


def _part(batch: Batch, start: int, stop: int) -> Batch:
    """Return the elements [start, stop)."""
    if isinstance(batch, FixedElements):
        return batch.part(start, stop)
    return [column[start:stop] for column in batch]
