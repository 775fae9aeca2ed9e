"""The image of a script: the globals that code may find in ways that cannot be followed.

An image has all functions and classes, and plain data of moderate size, as they are when a function is defined. It
omits globals that cannot be pickled, without an error, because the code may never ask for them.
"""

from __future__ import annotations

import linecache
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from jobrunner.pickling.function_fingerprint import ATOMS, attribute_of, is_of
from jobrunner.protocol.wire.payloads import Store
from jobrunner.script.definition import Entry, needed_first
from jobrunner.script.looks import Looker
from jobrunner.script.origin import Origin

if TYPE_CHECKING:
    from jobrunner.script.catalogue import Catalogue

MAX_DATA_BYTES = 16 * 1024
"""Maximum size in bytes of a string or bytes object in the image."""

MAX_BYTES = 4 * 1024 * 1024
"""Maximum size in bytes of all entries of an image; globals that come later in the script are omitted."""

MAX_SOURCE_BYTES = 512 * 1024
"""Maximum number of characters of a source file that travels with the image."""

_OF_MODULES = frozenset(
    (
        *("__name__", "__package__", "__spec__", "__loader__", "__file__", "__cached__", "__path__"),
        *("__builtins__", "__getattr__", "__dir__"),
    )
)
"""Globals that the stand-in sets by itself, and functions that the interpreter calls on a module."""

_CONTAINERS = (list, dict, set, frozenset, tuple, bytearray)
_MAX_ITEMS = 1000


def entries(catalogue: Catalogue, looker: Looker, store: Store | None) -> tuple[Entry, ...]:
    """Return the entries of all globals that belong to the image."""
    variables = dict(looker.origin.variables)
    found: dict[str, Entry] = {}
    left = MAX_BYTES
    waiting = [name for name, value in variables.items() if _belongs(value)]
    for name in waiting:  # `waiting` grows during the loop
        if name in found or name not in variables or name in _OF_MODULES:
            continue
        try:
            entry = catalogue.listed(name, looker.at(variables[name], name), store).entry
        except Exception:
            continue
        left -= len(entry.stream or b"")
        if left < 0:
            break
        if entry.stream is not None:
            found[name] = entry
            waiting += entry.shares  # the globals to which its pickle refers by name
    return needed_first(found.values(), variables)


def _belongs(value: Any) -> bool:
    if is_of(value, (FunctionType, type, ModuleType, BuiltinFunctionType)):
        return True
    if type(attribute_of(value, "__wrapped__")) is FunctionType:
        return True
    if type(value) in (str, bytes):
        return len(value) <= MAX_DATA_BYTES
    return type(value) in ATOMS or (type(value) in _CONTAINERS and _is_plain(value))


def _is_plain(value: Any) -> bool:
    """Return whether the value is small and consists of numbers, strings and containers of these."""
    left = _MAX_ITEMS
    waiting = [value]
    while waiting:
        item = waiting.pop()
        left -= 1
        if left < 0:
            return False
        kind = type(item)
        if kind in (str, bytes, bytearray):
            left -= len(item) // 16
        elif kind is dict:
            waiting += item.keys()
            waiting += item.values()
        elif kind in _CONTAINERS:
            waiting += item
        elif kind not in ATOMS:
            return False
    return True


def sources(origin: Origin) -> tuple[tuple[str, str], ...]:
    """Return the names and texts of the files that contain the script's functions."""
    files: dict[str, None] = {}
    if origin.program.file is not None:
        files[origin.program.file] = None
    for value in list(origin.variables.values()):
        if type(value) is FunctionType and value.__globals__ is origin.variables:
            code: CodeType = value.__code__
            files[code.co_filename] = None
    found = []
    for file in files:
        lines = linecache.getlines(file)
        text = "".join(lines)
        if text and len(text) <= MAX_SOURCE_BYTES:
            found.append((file, text))
    return tuple(found)
