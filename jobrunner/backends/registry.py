"""The backends by their names: the built-in ones, and those of other packages (entry points "jobrunner.backends").

A name stands for "module:Class". The module is imported when the backend is opened, so that a program loads only what
it uses. The class is called with a BackendSettings.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.metadata
from collections.abc import Callable
from typing import Any

from jobrunner.backends.base import Backend, BackendSettings
from jobrunner.errors import ConfigError, NotSupportedError

BUILT_IN = {
    "threads": "jobrunner.backends.threads:ThreadsBackend",
    "processes": "jobrunner.backends.processes:ProcessesBackend",
    "cluster": "jobrunner.backends.cluster:ClusterBackend",
    "dask": "jobrunner.backends.engine.dask:DaskBackend",
    "ray": "jobrunner.backends.engine.ray:RayBackend",
    "mpi": "jobrunner.backends.engine.mpi:MpiBackend",
}
LOCAL = ("threads", "processes", "mpi")
"""The backends for which an address has no meaning."""

EXTRAS = {"dask": "distributed", "ray": "ray", "mpi": "mpi4py"}
"""The package on which a backend is based, by the name of the backend and of the extra."""

ENTRY_POINTS = "jobrunner.backends"


def known() -> list[str]:
    """Return the names of all backends that are installed."""
    return sorted({*BUILT_IN, *(point.name for point in _entry_points())})


def capabilities(name: str) -> frozenset[str]:
    """Return the capabilities that the backend claims, see `base.CAPABILITIES`.

    Raises ConfigError for an unknown name.
    """
    claimed: frozenset[str] = getattr(_find(name), "capabilities", frozenset())
    return claimed


def open_backend(name: str, settings: BackendSettings) -> Backend:
    """Open the backend with this name; raise ConfigError for an unknown name, and if modules cannot be shipped."""
    factory = _find(name)
    if settings.address is not None and name in LOCAL:
        raise ConfigError(
            f"Executor({name!r}) accepts no address, but {settings.address!r} is given;"
            ' use Executor("cluster", address=...)'
        )
    if settings.max_tasks_per_child is not None and "renews" not in capabilities(name):
        raise NotSupportedError(
            f'max_tasks_per_child: the "{name}" backend does not replace processes; use "processes" or "cluster"'
        )
    backend = factory(_with_shipped(name, settings) if settings.ship else settings)
    if not isinstance(backend, Backend):
        raise ConfigError(
            f"backend {name!r} returned {backend!r}, which is not a jobrunner.backends.base.Backend"
        )
    return backend


def _with_shipped(name: str, settings: BackendSettings) -> BackendSettings:
    """Add an initializer for shipped modules; child processes get only the modules that they would not find."""
    from jobrunner.program import inheritance
    from jobrunner.shipping import collect as shipping  # imported here because most programs ship nothing

    parts = shipping.find(settings.ship)
    if name == "threads":
        shipping.make_importable_here(parts)
        return settings
    initargs = settings.initargs
    if name in LOCAL or (name == "cluster" and settings.address is None):
        parts = [part for part in parts if not shipping.is_on_path(part)]
        initargs = inheritance.inheritable(initargs) if parts else initargs
    if not parts:
        return settings
    shipment = shipping.pack_parts(parts, settings.initializer, initargs)
    return dataclasses.replace(settings, initializer=shipment, initargs=())


def _find(name: str) -> Callable[[BackendSettings], Any]:
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        try:
            factory: Callable[[BackendSettings], Any] = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as exc:
            if name not in EXTRAS or exc.name != EXTRAS[name]:
                raise
            raise ConfigError(
                f"Executor({name!r}) needs the package {exc.name}: pip install 'jobrunner[{name}]'"
            ) from exc
        return factory
    for point in _entry_points():
        if point.name == name:
            return _load(point)
    names = known()
    close = [f"tcp://{name}"] if ":" in name else difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ConfigError(
        f"unknown backend {name!r}{hint} (known: {', '.join(names)}, or an address such as tcp://host:7077)"
    )


def _load(point: importlib.metadata.EntryPoint) -> Callable[[BackendSettings], Any]:
    try:
        loaded: Callable[[BackendSettings], Any] = point.load()
    except Exception as exc:
        package = "" if point.dist is None else f" of the package {point.dist.name}"
        raise ConfigError(
            f"backend {point.name!r}{package} cannot be loaded from {point.value}: {exc!r}; install that package again"
        ) from exc
    return loaded


def _entry_points() -> importlib.metadata.EntryPoints:
    return importlib.metadata.entry_points(group=ENTRY_POINTS)
