"""Errors of pickling that are also instances of the original error's class, for programs that catch that.

If an argument cannot be pickled, the standard library's pool reports whatever `pickle` raised: a TypeError for a lock,
or the user's own exception from a `__reduce__`. Here that is the cause of a SerializationError, which names the
argument. The error's class derives from both, so that `except TypeError` still catches it.
"""

from __future__ import annotations

import functools
import pickle
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

from jobrunner.errors import SerializationError

MAX_CLASSES = 128
"""Maximum number of cached combinations of classes."""

HEAP_TYPE = 1 << 9
"""The flag Py_TPFLAGS_HEAPTYPE of a class that Python code has created."""


def serialization_error(message: str, *causes: BaseException, otherwise: str = "") -> SerializationError:
    """Return a SerializationError that is also an instance of the classes of `causes`, as far as that is possible.

    It has the attributes of the last cause. Its text is `message` and advice: that for the causes if there is any, else
    `otherwise`.
    """
    advice = next(filter(None, map(_advice, causes)), otherwise)
    if advice not in message:  # if a cause is such an error itself, the message already has the advice
        message += advice
    kinds: list[type[BaseException]] = []
    for cause in causes:
        if isinstance(cause.__cause__, RecursionError):  # cloudpickle turns it into a PicklingError
            cause = cause.__cause__
        kind = type(cause)
        # A program that catches an interrupt does not mean this error.
        if issubclass(kind, Exception) and not issubclass(SerializationError, kind) and kind not in kinds:
            kinds.append(kind)
    while kinds:
        try:
            return _instance(message, tuple(kinds), causes[-1].args, attributes_of(causes[-1]))
        except Exception:  # classes that cannot be combined, or that allow no other subclass
            kinds.pop(0)
    return SerializationError(message)


def _advice(cause: BaseException) -> str:
    """Return advice about objects of multiprocessing, whose own errors say only that they refuse."""
    if isinstance(cause, RuntimeError) and "between processes through inheritance" in str(cause):
        return (
            "; if calls run on this host, pass it to an initializer (initializer=..., initargs=...); the"
            " corresponding object of a multiprocessing.Manager() can be sent"
        )
    if type(cause).__name__ == "AuthenticationError" and type(cause).__module__ == "multiprocessing.context":
        return (
            "; set multiprocessing.current_process().authkey to the manager's key in that process before a proxy"
            " arrives there, for example in an initializer that has no proxy among its own arguments"
        )
    return ""


def attributes_of(exc: BaseException) -> dict[str, Any]:
    """Return the attributes that the class or its `__init__` adds to a plain exception, such as `errno` or `name`."""
    found: dict[str, Any] = {}
    for base in type(exc).__mro__:
        if base in BaseException.__mro__:
            continue
        for name, member in vars(base).items():
            if isinstance(member, (MemberDescriptorType, GetSetDescriptorType)) and hasattr(exc, name):
                found[name] = getattr(exc, name)
    for hidden in ("__dict__", "__weakref__"):
        found.pop(hidden, None)
    return {**found, **vars(exc)}


def _instance(
    message: str, kinds: tuple[type[BaseException], ...], args: tuple[Any, ...], attributes: dict[str, Any]
) -> SerializationError:
    kind = _combined(kinds)
    # The class in C has room for all attributes. `__init__` is not called, because it may require unknown arguments.
    native: Any = kind
    while native.__flags__ & HEAP_TYPE:
        native = native.__base__
    error: SerializationError = native.__new__(kind, *args)
    error.args = (message,)
    for name, value in attributes.items():
        try:
            setattr(error, name, value)
        except Exception:  # the attribute is read-only
            continue
    return error


@functools.lru_cache(maxsize=MAX_CLASSES)
def _combined(kinds: tuple[type[BaseException], ...]) -> type[SerializationError]:
    """Return a class that derives from SerializationError and from `kinds`. Raises whatever these raise at that."""

    def reduce(self: BaseException, protocol: int = pickle.DEFAULT_PROTOCOL) -> tuple[Any, ...]:
        picklable = {name: value for name, value in attributes_of(self).items() if _pickles(value)}
        return _again, (str(self), kinds, picklable)

    names = {
        "__module__": SerializationError.__module__,
        "__qualname__": SerializationError.__qualname__,
        "__doc__": SerializationError.__doc__,
        "__reduce__": reduce,
        "__reduce_ex__": reduce,
        # The user's class may have its own, with other arguments, or forbid the attributes that `raise` sets.
        "__str__": BaseException.__str__,
        "__repr__": BaseException.__repr__,
        "__setattr__": BaseException.__setattr__,
        "__delattr__": BaseException.__delattr__,
    }
    made: type[SerializationError] = type("SerializationError", (SerializationError, *kinds), names)
    return made


def _again(
    message: str, kinds: tuple[type[BaseException], ...], attributes: dict[str, Any]
) -> SerializationError:
    """Return such an error when it is unpickled."""
    try:
        return _instance(message, kinds, (message,), attributes)
    except Exception:
        return SerializationError(message)


def _pickles(value: Any) -> bool:
    try:
        pickle.loads(pickle.dumps(value))
    except Exception:
        return False
    return True
