"""The "dask" backend, whose calls are tasks of a Dask cluster, which the user or this backend has started.

Dask chooses the worker that runs a call, and keeps results until they are fetched. A separate thread fetches the
results of many calls in one step, because a large result must not delay the next calls.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import distributed
from distributed.comm import resolve_address
from distributed.scheduler import KilledWorker
from distributed.threadpoolexecutor import rejoin

from jobrunner.backends.base import CAPABILITIES, BackendSettings
from jobrunner.backends.engine.attempts import AttemptFailure
from jobrunner.backends.engine.backend import EngineBackend, window_of
from jobrunner.backends.engine.call_queue import Call
from jobrunner.backends.engine.entry import entry
from jobrunner.backends.engine.in_worker import copied
from jobrunner.backends.engine.parts import PartsThere
from jobrunner.errors import ConfigError, CoordinatorLostError, NotSupportedError
from jobrunner.nested.wait_hooks import AwaitedCalls
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.payloads import Payload, payload_size
from jobrunner.system.host import current_environment, module_path, usable_cpus

LOOPBACK = "127.0.0.1"
SCATTER_FROM = 1 << 20
"""Minimum size in bytes of arguments that go directly to a worker before their call, to relieve the scheduler."""

PER_DEPTH = 1 << 20
"""The addition to the priority of a call for each level of nesting, because other calls wait for nested ones."""

SLOTS_KEPT = 2.0
"""Time in seconds after which the number of the cluster's threads is asked for again."""

LEAVE_WAIT = 5.0
"""Maximum time in seconds that workers which this backend has started have to end."""


