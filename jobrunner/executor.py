"""Executor: the one front over every backend.

What is the same everywhere is decided here (options, `map`, the end of an executor's life); where calls run
is the backend's affair, see `backends.base`.
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
    """Runs calls in parallel: on threads, processes or a cluster, with the interface of `concurrent.futures`.

    Args:
        backend: "processes" (the default), "threads", "cluster", the address of a cluster ("tcp://10.0.0.5:7077"),
            "dask", "ray", "mpi" (see docs/backends.md), or a Backend. None takes what JOBRUNNER_BACKEND,
            JOBRUNNER_ADDRESS or the config file say. A number in this place is `max_workers`.
        mp_context: a context of multiprocessing, as ProcessPoolExecutor takes it. Calls run in fresh interpreters,
            whatever it says. A string in this place is `thread_name_prefix`, as with ThreadPoolExecutor.
        initializer: called with `initargs` in each slot before its first call. Where it fails on a local backend,
            all calls do, see docs/guarantees.md.
        max_workers: calls that run at the same time. Default: the usable CPUs; a cluster has what it has.
        max_tasks_per_child: calls after which a slot's process is replaced by a new one. Default: never.
        thread_name_prefix: for the names of the threads that calls run in, on "threads".
        ship: modules that exist only here and that the calls need: module objects, and paths of packages'
            folders or of single files. A package's data files go along. See docs/shipping.md.
        address: for backends that join something.
        show_output: print here what the calls print elsewhere. Default: yes.
        connect_timeout: seconds to wait for the cluster.
        extra: options that only one backend knows.

    Raises ConfigError (a ValueError) for options that cannot be used, ConfigTypeError (also a TypeError) for those of
    another type.

    As a context manager it leaves the block when every call is done. When KeyboardInterrupt ends the
    block, calls that wait are cancelled and those that run are stopped instead, within a bound.
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
                raise ConfigError(f"a Backend is open already: {named} must be given to the Backend itself")
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

        The arguments are fixed as they are now (threads share them instead). What cannot be pickled fails in
        the Future. A Future among the arguments, or in a list, tuple or dict there, stands for its result:
        the call waits for it, and fails with DependencyError if that one fails. Raises RuntimeError after
        `shutdown`.
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
        """As the built-in `map`, in parallel; an iterator of the results, in input order.

        Args:
            timeout: seconds from now in which all results must be there; else iterating raises TimeoutError.
            chunksize: elements per task. Default: as many as fit the measured duration of the calls.
            buffersize: how many elements may be taken from the input beyond the results handed out, so that
            an
                endless input is fine (`chunksize` is at most that). Default: the whole input is taken at
                once.
            progress: show a progress bar while the results are iterated over.

        Iterating raises what the first failed call raised. Closing the iterator cancels what has not started.
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
        """The results of a map, and what brings them; nothing does where the function cannot be sent.

        As in the standard library the input is read first, and an executor that was shut down maps what is empty.
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
        """A map that has taken its input, or the first `buffersize` of it, and its results.

        Where the input raises, this does, and what was taken before runs all the same.
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
        """This executor, with options for the calls made through what is returned; None leaves one as it is.

        Args:
            name: shown in the status, in errors and in `Future.name`.
            priority: calls with a higher one start first. Default 0.
            retries: attempts after the first, where a call raises. Default 0.
            retry_on: only after exceptions of this class, or of one of these. Default: any Exception.
            backoff: seconds before the second attempt, doubled for each further one up to 30. Default 0.1.
            timeout: seconds of execution, after which the call is stopped and fails with TaskTimeoutError.
            resources: what a worker must have free, by name, e.g. {"gpu": 0.5}; exact to six decimal places.
            at_most_once: where the process or the worker dies, fail (TaskLostError, WorkerLostError) rather
            than
                run the call again. Default: calls run at least once, see docs/guarantees.md.
            detach: the call outlives this program, on a cluster that does. `Executor.future(id)` gives its
            Future
                to whoever knows the id; its outcome is kept until `forget(id)`, or for `keep_detached`.

        Raises ConfigError (a ValueError). An option that the backend cannot honour raises NotSupportedError
        when a call is submitted.
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
        """A Future for the call with that id (`Future.id`), whoever submitted it, on any host.

        It fails with TaskLostError if the cluster knows no such call, or does not keep its outcome any more: that of a
        detached call is kept until it is forgotten, others as long as there is room.
        """
        self._lifetime.check_open()
        if not isinstance(task_id, str) or not 0 < len(task_id) <= MAX_NAME_LENGTH:
            raise ConfigError(f"{task_id!r} is not the id of a call; Future.id is")
        return self._lifetime.backend.future(task_id)

    def forget(self, task_id: str) -> None:
        """Drop the outcome of a detached call. Raises JobRunnerError if none is kept under that id."""
        self._lifetime.backend.forget(task_id)

    # --- the end --------------------------------------------------------------------------------------------

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no new calls, and release everything once those submitted are done.

        With `wait=False` it returns at once, and the program still does not end before its work is done.
        `cancel_futures=True` cancels what has not started.
        """
        self._lifetime.shutdown(wait, cancel_futures)

    def terminate_workers(self) -> None:
        """Stop the calls that run, cancel those that wait, and shut down; what ran fails with TaskLostError.

        On a cluster that others use, too, it concerns the calls of this executor. Raises NotSupportedError where calls
        cannot be stopped.
        """
        backend = self._lifetime.backend
        if "stops" not in backend.capabilities:
            raise NotSupportedError(
                f'the "{backend.name}" backend cannot stop calls that run; use "processes"'
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
        """Calls that can run at the same time now; a cluster's number changes."""
        return self._lifetime.backend.max_workers

    def status(self) -> dict[str, Any]:
        """What runs where, as `jobrunner status --json` prints it."""
        return self._lifetime.backend.status()

    def _facts(self) -> list[Fact]:
        """Without asking anybody: what is known here."""
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
                f"an Executor on {backend.name!r} cannot be sent to another process, which could not reach it;"
                ' use Executor("cluster"), which can be sent, or open an Executor inside the call'
            )
        return connect, (address, self._options)


