"""One adapter per peer: how its users would start two workers on this host, and what they would write for a call.

Each listens on loopback, or on nothing. Imports are inside: only one peer is installed where this runs.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from benchmarks.peers.daemons import JobrunnerDaemons
from benchmarks.peers.pools import WORKERS, ExecutorPool, Pool, Result, Unsupported

LOOPBACK = "127.0.0.1"


class AsyncResult:
    """What multiprocessing and ipyparallel give, with a Future's word for it."""

    def __init__(self, inner: Any) -> None:
        self.result: Callable[[], Any] = inner.get


class MultiprocessingPool(Pool):
    def __init__(self) -> None:
        self._pool = multiprocessing.Pool(WORKERS)

    def submit(self, function: Callable[[Any], Any], value: Any) -> Result:
        return AsyncResult(self._pool.apply_async(function, (value,)))

    def map(self, function: Callable[[Any], Any], values: Sequence[Any]) -> list[Any]:
        return self._pool.map(function, values)

    def map_chunks(self, function: Callable[[Any], Any], values: Sequence[Any], size: int) -> list[Any]:
        return self._pool.map(function, values, size)

    def close(self) -> None:
        self._pool.close()
        self._pool.join()


def loky() -> Pool:
    from loky import get_reusable_executor

    return ExecutorPool(get_reusable_executor(max_workers=WORKERS))


class JoblibPool(Pool):
    """It has no submit: one call is a list of one, many are a list in batches of one."""

    def __init__(self) -> None:
        from joblib import Parallel

        self._parallel = Parallel(n_jobs=WORKERS, backend="loky").__enter__()

    def _run(self, function: Callable[[Any], Any], values: Iterable[Any], **options: Any) -> list[Any]:
        from joblib import delayed

        before = {name: getattr(self._parallel, name) for name in options}
        for name, option in options.items():
            setattr(self._parallel, name, option)
        try:
            return list(self._parallel(delayed(function)(value) for value in values))
        finally:
            for name, option in before.items():
                setattr(self._parallel, name, option)

    def submit(self, function: Callable[[Any], Any], value: Any) -> Result:
        raise Unsupported("has no submit")

    def many(self, function: Callable[[Any], Any], values: Iterable[Any]) -> list[Any]:
        return self._run(function, values, batch_size=1)

    def stream(self, function: Callable[[Any], Any], values: Iterable[Any], ahead: int) -> list[Any]:
        return self._run(function, values, batch_size=1, pre_dispatch=ahead)

    def map(self, function: Callable[[Any], Any], values: Sequence[Any]) -> list[Any]:
        return self._run(function, values)

    def map_chunks(self, function: Callable[[Any], Any], values: Sequence[Any], size: int) -> list[Any]:
        return self._run(function, values, batch_size=size)

    def close(self) -> None:
        self._parallel.__exit__(None, None, None)


class DaskPool(Pool):
    """Its map makes a task of each element; `pure=False`, for otherwise equal calls are one."""

    def __init__(self) -> None:
        from distributed import Client, LocalCluster

        self._cluster = LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, host=LOOPBACK, dashboard_address=None
        )
        self._client = Client(self._cluster)

    def submit(self, function: Callable[[Any], Any], value: Any) -> Result:
        return self._client.submit(function, value, pure=False)  # type: ignore[no-any-return]

    def gather(self, results: Sequence[Any]) -> list[Any]:
        return self._client.gather(list(results))  # type: ignore[no-any-return]

    def map(self, function: Callable[[Any], Any], values: Sequence[Any]) -> list[Any]:
        return self.gather(self._client.map(function, values, pure=False))

    def close(self) -> None:
        self._client.close()
        self._cluster.close()


class RayResult:
    def __init__(self, reference: Any) -> None:
        self.reference = reference

    def result(self) -> Any:
        import ray

        return ray.get(self.reference)


class RayPool(Pool):
    def __init__(self) -> None:
        import ray
        from ray.util.multiprocessing import Pool as Actors

        ray.init(
            num_cpus=WORKERS,
            include_dashboard=False,
            _node_ip_address=LOOPBACK,
            logging_level="error",
            log_to_driver=False,
        )
        self._remote: dict[Any, Any] = {}
        self._new_actors = Actors
        self._actors: Any = None

    def submit(self, function: Callable[[Any], Any], value: Any) -> Result:
        import ray

        remote = self._remote.get(function)
        if remote is None:
            remote = self._remote[function] = ray.remote(function)
        return RayResult(remote.remote(value))

    def gather(self, results: Sequence[Any]) -> list[Any]:
        import ray

        return ray.get([result.reference for result in results])  # type: ignore[no-any-return]

    def map(self, function: Callable[[Any], Any], values: Sequence[Any]) -> list[Any]:
        return self._pool().map(function, values)  # type: ignore[no-any-return]

    def map_chunks(self, function: Callable[[Any], Any], values: Sequence[Any], size: int) -> list[Any]:
        return self._pool().map(function, values, size)  # type: ignore[no-any-return]

    def _pool(self) -> Any:
        """Actors hold the CPUs that plain calls need, so they come with the first map."""
        if self._actors is None:
            self._actors = self._new_actors(WORKERS)
        return self._actors

    def close(self) -> None:
        import ray

        if self._actors is not None:
            self._actors.terminate()
        ray.shutdown()


