"""The parts that functions of the script consist of."""

from __future__ import annotations

import marshal
import sys
from types import CodeType, FunctionType
from typing import Any

from jobrunner.script.makers import EMPTY

MARSHAL_VERSION = 2
"""The last version of the marshal format whose bytes do not depend on the reference counts of constants."""

MAX_CODES = 1000
"""Maximum number of code objects whose names are cached."""


def names_found(fn: FunctionType) -> list[Any]:
    """Return the values of the globals that the function's code names."""
    variables = fn.__globals__
    return [variables[name] for name in names_in(fn.__code__) if name in variables]


def contents_of(cell: Any) -> Any:
    """Return the content of a closure's cell, or EMPTY if the cell is empty."""
    try:
        return cell.cell_contents
    except ValueError:
        return EMPTY


def annotations_of(fn: FunctionType) -> dict[str, Any]:
    """Return the annotations of a function.

    Python 3.14 and later evaluate annotations at their first use, which is here. If they name something that does not
    exist (yet), each of them is returned as the text of its source, as with `from __future__ import annotations`.
    """
    try:
        return fn.__annotations__
    except Exception:
        return _annotations_as_text(fn)


def class_annotations_of(cls: type) -> dict[str, Any] | None:
    """Return the annotations of the class itself, without those of its bases; None if it has none.

    As with `annotations_of`, they may be texts.
    """
    attributes = vars(cls)
    if "__annotate_func__" not in attributes:  # before Python 3.14, or if the program has set them
        own: dict[str, Any] | None = attributes.get(
            "__annotations__", attributes.get("__annotations_cache__")
        )
        return own
    try:
        return cls.__annotations__
    except Exception:
        return _annotations_as_text(cls)


def _annotations_as_text(annotated: Any) -> dict[str, Any]:
    if sys.version_info >= (3, 14):  # earlier versions evaluate annotations at the definition
        import annotationlib  # imported here because few programs need it

        return annotationlib.get_annotations(annotated, format=annotationlib.Format.STRING)
    return {}


def marshalled(code: CodeType) -> Any:
    """Return the code as bytes, or the code itself if it cannot be marshalled."""
    try:
        return marshal.dumps(code, MARSHAL_VERSION)
    except ValueError:  # a constant of a newer kind, or one that a tool has inserted
        try:
            return marshal.dumps(code)
        except ValueError:
            return code


_names: dict[CodeType, tuple[str, ...]] = {}

_GLOBAL_OPS = frozenset(
    ("LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
)


def names_in(code: CodeType) -> tuple[str, ...]:
    """Return the names of globals that the code, including nested code, looks up or sets."""
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
    """Return all names in the code, including nested code: those of globals, attributes and modules."""
    found = set(code.co_names)
    for inside in _codes_in(code):
        found |= attributes_in(inside)
    return found


def _codes_in(code: CodeType) -> list[CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, CodeType)]
