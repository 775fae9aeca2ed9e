"""The pickler for functions and classes by value, and for globals of scripts, which plain pickle cannot pickle.

It derives from cloudpickle's, with four differences: functions of the script get the script's dictionary as their
globals at the other end (cloudpickle gives each its own); classes of the script are referred to by name; a class that
the reader knows remains as it is (cloudpickle sets its attributes anew); and code keeps the names of its files.
"""

from __future__ import annotations

import copyreg
import functools
import io
import operator
import pickle
import socket
import struct
import sys
import typing
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from contextvars import Context, ContextVar
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple, TypeAlias

import cloudpickle
from cloudpickle import cloudpickle as inner

from jobrunner.pickling.function_fingerprint import is_of
from jobrunner.pickling.loading import apart_from, type_name
from jobrunner.pickling.required_modules import PROTOCOL, objects_in
from jobrunner.script import ctypes_classes, makers, origin
from jobrunner.script.classes import class_parts, functions_first, is_code
from jobrunner.script.current import NAMES
from jobrunner.script.digests import digest
from jobrunner.script.function_parts import annotations_of, contents_of, marshalled, names_found, names_in
from jobrunner.script.imported import Place, place_of_empty, place_of_method
from jobrunner.script.modes import GLOBAL, PLAIN, Mode

Large: TypeAlias = tuple[int, list[memoryview]]
"""The size in bytes from which buffers are kept out of a pickle, and the list to which they are added."""


class Pickled(NamedTuple):
    """A pickle, and the things to which it refers."""

    stream: bytes
    names: dict[str, None]
    """Names of the script's globals that must exist when the pickle is loaded."""
    referenced: list[Any]
    """Objects that the pickle may contain by their names alone."""
    by_value: bool
    """True if the pickle contains code, so that its reader must run the same version of Python."""
    shares: dict[str, None]
    """The names in `names` whose objects are inside of the value."""


NOTHING = object()
"""An object that is never pickled."""


def pickled(value: Any, mode: Mode = PLAIN, large: Large | None = None, entry: str | None = None) -> Pickled:
    """Pickle `value`, as the global `entry` of the script if that is given. Raises whatever pickling raises."""
    source = origin.of_this_process() if mode.shares else None
    if source is None or not source.shared:
        return _pickled(ScriptPickler, value, mode, large, entry)[0]
    if entry is not None and source.shared_name(value) not in (None, entry):
        return _pickled(SharingPickler, value, mode, large, entry, is_alias=True)[0]
    # Few values hold other globals, and asking about each object takes five times as long.
    before = 0 if large is None else len(large[1])
    try:
        made, pickler = _pickled(ScriptPickler, value, mode, large, entry)
        if not pickler.has_met(source.shared):
            return made
    except Exception:
        pass  # the value may contain an unpicklable global, which the other pickler refers to by name
    if large is not None:
        del large[1][before:]
    return _pickled(SharingPickler, value, mode, large, entry)[0]


def pickled_with_objects(value: Any, objects: list[Any] | None, large: Large | None = None) -> Pickled:
    """Pickle `value` like `pickled`, and put the objects of `required_modules.objects_in` into `objects`."""
    made, pickler = _pickled(ScriptPickler, value, PLAIN, large, None)
    if objects is not None:
        objects[:] = objects_in(pickler)
    return made


def _pickled(
    made_by: type[ScriptPickler],
    value: Any,
    mode: Mode,
    large: Large | None,
    entry: str | None,
    is_alias: bool = False,
) -> tuple[Pickled, Any]:
    file = io.BytesIO()
    pickler = made_by(file, PROTOCOL, None if large is None else apart_from(*large))
    pickler.prepare(mode, value, entry)
    if entry is not None and type(value) in (list, dict) and not is_alias:
        value = pickler.whole = _Container(value)
    pickler.dump(value)
    made = Pickled(file.getvalue(), pickler.names, pickler.referenced, pickler.by_value, pickler.shares)
    return made, pickler


_NEW: Any = vars(copyreg)["__newobj__"]
"""The function that pickles call to create an object without its contents."""


class _Container:
    """A wrapper for a global list or dictionary, because pickle does not call `reducer_override` for these."""

    def __init__(self, value: list[Any] | dict[Any, Any]) -> None:
        self.value = value


class ScriptPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """A pickler for functions and classes of the script."""

    def prepare(self, mode: Mode, top: Any, entry: str | None) -> None:
        self.mode = mode
        self.whole = top
        self.top: Any = NOTHING if entry is None else top
        self.entry = entry
        self.names: dict[str, None] = {}
        self.shares: dict[str, None] = {}
        self.pieces: set[int] = set()
        """The result of `has_met` for all pickles inside of this one."""
        self.referenced: list[Any] = []
        self.by_value = False
        self.open_classes: list[type] = []
        self.origin = origin.of_this_process()

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if kind is FunctionType:
            reduced = self.reduce_function(value)
        elif is_of(value, type):
            reduced = self.reduce_class(value)
        else:
            special = _SPECIAL.get(kind) or _of_subclass(kind) or _of_library(kind)
            reduced = NotImplemented if special is None else special(self, value)
            if reduced is NotImplemented:
                reduced = super().reducer_override(value)
            if reduced is NotImplemented and self.mode.shares:
                reduced = _empty(value)
            if reduced is NotImplemented and (value is self.top or kind is _Container):
                return self.reduce_global(value)
        if reduced is NotImplemented:
            self.referenced.append(value)
        return reduced

    # --- values ---

    def reduce_global(self, value: Any) -> Any:
        """Reduce a global that is neither function nor class, so that it gets its name before its contents."""
        kind, entry = type(value), self.entry
        self.top = NOTHING
        assert self.origin is not None
        token = self.origin.program.token
        if kind is _Container:
            held = value.value
            # Copied at once, because other threads may change it.
            items = (iter(list(held)), None) if type(held) is list else (None, iter(list(held.items())))
            return makers.global_value, (token, entry, type(held)), None, *items
        self.referenced.append(value)
        reduce = self.dispatch_table.get(kind)
        reduced = value.__reduce_ex__(PROTOCOL) if reduce is None else reduce(value)
        if isinstance(reduced, str):
            if reduced != entry or pickle.whichmodule(value, reduced) not in NAMES:  # type: ignore[attr-defined]
                return reduced
            is_made_here = True
        else:
            is_made_here = self._is_looked_for(value, reduced[0])
        if is_made_here:
            reduced = _NEW, (kind,), getattr(value, "__dict__", None)
        make, arguments, *contents = reduced
        state, *others = contents or [None]
        if type(state) is dict and others in ([], [None, None]) and not hasattr(kind, "__setstate__"):
            contents = [state, None, None, makers.set_attributes]
        return makers.global_value, (token, entry, make, *arguments), *contents

    def _is_looked_for(self, value: Any, make: Any) -> bool:
        """Return whether `make`, a function of the script, would look for the global under its name or in its class.

        The global does not exist yet when the pickle is loaded.
        """
        assert self.origin is not None
        if type(make) is FunctionType:
            return self.origin.has(make) and self.entry in names_in(make.__code__)
        owner = getattr(make, "__self__", None)
        if type(make) is not MethodType or not is_of(owner, type) or not self.origin.has(owner):
            return False
        return any(item is value for item in vars(owner).values())

    # --- functions ---

    def reduce_function(self, value: FunctionType) -> Any:
        source = self.origin
        if source is not None and source.has(value):
            entry = self.entry_of(value)
            if entry is None and self.refers_to(value):
                if self.mode.shares:  # a changed function is another object, but a changed class is not
                    self.shares[value.__qualname__.partition(".")[0]] = None
                return NotImplemented
            self.by_value = True
            return self.script_function(value, entry)
        if is_single_dispatch(value):
            return self.reduce_single_dispatch(value)
        owner = _owner_of_method(value)
        if owner is not None:
            return operator.attrgetter(f"{value.__name__}.__func__"), (owner,)
        reduced = super().reducer_override(value)
        if reduced is not NotImplemented:
            self.by_value = True
        return reduced

    def script_function(self, value: FunctionType, entry: str | None) -> Any:
        cells = [contents_of(cell) for cell in value.__closure__ or ()]
        found = names_found(value)
        submodules = inner._find_imported_submodules(value.__code__, [*found, *cells])
        state = (
            value.__defaults__,
            value.__kwdefaults__,
            cells,
            value.__dict__,
            annotations_of(value),
            value.__doc__,
            submodules,
        )
        self.names.update(
            dict.fromkeys(name for name in names_in(value.__code__) if name in value.__globals__)
        )
        assert self.origin is not None
        made = (
            self.origin.program.token,
            entry,
            marshalled(value.__code__),
            value.__name__,
            value.__qualname__,
            value.__module__,
            len(cells),
        )
        return makers.function, made, state, None, None, makers.set_function

    def reduce_single_dispatch(self, value: Any) -> Any:
        if self.entry_of(value) is None and self.refers_to(value):
            return NotImplemented
        others = [(cls, fn) for cls, fn in value.registry.items() if cls is not object]
        return makers.single_dispatch, (value.registry[object], others, single_dispatch_attributes(value))

    # --- classes ---

    def reduce_class(self, value: type) -> Any:
        made = ctypes_classes.reduced(value) if ctypes_classes.is_built_by_ctypes(value) else None
        if made is not None:
            self.entry_of(value)
            return made
        entry = self.entry_of(value)
        if entry is not None:
            return self.script_class(value, entry)
        if self.origin is not None and self.origin.has(value) and self.refers_to(value):
            return NotImplemented
        if any(value is outer for outer in self.open_classes):
            return makers.tracked, (makers.tracker_of(value),)
        if value in inner._BUILTIN_TYPE_NAMES or value in (type(None), type(...), type(NotImplemented)):
            return inner._class_reduce(value)
        if inner._should_pickle_by_reference(value):
            return NotImplemented
        self.by_value = True
        return self.local_class(value)

    def script_class(self, value: type, entry: str) -> Any:
        self.by_value = True
        make, arguments, contents = class_parts(value)
        reduce = copyreg.dispatch_table.get(value)
        if reduce is not None:
            contents[makers.REDUCE] = reduce
        assert self.origin is not None
        token = self.origin.program.token
        inside = GLOBAL._replace(inside=f"{value.__qualname__}.")
        built = self.piece(arguments, inside)
        attributes = []
        for name, attribute in contents.items():
            stream = self.piece(attribute, inside)
            attributes.append((name, digest(stream), stream))
        made = token, entry, digest(built), make, arguments
        functions = [name for name, item in contents.items() if is_code(item)]
        kinds = {name: type(item) for name, item in contents.items() if type(item) in _CONTAINERS}
        state = token, entry, attributes, functions, kinds
        return makers.script_class, made, state, None, None, makers.set_script_class

    def local_class(self, value: type) -> Any:
        make, arguments, contents = class_parts(value)
        state = self.piece(list(functions_first(contents).items()), self.mode, value)
        version = makers.version_of(value) or digest(state)
        return makers.local_class, (makers.tracker_of(value), version, make, arguments, state)

    def piece(self, value: Any, mode: Mode, open_class: type | None = None) -> bytes:
        """Return a separate pickle that is embedded in this one."""
        file = io.BytesIO()
        pickler = type(self)(file, PROTOCOL)
        pickler.prepare(mode, None, None)
        pickler.open_classes = self.open_classes + ([] if open_class is None else [open_class])
        pickler.dump(value)
        self.names.update(pickler.names)
        self.shares.update(pickler.shares)
        if self.mode.shares and self.origin is not None:
            self.pieces |= pickler.has_met(self.origin.shared)
        self.referenced += pickler.referenced
        self.by_value = self.by_value or pickler.by_value
        return file.getvalue()

    # --- names ---

    def has_met(self, shared: Mapping[int, str]) -> set[int]:
        """Return the ids of globals that have names of their own but were pickled as parts of this value."""
        memo = self.memo.copy()
        found = self.pieces | {each for each in shared if each in memo}
        if shared.get(id(self.whole)) == self.entry or self.entry is None:
            found.discard(id(self.whole))
        return found

    def entry_of(self, value: Any) -> str | None:
        """Return the name of the global if `value` is the object that is pickled as a global."""
        if value is not self.top:
            return None
        entry: str | None = self.entry
        self.top = NOTHING  # only once: references from inside use the name
        return entry

    def refers_to(self, value: Any) -> bool:
        """Return whether the pickle refers to the value by its name in the script."""
        source = self.origin
        if source is None:
            return False
        place = source.place(value)
        if place is None or (self.mode.inside and place.startswith(self.mode.inside)):
            return False
        if self.mode.result and not source.arrives(place):
            return False
        self.names[place.partition(".")[0]] = None
        return True


