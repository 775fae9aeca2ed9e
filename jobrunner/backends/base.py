"""The interface behind which every backend stands.

The front (`executor.Executor`) owns what is the same everywhere: options, `map`, ordering, progress. A
backend owns where calls run. It gets each function once through `prepare`, so that one `map` of a million
elements looks at its function a single time, and each batch of elements once through `pack`, in the caller's
thread, so that later changes to an argument cannot leak in.

For those who write one: docs/writing-backends.md goes through it, and `jobrunner.backends` has all the names.

Which threads: every method may be called from any thread, and several at the same time. `submit` and `submit_chunk`
are called from within callbacks of Futures, too (a `map` goes on from there), so resolve Futures with no lock held that
these methods take, and do not wait for a Future in them. `shutdown` is also called by the garbage collector, in a
thread that may be inside of any other method: locks must be reentrant.
"""

from __future__ import annotations

import difflib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from jobrunner.calls.serialization import (
    function_name as function_name,  # what a call is named, for the front too
)
from jobrunner.config import ClientConfig
from jobrunner.errors import ConfigTypeError, NotSupportedError
from jobrunner.fixed.elements import ElementResults
from jobrunner.futures import Future
from jobrunner.pickling.loading import Held
from jobrunner.protocol.wire.messages import DEFAULT_OPTIONS, TaskOptions


