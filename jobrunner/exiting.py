"""Work that is finished before the interpreter ends."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable


def finish_before_exit(method: Callable[[], None]) -> None:
    """Call a bound method when the interpreter exits, while threads can still be started; waits belong there.

    The object is not kept alive by this. What was registered last is called first, and the standard pools
    register when they are imported, so they still take work then. `atexit` comes too late for both. Does
    nothing when the exit has begun.
    """
    reference = weakref.WeakMethod(method)

    def finish() -> None:
        alive = reference()
        if alive is not None:
            alive()

    try:  # private, and what the standard pools use themselves
        threading._register_atexit(finish)  # type: ignore[attr-defined]
    except RuntimeError:
        pass