class SharingPickler(ScriptPickler):
    """A pickler that checks each object, even numbers in lists.

    It is slow, so it is used only for values that may contain another global.
    """

    def persistent_id(self, value: Any) -> Any:
        source: Any = self.origin
        name = source.shared_name(value)
        if name is None or (value is self.whole and self.entry in (None, name)):
            return None  # references from inside resolve by name, or inside the pickle
        self.names[name] = self.shares[name] = None
        return source.program.token, name


# --- kinds that plain pickle does not take --------------------------------------------------------------------------


def _cached(pickler: Any, value: Any) -> Any:
    if pickler.entry_of(value) is None and pickler.refers_to(value):
        return NotImplemented
    if pickler.origin is None or not pickler.origin.has(value.__wrapped__):
        return NotImplemented
    parameters = value.cache_parameters()
    attributes = {name: item for name, item in value.__dict__.items() if name != "cache_parameters"}
    return makers.cached, (value.__wrapped__, parameters["maxsize"], parameters["typed"], attributes)


def _context_var(pickler: Any, value: ContextVar[Any]) -> Any:
    try:
        return makers.context_var, (value.name, True, Context().run(value.get))
    except LookupError:
        return makers.context_var, (value.name, False, None)


def _new_type(pickler: Any, value: Any) -> Any:
    if pickler.entry_of(value) is None and (value.__module__ not in NAMES or pickler.refers_to(value)):
        return NotImplemented
    return makers.new_type, (value.__name__, value.__module__, value.__supertype__)


