"""Looks at globals of the script and at functions that are sent: whether they have changed, and what they need.

A look finds values of two kinds. Values that cannot change inside (numbers, strings, modules, importable functions, the
code of functions) make up the *fingerprint*: if the objects are the same, so is the pickle. All others (lists, arrays,
instances) are pickled to see whether they have changed; their large buffers are hashed in place, 40 MB in a few
milliseconds.
"""

from __future__ import annotations

import copyreg
import re
import sys
import time
import types
import typing
from collections.abc import Callable, Mapping
from enum import EnumMeta
from functools import lru_cache
from operator import is_
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, TypeVar

from jobrunner.pickling.function_fingerprint import ATOMS, attribute_of, is_importable, is_of
from jobrunner.protocol.wire.payloads import OUT_OF_BAND
from jobrunner.script import ctypes_classes
from jobrunner.script.classes import own_attributes, registered_in
from jobrunner.script.digests import digest_of
from jobrunner.script.function_parts import (
    MAX_CODES,
    annotations_of,
    attributes_in,
    class_annotations_of,
    contents_of,
    names_in,
)
from jobrunner.script.imported import place_of_known, place_of_object
from jobrunner.script.modes import GLOBAL, Mode
from jobrunner.script.origin import Origin
from jobrunner.script.pickler import (
    Pickled,
    is_single_dispatch,
    pickled,
    pickled_as_imported,
    single_dispatch_attributes,
)

T = TypeVar("T")

UNFOLLOWED = frozenset(
    (
        "globals",
        "vars",
        "locals",
        "dir",
        "eval",
        "exec",
        "__main__",
        "__mp_main__",
        "import_module",
        "__import__",
        "__globals__",
        "f_globals",
        "__subclasses__",
    )
)
"""Names in code that may look for globals in ways that cannot be followed."""

_ALL_MODULES = frozenset(("sys", "modules"))
"""Names that have the same meaning if code has both; `model.modules()` alone does not look for globals."""

MAX_ATTEMPTS = 20
PAUSE = 0.0002
"""Attempts to pickle a value that another thread changes meanwhile, and the first pause between them in seconds."""

_DERIVED = frozenset(
    (
        *("__dict__", "__weakref__", "__annotations__", "__annotate_func__", "__annotations_cache__"),
        *(
            "__dataclass_fields__",
            "__dataclass_params__",
            "__match_args__",
            "__parameters__",
            "__orig_bases__",
        ),
        *("__slots__", "__abstractmethods__", "__static_attributes__", "__type_params__", "_abc_impl"),
        *("_member_map_", "_value2member_map_", "_member_names_", "_hashable_values_", "_unhashable_values_"),
        *("_unhashable_values_map_", "_field_defaults", "_fields"),
    )
)
"""Attributes that Python derives from the rest of a class, and that programs do not change inside."""

_CACHED = type(lru_cache(lambda: None))
_OF_WRAPPED = frozenset(("__wrapped__", "__annotations__"))
"""Attributes that an `lru_cache` wrapper shares with the function inside."""
_DESCRIPTORS = (
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
)
_METHODS = (types.MethodType, BuiltinFunctionType)
_BEGIN = object()
"""A separator between the parts of a fingerprint, so that two different objects never have equal fingerprints."""


class Look:
    """The state of one global or function, as it was seen at one time."""

    __slots__ = ("buffers", "digests", "eager", "fingerprint", "names", "pickle")

    def __init__(self) -> None:
        self.fingerprint: list[Any] = []
        """Objects that are compared by identity; their order depends on the code alone."""
        self.digests: list[bytes] = []
        self.names: dict[str, None] = {}
        """Names of the script's globals that the object needs."""
        self.eager = False
        self.pickle: Pickled | None = None
        """The pickle of the whole value, if only the pickle shows whether the value has changed."""
        self.buffers: list[memoryview] = []
        """The large buffers of `pickle`."""

    def same(self, before: Look) -> bool:
        """Return whether nothing has changed since the look `before`."""
        fingerprint, others = self.fingerprint, before.fingerprint
        return (
            len(fingerprint) == len(others)
            and all(map(is_, fingerprint, others))
            and self.digests == before.digests
            and self.names.keys() == before.names.keys()
        )


