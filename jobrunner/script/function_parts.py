"""What functions of the script consist of."""

from __future__ import annotations

import marshal
import sys
from types import CodeType, FunctionType
from typing import Any

from jobrunner.script.makers import EMPTY

MARSHAL_VERSION = 2
"""From the next one on the bytes depend on how many references there are to the constants."""

MAX_CODES = 1000
"""Pieces of code of which is kept what was found out."""


def names_found(fn: FunctionType) -> list[Any]:
    """The values of the globals that its code names."""
    variables = fn.__globals__
    return [variables[name] for name in names_in(fn.__code__) if name in variables]


def contents_of(cell: Any) -> Any:
    """What a cell of a closure holds, EMPTY if that is nothing."""
    try:
        return cell.cell_contents
    except ValueError:
        return EMPTY


def annotations_of(fn: FunctionType) -> dict[str, Any]:
    """The annotations of a function.

    Python 3.14 and later evaluate them here, at their first use. Where they name what does not exist (yet), each is the
    text of its source, as with `from __future__ import annotations`.
    """
    try:
        return fn.__annotations__
    except Exception:
        return _annotations_as_text(fn)


def class_annotations_of(cls: type) -> dict[str, Any] | None:
    """The annotations that a class itself has; see `annotations_of`. None where it has none."""
    attributes = vars(cls)
    if "__annotate_func__" not in attributes:  # before Python 3.14, or they have been set
        own: dict[str, Any] | None = attributes.get(
            "__annotations__", attributes.get("__annotations_cache__")
        )
        return own
    try:
        return cls.__annotations__
    except Exception:
        return _annotations_as_text(cls)


def _annotations_as_text(annotated: Any) -> dict[str, Any]:
    if sys.version_info >= (3, 14):  # earlier versions evaluate annotations where they stand
        import annotationlib  # here: only few programs need it

        return annotationlib.get_annotations(annotated, format=annotationlib.Format.STRING)
    return {}


def marshalled(code: CodeType) -> Any:
    """The code as bytes; itself where that cannot be."""
    try:
        return marshal.dumps(code, MARSHAL_VERSION)
    except ValueError:  # a constant of a newer kind, or one that some tool has put there
        try:
            return marshal.dumps(code)
        except ValueError:
            return code


_names: dict[CodeType, tuple[str, ...]] = {}

_GLOBAL_OPS = frozenset(
    ("LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
)


def names_in(code: CodeType) -> tuple[str, ...]:
    """Names of globals that the code, and code inside of it, looks up or sets."""
    known = _names.get(code)
    if known is None:
        import dis

        found = {
            instruction.argval: None
            for instruction in dis.get_instructions(code)
            if instruction.opname in _GLOBAL_OPS
        }
        for inside in _codes_in(code):
            found.update(dict.fromkeys(names_in(inside)))
        if len(_names) >= MAX_CODES:
            _names.clear()
        known = _names[code] = tuple(found)
    return known


def attributes_in(code: CodeType) -> set[str]:
    """All names in the code and in code inside of it, of globals, attributes and modules."""
    found = set(code.co_names)
    for inside in _codes_in(code):
        found |= attributes_in(inside)
    return found


def _codes_in(code: CodeType) -> list[CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, CodeType)]
