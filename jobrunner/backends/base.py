"""The interface that every backend implements.

The front (`executor.Executor`) provides everything that is the same for all backends: options, `map`, ordering and
progress. A backend runs calls. It gets each function once through `prepare`, so that one `map` of a million elements
examines its function a single time. It gets each batch of elements once through `pack`, in the caller's thread, so that
later changes to an argument have no effect.

Authors of backends find a guide in docs/writing-backends.md, and all names that they need in `jobrunner.backends`.

Every method may be called in any thread, and several methods at the same time. `submit` and `submit_chunk` are also
called within callbacks of Futures, in which a `map` submits further chunks. Therefore a backend must not hold a lock
that these methods acquire while it resolves Futures, and must not wait for a Future in them. `shutdown` is also called
by the garbage collector, in a thread that may be inside of any other method, so locks must be reentrant.
"""

from __future__ import annotations

import difflib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from jobrunner.calls.serialization import (
    function_name as function_name,  # the front uses this name, too
)
from jobrunner.config import ClientConfig
from jobrunner.errors import ConfigTypeError, NotSupportedError
from jobrunner.fixed.elements import ElementResults
from jobrunner.futures import Future
from jobrunner.pickling.loading import Held
from jobrunner.protocol.wire.messages import DEFAULT_OPTIONS, TaskOptions