class Looker:
    """An observer of one script. Its methods raise whatever pickling raises."""

    __slots__ = ("_by_value", "_inside", "_look", "origin")

    def __init__(self, origin: Origin, by_value: frozenset[str]) -> None:
        self.origin = origin
        self._by_value = by_value
        self._look: Look
        self._inside: set[int] = set()
        """Ids of the functions and classes that are being looked at, because each may lead back to itself."""

    def at(self, value: Any, name: str | None = None) -> Look:
        """Look at a global's value; `name` is the global's name if its entry creates the value under that name."""
        look = self._look = Look()
        kind = type(value)
        if kind in ATOMS:
            look.fingerprint.append(value)
        elif self._is_other_global(value, name) or self._is_at_other_place(value, name):
            pass
        elif kind is FunctionType or is_of(value, type) or kind is _CACHED:
            self._part(value)
        elif not self._is_fixed(value):
            self._whole(value, name)
        return look

    def at_function(self, fn: FunctionType) -> Look:
        """Look at a function of the script, whether or not it is a global."""
        look = self._look = Look()
        self._once(self._function, fn)
        return look

    # --- parts --------------------------------------------------------------------------------------------------

    def _is_fixed(self, value: Any) -> bool:
        """Note a value that cannot change inside; return False for every other value."""
        if is_fixed(value):
            self._look.fingerprint.append(value)
            return True
        return False

    def _part(self, value: Any) -> None:
        kind = type(value)
        if kind in ATOMS:
            self._look.fingerprint.append(value)
            return
        if self._look.fingerprint and self._is_other_global(value, None):
            return
        if self._is_fixed(value):
            return
        if kind is FunctionType:
            if value.__globals__ is self.origin.variables:
                if not self._by_name(value):
                    self._once(self._function, value)
                return
            if is_importable(value, self._by_value):
                self._look.fingerprint.append(value)
                return
            if is_single_dispatch(value):
                self._once(self._single_dispatch, value)
                return
        elif is_of(value, type):
            if is_importable(value, self._by_value):
                self._look.fingerprint.append(value)
                return
            if self.origin.has(value):
                if not self._by_name(value):
                    self._once(self._class, value)
                return
        elif kind is _CACHED:
            self._cached(value)
            return
        elif kind in (staticmethod, classmethod):
            self._look.fingerprint.append(value)
            self._part(value.__func__)
            return
        elif kind is property:
            self._look.fingerprint.append(value)
            for part in (value.fget, value.fset, value.fdel, value.__doc__):
                self._part(part)
            return
        self._changeable(value)

    def _is_other_global(self, value: Any, name: str | None) -> bool:
        """Note that the value is another global than `name`.

        Its pickle refers to that global, and another global may have the value later.
        """
        other = self.origin.shared_name(value)
        if other is None or other == name:
            return False
        self._look.digests.append(digest_of(other.encode()))
        self._look.names[other] = None
        return True

    def _is_at_other_place(self, value: Any, name: str | None) -> bool:
        """Note the place of a function or class if it is not `name`, because its pickle refers to that place."""
        place = self.origin.place(value)
        if place is None or place == name:
            return False
        self._look.fingerprint.append(sys.intern(place))
        self._look.names[place.partition(".")[0]] = None
        return True

    def _by_name(self, value: Any) -> bool:
        """Note a value that is looked at under a name of its own.

        Returns False for a value that is a part of the current one.
        """
        look = self._look
        place = self.origin.place(value)
        if not look.fingerprint or place is None:
            return False
        if "." in place:
            look.fingerprint.append(sys.intern(place))
            return False
        look.fingerprint.append(value)
        look.names[place] = None
        return True

    def _once(self, look_at: Callable[[T], None], value: T) -> None:
        """Look at a function or class, unless it is being looked at already."""
        if id(value) in self._inside:
            self._look.fingerprint.append(value)
            return
        self._inside.add(id(value))
        try:
            look_at(value)
        finally:
            self._inside.discard(id(value))

    def _function(self, fn: FunctionType) -> None:
        look = self._look
        fingerprint = look.fingerprint
        code = fn.__code__
        fingerprint += (_BEGIN, code, fn.__name__, fn.__qualname__, fn.__module__, fn.__doc__)
        names = names_in(code)
        variables = fn.__globals__
        for name in names:
            if name in variables:
                look.names[name] = None
                if variables[name] is sys.modules:
                    look.eager = True
        if is_unfollowed(code):
            look.eager = True
        for default in fn.__defaults__ or ():
            self._part(default)
        fingerprint.append(_BEGIN)
        for cell in fn.__closure__ or ():
            self._part(contents_of(cell))
        annotations = annotations_of(fn)
        self._annotated(annotations)
        for values in (fn.__kwdefaults__, annotations, fn.__dict__):
            fingerprint.append(_BEGIN)
            # `list`: another thread may change the dictionary
            for name, value in list((values or {}).items()):
                fingerprint.append(name)
                self._part(value)

    def _cached(self, value: Any) -> None:
        """Look at a wrapper made by `functools.lru_cache`.

        The cache is not a part of it, because each process has its own.
        """
        fingerprint = self._look.fingerprint
        fingerprint += (_BEGIN, value)
        self._part(value.__wrapped__)
        for name, item in list(value.__dict__.items()):
            fingerprint.append(name)
            if name in _OF_WRAPPED:
                fingerprint.append(item)
            elif name != "cache_parameters":
                self._part(item)

    def _single_dispatch(self, fn: Any) -> None:
        fingerprint = self._look.fingerprint
        fingerprint += (_BEGIN, fn)
        for cls, implementation in list(fn.registry.items()):
            self._part(cls)
            self._part(implementation)
        fingerprint.append(_BEGIN)
        for name, item in single_dispatch_attributes(fn).items():
            fingerprint.append(name)
            self._part(item)

    def _annotated(self, annotations: Mapping[str, Any] | None) -> None:
        """Note the types and modules that annotations given as strings name, because libraries look them up."""
        variables = self.origin.variables
        for text in (annotations or {}).values():
            if type(text) is str:
                for name in names_in_annotation(text):
                    if name in variables and _may_annotate(variables[name]):
                        self._look.names[name] = None

    def _class(self, cls: type) -> None:
        fingerprint = self._look.fingerprint
        fingerprint += (_BEGIN, cls, type(cls), cls.__name__, cls.__qualname__)
        for base in cls.__bases__:
            self._part(base)
        if type(cls) is not type:
            self._part(type(cls))
        self._part(copyreg.dispatch_table.get(cls))
        annotations = class_annotations_of(cls)
        self._annotated(annotations)
        for name, value in list((annotations or {}).items()):
            # Python 3.14 and later may create the text of an annotation anew each time.
            fingerprint += (name, sys.intern(value) if type(value) is str else value)
        if isinstance(cls, EnumMeta):
            self._members(cls)
        for registered in registered_in(cls):
            self._part(registered)
        fingerprint.append(_BEGIN)
        for name, value in list(vars(cls).items()):
            fingerprint.append(name)
            if name in _DERIVED or (type(value) is cls and isinstance(cls, EnumMeta)):
                fingerprint.append(value)
            else:
                self._part(value)

    def _members(self, cls: Any) -> None:
        for member in cls.__members__.values():
            self._part(member.value)
            for name, value in own_attributes(member).items():
                self._look.fingerprint.append(name)
                self._part(value)

    # --- what may change inside -----------------------------------------------------------------------------------

    def _changeable(self, value: Any) -> None:
        if ctypes_classes.is_field(value):  # fields follow from the `_fields_` of their class
            self._look.fingerprint.append(value)
            return
        made, buffers = dump(value)
        self._note(made, buffers)

    def _whole(self, value: Any, name: str | None) -> None:
        made, buffers = dump(value, GLOBAL, name)
        self._look.pickle, self._look.buffers = made, buffers
        self._note(made, buffers)

    def _note(self, made: Pickled, buffers: list[memoryview]) -> None:
        look = self._look
        look.digests.append(digest_of(made.stream, *buffers))
        look.names.update(made.names)


