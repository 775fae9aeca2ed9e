"""joblib on an Executor: importing this module registers the backend "jobrunner".

    import jobrunner.integrations.joblib

    with joblib.parallel_config(backend="jobrunner"):
        GridSearchCV(...).fit(X, y)

joblib decides what a batch of calls is, how many are under way, and when a result is handed out; this module opens the
Executor, sends it the batches and brings the outcomes back. (joblib has no way to find a backend that nobody imported.)
"""

from __future__ import annotations

import copy
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

try:
    from joblib.parallel import (
        AutoBatchingMixin,
        FallbackToBackend,
        ParallelBackendBase,
        SequentialBackend,
        register_parallel_backend,
    )
except ModuleNotFoundError as exc:
    raise ModuleNotFoundError("this needs joblib: pip install 'jobrunner[joblib]'", name=exc.name) from exc

from jobrunner.backends.base import function_name
from jobrunner.config import ClientConfig, load
from jobrunner.context import current_executor, current_task
from jobrunner.errors import ConfigError
from jobrunner.executor import Executor, choose
from jobrunner.futures import Future
from jobrunner.integrations.files import ArrayFiles
from jobrunner.integrations.thread_limits import limit_threads
from jobrunner.nested.wait_hooks import waiting

NAME = "jobrunner"

Callback = Callable[[Any], object]


class JobrunnerBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """The joblib backend "jobrunner".

    `n_jobs` is the number of batches at the same time; -1, the default, means all slots. On this host the Executor is
    opened with that number of slots, unless `max_workers` is given.

    Args:
        executor: An open Executor, which stays open, or the first argument of Executor ("threads", "processes",
            "cluster", an address). Default: inside a call, the Executor that runs the call; else the backend that
            JOBRUNNER_BACKEND, JOBRUNNER_ADDRESS or the config file determine.
        settings: Further arguments of Executor, such as `address` and `max_workers`. The Executor that is opened
            with them lasts as long as this object.

    Raises:
        ConfigError: An open Executor is given together with settings.
    """

    supports_retrieve_callback = True
    default_n_jobs = -1

    def __init__(
        self,
        executor: Executor | str | None = None,
        *,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._lock = threading.Lock()
        self._queued: deque[tuple[Any, Callback | None]] = deque()
        """The batches beyond the limit."""
        self._under_way: set[Future[Any]] = set()
        self._started = 0
        """The number of batches that count against the limit."""
        self._limit: int | None = None
        self._array_settings: dict[str, Any] = {}
        self._files: ArrayFiles | None = None
        self._caller: Callable[[], Any] = lambda: None
        self._use(executor, settings)

    def _use(self, executor: Executor | str | None, settings: dict[str, Any]) -> None:
        if isinstance(executor, Executor) and settings:
            raise ConfigError(
                f"the executor is open already, so {', '.join(settings)} cannot be given here; give it to the Executor"
            )
        if executor is None and not settings and current_task() is not None:
            executor = current_executor()
        self._settings = settings
        self._executor = executor if isinstance(executor, Executor) else None
        self._opened_for: int | None = None
        """The number of slots with which our own Executor was opened; None for the default."""
        if self._executor is not None:
            self._owned, self._name, self._address = False, "", None
            return
        address = settings.get("address")
        config = load(ClientConfig, address=address)
        self._owned = True
        self._name, self._address = choose(executor, address, config)  # type: ignore[arg-type]

    # --- what joblib wants to know --------------------------------------------------------------------------

    @property
    def parallel(self) -> Any:
        """The Parallel that uses this backend.

        It refers back to the backend, so that both end when the program releases them.
        """
        return self._caller()

    @parallel.setter
    def parallel(self, caller: Any) -> None:
        self._caller = weakref.ref(caller) if caller is not None else lambda: None

    @property
    def uses_threads(self) -> bool:
        return self._kind == "threads"

    @property
    def supports_sharedmem(self) -> bool:
        return self.uses_threads

    @property
    def supports_inner_max_num_threads(self) -> bool:
        """Whether the processes belong to this object, so that it can set their limits before they load anything."""
        return self._owned and self._address is None and not self.uses_threads

    @property
    def _kind(self) -> str:
        return self._name if self._executor is None else self._executor._lifetime.backend.name

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return the number of batches at the same time; raise ValueError for 0."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            n_jobs = self.default_n_jobs
        if n_jobs > 0:
            return n_jobs
        return max(1, self._slots() + 1 + n_jobs)

    def _slots(self) -> int:
        """Return the Executor's number of slots, at least 2 for a cluster elsewhere.

        With 1, joblib would run the calls in this program.
        """
        executor = self._open(None)
        if self._is_here(executor):
            return executor.max_workers
        if executor.max_workers == 1:
            seconds = load(
                ClientConfig, connect_timeout=self._settings.get("connect_timeout")
            ).connect_timeout
            try:
                executor.submit(int).result(timeout=seconds)  # until a worker is there
            except TimeoutError:
                raise TimeoutError(
                    f"the cluster has had no free worker for {seconds:g} s; start one with `jobrunner worker start`, or"
                    " give a number for n_jobs, so that calls wait for workers"
                ) from None
        return max(2, executor.max_workers)

    # --- the Executor ---------------------------------------------------------------------------------------

    def _open(self, n_jobs: int | None) -> Executor:
        """Return the Executor, opened if necessary, with `n_jobs` slots on this host (None: the default number)."""
        if "max_workers" in self._settings or self._address is not None:
            n_jobs = None
        if self._executor is None or (self._owned and n_jobs != self._opened_for):
            settings = dict(self._settings)
            if self._address is None:
                settings.setdefault("max_workers", n_jobs)
            else:
                settings["address"] = self._address
            if self.supports_inner_max_num_threads and "initializer" not in settings:
                limits = self._prepare_worker_env(n_jobs=n_jobs or settings["max_workers"] or os.cpu_count())
                settings |= {"initializer": limit_threads, "initargs": (limits,)}
            former, self._executor = self._executor, Executor(self._name, **settings)
            self._opened_for = n_jobs
            if former is not None:
                former.shutdown(wait=False)
        return self._executor

    @staticmethod
    def _is_here(executor: Executor) -> bool:
        return executor._lifetime.backend.same_host

    def configure(
        self,
        n_jobs: int | None = 1,
        parallel: Any = None,
        prefer: str | None = None,
        require: str | None = None,
        **options: Any,
    ) -> int:
        """Prepare the calls of a Parallel; `options` are Parallel's own and those of `__init__`."""
        arrays = {name: options.pop(name, None) for name in ("max_nbytes", "mmap_mode", "temp_folder")}
        for name in ("verbose", "context"):
            options.pop(name, None)
        if options:
            self._use(options.pop("executor", None), options)
        count = self.effective_n_jobs(n_jobs)
        if count == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        executor = self._open(n_jobs if n_jobs is not None and n_jobs > 0 else None)
        self._limit = count if count < executor.max_workers else None
        self._array_settings = arrays
        self.parallel = parallel
        return count

    def start_call(self) -> None:
        wanted = self._array_settings
        mode = wanted["mmap_mode"]
        self._files = ArrayFiles(
            None if mode is None else wanted["max_nbytes"],
            mode=mode or "r",
            folder=wanted["temp_folder"] or os.environ.get("JOBLIB_TEMP_FOLDER"),
            same_host=self._executor is not None and self._is_here(self._executor),
        )

    def stop_call(self) -> None:
        self._files = None

    def terminate(self) -> None:
        """End the calls of a Parallel; the Executor stays open for the next one."""
        self._files = None
        self.reset_batch_stats()

    @contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """Return a context in which a call of an Executor yields its slot."""
        with waiting():
            yield

    # --- batches --------------------------------------------------------------------------------------------

    def submit(self, func: Any, callback: Callback | None = None) -> None:
        """Start a batch; `callback` is called with its Future when the batch is done."""
        with self._lock:
            self._queued.append((func, callback))
        self._start_batches()

    apply_async = submit  # joblib before 1.5

    def _start_batches(self) -> None:
        while True:
            with self._lock:
                if not self._queued or (self._limit is not None and self._started >= self._limit):
                    return
                batch, callback = self._queued.popleft()
                self._started += 1
            files = self._files
            future = self._send(batch, files)
            with self._lock:
                self._under_way.add(future)
            # Not under the lock, since joblib's own is taken in there. The callback keeps the arrays and their files.
            future.add_done_callback(partial(self._ended, callback, batch, files))

    def _send(self, batch: Any, files: ArrayFiles | None) -> Future[Any]:
        """Send a batch; errors go to its Future, because they would be lost in a thread of the Executor's."""
        executor = self._executor
        assert executor is not None, "joblib calls configure() first"
        try:
            if not executor._options.name and batch.items:
                executor = executor.with_options(name=function_name(batch.items[0][0]))
            if files is None or self.uses_threads:
                return executor.submit(call_batch, batch)
            sent = copy.copy(batch)
            sent.items = files.replace(batch.items)
            return executor.submit(call_batch, sent)
        except Exception as exc:
            failed: Future[Any] = Future()
            failed.set_exception(exc)
            return failed

    def _ended(self, callback: Callback | None, batch: Any, files: Any, future: Future[Any]) -> None:
        with self._lock:
            self._started -= 1
            self._under_way.discard(future)
        if callback is not None:
            callback(future)
        self._start_batches()

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """Return the results of a finished batch, or raise the exception of one of its calls."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel waiting batches, and stop running ones if that is possible, without waiting for them."""
        with self._lock:
            self._queued.clear()
            left = list(self._under_way)
        if left and self._executor is not None:
            self._executor._lifetime.backend.cancel_all(left, running=True)


def call_batch(batch: Any) -> Any:
    """Call a batch; this runs in the slot."""
    return batch()


register_parallel_backend(NAME, JobrunnerBackend)
