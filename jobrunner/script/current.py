"""Which program's script this process has: the program's own, or a stand-in for it."""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import NamedTuple

from jobrunner.script import per_thread as threads

NAMES = ("__main__", "__mp_main__")
"""What the script's module is called; the second one in children of `multiprocessing` that are not forked."""

TOKEN_BYTES = 12


class Program(NamedTuple):
    """What tells a program's script from others', and what its module says of itself."""

    token: str
    """Drawn at random by each process that has a script of its own."""
    name: str
    """`__name__` of the module."""
    file: str | None
    package: str | None
    spec: str | None
    """The name of the module, where the program was started with `python -m`."""


def script_module() -> ModuleType | None:
    """The script's module in this process, whoever has made it; the calling thread's, where each has its own."""
    module = sys.modules.get("__main__")
    return threads.module_of_thread() if type(module) is threads.MainOfThread else module


_own: tuple[int, str] = (0, "")


def own_token() -> str:
    """The token of this process, unless it stands in for another one's script."""
    global _own
    pid = os.getpid()
    if _own[0] != pid:  # a forked process goes ways of its own
        _own = pid, os.urandom(TOKEN_BYTES).hex()  # as the module `secrets`, which takes a while to import
    return _own[1]


def described(module: ModuleType) -> Program:
    """The program whose script is `module`, in the process that runs it."""
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
