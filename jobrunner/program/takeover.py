"""What a slot's process does first: it takes the place of a process that multiprocessing has spawned.

It imports little, for a slot must start fast. `program.start_with` is the other half.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Mapping

HASH_SEED = "PYTHONHASHSEED"

KEPT = "JOBRUNNER_KEPT_"
"""Begins the names of variables of a slot that starts: those that it gets back once its interpreter is up."""

FLAGS = "JOBRUNNER_FLAGS"
"""Environment variable of a slot that starts: what its sys.flags are to say although it was started without."""

START_METHOD = "JOBRUNNER_START_METHOD"
"""Environment variable of a slot that starts: the program's choice for multiprocessing."""

TRACKER = "JOBRUNNER_TRACKER"
"""Environment variable of a slot that starts: the descriptor that leads to the program's resource tracker."""

DESCRIPTOR_LIMIT = "JOBRUNNER_DESCRIPTOR_LIMIT"
"""Environment variable of a slot that starts: the soft limit of descriptors that the program has."""

STARTED = "JOBRUNNER_STARTED"
"""Environment variable of a process that is started for calls, until it has come to its own main."""


def as_started(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with which a process for calls is started."""
    return {**environment, STARTED: "1"}


def has_started() -> None:
    """In such a process: it runs what it was to run."""
    os.environ.pop(STARTED, None)


def settle() -> None:
    """In a process that was started so: have os.environ and sys.flags say what they say in the program."""
    flags = os.environ.pop(FLAGS, None)
    if flags is None:
        return
    del os.environ[HASH_SEED]
    for name in [name for name in os.environ if name.startswith(KEPT)]:
        os.environ[name.removeprefix(KEPT)] = os.environ.pop(name)
    for flag in flags.split():
        _set_flag(flag)


def _set_flag(name: str) -> None:
    """subprocess and multiprocessing read sys.flags, to start others with the same options."""
    import ctypes  # here: it takes long to load, and is seldom needed

    one = ctypes.py_object(1)
    ctypes.pythonapi.Py_IncRef(one)  # the next line takes this reference
    ctypes.pythonapi.PyStructSequence_SetItem(
        ctypes.py_object(sys.flags), ctypes.c_ssize_t(type(sys.flags).__match_args__.index(name)), one
    )


def become_child(number: int, parent: int, sentinel: int) -> None:
    """Answer multiprocessing as the `number`th process does that it has spawned for the process `parent`.

    Loggers print such names, and recipes that deal out devices ask for such numbers. `sentinel` is a descriptor that
    becomes readable when the parent dies.
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
    """Have the limit of descriptors that the program had before its pool raised it."""
    limit = os.environ.pop(DESCRIPTOR_LIMIT, None)
    if limit is not None:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (int(limit), resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        )


def take_tracker(descriptor: int) -> None:
    """Tell the program's resource tracker of shared memory and semaphores, as spawned processes do.

    A tracker of its own would remove what the program or other calls still use when this process ends.
    """
    from multiprocessing import resource_tracker

    resource_tracker._resource_tracker._fd = descriptor  # type: ignore[attr-defined]


def take_key(authkey: bytes) -> None:
    """Let this process in where the program's managers of multiprocessing listen."""
    import multiprocessing.process

    multiprocessing.process.current_process().authkey = authkey
