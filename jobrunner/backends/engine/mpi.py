"""The "mpi" backend, which runs calls in the processes of an MPI job, through mpi4py.futures.

    mpiexec -n N python -m mpi4py.futures program.py        N - 1 workers; the program itself is the first process

Without `mpiexec` the workers are spawned, if the MPI implementation allows that. An MPI job ends as a whole: if one of
its processes dies, the program dies, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any

from mpi4py import MPI
from mpi4py.futures import MPIPoolExecutor, _core

from jobrunner.backends.base import CAPABILITIES, BackendSettings
from jobrunner.backends.engine.attempts import AttemptFailure
from jobrunner.backends.engine.backend import EngineBackend
from jobrunner.backends.engine.call_queue import Call
from jobrunner.backends.engine.in_worker import run, wrapped
from jobrunner.errors import NotSupportedError
from jobrunner.protocol.wire import messages as m
from jobrunner.system.atexit_hooks import finish_now
from jobrunner.system.host import module_path


class Finish:
    """An entry among the threads of the pool that `python -m mpi4py.futures` ends once the program's file has run.

    That happens before the interpreter's exit, while calls may still be waiting here; this entry finishes them first.
    """

    def put(self, _: None) -> None:
        finish_now()

    def join(self) -> None:
        """Do nothing, because there is no thread to join."""


class MpiBackend(EngineBackend):
    """The backend `Executor("mpi")`, which uses at most `max_workers` of the job's processes."""

    name = "mpi"
    capabilities = frozenset(CAPABILITIES) - {
        "divides",
        "renews",
        "crashes",
        "tells",
        "stops",
        "ends",
        "nests",
        "shared",
        "alone",
    }
    why_not = "a process of an MPI job cannot be stopped alone"

    def __init__(self, settings: BackendSettings) -> None:
        settings.refuse_unknown(self.name)
        if MPI.COMM_WORLD.Get_rank() and MPI.Comm.Get_parent() != MPI.COMM_NULL:
            raise NotSupportedError(
                'an MPI worker cannot have workers of its own; use "processes" inside a call'
            )
        self._limit = settings.max_workers
        self._finish = Finish()
        shared = getattr(_core, "SharedPool", None)
        if shared is not None:
            shared.threads[self._finish] = self._finish  # first, or the pool's queue would be closed before
            # The pool gives calls to its processes in turn. If the process that became free last is used first, only as
            # many processes are used as there are calls at a time, and calls find what earlier calls left there.
            if shared.workers is not None:
                shared.workers.pop = partial(deque.pop, shared.workers)
        # With `main=False`, the workers do not run the program's file, so its functions are sent by value. The folder
        # of that file is then not on their `sys.path`, so `path` adds it.
        self._pool = MPIPoolExecutor(settings.max_workers, main=False, path=module_path())
        self._pool.bootup()
        self._size: int = self._pool.num_workers
        super().__init__(settings, ahead=self._slots() == self._size)

    def _slots(self) -> int:
        return self._size if self._limit is None else min(self._limit, self._size)

    def _check_resources(self, resources: dict[str, float]) -> None:
        raise NotSupportedError('the "mpi" backend has no resources; use "cluster", "dask" or "ray"')

    def _send(self, calls: Sequence[Call]) -> None:
        for call in calls:
            values = [wrapped(value) for value in call.values]
            call.handle = self._pool.submit(run, self.head(call), wrapped(call.payload), values)
            attempt = call.attempt
            call.handle.add_done_callback(
                lambda done, call=call, attempt=attempt: self._on_done(call, attempt, done)
            )

    def _on_done(self, call: Call, attempt: int, done: Any) -> None:
        error = done.exception()
        self.arrived(call, attempt, None if error is not None else done.result(), error)

    def _diagnose(self, call: Call, error: BaseException) -> AttemptFailure:
        return AttemptFailure(m.LOST, f"mpi4py could not run it: {error!r}", {"unable": True})

    def _close(self, killed: bool) -> None:
        self._pool.shutdown(wait=not killed, cancel_futures=killed)


class EngineContext:
    """The context of a call in an MPI process, see `in_worker.EngineContext`."""

    interruptible = False
    keeps_results = False
    waiting = None
    until = None
    address = None

    def __init__(self) -> None:
        self.name = f"rank {MPI.COMM_WORLD.Get_rank()}"

    def begins(self, call: str) -> bool:
        return True  # MPI never repeats a call
