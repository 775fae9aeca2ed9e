"""Functions that pickles of a script's functions and classes call when they are loaded.

Functions get the script's dictionary as their globals. A function that is a global itself is entered there as soon as
it exists and before its contents are loaded, since these may refer to it.
"""

from __future__ import annotations

import contextlib
import copyreg
import functools
import importlib
import marshal
import threading
import types
import typing
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakValueDictionary

from jobrunner.pickling.loading import ScriptUnpickler, loads, type_name
from jobrunner.script import standin
from jobrunner.script.current import NAMES
from jobrunner.system import forks

EMPTY = "jobrunner: an empty cell"
"""A stand-in for the content of a closure's empty cell."""


# --- values ---------------------------------------------------------------------------------------------


def global_value(token: str, entry: str, make: Callable[..., Any], *args: Any) -> Any:
    """Create a global without its contents, and enter it at once, because its contents may refer to it by its name."""
    made = standin.variables_of(token)[entry] = make(*args)
    return made


def set_attributes(made: Any, attributes: dict[str, Any]) -> None:
    """Set attributes without asking the object for a `__setstate__`.

    A proxy would look for that in the object behind it, which does not exist yet.
    """
    vars(made).update(attributes)


def global_of(token: str, name: str) -> Any:
    """Return the value of a global that is found inside of another one."""
    return getattr(standin.module_of(token), name)


ScriptUnpickler.find_global = staticmethod(global_of)


# --- functions ------------------------------------------------------------------------------------------


def function(
    token: str, entry: str | None, code: Any, name: str, qualname: str, module: str | None, cells: int
) -> types.FunctionType:
    """Create a function of the script without its contents; `entry` is its name if it is a global."""
    if isinstance(code, bytes):
        code = marshal.loads(code)
    variables = standin.variables_of(token)
    closure = tuple(types.CellType() for _ in range(cells))
    made = types.FunctionType(code, variables, name, None, closure or None)
    made.__qualname__ = qualname
    if module is not None:
        made.__module__ = module
    if entry is not None:
        variables[entry] = made
    return made


def set_function(made: types.FunctionType, state: tuple[Any, ...]) -> None:
    """Add to a function what `function` omitted."""
    defaults, kwdefaults, contents, attributes, annotations, doc, _submodules = state
    made.__defaults__ = defaults
    made.__kwdefaults__ = kwdefaults
    made.__annotations__ = annotations
    made.__doc__ = doc
    for cell, value in zip(made.__closure__ or (), contents, strict=True):
        if not (type(value) is str and value == EMPTY):
            cell.cell_contents = value
    made.__dict__.update(attributes)


def code(stream: bytes) -> Any:
    """Return a code object."""
    return marshal.loads(stream)


# --- classes that are globals of the script ---------------------------------------------------------------


def script_class(token: str, entry: str, skeleton: bytes, make: Callable[..., type], arguments: Any) -> type:
    """Return the class of that name.

    Returns the class that exists already if it is built in the same way, and otherwise a new one without its contents.
    """
    return standin.of_token(token).made_class(entry, skeleton, make, arguments)


def set_script_class(
    made: type, state: tuple[str, str, list[tuple[str, bytes, bytes]], list[str], dict[str, type]]
) -> None:
    """Set those attributes whose version has changed, each from a pickle of its own."""
    token, entry, attributes, functions, containers = state
    standin.of_token(token).set_class(entry, made, attributes, functions, containers)


def set_attribute(made: type, name: str, value: Any) -> None:
    """Set one attribute of a class."""
    if name == "_abc_impl":
        for subclass in value:
            made.register(subclass)  # type: ignore[attr-defined]
    elif name == REDUCE:
        copyreg.pickle(made, value)
    elif name == MEMBERS:
        for member, attributes in value.items():
            found: Any = made[member]  # type: ignore[index]
            found.__dict__.update(attributes)
    else:
        setattr(made, name, value)


def new_class(name: str, metaclass: Any, bases: tuple[Any, ...], namespace: dict[str, Any]) -> type:
    """Create a class of that kind which contains only `namespace`.

    A metaclass or `__init_subclass__` of the script has already run in the program, and its effects arrive with the
    attributes. It must not run here again, on a class that has no attributes yet. Hooks of libraries do run, unless
    they need attributes that are not there.
    """
    try:
        with _unheard(bases, NAMES):
            return _class_of_kind(name, metaclass, bases, namespace)
    except TypeError:
        with _unheard(bases, None):
            return _class_of_kind(name, metaclass, bases, namespace)


def _class_of_kind(name: str, metaclass: Any, bases: tuple[Any, ...], namespace: dict[str, Any]) -> type:
    if metaclass.__module__ not in NAMES:
        return types.new_class(name, bases, {"metaclass": metaclass}, lambda ns: ns.update(namespace))
    kind = next(base for base in metaclass.__mro__ if base.__module__ not in NAMES)
    resolved = types.resolve_bases(bases)
    contents = kind.__prepare__(name, resolved)
    contents.update(namespace)
    if resolved is not bases:
        contents["__orig_bases__"] = bases
    made: type = kind.__new__(metaclass, name, resolved, contents)
    return made


