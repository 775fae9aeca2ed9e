"""The connections of this process, one per cluster, for the Executors and Futures that arrive in tasks.

A pickled Executor becomes a connection to the same cluster. Thousands of tasks may receive one, so they share the
connection of their process, which ends with the process. The modules and initializers of this process's tasks also
apply to the calls that these tasks submit to the same cluster.
"""

from __future__ import annotations

import os
from typing import Any

from jobrunner.backends.base import Backend, BackendSettings
from jobrunner.backends.cluster import ClusterBackend
from jobrunner.backends.registry import open_backend
from jobrunner.backends.served import served
from jobrunner.config import ClientConfig, load
from jobrunner.futures import Future
from jobrunner.nested.task_context import TASK_ADDRESS
from jobrunner.shipping import archive as shipment
from jobrunner.system import forks

_lock = forks.lock()  # connecting takes seconds, so another thread may be connecting at the time of a fork
_connections: dict[str, ClusterBackend] = {}
_engines: dict[str, Backend] = {}


def connection_to(address: str) -> Backend:
    """Return this process's connection to the address, or a new one if there is none or the last one failed.

    If the address is that of a backend of this process, return that backend. Raises CoordinatorLostError if no
    coordinator answers in time.
    """
    own = served(address)
    if own is not None:
        return own
    engine, plus, within = address.partition("+")
    with _lock:
        if plus:  # this is the address of another engine, "dask+tcp://..."
            if address not in _engines:
                _engines[address] = open_backend(
                    engine, BackendSettings(load(ClientConfig, max_workers=None), address=within or None)
                )
            return _engines[address]
        present = _connections.get(address)
        if present is None or not present.usable:
            inside = address == os.environ.get(TASK_ADDRESS)
            settings = BackendSettings(
                load(ClientConfig), address=address, initializer=shipment.installed if inside else None
            )
            present = _connections[address] = ClusterBackend(settings)
        return present


def connected_future(address: str, task_id: str, name: str) -> Future[Any]:
    """Return a Future for a call, through a connection of this process; an unpickled Future becomes this one."""
    future = connection_to(address).future(task_id)
    future.name = future.name or name
    return future
