"""The image of a script: what code may find there in ways that cannot be followed, as it is when a function is defined.

All functions and classes, and plain data of moderate size. What cannot be pickled is left out, without a word: nobody
may ever ask for it.
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
"""Of the pickle of a list, dictionary or set that is in the image."""

MAX_BYTES = 4 * 1024 * 1024
"""Of all entries of an image; those that come later in the script are left out."""

MAX_SOURCE_BYTES = 512 * 1024
"""Of the text of one file."""

_OF_MODULES = frozenset(
    (
        *("__name__", "__package__", "__spec__", "__loader__", "__file__", "__cached__", "__path__"),
        *("__builtins__", "__getattr__", "__dir__"),
    )
)
"""What a module says of itself, which the stand-in does, and what the interpreter asks of it."""

_CONTAINERS = (list, dict, set, frozenset, tuple, bytearray)
_MAX_ITEMS = 1000


def entries(catalogue: Catalogue, looker: Looker, store: Store | None) -> tuple[Entry, ...]:
    """The entries of all globals that belong into the image."""
    variables = dict(looker.origin.variables)
    found: dict[str, Entry] = {}
    left = MAX_BYTES
    waiting = [name for name, value in variables.items() if _belongs(value)]
    for name in waiting:  # it grows meanwhile
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
            waiting += entry.shares  # what its pickle refers to by name
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
    """Whether it consists of numbers, strings and containers of such, and is not large."""
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
    """Names and texts of the files that the functions of the script come from."""
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