@contextlib.contextmanager
def _unheard(bases: tuple[Any, ...], modules: tuple[str, ...] | None) -> Iterator[None]:
    """Hide the new subclass from `__init_subclass__` of classes of these modules (None: of all modules)."""
    hooks: dict[type, Any] = {}
    for base in bases:
        for cls in getattr(base, "__mro__", ()):
            if "__init_subclass__" not in vars(cls) or not cls.__flags__ & _HEAP_TYPE:
                continue
            if modules is None or cls.__module__ in modules:
                hooks[cls] = vars(cls)["__init_subclass__"]
    with _lock:
        try:
            for cls in hooks:
                type.__delattr__(cls, "__init_subclass__")
            yield
        finally:
            for cls, hook in hooks.items():
                type.__setattr__(cls, "__init_subclass__", hook)


_HEAP_TYPE = 1 << 9
"""The flag of a class whose attributes can be set."""

REDUCE = "jobrunner: reduce"
"""The key, among the attributes of a class, of the function that `copyreg` has for it."""

MEMBERS = "jobrunner: members"
"""The key, among the attributes of an enumeration, of its members' own attributes."""


def new_enum(
    name: str,
    bases: tuple[Any, ...],
    qualname: str,
    module: str,
    members: dict[str, Any],
    data: dict[Any, Any] | None,
) -> type:
    """Create an enumeration with its members and aliases.

    If the enumeration has its own `__new__`, `data` says which number or string each member is, by the member's value.
    """
    metaclass: Any = type(bases[-1])
    namespace = metaclass.__prepare__(name, bases)
    for member, value in members.items():
        namespace[member] = value
    if data is not None:
        mixed: Any = next((base for kind in bases for base in kind.__mro__ if base in DATA_TYPES), object)
        values = iter(data.items())

        def new(cls: Any, *_args: Any) -> Any:
            value, content = next(values)
            made = mixed.__new__(cls, *content)
            made._value_ = value
            return made

        namespace["__new__"] = new
    with _unheard(bases, NAMES):
        made: type = metaclass.__new__(metaclass, name, bases, namespace)
    made.__module__, made.__qualname__ = module, qualname
    return made


DATA_TYPES = (int, float, str, bytes)
"""The types that members of an enumeration may have besides."""


# --- other classes that travel by value -------------------------------------------------------------------


class _Arrival(NamedTuple):
    """The state in which a class has arrived."""

    version: bytes
    names: frozenset[str]


class LocalClass(NamedTuple):
    """A class in a function that was loaded, with its state when the function was sent."""

    made: type
    version: bytes
    state: bytes


class _Loading(threading.local):
    classes: list[LocalClass] | None = None
    """The classes that have been loaded, or None while they are not collected."""


_loading = _Loading()
_tracked: WeakValueDictionary[str, type] = WeakValueDictionary()
_trackers: WeakKeyDictionary[type, str] = WeakKeyDictionary()
_arrived: WeakKeyDictionary[type, _Arrival] = WeakKeyDictionary()
"""The last state of each class that has come from another process."""
_lock = forks.lock()


def tracker_of(cls: type) -> str:
    """Return the name under which other processes know this class."""
    with _lock:
        known = _trackers.get(cls)
        if known is None:
            import secrets

            known = _trackers[cls] = secrets.token_hex(16)
            _tracked[known] = cls
        return known


def tracked(tracker: str) -> type:
    """Return the class of that name, which is being loaded."""
    return _tracked[tracker]


def version_of(cls: type) -> bytes | None:
    """Return the version in which the class has arrived, or None if it was created here."""
    arrival = _arrived.get(cls)
    return None if arrival is None else arrival.version


def local_class(
    tracker: str, version: bytes, make: Callable[..., type], arguments: Any, state: bytes
) -> type:
    """Return a class that no module has under its name.

    The class is unchanged if it was created in this process, or has this version already.
    """
    with _lock:
        made = _tracked.get(tracker)
        if made is None:
            made = _tracked[tracker] = make(*arguments)
            _trackers[made] = tracker
        elif made not in _arrived:
            return made
        local = LocalClass(made, version, state)
        _renew(local)
    if _loading.classes is not None:
        _loading.classes.append(local)
    return made


def _renew(local: LocalClass) -> None:
    made = local.made
    before = _arrived.get(made)
    if before is not None and before.version == local.version:
        return
    _arrived[made] = _Arrival(local.version, frozenset())  # the class may refer to itself
    names = frozenset() if before is None else before.names
    try:
        attributes = dict(loads(local.state))
        for name in names - attributes.keys():
            if name in vars(made):
                delattr(made, name)
        for name, value in attributes.items():
            set_attribute(made, name, value)
    except BaseException:
        # no version equals this one, so the next load sets all attributes
        _arrived[made] = _Arrival(b"", names)
        raise
    _arrived[made] = _Arrival(local.version, frozenset(attributes))


