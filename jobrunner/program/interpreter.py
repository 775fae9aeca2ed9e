"""The interpreter of the slots' processes, which is never the program itself.

`sys.executable` is usually the interpreter of this program. If the program is frozen (PyInstaller, Nuitka, cx_Freeze)
or embeds Python, it is the application, or nothing. If it were started as an interpreter, the application would start
again, and so on without end. For such programs a setting names an interpreter, or `multiprocessing.set_executable`,
which they call for the same reason.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys

from jobrunner.errors import ConfigError
from jobrunner.program.takeover import STARTED, as_started
from jobrunner.system.host import current_environment

SETTING = "JOBRUNNER_INTERPRETER"

SPAWN = "multiprocessing.spawn"
"""The module that has the argument of `multiprocessing.set_executable`; programs that have not loaded it set nothing.
"""

LOOKS_RIGHT = re.compile("python|pypy|graalpy", re.IGNORECASE)
"""A part of the names of interpreters."""

ASK_VERSION = "import sys; print('%d.%d' % sys.version_info[:2])"
VERSION_SECONDS = 30.0

ADVICE = (
    f"set {SETTING} (or `interpreter` in the config file) to a Python {sys.version_info[0]}.{sys.version_info[1]} that"
    ' has the modules of this program, or use "threads"'
)


def find_interpreter(configured: str | None) -> str:
    """Return the path of the interpreter to start.

    Raises ConfigError if that would be the program itself, or nothing.
    """
    if os.environ.get(STARTED):
        raise ConfigError(
            f"this process was itself started to run calls, as if {sys.executable!r} were a Python interpreter, and it"
            f" is an application: there {ADVICE}"
        )
    if configured is not None:
        return _checked(configured)
    told = getattr(sys.modules.get(SPAWN), "_python_exe", None)
    if told is not None and os.fsdecode(told) != sys.executable:
        return os.fsdecode(told)
    if not sys.executable:
        raise ConfigError(f"this program embeds Python, and sys.executable names no interpreter: {ADVICE}")
    if getattr(sys, "frozen", False) or hasattr(sys.modules.get("__main__"), "__compiled__"):
        raise ConfigError(
            f"this program is frozen: {sys.executable} is the program itself, not an interpreter; {ADVICE}"
        )
    if not any(
        LOOKS_RIGHT.search(os.path.basename(path))
        for path in (sys.executable, os.path.realpath(sys.executable))
    ):
        raise ConfigError(
            f"sys.executable, {sys.executable}, seems to be an application that embeds Python, not an interpreter;"
            f" {ADVICE}"
        )
    return sys.executable


@functools.lru_cache
def _checked(configured: str) -> str:
    """Return the path of an interpreter that a setting names. Raises ConfigError unless it is one, of this version."""
    path = shutil.which(os.path.expanduser(configured))
    if path is None:
        raise ConfigError(f"{SETTING} names {configured!r}, which is not an executable file")
    if path == sys.executable and not getattr(sys, "frozen", False):
        return path
    try:
        asked = subprocess.run(
            [path, "-c", ASK_VERSION],
            env=as_started(current_environment()),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=VERSION_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise ConfigError(f"{SETTING} names {path}, which does not tell its version: {exc}") from exc
    version, own = asked.stdout.strip(), f"{sys.version_info[0]}.{sys.version_info[1]}"
    if version != own:
        what = f"Python {version}" if re.fullmatch(r"\d+\.\d+", version) else "no Python interpreter"
        raise ConfigError(f"{SETTING} names {path}, which is {what}; this program has Python {own}")
    return path
