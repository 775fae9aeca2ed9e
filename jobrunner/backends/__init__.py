"""Backends by name: the built-in ones, then those of other packages (entry points "jobrunner.backends").

A name stands for "module:Class", and the module is imported when the backend is opened, so that a program
pays for what it uses. The class is called with a BackendSettings.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.metadata
from collections.abc import Callable
from typing import Any

from jobrunner.backends.base import Backend, BackendSettings
from jobrunner.errors import ConfigError

BUILT_IN = {
    "threads": "jobrunner.backends.threads:ThreadsBackend",
    "processes": "jobrunner.backends.processes:ProcessesBackend",
    "cluster": "jobrunner.backends.cluster:ClusterBackend",
}
LOCAL = ("threads", "processes")
"""Those that run in this host's own pool: an address has no meaning for them."""

ENTRY_POINTS = "jobrunner.backends"


def known() -> list[str]:
    """The names of all backends that are installed."""
    return sorted({*BUILT_IN, *(point.name for point in _entry_points())})


def open_backend(name: str, settings: BackendSettings) -> Backend:
    """Open the backend of that name. Raises ConfigError for an unknown name, and for what cannot be shipped."""
    factory = _find(name)
    if settings.address is not None and name in LOCAL:
        raise ConfigError(
            f"Executor({name!r}) runs on this host and takes no address (got {settings.address!r});"
            ' use Executor("cluster", address=...)'
        )
    backend = factory(_with_shipped(name, settings) if settings.ship else settings)
    if not isinstance(backend, Backend):
        raise ConfigError(
            f"backend {name!r} gave {backend!r}, which is not a jobrunner.backends.base.Backend"
        )
    return backend


def _with_shipped(name: str, settings: BackendSettings) -> BackendSettings:
    """Where calls run in children of this process, only what these do not find anyway has to travel."""
    from jobrunner import shipping  # here: most programs ship nothing

    parts = shipping.find(settings.ship)
    if name == "threads":
        shipping.make_importable_here(parts)
        return settings
    if name in LOCAL or (name == "cluster" and settings.address is None):
        parts = [part for part in parts if not shipping.is_on_path(part)]
    if not parts:
        return settings
    shipment = shipping.pack_parts(parts, settings.initializer, settings.initargs)
    return dataclasses.replace(settings, initializer=shipment, initargs=())


def _find(name: str) -> Callable[[BackendSettings], Any]:
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        factory: Callable[[BackendSettings], Any] = getattr(importlib.import_module(module), attribute)
        return factory
    for point in _entry_points():
        if point.name == name:
            loaded: Callable[[BackendSettings], Any] = point.load()
            return loaded
    names = known()
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ConfigError(
        f"unknown backend {name!r}{hint} (known: {', '.join(names)}, or an address such as tcp://host:7077)"
    )


def _entry_points() -> importlib.metadata.EntryPoints:
    return importlib.metadata.entry_points(group=ENTRY_POINTS)