@contextlib.contextmanager
def noting_classes() -> Iterator[list[LocalClass]]:
    """Collect the classes that are loaded in the block, for `renew`."""
    before, _loading.classes = _loading.classes, []
    try:
        yield _loading.classes
    finally:
        _loading.classes = before


def renew(classes: list[LocalClass]) -> None:
    """Restore these classes to their state when they were sent.

    Other calls may have brought earlier or later states. Attributes that calls have set on a class remain as long as it
    is the same class.
    """
    for local in classes:
        if version_of(local.made) != local.version:
            with _lock:
                _renew(local)


# --- objects that are only themselves ---------------------------------------------------------------------------

MAX_OBJECTS = 10_000
"""Maximum number of `object` instances that have names.

They are kept for ever, because nothing tells when one is no longer used. Further ones are copied.
"""

_objects: dict[str, object] = {}
_object_names: dict[int, str] = {}


def name_of_object(value: object) -> str | None:
    """Return the name under which other processes know this instance of `object`, or None if there are too many."""
    with _lock:
        known = _object_names.get(id(value))
        if known is None and len(_objects) < MAX_OBJECTS:
            import secrets

            known = secrets.token_hex(8)
            _objects[known], _object_names[id(value)] = value, known
        return known


def object_named(name: str) -> object:
    with _lock:
        known = _objects.get(name)
        if known is None:
            known = object()
            if len(_objects) < MAX_OBJECTS:
                _objects[name], _object_names[id(known)] = known, name
        return known


# --- things that plain pickles do not take ------------------------------------------------------------------


def module_of(token: str) -> types.ModuleType:
    """Return the script's module itself."""
    return standin.module_of(token)


def cached(wrapped: Callable[..., Any], maxsize: int | None, typed: bool, attributes: dict[str, Any]) -> Any:
    """Return the wrapper that `functools.lru_cache` or `functools.cache` creates, with an empty cache."""
    made = functools.lru_cache(maxsize, typed)(wrapped)
    made.__dict__.update(attributes)
    return made


def wrapper(base: Any, kind: Any, parts: tuple[Any, ...], attributes: dict[str, Any]) -> Any:
    """Create a property or method wrapper of a class that derives from `base` and may have a constructor of its own."""
    made = base.__new__(kind)
    base.__init__(made, *parts)
    if attributes:
        vars(made).update(attributes)
    return made


def single_dispatch(
    wrapped: Callable[..., Any],
    registry: list[tuple[type, Callable[..., Any]]],
    attributes: dict[str, Any],
) -> Any:
    """Return the function that `functools.singledispatch` creates."""
    made: Any = functools.singledispatch(wrapped)
    for cls, implementation in registry:
        made.register(cls, implementation)
    made.__dict__.update(attributes)
    return made


def new_type(name: str, module: str, supertype: Any) -> Any:
    """Return the type that `typing.NewType` creates."""
    make: Any = typing.NewType
    made = make(name, supertype)
    made.__module__ = module
    return made


def context_var(name: str, has_default: bool, default: Any) -> ContextVar[Any]:
    return ContextVar(name, default=default) if has_default else ContextVar(name)


def thread_local(cls: type) -> Any:
    """Return a `threading.local` without contents, because these belong to one thread."""
    return cls()


def lock() -> Any:
    """Return a new lock, because each process has its own."""
    return threading.Lock()


def rlock() -> Any:
    return threading.RLock()


def mapped_file(filename: str, dtype: Any, mode: str, offset: int, shape: tuple[int, ...], order: str) -> Any:
    """Map the file into memory. Raises OSError if this host does not have it."""
    import numpy

    return numpy.memmap(filename, dtype, mode, offset, shape, order)  # type: ignore[call-overload]


def imported(module: str, name: str) -> Any:
    """Return the object that a module of this process has under that name. Raises whatever importing it raises."""
    return getattr(importlib.import_module(module), name)


def imported_or(module: str, name: str, kind: str, stream: bytes) -> Any:
    """Return the object that a module has under that name, or load the pickle if that object is of another kind.

    Raises whatever importing or unpickling raises.
    """
    found = getattr(importlib.import_module(module), name, None)
    return found if type_name(found) == kind else loads(stream)


def empty(module: str, name: str, kind: Any) -> Any:
    """Return the object without contents that a module has under that name, or a new one if it has none."""
    try:
        found = imported(module, name)
    except Exception:  # the program may have put the object there, or this process lacks the module
        found = None
    return found if type(found) is kind else kind.__new__(kind)


def invoke(_name: str, target: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Call an object that travels as an argument."""
    return target(*args, **kwargs)


def invoke_method(name: str, _qualname: str, target: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Call a method of an object that travels as an argument."""
    return getattr(target, name)(*args, **kwargs)
