"""A jobrunner backend over any `concurrent.futures.Executor`: a complete example of a backend in a package of its own.

    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context
    from jobrunner import Executor

    with ProcessPoolExecutor(4, get_context("spawn")) as pool, Executor("pool", pool=pool) as ex:
        ...

Its processes must not be forked, since an Executor has threads.

What the pool itself does not have comes from `EngineBackend`: options, chunks of `map`, Futures as arguments, lambdas,
exceptions with the traceback of where they were raised. This module only carries calls there and back.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from typing import Any

from jobrunner.backends import LOST, AttemptFailure, BackendSettings, Call, EngineBackend, run, wrapped
from jobrunner.errors import ConfigError, NotSupportedError

DEFAULT_WORKERS = 4


class PoolBackend(EngineBackend):
    """`Executor("pool", pool=...)`; without a pool it starts one of threads, and closes it at the end."""

    name = "pool"
    capabilities = frozenset({"copies", "tidy", "alone"})  # of the default pool, which is one of threads
    why_not = "what a pool runs cannot be stopped"

    def __init__(self, settings: BackendSettings) -> None:
        settings.refuse_unknown(self.name, "pool")
        given = settings.extra.get("pool")
        if given is not None and not isinstance(given, concurrent.futures.Executor):
            raise ConfigError(f"pool={given!r}: must be a concurrent.futures.Executor")
        self._own = given is None
        size = settings.max_workers or getattr(given, "_max_workers", None)
        self._size: int = size or DEFAULT_WORKERS
        self._pool: concurrent.futures.Executor = given or ThreadPoolExecutor(self._size)
        super().__init__(settings, ahead=False)  # last: from now on calls may come

    def _slots(self) -> int:
        return self._size

    def _send(self, calls: Sequence[Call]) -> None:
        for call in calls:
            values = [wrapped(value) for value in call.values]
            call.handle = self._pool.submit(run, self.head(call), wrapped(call.payload), values)
            attempt = call.attempt
            call.handle.add_done_callback(
                lambda done, call=call, attempt=attempt: self._on_done(call, attempt, done)
            )

    def _on_done(self, call: Call, attempt: int, done: concurrent.futures.Future[Any]) -> None:
        if done.cancelled():
            self.arrived(call, attempt, None, concurrent.futures.CancelledError())
        else:
            error = done.exception()
            self.arrived(call, attempt, None if error else done.result(), error)

    def _diagnose(self, call: Call, error: BaseException) -> AttemptFailure:
        """A broken pool stays broken: nothing that it has can run any more."""
        gone = isinstance(error, (BrokenExecutor, concurrent.futures.CancelledError))
        return AttemptFailure(
            LOST, f"the pool could not run it: {error!r}", {"engine_lost": gone, "unable": True}
        )

    def _check_resources(self, resources: dict[str, float]) -> None:
        raise NotSupportedError('the "pool" backend knows no resources; use "cluster"')

    def _close(self, killed: bool) -> None:
        if self._own:
            self._pool.shutdown(wait=not killed, cancel_futures=killed)


class EngineContext:
    """Where a call runs, seen from inside; `engine_worker.run` makes one for each call."""

    name = "pool"
    address = None
    waiting = None
    until = None
    keeps_results = True
    interruptible = False

    def begins(self, call: str) -> bool:
        """Whether a call that may run only once begins for the first time: a pool never starts one again."""
        return True