def _may_annotate(value: Any) -> bool:
    """Return whether annotations name values of this kind; a word in a text may match another global by chance."""
    return is_of(value, _OF_ANNOTATIONS) or type(value).__module__ in ("typing", "typing_extensions")


_OF_ANNOTATIONS = (type, ModuleType, types.GenericAlias, types.UnionType)


def is_fixed(value: Any) -> bool:
    """Return whether neither the value nor any object that it refers to can change inside."""
    kind = type(value)
    if kind is BuiltinFunctionType:  # a list's method is one, too, and the list can change
        return value.__self__ is None or is_of(value.__self__, (ModuleType, type))
    if is_of(value, ModuleType):  # a module that the script has created is compared by its contents
        return attribute_of(value, "__name__") in sys.modules
    return (
        kind in ATOMS
        or is_of(value, _DESCRIPTORS)
        or (kind is tuple and all(type(item) in ATOMS for item in value))
        or (kind.__module__ == "typing" and _is_of_typing(value))
    )


def _is_of_typing(value: Any) -> bool:
    """Return whether the value is a special form such as `typing.Optional`, which is pickled by its name."""
    name = attribute_of(value, "_name")
    return type(name) is str and vars(typing).get(name) is value


def dump(value: Any, mode: Mode = GLOBAL, entry: str | None = None) -> tuple[Pickled, list[memoryview]]:
    """Return the pickle of a global or of a part of it, and its large buffers, which are not copied."""
    place = place_of_object(value, entry)
    if place is not None and (is_of(value, _METHODS) or place_of_known(value) is not None):
        return pickled_as_imported(place), []
    try:
        made, buffers = _dump(value, mode, entry)
    except Exception:
        place = place_of_object(value, entry, everywhere=True)
        if place is None:
            raise
        return pickled_as_imported(place), []
    if place is None or buffers:
        return made, buffers
    return pickled_as_imported(place, value, made), []


def _dump(value: Any, mode: Mode, entry: str | None) -> tuple[Pickled, list[memoryview]]:
    attempt = 0
    while True:
        attempt += 1
        buffers: list[memoryview] = []
        try:
            return pickled(value, mode, (OUT_OF_BAND, buffers), entry), buffers
        except RuntimeError as exc:  # another thread has just changed the value
            if "during iteration" not in str(exc) or attempt == MAX_ATTEMPTS:
                raise
            time.sleep(PAUSE * attempt)


@lru_cache(MAX_CODES)
def names_in_annotation(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_NAME.findall(text)))


_NAME = re.compile(r"\b[^\W\d]\w*")

_unfollowed: dict[CodeType, bool] = {}


def is_unfollowed(code: CodeType) -> bool:
    """Return whether the code may look for globals in ways that cannot be followed."""
    known = _unfollowed.get(code)
    if known is None:
        if len(_unfollowed) >= MAX_CODES:
            _unfollowed.clear()
        names = attributes_in(code)
        known = _unfollowed[code] = not UNFOLLOWED.isdisjoint(names) or names >= _ALL_MODULES
    return known
