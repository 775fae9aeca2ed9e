"""The function that an engine runs in its workers, which reports if they do not have jobrunner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

ENTRY = """
def jobrunner_call(head, parts, values, *apart):
    try:
        from jobrunner.backends.engine.in_worker import run
    except ImportError as exc:
        import platform
        text = (
            f"the worker on {platform.node()} cannot run it: {exc}. Install jobrunner there, in the Python that the"
            " engine's workers use"
        )
        return 5, 0.0, [], {"error": text, "unable": True}, ()
    return run(head, parts, values, *apart)
"""
"""The source of the function in the engine's workers.

It is sent by value, so that a worker without jobrunner can report that. 5 is `m.LOST`.
"""


def entry() -> Callable[..., Any]:
    """Return `jobrunner_call` as a function that every pickler sends by value."""
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(ENTRY, space)
    function: Callable[..., Any] = space["jobrunner_call"]
    return function
