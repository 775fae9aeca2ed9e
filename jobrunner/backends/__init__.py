"""The names that a package with a backend of its own needs; `registry` finds the backends by their names.

EngineBackend, Call, AttemptFailure,         the base of most backends, which makes all decisions, while a subclass
    EngineContext                            passes calls to its engine
run, entry, wrapped                          the functions that run in the engine's workers, and the form of payloads
CRASHED, LOST, CANCELLED, TIMED_OUT          the statuses of an AttemptFailure, which tell how an attempt ended
Backend, BackendSettings, CAPABILITIES       the interface itself, see `base`
Future, TaskOptions, new_id                  the arguments and results of the interface
Columns, ElementResults, rows, run_elements  the elements of a map
FixedElements, FixedResults, run_fixed       the elements of a map whose calls share nothing with the program
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from jobrunner.backends.base import CAPABILITIES, Backend, BackendSettings
from jobrunner.fixed import FixedElements, FixedResults, run_fixed
from jobrunner.fixed.elements import Columns, ElementResults, rows, run_elements
from jobrunner.futures import Future
from jobrunner.protocol.wire.ids import ClientId, random_token, task_id
from jobrunner.protocol.wire.messages import CANCELLED, CRASHED, LOST, TIMED_OUT, TaskOptions

if TYPE_CHECKING:
    from jobrunner.backends.engine.attempts import AttemptFailure
    from jobrunner.backends.engine.backend import EngineBackend
    from jobrunner.backends.engine.call_queue import Call
    from jobrunner.backends.engine.entry import entry
    from jobrunner.backends.engine.in_worker import EngineContext, run, wrapped

__all__ = [
    "CANCELLED",
    "CAPABILITIES",
    "CRASHED",
    "LOST",
    "TIMED_OUT",
    "AttemptFailure",
    "Backend",
    "BackendSettings",
    "Call",
    "Columns",
    "ElementResults",
    "EngineBackend",
    "EngineContext",
    "FixedElements",
    "FixedResults",
    "Future",
    "TaskOptions",
    "entry",
    "new_id",
    "rows",
    "run",
    "run_elements",
    "run_fixed",
    "wrapped",
]
"""The names for packages that bring a backend; those that are not imported above are imported at their first use."""

_HOME = {
    "Call": "jobrunner.backends.engine.call_queue",
    "AttemptFailure": "jobrunner.backends.engine.attempts",
    "EngineBackend": "jobrunner.backends.engine.backend",
    "EngineContext": "jobrunner.backends.engine.in_worker",
    "entry": "jobrunner.backends.engine.entry",
    "run": "jobrunner.backends.engine.in_worker",
    "wrapped": "jobrunner.backends.engine.in_worker",
}


def __getattr__(name: str) -> Any:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module 'jobrunner.backends' has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)


def new_id() -> str:
    """Return an id for a Future, as unique as those of the built-in backends."""
    return task_id(ClientId(random_token()), 1)