@dataclass(frozen=True)
class BackendSettings:
    """The settings with which a backend is opened."""

    config: ClientConfig
    """The settings of this program, including `show_output`, `connect_timeout` and `crash_limit`."""
    address: str | None = None
    """The address of the cluster or engine to which the backend connects."""
    max_workers: int | None = None
    """The maximum number of calls at the same time; None leaves the choice to the backend."""
    initializer: Callable[..., object] | None = None
    """A function that is called with `initargs` where calls are to run, before the first of them is unpickled there.
    If the Executor ships modules, it is a `Shipment`, which makes the modules importable first."""
    initargs: tuple[Any, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    """The keyword arguments of the Executor that only this backend knows; an unknown one is a ConfigTypeError."""
    ship: Iterable[Any] = ()
    """The modules that the Executor was told to ship; a backend may ignore them, because `initializer` handles
    them."""
    thread_name_prefix: str = ""
    """The prefix of the names of threads that run calls in this process."""
    max_tasks_per_child: int | None = None
    """The maximum number of calls per process; only backends that claim "renews" are opened with it."""
    start_method: str | None = None
    """The start method that calls find in multiprocessing on this host; None means that of this program."""

    def refuse_unknown(self, backend: str, *known: str) -> None:
        """Raise ConfigTypeError for a keyword argument that is not in `known`; backends call this."""
        for name in self.extra:
            if name not in known:
                everywhere = (
                    "max_workers",
                    "initializer",
                    "initargs",
                    "mp_context",
                    "max_tasks_per_child",
                    "thread_name_prefix",
                    "ship",
                    "address",
                    "show_output",
                    "connect_timeout",
                )
                close = difflib.get_close_matches(name, [*known, *everywhere], n=1, cutoff=0.5)
                also = f"; did you mean {close[0]!r}?" if close else ""
                also += f"; this backend knows {', '.join(known)}" if known else ""
                raise ConfigTypeError(f"Executor({backend!r}) has no option {name!r}{also}")


CAPABILITIES = {
    "copies": "arguments and results are copied as they are then, so that nothing is shared with the call",
    "apart": "calls run in another process",
    "crashes": "that process may die: its call fails, and the others go on",
    "tells": "the error of a call that died says how its process ended",
    "renews": "a process is replaced after so many calls (max_tasks_per_child=)",
    "stops": "a call that runs can be stopped: cancel(running=True), timeout=, the end of the program",
    "ends": "Ctrl-C stops what runs",
    "nests": "calls can submit calls and wait for them, and take the Executor along",
    "divides": "no element of map waits behind one that takes long while a slot is idle, however the input was cut",
    "shared": "a call can be asked for by its id, from other processes too",
    "tidy": "nothing of the backend is left once it is closed, threads included",
    "alone": "the interpreter alone runs a program: interactively too, and Ctrl-C reaches it",
}
"""The capabilities that not every backend has. Every backend must keep the other promises of the contract
(`jobrunner.testing.backend_contract`). A program that asks for a capability which is not claimed gets
NotSupportedError, and the contract tests that, too."""


class Backend(ABC):
    """A place where calls run. Thread-safe; a submission never blocks on the work of others.

    A backend creates the Futures (`jobrunner.Future`) that it returns, and reports about each of them, in any thread:

        bind(id, name, canceller)   identifies it, before it is returned; `backends.new_id()` is unique
        confirm_running()           it has started, as far as the backend knows
        duration = seconds          the execution time, before its end; `map` cuts chunks by it
        set_result, set_exception   it has ended; raises InvalidStateError if it was resolved already
        cancel_pending()            cancels it unless it has started; returns whether it is cancelled
        confirm_cancelled()         it will not run, or was stopped; has no effect if it has ended

    `Future.cancel` calls `canceller(future, running)`, and returns its answer. If the canceller is None, `cancel` works
    as in the standard library, and the backend finds, after `confirm_running`, that the Future is not `running()`.

    A backend that only passes bytes to another engine and back derives from `backends.EngineBackend`, which does all
    of this.
    """

    name: ClassVar[str]

    capabilities: ClassVar[frozenset[str]] = frozenset()
    """The members of CAPABILITIES that the backend claims; the contract tests them."""

    @property
    @abstractmethod
    def max_workers(self) -> int:
        """The number of tasks that can run at the same time now; at least 1."""

    @abstractmethod
    def prepare(self, fn: Callable[..., Any]) -> Any:
        """Return a handle of `fn` in its present state, with its closure and globals, for `submit` and `submit_chunk`.

        Only this backend uses the content of the handle. Raises SerializationError, or the exception of pickling, if
        the function cannot be sent.
        """

    @abstractmethod
    def submit(
        self,
        prepared: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: TaskOptions = DEFAULT_OPTIONS,
    ) -> Future[Any]:
        """Start one call; if it cannot be pickled, return a failed Future instead of raising an exception.

        Futures among the arguments, of any executor, stand for their results (see `dependency_results`). The call waits
        for them without a slot, and fails with DependencyError if one of them fails.

        Raises RuntimeError after `shutdown`, and NotSupportedError for an option that the backend cannot honour.
        """

    @property
    def copies(self) -> bool:
        """Whether calls get copies of their arguments, as the capabilities tell."""
        return "copies" in self.capabilities

    def held(self, prepared: Any) -> Held | None:
        """Return the called object if it is unpickled anew for each call, or None.

        Elements of a `map` may share objects with it, so `run_fixed` is then given a FreshCall.
        """
        return None

    @abstractmethod
    def pack(self, elements: Any) -> Any:
        """Return the arguments of elements in their present state, for `submit_chunk`; raise the exception of pickling.

        `elements` are Columns, or FixedElements if the backend `copies`. FixedElements hold each argument in its state
        at the time when it was taken from the input, and can be pickled. `run_fixed` calls a function with the
        elements after unpickling. Its results, unpickled in the program, are the ElementResults of `submit_chunk`.
        """

    @abstractmethod
    def submit_chunk(
        self, prepared: Any, packed: Any, start: int, stop: int, options: TaskOptions = DEFAULT_OPTIONS
    ) -> Future[ElementResults]:
        """Call the function on the elements [start, stop) of `packed` in one task, see `run_elements` and `run_fixed`.

        `packed` is the result of `pack`. It serves many chunks, and elements are submitted again: in a smaller chunk
        after a death, and alone for a retry.

        The Future's result holds the results of stop - start elements. If the process dies while it has more than one
        element, the Future fails at once with a TaskLostError. Its `element` is the absolute index of the running
        element, if that is known, so that the front can split the chunk there. The backend does not retry an element
        that raised: `options.retries` concerns the task as a whole.

        A chunk that takes longer than others would need for a part of it can give back the elements that have not
        begun: while it runs, see `Future.give_back`, or at its end, with a result of the first elements alone, at
        least one. The front submits the other elements again.
        """

    @abstractmethod
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut down, as `concurrent.futures.Executor.shutdown` does; any thread may call this, and repeatedly."""

    @property
    def can_wait(self) -> bool:
        """Return whether the calling thread may wait for calls; a thread through which calls end may not.

        `shutdown(wait=True)` does not wait in such a thread.
        """
        return True

    def cancel_all(self, futures: Sequence[Future[Any]], *, running: bool = False) -> None:
        """Request that these calls not run, unless they have started; any thread and any callback may call this.

        `running=True` also requests that calls which have started be stopped, if that is possible; their Futures are
        cancelled when they have stopped. If `Future.cancel` waits for an answer, override this method so that it sends
        one request and does not wait.
        """
        for future in futures:
            future.cancel()

    def future(self, task_id: str) -> Future[Any]:
        """Return a Future for a call of any program; raise NotSupportedError if the backend cannot look up calls."""
        raise NotSupportedError(
            f'the "{self.name}" backend cannot look up calls by their id; use "cluster" or "processes"'
        )

    def forget(self, task_id: str) -> None:
        """Delete the outcome of a detached call; raise NotSupportedError if the backend has no detached calls."""
        raise NotSupportedError(f'the "{self.name}" backend has no detached calls; use "cluster"')

    @property
    def same_host(self) -> bool:
        """Whether all calls certainly run on this host, so that they find this program's files."""
        return False

    @property
    def unfinished(self) -> int | None:
        """The number of unfinished calls of this program, as known here, with a chunk of `map` as one.

        None if unknown.
        """
        return None

    broken: str = ""
    """The reason why no call can be submitted any more; empty if calls can be submitted."""

    ended_by_force = False
    """Whether stopped calls fail with TaskLostError instead of being cancelled; it is set before `kill`."""

    @property
    def queued(self) -> int:
        """The number of calls that have not started, if `threads` are known."""
        return 0

    @property
    def threads(self) -> set[threading.Thread]:
        """The threads that run calls; raises AttributeError if they are not in this process."""
        raise AttributeError(
            f'the "{self.name}" backend runs calls in other processes, so it has no threads to show'
        )

    @property
    def processes(self) -> dict[int, Any]:
        """The processes that run calls, by process id.

        Raises AttributeError if they are not children of this process.
        """
        raise AttributeError(f'the "{self.name}" backend has no child processes to show')

    def connection(self) -> str | None:
        """Return the address at which another process can connect, or None if there is none."""
        return None

    @abstractmethod
    def kill(self) -> None:
        """Stop everything, including running tasks, within a bounded time, and cancel pending Futures."""

    @abstractmethod
    def status(self) -> dict[str, Any]:
        """Return the status of this backend, as `jobrunner status --json` prints it."""
