"""The settings that a program has made in its process, for the processes of its calls.

A script sets the precision of `decimal`, the level of `logging` or numpy's reaction to a division by zero once, at its
top. Forked children inherit these settings, and spawned children run the script again; ours do neither. So settings
that differ from those of a new interpreter are sent along as data.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import time
from typing import Any

RECURSION_LIMIT = 1000
"""The limit of a new interpreter; so are all values that follow."""

DECIMAL = {
    "prec": 28,
    "rounding": "ROUND_HALF_EVEN",
    "Emin": -999999,
    "Emax": 999999,
    "capitals": 1,
    "clamp": 0,
    "traps": ["DivisionByZero", "InvalidOperation", "Overflow"],
}

NUMPY_ERRORS = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}

NUMPY_PRINTS = {
    "precision": 8,
    "threshold": 1000,
    "edgeitems": 3,
    "linewidth": 75,
    "suppress": False,
    "nanstr": "nan",
    "infstr": "inf",
    "sign": "-",
    "floatmode": "maxprec",
}
"""The print options of numpy that are plain values."""


def configuration() -> str:
    """Return the settings that differ from those of a new interpreter, as JSON; empty if there are none.

    The contexts of decimal and numpy are those of the calling thread.
    """
    found: dict[str, Any] = {}
    if sys.getrecursionlimit() != RECURSION_LIMIT:
        found["recursion_limit"] = sys.getrecursionlimit()
    # A module that another thread is importing at the moment has not been configured yet.
    decimal: Any = sys.modules.get("decimal")
    if hasattr(decimal, "getcontext") and hasattr(decimal, "DefaultContext"):
        found |= _of_decimal("decimal", decimal.getcontext())
        found |= _of_decimal("decimal_default", decimal.DefaultContext)
    if hasattr(sys.modules.get("numpy"), "set_printoptions"):
        found |= _of_numpy(sys.modules["numpy"])
    if hasattr(sys.modules.get("logging"), "basicConfig"):
        found |= _of_logging()
    try:
        return json.dumps(found) if found else ""
    except (TypeError, ValueError):  # a value in it is not plain
        return ""


def _start_with(given: dict[str, Any]) -> None:
    environment = given.get("environment", {})
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if "TZ" in environment:
        time.tzset()
    if "folder" in given:
        with contextlib.suppress(OSError):  # the folder may have been removed
            os.chdir(given["folder"])
    if "arguments" in given:
        sys.argv[:] = given["arguments"]


def configure(text: str) -> None:
    """Give this process and this thread the settings that `configuration` has found, and those of `StartedWith`."""
    given = json.loads(text)
    _start_with(given)
    if "recursion_limit" in given:
        sys.setrecursionlimit(given["recursion_limit"])
    if "decimal" in given or "decimal_default" in given:
        _configure_decimal(given.get("decimal"), given.get("decimal_default"))
    if "numpy_errors" in given or "numpy_prints" in given:
        numpy = importlib.import_module("numpy")  # the program has numpy, although nothing here needs it
        numpy.seterr(**given.get("numpy_errors", {}))
        numpy.set_printoptions(**given.get("numpy_prints", {}))
    if not given.keys().isdisjoint(("level_names", "loggers", "disabled")):
        import logging

        from jobrunner.program import logging_setup as configured_logging

        for level, name in given.get("level_names", ()):
            logging.addLevelName(level, name)
        configured_logging.configure(given.get("loggers", {}))
        logging.disable(given.get("disabled", logging.NOTSET))


def _of_decimal(kind: str, context: Any) -> dict[str, Any]:
    present = {name: getattr(context, name) for name in DECIMAL}
    present["traps"] = sorted(signal.__name__ for signal, trapped in context.traps.items() if trapped)
    return {} if present == DECIMAL else {kind: present}


def _configure_decimal(present: dict[str, Any] | None, default: dict[str, Any] | None) -> None:
    """Set the contexts of this thread; `default` is that of threads which are started from now on."""
    import decimal

    if present is not None:
        decimal.setcontext(_decimal_context(present))
    elif default is not None:
        decimal.getcontext()  # this creates the thread's context, from the default, if it has none yet
    if default is not None:
        context = _decimal_context(default)
        for name in DECIMAL:
            setattr(decimal.DefaultContext, name, getattr(context, name))


def _decimal_context(described: dict[str, Any]) -> Any:
    import decimal

    traps = [getattr(decimal, name) for name in described["traps"]]
    return decimal.Context(**{**described, "traps": traps})


def _of_numpy(numpy: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    errors = dict(numpy.geterr())
    if errors != NUMPY_ERRORS and "call" not in errors.values():  # that would call a function of the program
        found["numpy_errors"] = errors
    options = numpy.get_printoptions()
    prints = {name: options[name] for name, value in NUMPY_PRINTS.items() if options[name] != value}
    if prints:
        found["numpy_prints"] = prints
    return found


def _of_logging() -> dict[str, Any]:
    import logging

    from jobrunner.program import logging_setup as configured_logging

    found: dict[str, Any] = {}
    if names := configured_logging.level_names():
        found["level_names"] = names
    if loggers := configured_logging.loggers():
        found["loggers"] = loggers
    if logging.root.manager.disable:
        found["disabled"] = logging.root.manager.disable
    return found
