"""The arguments and attributes that Executor has in common with the standard library's pools.

`ProcessPoolExecutor(4, context, initialize, (1,))` and `ThreadPoolExecutor(4, "prefix", initialize, (1,))` differ in
the second argument, for which Executor accepts either. Invalid values are refused with the error texts of the standard
library.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jobrunner.errors import ConfigError, ConfigTypeError

if TYPE_CHECKING:
    from jobrunner.backends.base import Backend
    from jobrunner.backends.lifetime import Lifetime


def check_max_workers(value: object) -> None:
    """Raise ConfigError or ConfigTypeError for a bad value of `max_workers`; `config` checks numbers further."""
    if value is None:
        return
    if not isinstance(value, (int, float)) and not hasattr(value, "__index__"):
        raise ConfigTypeError(f"max_workers={value!r}: must be an integer")
    if value <= 0:  # type: ignore[operator]
        raise ConfigError("max_workers must be greater than 0")


def check_initializer(initializer: object) -> None:
    """Raise ConfigTypeError if the initializer is not callable."""
    if initializer is not None and not callable(initializer):
        raise ConfigTypeError("initializer must be a callable")


def check_max_tasks(value: object, mp_context: Any) -> None:
    """Raise ConfigError or ConfigTypeError for a bad value of `max_tasks_per_child`."""
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigTypeError("max_tasks_per_child must be an integer")
    if value <= 0:
        raise ConfigError("max_tasks_per_child must be >= 1")
    if start_method(mp_context) == "fork":
        raise ConfigError(
            "max_tasks_per_child is incompatible with the 'fork' multiprocessing start method;"
            " supply a different mp_context."
        )


def second_argument(given: Any, prefix: str | None) -> tuple[Any, str]:
    """Return (mp_context, thread_name_prefix) from the second argument and the keyword; raise ConfigTypeError."""
    if isinstance(given, str):
        if prefix is not None:
            raise ConfigError(f"thread_name_prefix is given twice: {given!r} and {prefix!r}")
        given, prefix = None, given
    if prefix is not None and not isinstance(prefix, str):
        raise ConfigTypeError(f"thread_name_prefix={prefix!r}: must be a string")
    if given is not None and not callable(getattr(given, "get_start_method", None)):
        raise ConfigTypeError(
            f"mp_context={given!r}: must be a context of multiprocessing, as multiprocessing.get_context() gives it"
        )
    return given, prefix or ""


def start_method(mp_context: Any) -> str | None:
    """Return the start method of the context, or None if it is not set."""
    return None if mp_context is None else mp_context.get_start_method(allow_none=True)


def warn_of_fork(mp_context: Any) -> None:
    """Warn that calls do not run in forks of this program, although the context asks for the method 'fork'."""
    if start_method(mp_context) == "fork":
        warnings.warn(
            "mp_context: calls run in fresh interpreters here, as with 'spawn', and not in forks of this program: what"
            " it has in memory reaches them only through arguments, initargs and the globals that functions name",
            UserWarning,
            stacklevel=3,
        )


class WorkQueue:
    """The number of calls that have not started, with the interface of a queue."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count

    def qsize(self) -> int:
        return self._count()

    def empty(self) -> bool:
        return self._count() == 0


class StandardNames:
    """The private attributes of the standard pools that libraries read; attributes without a meaning are missing."""

    _lifetime: Lifetime
    _initializer: Callable[..., object] | None = None
    _initargs: tuple[Any, ...] = ()
    _thread_name_prefix: str = ""
    _given_context: Any = None

    @property
    def _backend(self) -> Backend:
        return self._lifetime.backend

    @property
    def _max_workers(self) -> int:
        return self._backend.max_workers

    @property
    def _mp_context(self) -> Any:
        """The given context, or by default "spawn", because calls run in fresh interpreters."""
        import multiprocessing  # imported here because few programs ask

        return self._given_context or multiprocessing.get_context("spawn")

    @property
    def _shutdown(self) -> bool:
        return self._lifetime.closed

    _shutdown_thread = _shutdown

    @property
    def _broken(self) -> bool | str:
        """The reason why nothing can be submitted any more, or False."""
        return self._backend.broken or False

    @property
    def _threads(self) -> set[threading.Thread]:
        """The threads that run calls; raises AttributeError if they are not in this process."""
        return self._backend.threads

    @property
    def _processes(self) -> dict[int, Any]:
        """The processes that run calls, by process id.

        Raises AttributeError if they are not children of this process.
        """
        return self._backend.processes

    @property
    def _work_queue(self) -> WorkQueue:
        self._backend.threads  # noqa: B018  (raises AttributeError unless this is a pool of threads)
        return WorkQueue(lambda: self._backend.queued)