class IpyparallelPool(Pool):
    """Calls through the load-balanced view; map through the direct one, which cuts the input in two."""

    def __init__(self) -> None:
        import ipyparallel

        self._cluster = ipyparallel.Cluster(n=WORKERS, engines="local", controller_ip=LOOPBACK, log_level=40)
        self._client = self._cluster.start_and_connect_sync(activate=False)
        self._balanced = self._client.load_balanced_view()

    def submit(self, function: Callable[[Any], Any], value: Any) -> Result:
        return AsyncResult(self._balanced.apply_async(function, value))

    def map(self, function: Callable[[Any], Any], values: Sequence[Any]) -> list[Any]:
        return list(self._client[:].map_sync(function, values))

    def map_chunks(self, function: Callable[[Any], Any], values: Sequence[Any], size: int) -> list[Any]:
        return list(self._balanced.map_sync(function, values, chunksize=size))

    def close(self) -> None:
        self._client.close()
        self._cluster.stop_cluster_sync()


def parsl() -> Pool:
    from parsl.concurrent import ParslPoolExecutor
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    executor = HighThroughputExecutor(
        address=LOOPBACK,
        loopback_address=LOOPBACK,
        max_workers_per_node=WORKERS,
        cores_per_worker=0.5,
        encrypted=False,
        provider=LocalProvider(init_blocks=1, max_blocks=1),
    )
    config = Config(executors=[executor], strategy="none", run_dir=os.environ["TMPDIR"])
    return ExecutorPool(ParslPoolExecutor(config))


class ScalerPool(Pool):
    """Its map makes a task of each element."""

    def __init__(self) -> None:
        from scaler import Client, SchedulerClusterCombo

        self._combo = SchedulerClusterCombo(n_workers=WORKERS, logging_level="ERROR")
        self._client = Client(address=self._combo.get_address())

    def submit(self, function: Callable[[Any], Any], value: Any) -> Result:
        return self._client.submit(function, value)  # type: ignore[no-any-return]

    def map(self, function: Callable[[Any], Any], values: Sequence[Any]) -> list[Any]:
        return self._client.map(function, values)  # type: ignore[no-any-return]

    def close(self) -> None:
        self._client.disconnect()
        self._combo.shutdown()


def executorlib() -> Pool:
    from executorlib import SingleNodeExecutor

    executor = SingleNodeExecutor(max_workers=WORKERS, block_allocation=True, hostname_localhost=True)
    return ExecutorPool(executor, chunks=False)


def mpi() -> Pool:
    from mpi4py.futures import MPIPoolExecutor

    return ExecutorPool(MPIPoolExecutor(WORKERS))


def jobrunner(backend: str) -> Pool:
    from jobrunner import Executor

    return ExecutorPool(Executor(backend, max_workers=WORKERS))


class JobrunnerCluster(ExecutorPool):
    """A coordinator and a worker of two slots, started by the command, on loopback TCP with keys."""

    def __init__(self, *, journal: bool) -> None:
        from jobrunner import Executor

        self._daemons = JobrunnerDaemons(WORKERS, journal=journal)
        super().__init__(Executor(self._daemons.address))

    def close(self) -> None:
        super().close()
        self._daemons.close()


@dataclass(frozen=True)
class Peer:
    """`environment` is a key of environments.REQUIREMENTS; `package` the distribution whose version is reported."""

    environment: str
    start: Callable[[], Pool]
    package: str | None = None
    launcher: tuple[str, ...] = ()
    """What starts the interpreter, by programs of the environment; and what is put before the module."""
    before_module: tuple[str, ...] = ()
    listens_everywhere: bool = False
    """Some of its ports are open on every interface, whatever it is told: see `loopback`."""


PEERS: dict[str, Peer] = {
    "ThreadPoolExecutor": Peer("standard", lambda: ExecutorPool(ThreadPoolExecutor(WORKERS))),
    "ProcessPoolExecutor": Peer("standard", lambda: ExecutorPool(ProcessPoolExecutor(WORKERS))),
    "multiprocessing.Pool": Peer("standard", MultiprocessingPool),
    "loky": Peer("loky", loky, "loky"),
    "joblib": Peer("joblib", JoblibPool, "joblib"),
    "dask.distributed": Peer("dask", DaskPool, "distributed"),
    "ray": Peer("ray", RayPool, "ray", listens_everywhere=True),
    "ipyparallel": Peer("ipyparallel", IpyparallelPool, "ipyparallel"),
    "parsl": Peer("parsl", parsl, "parsl"),
    "scaler": Peer("scaler", ScalerPool, "opengris-scaler"),
    "executorlib": Peer("executorlib", executorlib, "executorlib", listens_everywhere=True),
    "mpi4py.futures": Peer(
        "mpi",
        mpi,
        "mpi4py",
        # Three ranks on two CPUs: without yielding, those that wait take the time of those that work.
        launcher=(
            *("mpiexec", "-n", str(WORKERS + 1), "--oversubscribe", "--bind-to", "none"),
            *("--prtemca", "prte_if_include", "lo", "--mca", "pml", "ob1", "--mca", "btl", "self,sm"),
            *("--mca", "mpi_yield_when_idle", "1"),
        ),
        before_module=("-m", "mpi4py.futures"),
        listens_everywhere=True,
    ),
    "jobrunner threads": Peer("jobrunner", lambda: jobrunner("threads"), "jobrunner"),
    "jobrunner processes": Peer("jobrunner", lambda: jobrunner("processes"), "jobrunner"),
    "jobrunner cluster": Peer("jobrunner", lambda: jobrunner("cluster"), "jobrunner"),
    "jobrunner tcp": Peer("jobrunner", lambda: JobrunnerCluster(journal=False), "jobrunner"),
    "jobrunner tcp+journal": Peer("jobrunner", lambda: JobrunnerCluster(journal=True), "jobrunner"),
}
"""By the name of their rows."""