@dataclass(frozen=True)
class BackendSettings:
    """All that a backend is opened with."""

    config: ClientConfig
    """The settings of this program, `show_output`, `connect_timeout` and `crash_limit` among them."""
    address: str | None = None
    """Of what is to be joined."""
    max_workers: int | None = None
    """Calls at a time. What is None is the backend's to choose."""
    initializer: Callable[..., object] | None = None
    """Called with `initargs` where calls are to run, before the first of them is unpickled there. What the Executor
    ships is in it: then it is a `Shipment`, which first makes the modules importable."""
    initargs: tuple[Any, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the Executor that only this backend knows; an unknown one is a ConfigTypeError."""
    ship: Iterable[Any] = ()
    """What the Executor was told to ship. A backend need not look at it, for `initializer` sees to it."""
    thread_name_prefix: str = ""
    """Of the threads that calls run in, where that is in this process."""
    max_tasks_per_child: int | None = None
    """Calls that one process runs at most. Only backends that claim "renews" are opened with it."""
    start_method: str | None = None
    """How calls find multiprocessing to start processes, where they run on this host; None: as this program has it."""

    def refuse_unknown(self, backend: str, *known: str) -> None:
        """For backends: raise ConfigTypeError for a keyword argument that is not in `known`."""
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
"""What not every backend can do. All else that the contract says (`jobrunner.testing.backend_contract`), each must.

A program that asks for what is not claimed gets NotSupportedError, and the contract tries that, too.
"""


class Backend(ABC):
    """Where calls run. Thread-safe; a submission never blocks on the work of others.

    A backend makes the Futures (`jobrunner.Future`) that it returns, and says what becomes of each, on any thread:

        bind(id, name, canceller)   whose it is, before it is returned; `backends.new_id()` is unique
        confirm_running()           it has started, as far as the backend knows
        duration = seconds          before its end: how long the function ran; `map` cuts chunks by it
        set_result, set_exception   it has ended, which is said once; InvalidStateError where somebody else was faster
        cancel_pending()            cancel it unless it has started; whether it is cancelled
        confirm_cancelled()         it will not run, or was stopped; from every state but an end

    `canceller(future, running)` is what `Future.cancel` calls, and whose answer it gives. Where it is left None,
    `cancel` is the standard library's: then the backend finds, after `confirm_running`, that the Future is not
    `running()`.

    Whoever only has to get bytes to some other engine and back derives from `backends.engine.EngineBackend`, which
    does all of this.
    """

    name: ClassVar[str]

    capabilities: ClassVar[frozenset[str]] = frozenset()
    """Which of CAPABILITIES it claims: its contract is tested for these."""

    @property
    @abstractmethod
    def max_workers(self) -> int:
        """Tasks that can run at the same time now; at least 1."""

    @abstractmethod
    def prepare(self, fn: Callable[..., Any]) -> Any:
        """A handle of `fn` as it is now (its closure and globals included) for `submit` and `submit_chunk`.

        Nobody else looks into it.

        Raises SerializationError (or what pickling raised) when the function cannot be sent.
        """

    @abstractmethod
    def submit(
        self,
        prepared: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: TaskOptions = DEFAULT_OPTIONS,
    ) -> Future[Any]:
        """Start one call. A call that cannot be pickled gives a Future that has failed, not an exception.

        Futures among the arguments, of whichever executor, stand for their results (see `dependencies`): the call waits
        for them without a slot, and fails with DependencyError where one of them failed.

        Raises RuntimeError after `shutdown`, NotSupportedError for an option that cannot be honoured here.
        """

    @property
    def copies(self) -> bool:
        """Whether calls get copies of their arguments, which is in the capabilities."""
        return "copies" in self.capabilities

    def held(self, prepared: Any) -> Held | None:
        """The object that is called, where it is unpickled anew for each call, and `run_fixed` is given a FreshCall:
        elements may share objects with it."""
        return None

    @abstractmethod
    def pack(self, elements: Any) -> Any:
        """The arguments of elements, fixed as they are now, for `submit_chunk`. Raises what pickling raised.

        `elements` are Columns; or FixedElements where the backend `copies`: each argument is as it was when it was
        taken from the input. They can be pickled. `run_fixed` calls a function with what they are unpickled to, and its
        results, unpickled where the program is, are the ElementResults of `submit_chunk`.
        """

    @abstractmethod
    def submit_chunk(
        self, prepared: Any, packed: Any, start: int, stop: int, options: TaskOptions = DEFAULT_OPTIONS
    ) -> Future[ElementResults]:
        """Call the function on the elements [start, stop) of `packed`, in one task: see `run_elements`, `run_fixed`.

        `packed` is what `pack` gave. It serves many chunks, and elements come again: in a smaller chunk after a death,
        alone where they are tried again.

        The Future's result holds those of stop - start elements. Where the process dies in the middle of
        more than one element, the Future fails at once with a TaskLostError whose `element` (absolute index)
        is the guilty one if it is known, so that the front can split the chunk there. An element that raised
        is not tried again here: `options.retries` counts for what befalls the task as a whole.

        A chunk that takes longer than others would need for a part of it can give back the elements that have not
        begun: while it runs, see `Future.give_back`, or at its end, with a result of the first elements alone (of one
        at least). The front submits the others again.
        """

    @abstractmethod
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As `concurrent.futures.Executor.shutdown`. May be called again, and from any thread."""

    @property
    def can_wait(self) -> bool:
        """Whether the calling thread may wait for calls: not one through which they end, which would wait for itself.

        `shutdown(wait=True)` does not wait there.
        """
        return True

    def cancel_all(self, futures: Sequence[Future[Any]], *, running: bool = False) -> None:
        """Ask that these calls not run, unless they have started. Called from any thread, callbacks included.

        `running=True` asks that those which have started be stopped, too, where that is possible; the Futures are
        cancelled when they have. Where `Future.cancel` waits for an answer, override this so that it sends one
        request and does not wait.
        """
        for future in futures:
            future.cancel()

    def future(self, task_id: str) -> Future[Any]:
        """A Future for a call that somebody has submitted. Raises NotSupportedError where that is not known."""
        raise NotSupportedError(
            f'the "{self.name}" backend finds no calls by their id; use "cluster" or "processes"'
        )

    def forget(self, task_id: str) -> None:
        """Drop the outcome of a detached call. Raises NotSupportedError where there are none."""
        raise NotSupportedError(f'the "{self.name}" backend has no detached calls; use "cluster"')

    @property
    def same_host(self) -> bool:
        """Whether all calls run on this host for certain, so that they find this program's files."""
        return False

    @property
    def unfinished(self) -> int | None:
        """Calls of this program (chunks, in `map`) that are not done, as known here; None where nobody counts."""
        return None

    broken: str = ""
    """Why no call can be submitted any more; empty: it can."""

    ended_by_force = False
    """Set before `kill` where the calls that it stops are to fail with TaskLostError rather than be cancelled."""

    @property
    def queued(self) -> int:
        """Calls that have not started, where `threads` are known."""
        return 0

    @property
    def threads(self) -> set[threading.Thread]:
        """Those that calls run in. Raises AttributeError where that is in none of this process."""
        raise AttributeError(
            f'the "{self.name}" backend runs calls in other processes: it has no threads to show'
        )

    @property
    def processes(self) -> dict[int, Any]:
        """Those that calls run in, by process id. Raises AttributeError where these are not this process's children."""
        raise AttributeError(f'the "{self.name}" backend has no child processes to show')

    def connection(self) -> str | None:
        """The address at which another process can join; None where there is nothing to join."""
        return None

    @abstractmethod
    def kill(self) -> None:
        """Stop everything, running tasks included, within a bound; pending Futures are cancelled."""

    @abstractmethod
    def status(self) -> dict[str, Any]:
        """What `jobrunner status --json` prints, for this backend."""