def _weak_reference(pickler: Any, value: weakref.ref[Any]) -> Any:
    """Reduce a weak reference; it stays alive as long as something else, such as a global, holds its object there."""
    held = value()
    return NotImplemented if held is None else (weakref.ref, (held, value.__callback__))


def _weak_dictionary(pickler: Any, value: Any) -> Any:
    """Reduce a weak dictionary; a global exists, empty, before its contents, which may look for themselves in it."""
    entry = pickler.entry_of(value)
    items = iter(list(value.items()))
    if entry is None:
        return type(value), (), None, None, items
    return makers.global_value, (pickler.origin.program.token, entry, type(value)), None, None, items


def _code(pickler: Any, value: CodeType) -> Any:
    pickler.by_value = True
    stream = marshalled(value)
    return (makers.code, (stream,)) if isinstance(stream, bytes) else NotImplemented


def _method(pickler: Any, value: Any) -> Any:
    place = place_of_method(value) if pickler.mode.shares else None
    if place is None or inner._is_registered_pickle_by_value(sys.modules[place.module]):
        return NotImplemented
    pickler.referenced.append(sys.modules[place.module])
    return makers.imported, tuple(place)


def _empty(value: Any) -> Any:
    place = place_of_empty(value)
    if place is not None and not inner._is_registered_pickle_by_value(sys.modules[place.module]):
        return makers.empty, (*place, type(value))
    name = makers.name_of_object(value) if type(value) is object else None
    return NotImplemented if name is None else (makers.object_named, (name,))


def pickled_as_imported(place: Place, value: Any = None, made: Pickled | None = None) -> Pickled:
    """Return a pickle of the object that the module has at `place`.

    `made` is the pickle of `value`, for the case that the script itself has put the object there, so that only the
    program's module has it.
    """
    noted = [sys.modules[place.module]]
    if made is None:
        return Pickled(pickle.dumps(_Reference(place), PROTOCOL), {}, noted, False, {})
    stream = pickle.dumps(_Reference(place, type_name(value), made.stream), PROTOCOL)
    return made._replace(stream=stream, referenced=[*noted, *made.referenced])


class _Reference:
    def __init__(self, place: Place, *otherwise: Any) -> None:
        self._arguments = (*place, *otherwise)

    def __reduce__(self) -> Any:
        return (makers.imported if len(self._arguments) == 2 else makers.imported_or), self._arguments


def _module(pickler: Any, value: ModuleType) -> Any:
    source = pickler.origin
    if source is not None and value is source.module:
        return makers.module_of, (source.program.token,)
    return NotImplemented


def _lock(pickler: Any, value: Any) -> Any:
    return (makers.lock, ()) if pickler.mode.locks else NotImplemented


def _rlock(pickler: Any, value: Any) -> Any:
    return (makers.rlock, ()) if pickler.mode.locks else NotImplemented


def _descriptor(pickler: Any, value: Any) -> Any:
    """Reduce a descriptor for another process of this host, as multiprocessing does."""
    from multiprocessing.reduction import ForkingPickler  # imported here because few programs need it

    if pickler.mode.shares:
        kind = "connection of multiprocessing" if _is_connection(type(value)) else "socket"
        raise TypeError(
            f"a {kind} belongs to its process and cannot be sent with a function; give it as an argument of a call"
        )
    return ForkingPickler._extra_reducers[type(value)](value)  # type: ignore[attr-defined]


def _is_connection(kind: type) -> bool:
    return kind is getattr(sys.modules.get("multiprocessing.connection"), "Connection", NOTHING)


