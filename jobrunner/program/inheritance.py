"""Objects that multiprocessing shares "only through inheritance", for initializers of slots on this host.

Locks, events, queues, values and arrays of multiprocessing can be arguments of an initializer, as in the standard
library's pools. A slot is not a child that could inherit them, so it opens them itself: semaphores by their names, and
files and pipes as descriptors of the program, through /proc. A semaphore that was created for forked processes has no
name any more, so it is replaced by one that has.
"""

from __future__ import annotations

import fcntl
import functools
import os
import pickle
import stat
import sys
from collections import ChainMap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from jobrunner.calls.serialization import CONNECTION

PROTOCOL = 5


def inheritable(initargs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments of an initializer, wrapped where necessary; raise RuntimeError if that cannot help."""
    if "multiprocessing.context" not in sys.modules:
        return initargs
    return tuple(Inherited(dump(value)) if _is_inherited(value) else value for value in initargs)


def _is_inherited(value: Any) -> bool:
    """Return whether the value can be pickled only for a process that is being started."""
    try:
        stream = pickle.dumps(value, PROTOCOL)
    except Exception:
        pass
    else:
        if CONNECTION not in stream:  # a connection can be pickled, but is useless in another process
            return False
    found: list[Any] = []
    try:
        with _starting():
            _pickled(value, lambda obj: found.append(obj) if _is_of_multiprocessing(obj) else None)
    except Exception:  # pickling it for sending will raise the error
        pass
    return bool(found)


def _is_of_multiprocessing(obj: Any) -> bool:
    """Return whether an object is one that processes share."""
    kinds = type(obj).__mro__
    if "_ctypes" in sys.modules and any(kind.__name__ == "_CData" for kind in kinds):
        return True  # the result of Value(..., lock=False); ordinary values can be pickled
    return any(kind.__module__.startswith("multiprocessing.") for kind in kinds)


class Inherited:
    """A wrapper that unpickles to the wrapped value, in a process of this host."""

    def __init__(self, stream: bytes) -> None:
        self.stream = stream

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self.stream,)


class Opened:
    """A file or a pipe of the process that pickles it; `detach` opens it in the process that unpickles it."""

    def __init__(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if not os.path.exists(f"/proc/self/fd/{descriptor}") or stat.S_ISSOCK(status.st_mode):
            raise RuntimeError(
                "sockets cannot be given to an initializer, nor can files and pipes on a system without /proc; use a"
                " queue of a multiprocessing.Manager()"
            )
        self.path = f"/proc/{os.getpid()}/fd/{descriptor}"
        self.identity = status.st_dev, status.st_ino
        self.flags = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE

    def detach(self) -> int:
        """Return a descriptor of this process. Raises OSError if the program has closed its own."""
        descriptor = os.open(self.path, self.flags | os.O_CLOEXEC)
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino) != self.identity:
            os.close(descriptor)
            raise OSError(f"the program has closed the file or pipe that it shares as {self.path}")
        return descriptor


class _Starting:
    """A stand-in for the process that is being started, of which multiprocessing asks while it pickles."""

    DupFd = Opened

    def duplicate_for_child(self, descriptor: int) -> int:
        return descriptor


def dump(value: Any) -> bytes:
    """Return a pickle for a process of this host.

    Raises RuntimeError for a semaphore that cannot be shared any more.
    """
    with _starting():
        _give_names(value)
        return _pickled(value, lambda obj: None)


@contextmanager
def _starting() -> Iterator[None]:
    """Pickle, in this block, for a process that is being started."""
    from multiprocessing import context

    before = context.get_spawning_popen()
    context.set_spawning_popen(_Starting())  # type: ignore[arg-type]
    try:
        yield
    finally:
        context.set_spawning_popen(before)


def _pickled(value: Any, see: Callable[[Any], None]) -> bytes:
    """Return a pickle; `see` is called with each object of a type that is not built in, before it is pickled."""
    import io

    file = io.BytesIO()
    _pickler_class()(file, see).dump(value)
    return file.getvalue()


@functools.cache
def _pickler_class() -> Any:
    """Return the pickler's class, which is created once because a class refers to itself and needs the collector."""
    from multiprocessing.reduction import ForkingPickler

    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        dispatch_table = ChainMap(
            ForkingPickler._extra_reducers,  # type: ignore[attr-defined]
            cloudpickle.Pickler.dispatch_table,
        )

        def __init__(self, file: BinaryIO, see: Callable[[Any], None]) -> None:
            super().__init__(file, PROTOCOL)
            self._see = see

        def reducer_override(self, obj: Any) -> Any:
            self._see(obj)
            return super().reducer_override(obj)

    return Pickler


# --- semaphores ------------------------------------------------------------------------------------------------------


def _give_names(value: Any) -> None:
    """Give every semaphore in `value` a name by which others can open it; objects with the old one get the new one."""
    if "multiprocessing.synchronize" not in sys.modules:
        return
    from multiprocessing.synchronize import SemLock

    replaced: dict[int, tuple[Any, Any]] = {}
    seen: list[Any] = []

    def see(obj: Any) -> None:
        seen.append(obj)
        if isinstance(obj, SemLock) and obj._semlock.name is None:  # type: ignore[attr-defined]
            old = obj._semlock  # type: ignore[attr-defined]
            _give_name(obj)
            replaced[id(old)] = old, obj._semlock  # type: ignore[attr-defined]
        elif type(obj).__module__ == "multiprocessing.queues" and getattr(obj, "_thread", None) is not None:
            _check_thread(obj)

    _pickled(value, see)
    for obj in seen if replaced else ():
        fields = getattr(obj, "__dict__", None)
        for name, method in list(fields.items()) if isinstance(fields, dict) else ():
            old, new = replaced.get(id(getattr(method, "__self__", None)), (None, None))
            if old is not None:
                setattr(obj, name, getattr(new, method.__name__))


def _check_thread(queue: Any) -> None:
    if queue._wlock is not None and queue._wlock._semlock.name is None:
        raise RuntimeError(f"a {_kind(queue)} that the program has put something into already {ADVICE}")


def _give_name(lock: Any) -> None:
    """Replace the semaphore of a lock, which only this process may have, and which must not be held."""
    import _multiprocessing  # type: ignore[import-not-found]
    import multiprocessing
    from multiprocessing import resource_tracker, util
    from multiprocessing.synchronize import RECURSIVE_MUTEX, SemLock  # type: ignore[attr-defined]

    old = lock._semlock
    forked = [child.name for child in multiprocessing.active_children() if "Manager-" not in child.name]
    if forked:
        raise RuntimeError(
            f"a {_kind(lock)} that the running {forked[0]} may have inherited already {ADVICE}"
        )
    if old.kind == RECURSIVE_MUTEX and old._is_zero():
        raise RuntimeError(f"a {_kind(lock)} that is held at the moment {ADVICE}")
    while True:
        name = SemLock._make_name()  # type: ignore[attr-defined]
        try:
            new = _multiprocessing.SemLock(old.kind, old._get_value(), old.maxvalue, name, False)
            break
        except FileExistsError:  # another process has that name; try the next one
            pass
    resource_tracker.register(name, "semaphore")
    util.Finalize(lock, SemLock._cleanup, (name,), exitpriority=0)  # type: ignore[attr-defined]
    lock._semlock = new
    lock._is_fork_ctx = False
    lock._make_methods()


ADVICE = (
    "cannot be given to an initializer: use multiprocessing.Manager().Lock() (or its Queue(), Event(), ...), or"
    ' create it with multiprocessing.get_context("spawn")'
)


def _kind(value: Any) -> str:
    return f"multiprocessing {type(value).__name__}"