class DaskBackend(EngineBackend):
    """The backend `Executor("dask", ...)`, for a cluster given by `address`, `scheduler_file` or `client`.

    Without one of these, it uses the cluster of the Dask worker in which it is opened, or else starts one on this host.
    `window` is the number of calls that the cluster has at the same time. Raises CoordinatorLostError if no scheduler
    answers at the address.
    """

    name = "dask"
    capabilities = frozenset(CAPABILITIES) - {"divides", "renews", "tells", "stops", "shared", "tidy"}
    why_not = "a Dask worker runs calls in threads, which cannot be stopped"
    shares_processes = True

    def __init__(self, settings: BackendSettings) -> None:
        settings.refuse_unknown(self.name, "client", "scheduler_file", "window")
        self._own_cluster: OwnCluster | None = None
        self._own_client = False
        self._nested = False
        self._limit = settings.max_workers
        window = window_of(settings)
        self._client_ = self._connect(settings)
        self._counted = (0.0, 0)
        self._entry = entry()
        self._parts_there = PartsThere(self._give_part)
        self._finished: queue.SimpleQueue[tuple[Call, int, Any] | None] = queue.SimpleQueue()
        self._fetcher = threading.Thread(target=self._fetch, name="jobrunner-dask-results", daemon=True)
        self._fetcher.start()
        extra: int | None = 0
        if self._nested:
            extra = None  # nested calls may wait for each other, so no call may wait for its turn here
        elif window is not None:
            extra = max(0, window - self.max_workers)
        elif self._own_cluster is None and self._limit is None:
            extra = self.max_workers  # a cluster that grows on demand must see waiting calls
        super().__init__(settings, extra=extra, ahead=self._limit is None)

    def _connect(self, settings: BackendSettings) -> Any:
        given = {name: settings.extra.get(name) for name in ("client", "scheduler_file")}
        given["address"] = settings.address
        named = [name for name, value in given.items() if value is not None]
        if len(named) > 1 and not (named == ["client", "address"] or named == ["scheduler_file", "address"]):
            raise ConfigError(
                f'Executor("dask"): {" and ".join(named)} contradict each other; give one of them'
            )
        client = given["client"]
        if client is not None:
            if not isinstance(client, distributed.Client):
                raise ConfigError(f"client={client!r}: must be a distributed.Client")
            if client.asynchronous:
                raise ConfigError(
                    "client: must not be an asynchronous Client; create it without asynchronous=True"
                )
            return client
        if given["scheduler_file"] is None and of_this_worker(settings.address):
            self._nested = True
            return distributed.get_client()
        address: Any = settings.address
        if given["scheduler_file"] is not None:
            address = address_in(given["scheduler_file"], settings.config.connect_timeout)
        elif address is None:
            self._limit = None
            self._own_cluster = OwnCluster(
                settings.max_workers or settings.config.max_workers or usable_cpus()
            )
            address = self._own_cluster.address
        self._own_client = True
        try:
            return distributed.Client(address, timeout=settings.config.connect_timeout, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as exc:
            if self._own_cluster is not None:
                self._own_cluster.close(killed=True)
            if isinstance(exc, ValueError):
                raise ConfigError(f"{address!r} is not the address of a Dask scheduler: {exc}") from exc
            raise CoordinatorLostError(
                f"no Dask scheduler answers at {address}: {exc}. Check that it is running and reachable from here."
                " `dask scheduler` starts one; address= or JOBRUNNER_ADDRESS gives its address"
            ) from exc

    def connection(self) -> str:
        return f"dask+{self._client_.scheduler.address}"

    def _slots(self) -> int:
        if self._own_cluster is not None:
            return self._own_cluster.workers
        asked, count = self._counted
        now = time.monotonic()
        if now - asked > SLOTS_KEPT and self._client_.status == "running":
            try:
                count = sum(self._client_.nthreads().values())
            except OSError:
                pass  # the scheduler is lost, and its calls end with that error
            self._counted = (now, count)
        return count if self._limit is None else min(self._limit, max(count, 1))

    def _check_resources(self, resources: dict[str, float]) -> None:
        if self._own_cluster is not None:
            raise NotSupportedError(
                "the Dask cluster that this program starts provides no resources; connect to one whose workers were"
                " started with --resources"
            )

    # --- this backend's thread ---

    def _send(self, calls: Sequence[Call]) -> None:
        def kind(call: Call) -> tuple[int, tuple[tuple[str, float], ...], int]:
            priority = call.options.priority + call.depth * PER_DEPTH
            return priority, call.options.resources, len(self.parts_of(call))

        for (priority, resources, _), group in groupby(calls, kind):  # the most urgent calls come first
            batch = list(group)
            apart = [self._parts_there.arguments(self.parts_of(call)) for call in batch]
            futures = self._client_.map(
                self._entry,
                [self.head(call, apart=True) for call in batch],
                [self._parts(call.payload) for call in batch],
                [[self._parts(value) for value in call.values] for call in batch],
                *zip(*apart, strict=True),
                key=[f"jobrunner-{call.id}-{call.attempt}" for call in batch],
                pure=False,
                retries=0,
                priority=priority,
                resources=dict(resources) or None,
                allow_other_workers=False,
            )
            for call, future in zip(batch, futures, strict=True):
                call.handle = future
                attempt = call.attempt
                future.add_done_callback(
                    lambda done, call=call, attempt=attempt: self._finished.put((call, attempt, done))
                )

    def _parts(self, payload: Payload) -> Any:
        """Return the form of a payload as an argument of a task; a large one becomes a future of Dask."""
        parts = copied(payload)
        if payload_size(payload) < SCATTER_FROM:
            return parts
        try:
            return self._client_.scatter([parts], hash=False)[0]
        except (OSError, TimeoutError):
            return parts  # there is no worker yet that could keep the payload

    def _give_part(self, payload: Payload) -> tuple[Any, bool]:
        argument = self._parts(payload)
        return argument, isinstance(argument, distributed.Future)

    def _let_go(self, call: Call) -> None:
        if call.options.at_most_once and call.attempt:
            distributed.Event(begun(call.id), client=self._client_).clear()

    def _diagnose(self, call: Call, error: BaseException) -> AttemptFailure:
        if isinstance(error, KilledWorker):
            worker = getattr(error.last_worker, "address", "?")
            return AttemptFailure(
                m.CRASHED, f"its process died, or that of a call beside it (the Dask worker at {worker})", {}
            )
        if isinstance(error, distributed.client.FutureCancelledError):
            large = payload_size(call.payload) >= SCATTER_FROM or self.parts_of(call)
            if self._client_.status == "running" and large:
                self._parts_there.clear()
                return AttemptFailure(m.LOST, f"the Dask worker that had its arguments is gone ({error})", {})
            if "scheduler" in str(error) or self._client_.status != "running":
                return AttemptFailure(m.LOST, f"the Dask scheduler is lost: {error}", {"engine_lost": True})
            return AttemptFailure(m.LOST, f"Dask has given it up: {error}", {"unable": True})
        return AttemptFailure(m.LOST, f"Dask could not run it: {error!r}", {"unable": True})

    def _close(self, killed: bool) -> None:
        self._finished.put(None)
        try:
            if self._own_client:
                self._client_.close(timeout=LEAVE_WAIT)
        finally:
            if self._own_cluster is not None:
                self._own_cluster.close(killed)

    # --- the thread that fetches results ---

    def _fetch(self) -> None:
        while True:
            ended = [self._finished.get()]
            try:
                while True:
                    ended.append(self._finished.get_nowait())
            except queue.Empty:
                pass
            closed = None in ended
            self._fetch_all([entry for entry in ended if entry is not None])
            if closed:
                return
            del ended  # these results must not live until the next ones come

    def _fetch_all(self, ended: Sequence[tuple[Call, int, Any]]) -> None:
        done = [entry for entry in ended if entry[2].status == "finished"]
        for call, attempt, future in ended:
            if future.status != "finished":
                self._fetch_one(call, attempt, future)
        try:
            backs = self._client_.gather([future for _, _, future in done])
        except BaseException:
            for call, attempt, future in done:
                self._fetch_one(call, attempt, future)
            return
        for (call, attempt, _), back in zip(done, backs, strict=True):
            self.arrived(call, attempt, back, None)

    def _fetch_one(self, call: Call, attempt: int, future: Any) -> None:
        back, error = None, None
        try:
            back = future.result()
        except BaseException as exc:
            error = exc
        self.arrived(call, attempt, back, error)


class OwnCluster:
    """A Dask cluster on loopback: a scheduler in this process, and worker processes with one thread each.

    The workers are started by the command `dask worker`, because multiprocessing would run the program's file again in
    each of them, which fails if the file has no main guard.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._cluster = distributed.LocalCluster(
            n_workers=0,
            host=LOOPBACK,
            dashboard_address=f"{LOOPBACK}:0",
            scheduler_kwargs={"allowed_failures": 0},  # this backend decides whether a call runs again
            silence_logs=logging.CRITICAL,
        )
        self.address: str = self._cluster.scheduler_address
        command = [sys.executable, "-m", "distributed.cli.dask_worker", self.address]
        command += ["--nworkers", str(workers), "--nthreads", "1", "--host", LOOPBACK, "--no-dashboard"]
        command += ["--memory-limit", "0", "--death-timeout", "10"]
        environment = {
            **current_environment(),
            "PYTHONPATH": os.pathsep.join(module_path()),
            "DASK_DISTRIBUTED__WORKER__DAEMON": "False",  # calls must be able to start processes of their own
        }
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
        )

    def close(self, killed: bool) -> None:
        self._process.terminate()
        try:
            self._process.wait(0.2 if killed else LEAVE_WAIT)
        except subprocess.TimeoutExpired:
            pass
        kill_group(self._process)
        self._process.wait()
        self._cluster.close(timeout=LEAVE_WAIT)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the remaining processes of the group that this process leads."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def address_in(path: Any, wait: float) -> str:
    """Return the address in a scheduler's `--scheduler-file`, and wait at most `wait` seconds for the file.

    The Client of distributed waits for the file without a limit. Raises CoordinatorLostError if there is no address in
    time, and ConfigError if the file cannot be read.
    """
    deadline = time.monotonic() + wait
    while True:
        try:
            with open(path, encoding="utf-8") as file:
                return str(json.load(file)["address"])
        except FileNotFoundError:
            problem = f"there is no file {path}"
        except (ValueError, KeyError, TypeError):
            problem = f"{path} has no address in it"
        except OSError as exc:
            raise ConfigError(f"scheduler_file: cannot read {path}: {exc.strerror}") from exc
        if time.monotonic() >= deadline:
            raise CoordinatorLostError(
                f"{problem} after {wait:g} s. Check that the scheduler is running. `dask scheduler --scheduler-file"
                f" {path}` writes the file; this host must see its folder"
            )
        time.sleep(0.05)


def of_this_worker(address: str | None) -> bool:
    """Return whether this code runs in a Dask task whose scheduler has the given address; None means any address."""
    try:
        own = distributed.get_worker().scheduler.address
    except ValueError:
        return False
    return address is None or resolve_address(address) == resolve_address(own)


def begun(call: str) -> str:
    """Return the name of the Dask event that tells that a call has begun."""
    return f"jobrunner-begun-{call}"


class EngineContext:
    """The context of a call in a Dask worker, see `in_worker.EngineContext`."""

    interruptible = False
    keeps_results = True
    until = None

    def __init__(self) -> None:
        worker = distributed.get_worker()
        self.name = str(worker.name)
        self.address = f"dask+{worker.scheduler.address}"
        self.waiting = Waiting()

    def begins(self, call: str) -> bool:
        event = distributed.Event(begun(call), client=distributed.get_client())
        if event.is_set():
            return False
        event.set()
        return True


class Waiting:
    """A hook for waits, during which the call's thread does not count as one of the Dask worker's threads."""

    def __init__(self) -> None:
        self._depth = 0

    @contextmanager
    def __call__(self, awaited: AwaitedCalls | None = None) -> Iterator[None]:
        self._depth += 1
        if self._depth == 1:
            distributed.secede()
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                rejoin()
