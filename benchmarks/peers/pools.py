"""What the workloads ask of every runner: the smallest interface that all of them can be given."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import Any, Protocol

WORKERS = 2


class Unsupported(Exception):
    """This runner has no such thing. The message says which."""


class Result(Protocol):
    """As much of a Future as all runners have."""

    def result(self) -> Any: ...


class Pool:
    """Two workers. `submit` and `close` are what an adapter must give; the others may be what its users would write."""

    def submit(self, function: Callable[[Any], Any], value: Any) -> Result:
        raise NotImplementedError

    def gather(self, results: Sequence[Any]) -> list[Any]:
        """The values of what `submit` gave."""
        return [result.result() for result in results]

    def many(self, function: Callable[[Any], Any], values: Iterable[Any]) -> list[Any]:
        """One call each."""
        return self.gather([self.submit(function, value) for value in values])

    def stream(self, function: Callable[[Any], Any], values: Iterable[Any], ahead: int) -> list[Any]:
        """One call each, `ahead` at a time."""
        waiting: deque[Any] = deque()
        done: list[Any] = []
        for value in values:
            if len(waiting) == ahead:
                done += self.gather([waiting.popleft()])
            waiting.append(self.submit(function, value))
        return done + self.gather(waiting)

    def map(self, function: Callable[[Any], Any], values: Sequence[Any]) -> list[Any]:
        """With whatever chunks this runner takes when it is told nothing."""
        raise NotImplementedError

    def map_chunks(self, function: Callable[[Any], Any], values: Sequence[Any], size: int) -> list[Any]:
        """In chunks of that many elements."""
        raise Unsupported("has no chunksize")

    def close(self) -> None:
        raise NotImplementedError


class ExecutorPool(Pool):
    """Any concurrent.futures.Executor."""

    def __init__(self, executor: Executor, *, chunks: bool = True) -> None:
        self.executor = executor
        self._chunks = chunks

    def submit(self, function: Callable[[Any], Any], value: Any) -> Result:
        return self.executor.submit(function, value)

    def map(self, function: Callable[[Any], Any], values: Sequence[Any]) -> list[Any]:
        return list(self.executor.map(function, values))

    def map_chunks(self, function: Callable[[Any], Any], values: Sequence[Any], size: int) -> list[Any]:
        if not self._chunks:
            return super().map_chunks(function, values, size)
        return list(self.executor.map(function, values, chunksize=size))

    def close(self) -> None:
        self.executor.shutdown()
