"""The first steps of a slot's process, which takes the place of a process that multiprocessing has spawned.

It imports little, because a slot must start fast. `flags.start_with` is the other half.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Mapping

HASH_SEED = "PYTHONHASHSEED"

KEPT = "JOBRUNNER_KEPT_"
"""The prefix of variables of a starting slot that get their real names once its interpreter is up."""

FLAGS = "JOBRUNNER_FLAGS"
"""Environment variable of a starting slot: the flags that sys.flags must show, although it was started without them."""

START_METHOD = "JOBRUNNER_START_METHOD"
"""Environment variable of a starting slot: the program's start method for multiprocessing."""

TRACKER = "JOBRUNNER_TRACKER"
"""Environment variable of a starting slot: the descriptor of the program's resource tracker."""

DESCRIPTOR_LIMIT = "JOBRUNNER_DESCRIPTOR_LIMIT"
"""Environment variable of a starting slot: the program's soft limit of descriptors."""

STARTED = "JOBRUNNER_STARTED"
"""Environment variable of a process that is started for calls, until it reaches its own main function."""


def as_started(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with which a process for calls is started."""
    return {**environment, STARTED: "1"}


def has_started() -> None:
    """Note, in such a process, that it has reached its own main function."""
    os.environ.pop(STARTED, None)


def settle() -> None:
    """Restore, in such a process, os.environ and sys.flags as they are in the program."""
    flags = os.environ.pop(FLAGS, None)
    if flags is None:
        return
    del os.environ[HASH_SEED]
    for name in [name for name in os.environ if name.startswith(KEPT)]:
        os.environ[name.removeprefix(KEPT)] = os.environ.pop(name)
    for flag in flags.split():
        _set_flag(flag)


def _set_flag(name: str) -> None:
    """Set a flag in sys.flags, with which subprocess and multiprocessing start further processes."""
    import ctypes  # imported here because it takes long to load and is seldom needed

    one = ctypes.py_object(1)
    ctypes.pythonapi.Py_IncRef(one)  # the next line takes this reference
    ctypes.pythonapi.PyStructSequence_SetItem(
        ctypes.py_object(sys.flags), ctypes.c_ssize_t(type(sys.flags).__match_args__.index(name)), one
    )


def become_child(number: int, parent: int, sentinel: int) -> None:
    """Answer multiprocessing like the `number`th process that it has spawned for the process `parent`.

    Loggers print such names, and some recipes assign devices by such numbers. `sentinel` is a descriptor that becomes
    readable when the parent dies.
    """
    import multiprocessing.process

    process = multiprocessing.process
    this = process.current_process()
    this.name = f"SpawnProcess-{number}"
    this._identity = (number,)
    process._parent_process = process._ParentProcess("MainProcess", parent, sentinel)  # type: ignore[attr-defined]
    method = os.environ.pop(START_METHOD, None)
    if method is not None:
        import multiprocessing

        multiprocessing.set_start_method(method, force=True)


def take_limit() -> None:
    """Set the limit of descriptors that the program had before its pool raised it."""
    limit = os.environ.pop(DESCRIPTOR_LIMIT, None)
    if limit is not None:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (int(limit), resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        )


def take_tracker(descriptor: int) -> None:
    """Use the program's resource tracker for shared memory and semaphores, as spawned processes do.

    A tracker of its own would remove, at the end of this process, objects that the program or other calls still use.
    """
    from multiprocessing import resource_tracker

    resource_tracker._resource_tracker._fd = descriptor  # type: ignore[attr-defined]


def take_key(authkey: bytes) -> None:
    """Set the key with which the program's multiprocessing managers let this process in."""
    import multiprocessing.process

    multiprocessing.process.current_process().authkey = authkey
