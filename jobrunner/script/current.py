"""The script of this process: the program's own, or a stand-in for it."""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import NamedTuple

from jobrunner.script import per_thread as threads

NAMES = ("__main__", "__mp_main__")
"""Names of the script's module; children of `multiprocessing` that are not forked use the second one."""

TOKEN_BYTES = 12


class Program(NamedTuple):
    """The identity of a program's script, and what its module says of itself."""

    token: str
    """A random string that each process with a script of its own draws."""
    name: str
    """The module's `__name__`."""
    file: str | None
    package: str | None
    spec: str | None
    """The module's name if the program was started with `python -m`, else None."""


def script_module() -> ModuleType | None:
    """Return the script's module of this process, or of the calling thread if each thread has its own."""
    module = sys.modules.get("__main__")
    return threads.module_of_thread() if type(module) is threads.MainOfThread else module


_own: tuple[int, str] = (0, "")


def own_token() -> str:
    """Return the token of this process's own script.

    A process that stands in for another program has that program's token beside it.
    """
    global _own
    pid = os.getpid()
    if _own[0] != pid:  # a forked process has a script of its own from here on
        _own = pid, os.urandom(TOKEN_BYTES).hex()  # as the module `secrets`, which takes a while to import
    return _own[1]


def described(module: ModuleType) -> Program:
    """Return the program whose script is `module`, in the process that runs that program."""
    spec = getattr(module, "__spec__", None)
    return Program(
        own_token(),
        module.__name__,
        _text(getattr(module, "__file__", None)),
        _text(getattr(module, "__package__", None)),
        _text(getattr(spec, "name", None)),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
