"""The parts that classes of the script consist of."""

from __future__ import annotations

import abc
import types
import typing
from collections.abc import Callable
from enum import Enum
from types import FunctionType
from typing import Any

from cloudpickle import cloudpickle as inner

from jobrunner.script import ctypes_classes, makers
from jobrunner.script.function_parts import class_annotations_of


def class_parts(value: type) -> tuple[Callable[..., type], tuple[Any, ...], dict[str, Any]]:
    """Return a function that creates the empty class, its arguments, and the attributes in their order."""
    if issubclass(value, Enum):
        contents, _ = inner._enum_getstate(value)
        members = {name: member.value for name, member in value.__members__.items()}
        data = _data_of(value) if isinstance(getattr(value, "__new_member__", None), FunctionType) else None
        made = (value.__name__, value.__bases__, value.__qualname__, value.__module__, members, data)
        for name in value.__members__:
            contents.pop(name, None)
        attributes = {member.name: own_attributes(member) for member in value}
        if any(attributes.values()):
            contents[makers.MEMBERS] = attributes
        return makers.new_enum, made, _in_order(value, contents)
    slots = value.__dict__.get("__slots__")
    contents, _ = inner._class_getstate(value)
    contents.update(_equal_to_inherited(value))
    namespace: dict[str, Any] = {"__module__": value.__module__, "__qualname__": value.__qualname__}
    if slots is not None:
        namespace["__slots__"] = slots
        contents.pop("__slots__", None)
    annotations = class_annotations_of(value)
    if annotations is not None:
        contents["__annotations__"] = annotations
    contents.pop("__annotations_cache__", None)
    for name in _SET_AT_ONCE & contents.keys():
        namespace[name] = contents.pop(name)
    for name, attribute in list(contents.items()):
        if isinstance(attribute, types.MemberDescriptorType) and attribute.__objclass__ is value:
            del contents[name]
    if ctypes_classes.is_kind_of_ctypes(type(value)):
        ctypes_classes.arrange(value, namespace, contents)
    bases = inner._get_bases(value)
    if typing.NamedTuple in bases:  # `typing.NamedTuple` has already done its work on the class
        bases = value.__bases__
    elif type(value).__name__ == "_TypedDictMeta":  # it adds `dict` by itself, and refuses it as an argument
        bases = tuple(base for base in value.__bases__ if base is not dict)
    arguments = value.__name__, type(value), bases, namespace
    return makers.new_class, arguments, _in_order(value, contents)


_SET_AT_ONCE = {"__bases__", "__class__", "__mro__", "__name__"}
"""Attributes that must be in the namespace, because setting them later would change the class itself."""


def _equal_to_inherited(value: type) -> dict[str, Any]:
    """Return the attributes of a class that a base has as well.

    cloudpickle leaves them out, but the base may change without the class.
    """
    return {
        name: attribute
        for name, attribute in vars(value).items()
        if not (name.startswith("__") and name.endswith("__"))
        and any(vars(base).get(name, value) is attribute for base in value.__bases__)
    }


def _data_of(enumeration: type[Enum]) -> dict[Any, tuple[Any, ...]]:
    """Return, by the value of each member, the number or string that the member is besides."""
    kind: Any = next((base for base in enumeration.__mro__ if base in makers.DATA_TYPES), None)
    return {member.value: () if kind is None else (_plain(kind, member),) for member in enumeration}


def _plain(kind: type, member: Any) -> Any:
    """Return the number or string that a member is, without calling methods of its class."""
    if kind is bytes:
        return bytes.__getitem__(member, slice(None))
    if kind is str:
        return str.__str__(member)
    return int.__int__(member) if kind is int else float.__float__(member)


def own_attributes(member: Enum) -> dict[str, Any]:
    """Return the attributes that a member of an enumeration has besides those that Python gives to each."""
    return {name: value for name, value in vars(member).items() if name not in _MEMBER_ATTRIBUTES}


_MEMBER_ATTRIBUTES = frozenset(("_value_", "_name_", "__objclass__", "_sort_order_"))
"""Attributes that Python itself gives to each member of an enumeration."""


def registered_in(value: type) -> list[type]:
    """Return the classes that were registered as subclasses of an abstract class."""
    if "_abc_impl" not in vars(value):
        return []
    registry: set[Any] = _ABC_DUMP(value)[0]
    return [cls for reference in registry if (cls := reference()) is not None]


_ABC_DUMP: Any = vars(abc)["_get_dump"]
"""The function that returns the registry and the caches of an abstract class.

The first item of its result holds weak references to the registered classes.
"""


def _in_order(value: type, contents: dict[str, Any]) -> dict[str, Any]:
    """Return the contents in the order in which the class has them, because programs may depend on it."""
    return {name: contents[name] for name in vars(value) if name in contents} | contents


def functions_first(contents: dict[str, Any]) -> dict[str, Any]:
    """Return the contents with functions first, because instances among the other attributes may need them."""
    functions = {name: value for name, value in contents.items() if is_code(value)}
    return functions | contents


def is_code(value: Any) -> bool:
    """Return whether an attribute of a class is a function, plain or in a wrapper such as `staticmethod`."""
    return isinstance(value, (FunctionType, staticmethod, classmethod, property))
