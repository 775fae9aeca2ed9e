"""The limit of descriptors of this process, and other shortages when it starts another process.

The usual limit of 1,024 is a soft one, which every process may raise to the hard one. A program that embeds a pool is
not ours, so its limit is raised only as far as the slots need it. Slots get the program's own limit back, because calls
and their child processes may be slow with a high one (old programs close all descriptors up to it).
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

RESERVE = 32
"""Number of descriptors that are left to the program: for files, imports, and connections of nested calls."""

PART_IN_RESERVE = 4
"""The reserve is at most the limit divided by this number."""

STREAMS = 3
"""The number of standard streams; descriptors with lower numbers become those of a child process."""

OPEN_DESCRIPTORS = "/dev/fd"
"""The folder that lists the open descriptors, on Linux and macOS."""

SHORTAGES = frozenset(
    (
        errno.EMFILE,
        errno.ENFILE,
        errno.EAGAIN,
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.ENOSPC,
        errno.ETOOMANYREFS,
    )
)
"""Numbers of errors due to a temporary shortage of descriptors, processes or memory."""


class _Raised:
    """The soft limit before and after the last time that it was raised here."""

    before = 0
    after = -1


def raise_limit(least: int | None = None) -> int:
    """Raise the soft limit to `least`, or to what the system allows; return the limit from now on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if least is None or (hard != resource.RLIM_INFINITY and least > hard) else least
    if soft in (hard, wanted, resource.RLIM_INFINITY):
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return soft  # some systems report "unlimited", but allow less
    if soft != _Raised.after:
        _Raised.before = soft
    _Raised.after = wanted
    return wanted


def raised_from() -> int | None:
    """Return the soft limit before it was raised here; None if it was not, or if others have set it since."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _Raised.before if soft == _Raised.after else None


def make_room(count: int) -> None:
    """Make sure that `count` more descriptors can be opened while some are left; raise OSError (EMFILE) otherwise."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    taken = _taken()
    if limit == resource.RLIM_INFINITY or _is_enough(limit, taken + count):
        return
    limit = raise_limit(2 * (taken + count + RESERVE))
    if not _is_enough(limit, taken + count):
        raise OSError(
            errno.EMFILE,
            f"{taken} of {limit} file descriptors are in use, and {count} more are needed; raise `ulimit -Hn`",
        )


@contextmanager
def beyond_streams(descriptors: Sequence[int]) -> Iterator[list[int]]:
    """Provide the same files, for a process that is started in the block, under numbers above the standard streams.

    In a program that has closed its standard input a new descriptor has the number 0, which `subprocess` gives to the
    standard input of the process that it starts.
    """
    with ExitStack() as copies:
        numbers = []
        for descriptor in descriptors:
            if descriptor < STREAMS:
                descriptor = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, STREAMS)
                copies.callback(os.close, descriptor)
            numbers.append(descriptor)
        yield numbers


def unnamed_file(name: str, size: int) -> int:
    """Return a descriptor of zeroed memory that processes may share; raises OSError.

    The memory has no name in any folder; `name` is shown in /proc.
    """
    if sys.platform == "linux":
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    else:
        import tempfile  # imported here because it takes long to load, and Linux does without it

        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        os.ftruncate(descriptor, size)
    except OSError:  # files may not be so large
        os.close(descriptor)
        raise
    return descriptor


def is_shortage(error: OSError) -> bool:
    """Return whether the failed operation may succeed when others have released something."""
    return error.errno in SHORTAGES


def _is_enough(limit: int, wanted: int) -> bool:
    return wanted + min(RESERVE, limit // PART_IN_RESERVE) <= limit


def _taken() -> int:
    try:
        return len(os.listdir(OPEN_DESCRIPTORS))
    except OSError as exc:
        if exc.errno == errno.EMFILE:
            raise
        return 0  # nothing lists them here, so an open that exceeds the limit fails with an error
