"""The functions that a slot was sent, and those that it has unpickled."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from jobrunner.calls import serialization
from jobrunner.calls.function_cache import FILE as CACHE_FILE
from jobrunner.calls.function_cache import FunctionCache, Loaded
from jobrunner.protocol.wire.payloads import Payload
from jobrunner.script.calls import ready
from jobrunner.workers.crash_board import ELEMENT, CrashBoard

IN_INITIALIZER = -2
"""The value of effects.IN_INITIALIZER, which would take longer to import than all other modules."""

FILES = (__file__, CACHE_FILE)
"""The files whose frames are no part of a task."""


class SlotFunctions:
    """The functions of a slot; messages add and drop them, in either thread, and the main thread loads them.

    `expect` prepares for a payload before it is loaded, and `is_interrupt` tells an interrupt of the task from an
    exception of its initializer.
    """

    def __init__(
        self,
        board: CrashBoard,
        expect: Callable[[Payload], None],
        is_interrupt: Callable[[BaseException], bool],
    ) -> None:
        self.cache = FunctionCache()
        self._board = board
        self._expect = expect
        self._is_interrupt = is_interrupt
        self._blobs: dict[bytes, tuple[str, Payload, list[bytes]]] = {}
        """The name, the blob and the keys of the parts of each function; parts are functions here, too."""

    def add(self, key: bytes, name: str, blob: Payload, parts: list[bytes]) -> None:
        """Add a function that the worker has sent."""
        self._blobs[key] = name, blob, parts

    def drop(self, key: bytes) -> None:
        """Delete a function, because the worker will not name it again without sending it first."""
        self._blobs.pop(key, None)
        self.cache.drop(key)

    def load(self, key: bytes) -> Loaded:
        """Unpickle a function for the cache; its parts are kept, because other functions may have them, too."""
        if key not in self._blobs:
            from jobrunner.errors import ProtocolError

            raise ProtocolError(f"function {key.hex()} was not sent to this slot before its task")
        importlib.invalidate_caches()  # the module of the function may have been written a moment ago
        _, blob, keys = self._blobs[key]
        parts = {part: self._blobs[part][1] for part in keys}
        for payload in (blob, *parts.values()):
            self._expect(payload)
        return serialization.load_function(blob, parts), 0

    def initialize(self, key: bytes) -> None:
        """Run an initializer when a task names it for the first time; raise InitializerError each time if it fails."""

        def load() -> Callable[[], object]:
            self._board.fields[ELEMENT] = IN_INITIALIZER
            return ready(self.cache.get(key, None, self.load))

        def failure(exc: BaseException) -> BaseException | None:
            return None if self._is_interrupt(exc) else self._failure(key, exc)

        self.cache.initialize(key, load, failure)
        self._board.fields[ELEMENT] = -1
        self.drop(key)  # the initializer is not called again, and its shipped modules may be large

    def _failure(self, key: bytes, exc: BaseException) -> BaseException:
        """Return the error for all tasks that name the initializer, which has raised `exc`."""
        from jobrunner.errors import InitializerError

        name = self._blobs[key][0] if key in self._blobs else "?"
        what = serialization.describe(exc)
        failure = InitializerError(f"the initializer {name} failed in this slot: {what}")
        failure.__cause__ = serialization.without_frames_of(FILES, exc)
        import logging  # imported here, because only slots whose initializer fails need it

        log = logging.getLogger("concurrent.futures")  # the standard library's pools use this logger
        log.critical("Exception in initializer:", exc_info=exc)
        return failure
