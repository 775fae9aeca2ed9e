"""What classes of the script consist of."""

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
    """What makes the class with nothing in it, the arguments, and its attributes in their order."""
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
    if typing.NamedTuple in bases:  # what it makes of a class has been made already
        bases = value.__bases__
    elif type(value).__name__ == "_TypedDictMeta":  # adds `dict` by itself, and refuses to be given it
        bases = tuple(base for base in value.__bases__ if base is not dict)
    arguments = value.__name__, type(value), bases, namespace
    return makers.new_class, arguments, _in_order(value, contents)


_SET_AT_ONCE = {"__bases__", "__class__", "__mro__", "__name__"}
"""Attributes that a class has for its instances, and that cannot be set later: there they are those of the class."""


def _equal_to_inherited(value: type) -> dict[str, Any]:
    """Attributes of its own that a base has as well, which cloudpickle leaves out: the base may change alone."""
    return {
        name: attribute
        for name, attribute in vars(value).items()
        if not (name.startswith("__") and name.endswith("__"))
        and any(vars(base).get(name, value) is attribute for base in value.__bases__)
    }


def _data_of(enumeration: type[Enum]) -> dict[Any, tuple[Any, ...]]:
    """By the values of the members, what they are besides: a number, a string."""
    kind: Any = next((base for base in enumeration.__mro__ if base in makers.DATA_TYPES), None)
    return {member.value: () if kind is None else (_plain(kind, member),) for member in enumeration}


def _plain(kind: type, member: Any) -> Any:
    """The number or text that a member is, without asking its own methods."""
    if kind is bytes:
        return bytes.__getitem__(member, slice(None))
    if kind is str:
        return str.__str__(member)
    return int.__int__(member) if kind is int else float.__float__(member)


def own_attributes(member: Enum) -> dict[str, Any]:
    """What a member of an enumeration has besides what Python gives to each."""
    return {name: value for name, value in vars(member).items() if name not in _MEMBER_ATTRIBUTES}


_MEMBER_ATTRIBUTES = frozenset(("_value_", "_name_", "__objclass__", "_sort_order_"))
"""What Python itself gives to each member of an enumeration."""


def registered_in(value: type) -> list[type]:
    """The classes of which an abstract one was told that they are subclasses of it."""
    if "_abc_impl" not in vars(value):
        return []
    registry: set[Any] = _ABC_DUMP(value)[0]
    return [cls for reference in registry if (cls := reference()) is not None]


_ABC_DUMP: Any = vars(abc)["_get_dump"]
"""What an abstract class has been told and has found out; the first item are weak references to registered classes."""


def _in_order(value: type, contents: dict[str, Any]) -> dict[str, Any]:
    """In the order in which the class has them, for which programs may ask."""
    return {name: contents[name] for name in vars(value) if name in contents} | contents


def functions_first(contents: dict[str, Any]) -> dict[str, Any]:
    """Instances among the other attributes may need them."""
    functions = {name: value for name, value in contents.items() if is_code(value)}
    return functions | contents


def is_code(value: Any) -> bool:
    """Whether an attribute of a class is a function, or one in a wrapper."""
    return isinstance(value, (FunctionType, staticmethod, classmethod, property))
