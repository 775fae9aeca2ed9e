"""Classes of `ctypes`, which no module has under their names, or which must be built in a certain order.

Nothing here imports `ctypes`: a program that has such a class has imported it.
"""

from __future__ import annotations

import operator
import sys
from typing import Any

MODULE = "_ctypes"
"""The module of these classes' metaclasses, which has no names for them."""

_FIELDS = "_fields_"
_FROM_THE_BEGINNING = (
    *("_type_", "_length_", "_flags_", "_argtypes_", "_restype_"),
    *("_pack_", "_align_", "_layout_", "_anonymous_", _FIELDS),
)
"""Attributes that must be present when the class is created.

Setting them later has no effect on the class, or none on a class that derives from it.
"""


def is_kind_of_ctypes(metaclass: type) -> bool:
    return metaclass is not type and any(kind.__module__ == MODULE for kind in metaclass.__mro__)


def is_built_by_ctypes(value: type) -> bool:
    """Return whether the class may have been created by a call of `ctypes`, so that `reduced` must be asked."""
    kind = type(value)
    return (kind is not type or value.__module__ == MODULE) and MODULE in (kind.__module__, value.__module__)


def reduced(value: Any) -> Any:
    """Return a function that creates or finds the class, and its arguments.

    Returns None for a class that a class statement has created.
    """
    ctypes: Any = sys.modules["ctypes"]
    if value.__module__ == MODULE:
        return next(((type, (base,)) for base in _bases(ctypes) if type(base) is value), None)
    if ctypes.Array in value.__bases__ and value._type_ * value._length_ is value:
        return operator.mul, (value._type_, value._length_)
    if ctypes._Pointer in value.__bases__ and ctypes.POINTER(value._type_) is value:
        return ctypes.POINTER, (value._type_,)
    if value.__qualname__ == "CFUNCTYPE.<locals>.CFunctionType":
        arguments = value._restype_, *value._argtypes_
        return (ctypes.CFUNCTYPE, arguments) if ctypes.CFUNCTYPE(*arguments) is value else None
    # A number in the other byte order: "c_int_be" is an attribute of `c_int`.
    native, order = value.__name__[:-3], f"__ctype_{value.__name__[-2:]}__"
    found = getattr(ctypes, native, None)
    return (getattr, (found, order)) if getattr(found, order, None) is value else None


def _bases(ctypes: Any) -> tuple[type, ...]:
    return (
        ctypes.Structure,
        ctypes.Union,
        ctypes.Array,
        ctypes._SimpleCData,
        ctypes._Pointer,
        ctypes._CFuncPtr,
    )


def is_field(value: Any) -> bool:
    """Return whether the value is the descriptor that such a class creates for one of its fields."""
    return type(value).__name__ == "CField" and type(value).__module__ == MODULE


def arrange(value: Any, namespace: dict[str, Any], contents: dict[str, Any]) -> None:
    """Move the attributes with which a class is created from `contents` to `namespace`.

    Descriptors that the class creates itself are left out. Fields that lead back to the class come last, as in the
    script.
    """
    fields = contents.pop(_FIELDS, None)
    for name in [name for name, attribute in contents.items() if is_field(attribute)]:
        del contents[name]
    if fields is not None:
        comes_later = any(_leads_to(value, field[1], set()) for field in fields)
        (contents if comes_later else namespace)[_FIELDS] = fields
    if _FIELDS not in contents:
        namespace.update({name: contents.pop(name) for name in _FROM_THE_BEGINNING if name in contents})


def _leads_to(sought: Any, kind: Any, seen: set[Any]) -> bool:
    if kind is sought:
        return True
    if kind in seen:
        return False
    seen.add(kind)
    inner = [getattr(kind, "_type_", None), *(field[1] for field in getattr(kind, _FIELDS, ()))]
    return any(_leads_to(sought, each, seen) for each in inner if isinstance(each, type))
