"""Errors of pickling that are also what pickling raised, for programs that catch that.

Where an argument cannot be pickled, the standard library's pool hands out whatever `pickle` raised: a TypeError for a
lock, the user's own exception from a `__reduce__`. Here that is the cause of a SerializationError, which names the
argument. So that `except TypeError` goes on catching it, the error is of a class that derives from both.
"""

from __future__ import annotations

import functools
import pickle
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

from jobrunner.errors import SerializationError

MAX_CLASSES = 128
"""Combinations of classes that are kept."""

HEAP_TYPE = 1 << 9
"""Py_TPFLAGS_HEAPTYPE: the class was made by Python code."""


def serialization_error(message: str, *causes: BaseException, otherwise: str = "") -> SerializationError:
    """A SerializationError that is also an instance of the classes of `causes`, as far as that is possible.

    It has the attributes of the last of them, and prints as `message` with what can be done: what is known
    for the causes, else `otherwise`.
    """
    advice = next(filter(None, map(_advice, causes)), otherwise)
    if advice not in message:  # where a cause is such an error itself, the message has it
        message += advice
    kinds: list[type[BaseException]] = []
    for cause in causes:
        if isinstance(cause.__cause__, RecursionError):  # of which cloudpickle makes a PicklingError
            cause = cause.__cause__
        kind = type(cause)
        # An interrupt is none that a program means when it catches one.
        if issubclass(kind, Exception) and not issubclass(SerializationError, kind) and kind not in kinds:
            kinds.append(kind)
    while kinds:
        try:
            return _instance(message, tuple(kinds), causes[-1].args, attributes_of(causes[-1]))
        except Exception:  # classes that cannot be combined, or that allow no other subclass
            kinds.pop(0)
    return SerializationError(message)


def _advice(cause: BaseException) -> str:
    """What to do about objects of multiprocessing, which say themselves only that they refuse."""
    if isinstance(cause, RuntimeError) and "between processes through inheritance" in str(cause):
        return (
            "; where calls run on this host, an initializer can take it (initializer=..., initargs=...); what a"
            " multiprocessing.Manager() makes in its place can be sent"
        )
    if type(cause).__name__ == "AuthenticationError" and type(cause).__module__ == "multiprocessing.context":
        return (
            "; the process needs the manager's key in multiprocessing.current_process().authkey before a proxy of the"
            " manager arrives there: an initializer can set it that has no proxy among its own arguments"
        )
    return ""


def attributes_of(exc: BaseException) -> dict[str, Any]:
    """What its class, and its `__init__`, have added to a plain exception: `errno`, `name`, a user's own."""
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
    # Of the class in C, which makes room for all of it; no __init__, which may want what is not known.
    native: Any = kind
    while native.__flags__ & HEAP_TYPE:
        native = native.__base__
    error: SerializationError = native.__new__(kind, *args)
    error.args = (message,)
    for name, value in attributes.items():
        try:
            setattr(error, name, value)
        except Exception:  # one that is read only
            continue
    return error


@functools.lru_cache(maxsize=MAX_CLASSES)
def _combined(kinds: tuple[type[BaseException], ...]) -> type[SerializationError]:
    """A class that derives from SerializationError and from `kinds`. Raises whatever these raise then."""

    def reduce(self: BaseException, protocol: int = pickle.DEFAULT_PROTOCOL) -> tuple[Any, ...]:
        picklable = {name: value for name, value in attributes_of(self).items() if _pickles(value)}
        return _again, (str(self), kinds, picklable)

    names = {
        "__module__": SerializationError.__module__,
        "__qualname__": SerializationError.__qualname__,
        "__doc__": SerializationError.__doc__,
        "__reduce__": reduce,
        "__reduce_ex__": reduce,
        # A class of the user's may have its own, which know of other arguments, or forbid what `raise` sets.
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
    """What such an error becomes when it is unpickled."""
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
