"""The "ray" backend, whose calls are tasks of a Ray cluster, which the user or this backend has started.

Ray reports the fate of each task, and can stop a single one, so calls can have time limits and can be stopped. Ray has
no priorities, so this process decides the order of calls, and which calls can be cancelled because they have not
started.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray import exceptions

from jobrunner.backends.base import CAPABILITIES, BackendSettings
from jobrunner.backends.engine.attempts import AttemptFailure
from jobrunner.backends.engine.backend import EngineBackend, window_of
from jobrunner.backends.engine.call_queue import Call
from jobrunner.backends.engine.entry import entry
from jobrunner.backends.engine.in_worker import wrapped
from jobrunner.backends.engine.parts import PartsThere
from jobrunner.backends.engine.stops import AGAIN
from jobrunner.errors import CoordinatorLostError, NotSupportedError
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.payloads import Payload, payload_size
from jobrunner.system import conditions
from jobrunner.system.forks import let_sigterm_end_children
from jobrunner.system.host import usable_cpus

LOOPBACK = "127.0.0.1"
PUT_FROM = 100 * 1024
"""Minimum size in bytes of arguments that go into Ray's object store, which all workers of a host read."""

SLOTS_KEPT = 2.0
"""Time in seconds after which the number of the cluster's CPUs is asked for again."""

LOOK_AGAIN = 0.5
"""Time in seconds after which a waiting call checks again, because its results may arrive by another way."""

OWN_NAMES = {"cpu": "num_cpus", "num_cpus": "num_cpus", "gpu": "num_gpus", "num_gpus": "num_gpus"}
"""The options of Ray for resources that are not in its option `resources`, by lower-case names."""


_lock = threading.Lock()
_holders: set[int] = set()
"""The ids of the backends that use the Ray connection which one of them has opened; the last one closes it."""
_started = False
"""Whether that Ray was started here, so that its resources do not change."""


class Shared:
    """Arguments in Ray's object store, with the ids of the calls that use them."""

    def __init__(self, payloads: Sequence[Payload], reference: Any) -> None:
        self.payloads = payloads
        self.reference = reference
        self.users: set[str] = set()


