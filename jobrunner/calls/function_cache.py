"""Functions that a process has unpickled, and initializers that it has run, for its further calls."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from jobrunner.calls import initializers

FILE = __file__

Loaded = tuple[Callable[..., Any], int]
"""An unpickled function, and the size in bytes of what it was unpickled from."""


class FunctionCache:
    """The functions of a process by content hash and by initializer, and what its initializers have provided.

    A function is kept once per initializer, because it has in its globals what that initializer has set there. An
    initializer runs once per process. A cache with limits forgets the functions that were unused for longest, but
    never the last one; its owner holds a lock if several threads use it.
    """

    def __init__(self, max_functions: int | None = None, max_bytes: int = 0) -> None:
        self.provided: dict[bytes, initializers.Provided] = {}
        """The globals that the initializers which have succeeded have set."""
        self.failures: dict[bytes, BaseException] = {}
        """The errors of the initializers that have failed, for all calls that name them."""
        self._max_functions = max_functions
        self._max_bytes = max_bytes
        self._bytes = 0
        self._functions: OrderedDict[tuple[bytes | None, bytes], Loaded] = OrderedDict()

    def get(
        self, key: bytes, initializer: bytes | None, load: Callable[[bytes], Loaded]
    ) -> Callable[..., Any]:
        """Return the function `key` after its initializer, which has run; `load` unpickles it if it is not here."""
        known = self._functions.get((initializer, key))
        if known is None:
            known = load(key)
            self._keep(key, initializer, known)
        elif self._max_functions is not None:
            self._functions.move_to_end((initializer, key))
        return known[0]

    def drop(self, key: bytes) -> None:
        """Delete a function, whichever initializers it was kept for; any thread may call this."""
        for pair in list(self._functions):  # in one step, for another thread may add one
            if pair[1] == key:
                self._functions.pop(pair, None)

    def initialize(
        self,
        key: bytes,
        load: Callable[[], Callable[[], object]],
        failure: Callable[[BaseException], BaseException | None],
    ) -> None:
        """Run an initializer unless it has run; raise what it has failed with, each time.

        Args:
            key: The key of the initializer.
            load: Returns the initializer.
            failure: Returns the error to raise and remember for an exception of the initializer; None means that the
                exception is not its own, so that it is raised as it is and the initializer runs again next time.
        """
        if key not in self.provided and key not in self.failures:
            try:
                self.provided[key] = initializers.run(load())
            except BaseException as exc:
                error = failure(exc)
                if error is None:
                    raise
                self.failures[key] = error
        if key in self.failures:
            raise self.failures[key].with_traceback(None)

    def _keep(self, key: bytes, initializer: bytes | None, loaded: Loaded) -> None:
        if initializer is not None:
            self.provided[initializer].give_to(loaded[0])
        self._functions[initializer, key] = loaded
        if self._max_functions is None:
            return
        self._bytes += loaded[1]
        while len(self._functions) > self._max_functions or (
            self._bytes > self._max_bytes and len(self._functions) > 1
        ):
            self._bytes -= self._functions.popitem(last=False)[1][1]