def _mapped_file(pickler: Any, value: Any) -> Any:
    """Reduce an array in a mapped file.

    A global array stands for the file, which others may write and read, so each process maps the file. Any other one is
    sent as an array.
    """
    if not pickler.mode.shares or value.base is not value._mmap or value.mode == "c" or not value.filename:
        return NotImplemented
    mode = "r" if value.mode == "r" else "r+"
    order = "C" if value.flags.c_contiguous else "F"
    return makers.mapped_file, (str(value.filename), value.dtype, mode, value.offset, value.shape, order)


def _property(pickler: Any, value: property) -> Any:
    parts = value.fget, value.fset, value.fdel, value.__doc__
    return makers.wrapper, (property, type(value), parts, dict(getattr(value, "__dict__", {})))


def _method_wrapper(pickler: Any, value: classmethod[Any, Any, Any] | staticmethod[Any, Any]) -> Any:
    inside = value.__func__
    # The constructor sets the attributes of the function inside again.
    given = value.__dict__
    own = {name: item for name, item in given.items() if getattr(inside, name, NOTHING) is not item}
    own.pop("__wrapped__", None)
    kind = classmethod if isinstance(value, classmethod) else staticmethod
    return makers.wrapper, (kind, type(value), (inside,), own)


def _of_subclass(kind: type) -> Callable[[Any, Any], Any] | None:
    """Return the reducer for a subclass of property, classmethod or staticmethod that does not define its own."""
    if kind in _WRAPPERS or not issubclass(kind, _WRAPPERS):
        return None
    if kind.__reduce_ex__ is not object.__reduce_ex__ or kind.__reduce__ is not object.__reduce__:
        return None
    return _property if issubclass(kind, property) else _method_wrapper


_WRAPPERS = (property, classmethod, staticmethod)


_CONTAINERS = (
    list,
    dict,
    set,
    OrderedDict,
    defaultdict,
    weakref.WeakValueDictionary,
    weakref.WeakKeyDictionary,
    weakref.WeakSet,
)
"""Kinds of tables in which a class may look for an instance that it has already, while its contents are made."""


def _of_library(kind: type) -> Callable[[Any, Any], Any] | None:
    """Return the reducer for a class of a library, which must have been imported if there are such values."""
    if _is_connection(kind):
        return _descriptor
    return _mapped_file if kind is getattr(sys.modules.get("numpy"), "memmap", NOTHING) else None


def _special() -> dict[type, Callable[[Any, Any], Any]]:
    import threading

    return {
        type(functools.lru_cache(lambda: None)): _cached,
        ContextVar: _context_var,
        CodeType: _code,
        ModuleType: _module,
        MethodType: _method,
        BuiltinFunctionType: _method,
        struct.Struct: lambda pickler, value: (struct.Struct, (value.format,)),
        weakref.ref: _weak_reference,
        weakref.WeakValueDictionary: _weak_dictionary,
        weakref.WeakKeyDictionary: _weak_dictionary,
        weakref.WeakSet: lambda pickler, value: (weakref.WeakSet, (list(value),)),
        typing.NewType: _new_type,
        type(threading.Lock()): _lock,
        type(threading.RLock()): _rlock,
        socket.socket: _descriptor,
        threading.local: lambda pickler, value: (makers.thread_local, (type(value),)),
    }


_SPECIAL = _special()


def is_single_dispatch(value: FunctionType) -> bool:
    """Return whether `functools.singledispatch` has created the function."""
    return value.__globals__ is vars(functools) and hasattr(value, "registry") and hasattr(value, "dispatch")


def _owner_of_method(value: FunctionType) -> type | None:
    """Return the class of a module of which the function is a class method.

    The function's qualified name leads to the method, not to the function. A generic named tuple has that of
    `typing.Generic` among its own attributes.
    """
    name, _, method = value.__qualname__.rpartition(".")
    owner: Any = getattr(sys.modules.get(value.__module__), name, None) if name.isidentifier() else None
    found = getattr(owner, method, None) if is_of(owner, type) else None
    return owner if type(found) is MethodType and found.__func__ is value else None


def single_dispatch_attributes(value: FunctionType) -> dict[str, Any]:
    """Return the attributes that the function has besides those that `functools.singledispatch` sets."""
    return {name: item for name, item in value.__dict__.items() if name not in _OF_SINGLE_DISPATCH}


_OF_SINGLE_DISPATCH = frozenset(functools.singledispatch(lambda _: None).__dict__)