class RayBackend(EngineBackend):
    """The backend `Executor("ray", address=...)`.

    Without an address, it uses the Ray that this program has initialised, or else starts one. `window` is the number of
    calls that the cluster has at the same time. Raises CoordinatorLostError if there is no Ray at the address.
    """

    name = "ray"
    capabilities = frozenset(CAPABILITIES) - {"divides", "renews", "tells", "shared", "tidy"}
    can_stop = True

    def __init__(self, settings: BackendSettings) -> None:
        settings.refuse_unknown(self.name, "window")
        window = window_of(settings)
        self._own = False
        self._limit = settings.max_workers
        with _lock:
            self._connect(settings)
        self._counted = (0.0, 0)
        self._entry = ray.remote(max_retries=0)(entry())
        self._shared: dict[tuple[int, ...], Shared] = {}
        self._parts_there = PartsThere(lambda payload: (ray.put(wrapped(payload)), True))
        self._changed = conditions.Condition()
        extra: int | None = 0
        if inside_worker():
            _nested.append(self)
            extra = None  # nested calls may wait for each other, so no call may wait for its turn here
        elif window is not None:
            extra = max(0, window - self.max_workers)
        elif not self._own and self._limit is None:
            extra = self.max_workers  # a cluster that grows on demand must see waiting calls
        super().__init__(settings, extra=extra, ahead=self._limit is None)

    def _connect(self, settings: BackendSettings) -> None:
        global _started
        if ray.is_initialized():
            if _holders:
                _holders.add(id(self))
                self._own = _started
            return
        _started = settings.address is None
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if settings.address is not None:
            try:
                ray.init(settings.address, **quiet)
            except (ConnectionError, TimeoutError, RuntimeError, ValueError) as exc:
                raise CoordinatorLostError(
                    f"no Ray cluster answers at {settings.address}: {exc}. Check that it is running and reachable"
                    " from here. `ray start --head` starts one; address= or JOBRUNNER_ADDRESS gives its address"
                ) from exc
        else:
            self._own = True
            self._limit = None
            ray.init(
                "local",
                num_cpus=settings.max_workers or settings.config.max_workers or usable_cpus(),
                include_dashboard=False,
                _node_ip_address=LOOPBACK,
                **quiet,
            )
        _holders.add(id(self))

    def connection(self) -> str:
        return f"ray+{ray.get_runtime_context().gcs_address}"

    def _slots(self) -> int:
        asked, count = self._counted
        now = time.monotonic()
        if now - asked > SLOTS_KEPT and ray.is_initialized():
            count = int(ray.cluster_resources().get("CPU", 0))
            self._counted = (now, count)
        return count if self._limit is None else min(self._limit, max(count, 1))

    def _check_resources(self, resources: dict[str, float]) -> None:
        if not self._own:
            return  # the cluster may grow on demand
        there = {name.lower(): amount for name, amount in ray.cluster_resources().items()}
        for name, amount in resources.items():
            if there.get(name.lower().removeprefix("num_").removesuffix("s"), 0) < amount:
                raise NotSupportedError(
                    f"resources: the Ray cluster that this program started does not provide {amount:g} of {name!r};"
                    " connect to a cluster that does"
                )

    # --- this backend's thread ---

    def _send(self, calls: Sequence[Call]) -> None:
        for call in calls:
            remote = self._entry.options(name=call.future.name, **options_of(call)).remote
            reference = remote(
                self.head(call, apart=True),
                self._argument(call, [call.payload], 0),
                self._argument(call, call.values, None),
                *self._parts_there.arguments(self.parts_of(call)),
            )
            call.handle = reference
            attempt = call.attempt
            reference.future().add_done_callback(
                lambda done, call=call, attempt=attempt: self._on_done(call, attempt, done)
            )

    def _on_done(self, call: Call, attempt: int, done: Any) -> None:
        error = done.exception()
        self.arrived(call, attempt, None if error is not None else done.result(), error)

    def _argument(self, call: Call, payloads: Sequence[Payload], index: int | None) -> Any:
        """Return the form of these payloads, or of the one at `index`, as an argument; a large one is a reference."""
        parts: Any = [wrapped(payload) for payload in payloads]
        if index is not None:
            parts = parts[index]
        if sum(map(payload_size, payloads)) < PUT_FROM:
            return parts
        key = tuple(map(id, payloads))  # the chunks of a pack share one payload
        shared = self._shared.get(key)
        if shared is None:
            shared = self._shared[key] = Shared(payloads, ray.put(parts))
        shared.users.add(call.id)
        return shared.reference

    def _let_go(self, call: Call) -> None:
        for key in ((id(call.payload),), tuple(map(id, call.values))):
            shared = self._shared.get(key)
            if shared is not None:
                shared.users.discard(call.id)
                if not shared.users:
                    del self._shared[key]

    def _stop(self, call: Call, hard: bool) -> None:
        ray.cancel(call.handle, force=hard)

    def _turned(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _diagnose(self, call: Call, error: BaseException) -> AttemptFailure:
        if isinstance(error, exceptions.TaskCancelledError):
            return AttemptFailure(m.CANCELLED, "it was cancelled through Ray", {})
        limit = call.options.timeout
        if isinstance(error, exceptions.WorkerCrashedError):
            if limit is not None and time.monotonic() - call.sent_at >= limit + AGAIN:
                return AttemptFailure(
                    m.TIMED_OUT,
                    f"it ran longer than its timeout of {limit:g} s, and its process had to be killed",
                    {},
                )
            return AttemptFailure(
                m.CRASHED, "its process (a Ray worker) died; Ray's log of that worker may say why", {}
            )
        if isinstance(error, exceptions.OutOfMemoryError):
            return AttemptFailure(
                m.CRASHED, f"Ray killed its process for want of memory: {error}", {"out_of_memory": True}
            )
        if isinstance(
            error, (exceptions.NodeDiedError, exceptions.LocalRayletDiedError, exceptions.ObjectLostError)
        ):
            self._parts_there.clear()
            return AttemptFailure(m.LOST, f"its Ray node, or its arguments there, are lost: {error}", {})
        return AttemptFailure(m.LOST, f"Ray could not run it: {error}", {"unable": True})

    def _close(self, killed: bool) -> None:
        if self in _nested:
            _nested.remove(self)
        with _lock:
            if id(self) in _holders:
                _holders.discard(id(self))
                if not _holders:
                    ray.shutdown()


def options_of(call: Call) -> dict[str, Any]:
    """Return Ray's options for the resources of a call."""
    options: dict[str, Any] = {}
    others: dict[str, float] = {}
    for name, amount in call.options.resources:
        own = OWN_NAMES.get(name.lower())
        if own is None:
            others[name] = amount
        else:
            options[own] = amount
    if others:
        options["resources"] = others
    return options


def inside_worker() -> bool:
    """Return whether this code runs in a Ray task."""
    return bool(ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE)


_nested: list[RayBackend] = []
"""The backends of this worker's process; the call that runs here may wait for calls of theirs."""


def yield_slot(ready: Callable[[], bool], timeout: float | None) -> None:
    """Wait for nested calls in `ray.wait`, because Ray lends a task's CPU only during `ray.wait` and `ray.get`."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while not ready():
        calls = [call for backend in _nested for call in backend.unfinished_calls()]
        left = LOOK_AGAIN if deadline is None else min(LOOK_AGAIN, deadline - time.monotonic())
        if not calls or left <= 0:
            return
        references = [call.handle for call in calls if call.handle is not None]
        done: list[Any] = []
        if references:
            done, _ = ray.wait(references, num_returns=1, timeout=left, fetch_local=False)
        if done or not references:
            wait_for_news(ready, calls, done, left)


def wait_for_news(
    ready: Callable[[], bool], calls: Sequence[Call], done: Sequence[Any], timeout: float
) -> None:
    """Wait until the Futures of `done` are resolved; if `done` is empty, wait until Ray has one of the calls."""

    def news() -> bool:
        if done:
            return ready() or not any(call.handle in done for call in calls)
        return ready() or any(call.handle is not None for call in calls)

    for backend in _nested:
        with backend._changed:
            backend._changed.wait_for(news, timeout)


class EngineContext:
    """The context of a call in a Ray worker, see `in_worker.EngineContext`."""

    interruptible = True
    keeps_results = False
    waiting = None

    def __init__(self) -> None:
        here = ray.get_runtime_context()
        self.name = here.get_node_id()
        self.address = f"ray+{here.gcs_address}"
        self.until = yield_slot
        let_sigterm_end_children()  # Ray's workers have a Python handler for SIGTERM, which children would inherit

    def begins(self, call: str) -> bool:
        return True  # Ray itself runs the call only once