_view: ContextVar[Executor | None] = ContextVar("_view", default=None)
"""The view of `with_options` whose replaced `submit` runs: that one knows nothing of the view's options."""


def _submit_for(
    view: Executor, submit: Callable[..., Future[Any]], fn: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Future[Any]:
    """A `submit` that was replaced on an executor, called on a view of it."""
    token = _view.set(view)
    try:
        return submit(fn, *args, **kwargs)
    finally:
        _view.reset(token)


def connect(address: str, task_options: TaskOptions) -> Executor:
    """What an Executor becomes when it is unpickled: a connection to the same cluster, with the same options."""
    from jobrunner.backends.connections import connection_to  # here: it needs ZeroMQ, an Executor may not

    executor = Executor(BorrowedBackend(connection_to(address)))
    executor._options = task_options
    return executor


def choose(backend: str | int | None, address: str | None, config: ClientConfig) -> tuple[str, str | None]:
    """The backend's name and its address, from the arguments and the settings.

    Raises ConfigError when they contradict each other.
    """
    if backend is not None and not isinstance(backend, str):
        raise ConfigError(f"backend={backend!r}: must be a name, an address, a Backend or None")
    configured = backend is None
    if backend is None:
        backend = config.backend or ("cluster" if config.address else "processes")
    if "://" in backend:
        if address is not None and address != backend:
            raise ConfigError(f"two addresses: {backend!r} and {address!r}")
        return "cluster", backend
    if address is None and backend not in registry.LOCAL:
        address = config.address
    elif address is not None and configured and backend in registry.LOCAL and config.backend is None:
        backend = "cluster"
    return backend, address


def check_sizes(chunksize: int | None, buffersize: int | None) -> None:
    """Raises what the standard library raises for these arguments of `map`."""
    if chunksize is not None and chunksize < 1:
        raise ValueError("chunksize must be >= 1.")
    if buffersize is not None and not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")
    if buffersize is not None and buffersize < 1:
        raise ValueError("buffersize must be None or > 0")


def fail(exc: Exception) -> NoReturn:
    """`raise`, as an expression."""
    raise exc
