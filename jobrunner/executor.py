"""Executor: the public class over every backend.

This module decides everything that is the same on all backends: options, `map`, and the end of an executor's
life. The backend decides where calls run, see `backends.base`.
"""

from __future__ import annotations

import concurrent.futures
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from jobrunner import options
from jobrunner.backends import registry
from jobrunner.backends.base import Backend, BackendSettings, function_name
from jobrunner.backends.borrowed import BorrowedBackend
from jobrunner.backends.lifetime import Lifetime
from jobrunner.backends.standard_pools import (
    StandardNames,
    check_initializer,
    check_max_tasks,
    check_max_workers,
    second_argument,
    start_method,
    warn_of_fork,
)
from jobrunner.config import MAX_NAME_LENGTH, ClientConfig, load
from jobrunner.display.notebooks import Fact, html_table, or_none, present, shown
from jobrunner.errors import ConfigError, NotPicklableError, NotSupportedError
from jobrunner.fixed.elements import Input
from jobrunner.futures import Future
from jobrunner.mapping.run import MapRun
from jobrunner.mapping.submitted import SubmittedMap
from jobrunner.protocol.wire.messages import DEFAULT_OPTIONS, TaskOptions

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

T = TypeVar("T")


class Executor(StandardNames, concurrent.futures.Executor):
    """Runs calls in parallel on threads, processes or a cluster, with the interface of `concurrent.futures`.

    Used as a context manager, an executor leaves its block when every call is done. If KeyboardInterrupt
    ends the block, waiting calls are cancelled and running calls are stopped, within a bounded time.

    Args:
        backend: "processes", "threads", "cluster", the address of a cluster ("tcp://10.0.0.5:7077"),
            "dask", "ray" or "mpi" (see docs/backends.md), the name of another backend, or a Backend
            object. Default: the setting JOBRUNNER_BACKEND; else "cluster" if JOBRUNNER_ADDRESS or the
            config file names one; else "processes". A number here means `max_workers`.
        mp_context: A multiprocessing context, accepted as by ProcessPoolExecutor. Calls run in fresh
            interpreters in any case. A string here means `thread_name_prefix`, as in ThreadPoolExecutor.
        initializer: A function that each slot calls with `initargs` before this executor's first call
            there. If it fails on a local backend, all calls fail with InitializerError; see
            docs/guarantees.md for clusters.
        initargs: The positional arguments of `initializer`.
        max_workers: The maximum number of calls that run at the same time. Default: the number of CPUs
            that this program may use. A cluster that exists already has its own number of slots.
        max_tasks_per_child: The number of calls after which a new process replaces that of a slot.
            Default: never.
        thread_name_prefix: The prefix of the names of the threads that run calls on "threads".
        ship: Modules that the calls need and only this program has: module objects, paths of package
            folders, or paths of single files. Data files of a package are included. See docs/shipping.md.
        address: The address of the cluster or engine, for backends that connect to one.
        show_output: Whether the output of calls in other processes is printed here. Default: True.
        connect_timeout: The maximum wait for the cluster, in seconds. Default: 10.
        extra: Further options, which only the chosen backend knows.

    Raises:
        ConfigError: An option has a value that cannot be used. ConfigError is a ValueError.
        ConfigTypeError: An option has a wrong type. ConfigTypeError is a ConfigError and a TypeError.
        AuthenticationError: This user has no key for the cluster, or the cluster refused it.
        CoordinatorLostError: The cluster did not answer within `connect_timeout`.
    """

    def __init__(
        self,
        backend: str | int | Backend | None = None,
        mp_context: BaseContext | str | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_workers: int | None = None,
        max_tasks_per_child: int | None = None,
        thread_name_prefix: str | None = None,
        ship: Iterable[ModuleType | str | os.PathLike[str]] = (),
        address: str | None = None,
        show_output: bool | None = None,
        connect_timeout: float | None = None,
        **extra: Any,
    ) -> None:
        if not isinstance(backend, (str, bool)) and hasattr(backend, "__index__"):
            if max_workers is not None:
                raise ConfigError(f"max_workers is given twice: {backend!r} and {max_workers}")
            max_workers, backend = backend, None  # type: ignore[assignment]  # the standard executors' first argument
        check_max_workers(max_workers)
        mp_context, thread_name_prefix = second_argument(mp_context, thread_name_prefix)
        check_initializer(initializer)
        check_max_tasks(max_tasks_per_child, mp_context)
        if initargs is None and initializer is None:
            initargs = ()  # nobody reads it: wrappers pass both on as they were given them
        given: dict[str, Any] = {
            "max_workers": max_workers,
            "address": address,
            "show_output": show_output,
            "connect_timeout": connect_timeout,
        }
        if isinstance(backend, Backend):
            given |= {
                "mp_context": mp_context,
                "initializer": initializer,
                "ship": ship or None,
                "max_tasks_per_child": max_tasks_per_child,
                "thread_name_prefix": thread_name_prefix or None,
            }
            superfluous = [name for name, value in given.items() if value is not None] + list(extra)
            if superfluous:
                named = ", ".join(superfluous)
                raise ConfigError(
                    f"the Backend is open already, so {named} cannot be given to the Executor; give it to the Backend"
                )
            opened = backend
        else:
            config = load(ClientConfig, **given)
            name, address = choose(backend, address, config)
            if name != "threads":
                warn_of_fork(mp_context)
            settings = BackendSettings(
                config,
                address,
                config.max_workers,
                initializer,
                tuple(initargs),
                extra,
                ship,
                thread_name_prefix,
                max_tasks_per_child,
                start_method(mp_context),
            )
            opened = registry.open_backend(name, settings)
        self._initializer, self._initargs = initializer, tuple(initargs)
        self._thread_name_prefix, self._given_context = thread_name_prefix, mp_context
        self._lifetime = Lifetime(opened)
        self._options = DEFAULT_OPTIONS

    # --- calls ----------------------------------------------------------------------------------------------

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Start `fn(*args, **kwargs)` and return its Future at once.

        The arguments are pickled now, so later changes to them have no effect; on "threads" the call shares
        them with the program instead. If they cannot be pickled, the Future fails with SerializationError.

        A Future among the arguments, or inside a list, tuple or dict among them, stands for its result. The
        call waits for that result, and fails with DependencyError if the Future fails.

        Raises:
            RuntimeError: The executor has been shut down.
            NotSupportedError: The backend cannot honour an option of `with_options`.
        """
        lifetime = self._lifetime
        lifetime.check_open()
        options = self._options
        view = _view.get()
        if view is not None and view._lifetime is lifetime:
            options = view._options
        try:
            prepared = lifetime.backend.prepare(fn)
        except Exception as exc:
            failed: Future[T] = Future()
            failed.name = options.name or function_name(fn)
            failed.set_exception(exc)
            return failed
        return lifetime.backend.submit(prepared, args, kwargs, options)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        progress: bool = False,
    ) -> Iterator[T]:
        """Call `fn` on the elements of `iterables` in parallel; return an iterator of the results in input order.

        The iterator raises the exception of the first call that failed. Closing the iterator cancels the
        calls that have not started.

        Args:
            fn: The function, called with one element of each iterable, like the built-in `map` does.
            iterables: The inputs. The shortest one determines the number of calls.
            timeout: The time, in seconds from now, within which all results must have arrived.
                Default: no limit.
            chunksize: The number of elements per task. Default: chosen from the measured duration of calls.
            buffersize: The maximum number of elements taken from the input beyond the results that have
                been handed out, which permits an endless input. It also limits `chunksize`. Default: no
                limit; the whole input is read at once.
            progress: Whether a progress bar is shown while the results are iterated over.

        Raises:
            TimeoutError: The iterator raises it if results are missing after `timeout`.
            ValueError: `chunksize` or `buffersize` is less than 1.
            TypeError: `buffersize` is not an integer.
            RuntimeError: The executor has been shut down.
        """
        check_sizes(chunksize, buffersize)
        deadline = None if timeout is None else time.monotonic() + timeout
        run, results = self._begin_map(fn, iterables, deadline, chunksize, buffersize)
        if progress and run is not None:
            from jobrunner.mapping.progress_bar import map_progress  # here: rich is slow to load

            return map_progress(run, results, self._options.name or function_name(fn))
        return results

    def _begin_map(
        self,
        fn: Callable[..., T],
        iterables: Sequence[Iterable[Any]],
        deadline: float | None,
        chunksize: int | None,
        buffersize: int | None,
    ) -> tuple[MapRun | SubmittedMap | None, Iterator[T]]:
        """Start a map; return its run, which is None if the function cannot be pickled, and its results.

        As in the standard library, the input is read first, and an executor that was shut down maps an empty input
        without an error.
        """
        lifetime = self._lifetime
        elements: Input
        if "submit" in self.__dict__ or type(self).submit is not Executor.submit:
            in_chunks = lifetime.backend.copies and not self._options.retries
            elements = Input(iterables)
            size = min(chunksize or 1, buffersize or chunksize or 1) if in_chunks else 1
            return self._taken(SubmittedMap(self.submit, fn, size), elements, deadline, buffersize)
        try:
            prepared = lifetime.backend.prepare(fn)
        except Exception as exc:
            failure = exc  # `exc` is gone when the block is left
            calls: Iterable[object] = zip(*iterables)  # noqa: B905
            if buffersize is None:
                calls = range(sum(1 for _ in calls))
            if calls:
                lifetime.check_open()
            return None, (fail(failure) for _ in calls)
        elements = Input(iterables)
        if chunksize is not None and buffersize is not None:
            chunksize = min(chunksize, buffersize)
        return self._taken(
            MapRun(lifetime, prepared, self._options, chunksize), elements, deadline, buffersize
        )

    @staticmethod
    def _taken(
        run: MapRun | SubmittedMap, elements: Input, deadline: float | None, buffersize: int | None
    ) -> tuple[MapRun | SubmittedMap, Iterator[Any]]:
        """Let `run` take its input, or the first `buffersize` elements of it; return it with its results.

        An exception of the input is raised here. The elements that were taken before it are executed all the same.
        """
        try:
            if buffersize is None:
                run.take_all(elements)
                results = run.results(deadline)
            else:
                results = run.buffered_results(elements, buffersize, deadline)
        except BaseException:
            run.abandon()
            raise
        elements.check()
        return run, results

    def with_options(
        self,
        *,
        name: str | None = None,
        priority: int | None = None,
        retries: int | None = None,
        timeout: float | None = None,
        resources: Mapping[str, float] | None = None,
        at_most_once: bool | None = None,
        retry_on: type[BaseException] | Sequence[type[BaseException]] | None = None,
        backoff: float | None = None,
        detach: bool | None = None,
    ) -> Executor:
        """Return a view of this executor whose calls have the given options.

        An option that is None keeps the value that it has in this executor. The backend checks the options
        when a call is submitted, and raises NotSupportedError for one that it cannot honour.

        Args:
            name: The name of the calls in the status, in errors and in `Future.name`. Default: the
                function's qualified name.
            priority: Calls with a higher number start first. Default: 0.
            retries: The maximum number of further attempts after a call has raised. Default: 0.
            timeout: The maximum execution time of an attempt, in seconds. A call that exceeds it is
                stopped and fails with TaskTimeoutError. Default: no limit.
            resources: The amounts that a worker must have free, by name, for example {"gpu": 0.5}.
                Amounts are exact to six decimal places. Default: none.
            at_most_once: Whether a call fails with TaskLostError or WorkerLostError, instead of running
                again, if its process or worker dies. Default: False; calls run at least once, see
                docs/guarantees.md.
            retry_on: The exception class, or classes, after which a call is retried. Default: Exception.
            backoff: The pause before the second attempt, in seconds. It doubles for each further attempt,
                up to 30 s. Default: 0.1.
            detach: Whether the call outlives this program, on a cluster that does so itself.
                `Executor.future(id)` returns its Future to everybody who knows the id. The cluster keeps
                its outcome until `forget(id)`, or for the time in `keep_detached`. Default: False.

        Raises:
            ConfigError: An option has a value that cannot be used. ConfigError is a ValueError.
        """
        view = type(self).__new__(type(self))
        view.__dict__.update(self.__dict__)
        view._options = options.merged(
            self._options,
            name=name,
            priority=priority,
            retries=retries,
            timeout=timeout,
            resources=resources,
            at_most_once=at_most_once,
            retry_on=retry_on,
            backoff=backoff,
            detach=detach,
        )
        replaced = view.__dict__.get("submit")
        if replaced is not None:
            view.submit = partial(_submit_for, view, getattr(replaced, "replaced", replaced))  # type: ignore[method-assign]
            view.submit.replaced = getattr(replaced, "replaced", replaced)  # type: ignore[attr-defined]
        return view

    # --- calls that were submitted elsewhere, or earlier ----------------------------------------------------

    def future(self, task_id: str) -> Future[Any]:
        """Return a Future for the call with the id `task_id`, which may have been submitted by any program.

        The Future fails with TaskLostError if the cluster does not know the call, or no longer keeps its
        outcome. The cluster keeps the outcome of a detached call until it is forgotten or has become too
        old, and other outcomes while it has room for them.

        Args:
            task_id: The id of the call, as `Future.id` has it.

        Raises:
            ConfigError: `task_id` is not a task id.
            NotSupportedError: The backend cannot look up calls by their id.
            RuntimeError: The executor has been shut down.
        """
        self._lifetime.check_open()
        if not isinstance(task_id, str) or not 0 < len(task_id) <= MAX_NAME_LENGTH:
            raise ConfigError(f"{task_id!r} is not a task id; use Future.id")
        return self._lifetime.backend.future(task_id)

    def forget(self, task_id: str) -> None:
        """Delete the outcome of a detached call from the cluster.

        Raises:
            JobRunnerError: The cluster keeps no outcome for `task_id`.
        """
        self._lifetime.backend.forget(task_id)

    # --- the end --------------------------------------------------------------------------------------------

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse new calls, finish those that were submitted, then release all resources.

        Args:
            wait: Whether to return only when all calls are done and all resources are released. If False,
                this returns at once; the program still does not exit before the calls are done.
            cancel_futures: Whether to cancel the calls that have not started.
        """
        self._lifetime.shutdown(wait, cancel_futures)

    def terminate_workers(self) -> None:
        """Cancel waiting calls, stop running calls, and shut down; stopped calls fail with TaskLostError.

        On a shared cluster only the calls of this executor are affected.

        Raises:
            NotSupportedError: The backend cannot stop running calls, like "threads".
        """
        backend = self._lifetime.backend
        if "stops" not in backend.capabilities:
            raise NotSupportedError(
                f'the "{backend.name}" backend cannot stop running calls; use "processes"'
            )
        backend.ended_by_force = True
        self._lifetime.kill()

    kill_workers = terminate_workers

    def __enter__(self) -> Executor:
        return self

    def __exit__(  # type: ignore[exit-return]  # the standard library's type, for subclasses
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None:
        if exc_type is not None and issubclass(exc_type, KeyboardInterrupt):
            self._lifetime.kill()
            return False
        try:
            self.shutdown(wait=True)
        except KeyboardInterrupt:
            self._lifetime.kill()
            raise
        return False

    # --- what there is --------------------------------------------------------------------------------------

    @property
    def max_workers(self) -> int:
        """The number of calls that can run at the same time now; on a cluster it changes with the workers."""
        return self._lifetime.backend.max_workers

    def status(self) -> dict[str, Any]:
        """Return the state of the workers and calls as a dict, like `jobrunner status --json` prints it."""
        return self._lifetime.backend.status()

    def _facts(self) -> list[Fact]:
        """Return the facts that are known without asking the cluster."""
        lifetime = self._lifetime
        backend = lifetime.backend
        closed = lifetime.closed
        changed = {
            name: value
            for name, value in self._options._asdict().items()
            if value != getattr(DEFAULT_OPTIONS, name)
        }
        return present(
            [
                ("backend", backend.name),
                ("state", "shut down" if closed else "open"),
                ("cluster", or_none(lambda: backend.cluster)),  # type: ignore[attr-defined]
                ("max_workers", None if closed else or_none(lambda: backend.max_workers)),
                ("unfinished", or_none(lambda: backend.unfinished)),
                *changed.items(),
            ]
        )

    def __repr__(self) -> str:
        facts = {
            name: value for name, value in self._facts() if name not in ("backend", "unfinished", "cluster")
        }
        state = facts.pop("state")
        words = [state] if state != "open" else []
        words += [f"{name}={shown(repr(value))}" for name, value in facts.items()]
        return f"<{type(self).__name__} {self._lifetime.backend.name!r} {', '.join(words)}>"

    def _repr_html_(self) -> str:
        return html_table(type(self).__name__, self._facts())

    def __rich_repr__(self) -> Iterator[Fact]:
        for name, value in self._facts():
            yield name, value if isinstance(value, int) else shown(value)

    def __reduce__(self) -> tuple[Any, ...]:
        backend = self._lifetime.backend
        address = backend.connection()
        if address is None:
            raise NotPicklableError(
                f"an Executor on {backend.name!r} cannot be sent to another process, which could not reach it; use"
                ' Executor("cluster"), which can be sent, or create an Executor inside the call'
            )
        return connect, (address, self._options)


_view: ContextVar[Executor | None] = ContextVar("_view", default=None)
"""The view of `with_options` whose replaced `submit` is running; that function cannot see the view's options."""


def _submit_for(
    view: Executor, submit: Callable[..., Future[Any]], fn: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Future[Any]:
    """Call, on a view of an executor, the `submit` that was replaced on the executor."""
    token = _view.set(view)
    try:
        return submit(fn, *args, **kwargs)
    finally:
        _view.reset(token)


def connect(address: str, task_options: TaskOptions) -> Executor:
    """Return an Executor for a cluster, with these options; unpickling an Executor calls this."""
    from jobrunner.backends.connections import connection_to  # here: it needs ZeroMQ, an Executor may not

    executor = Executor(BorrowedBackend(connection_to(address)))
    executor._options = task_options
    return executor


def choose(backend: str | int | None, address: str | None, config: ClientConfig) -> tuple[str, str | None]:
    """Return the backend's name and address, as the arguments and settings determine them.

    Raises:
        ConfigError: The arguments contradict each other.
    """
    if backend is not None and not isinstance(backend, str):
        raise ConfigError(
            f"backend={backend!r}: must be a backend's name, an address, a Backend object or None"
        )
    configured = backend is None
    if backend is None:
        backend = config.backend or ("cluster" if config.address else "processes")
    if "://" in backend:
        if address is not None and address != backend:
            raise ConfigError(
                f"two different addresses are given: backend={backend!r} and address={address!r}; give one"
            )
        return "cluster", backend
    if address is None and backend not in registry.LOCAL:
        address = config.address
    elif address is not None and configured and backend in registry.LOCAL and config.backend is None:
        backend = "cluster"
    return backend, address


def check_sizes(chunksize: int | None, buffersize: int | None) -> None:
    """Check two arguments of `map`, and raise the standard library's ValueError or TypeError for a bad one."""
    if chunksize is not None and chunksize < 1:
        raise ValueError("chunksize must be >= 1.")
    if buffersize is not None and not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")
    if buffersize is not None and buffersize < 1:
        raise ValueError("buffersize must be None or > 0")


def fail(exc: Exception) -> NoReturn:
    """Raise `exc`, in a place where only an expression is allowed."""
    raise exc
