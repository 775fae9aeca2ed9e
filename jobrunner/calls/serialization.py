"""The conversion of calls, functions, results and exceptions to bytes, and back.

Each kind of object is sent in its own way:

    importable functions     by reference (module and qualified name)
    functions of the script  with the globals that they need, see the package `script`
    other functions          by value, through cloudpickle, and pickled anew at every call unless nothing in them can
                             have changed (see `function_fingerprint`), so that a changed closure or a function that
                             was defined again never runs in its old state
    called objects           as arguments, which are unpickled anew for each call
    arguments and results    by plain pickle, protocol 5, or by `script.pickler` if that fails
    buffers >= 64 KiB        beside the pickle and not in it, so that they are not copied
    exceptions               as raised, with the text of the remote traceback as their cause

A slot imports this module before its first task, so it imports only modules that every task needs. cloudpickle,
`errors` (which imports the standard library's logging) and traceback are imported where they are used.
"""

from __future__ import annotations

import functools
import pickle
import re
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from types import (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from weakref import WeakValueDictionary

from jobrunner.pickling.bounded_memory import Kept
from jobrunner.pickling.function_fingerprint import (
    ATOMS,
    Fingerprint,
    attribute_of,
    function_fingerprint,
    is_importable,
    is_of,
    same,
)
from jobrunner.pickling.loading import (
    NO_PARTS,
    Held,
    apart_from,
    error,
    load,
    load_error,
    load_target,
    type_name,
)
from jobrunner.pickling.loading import describe as describe  # here for all modules that describe an exception
from jobrunner.pickling.required_modules import pickle_plainly, place_of, required_modules
from jobrunner.protocol.wire.payloads import (
    OUT_OF_BAND,
    MappedPayload,
    Payload,
    Store,
    buffers_of,
    payload_size,
)
from jobrunner.script import makers, origin, standin
from jobrunner.script.calls import ScriptCall, closure
from jobrunner.script.definition import unpacked_outline
from jobrunner.script.modes import PLAIN, RESULT

if TYPE_CHECKING:
    from jobrunner.errors import SerializationError
    from jobrunner.script.catalogue import Catalogue, Defined

PART_FROM = 512 * 1024
"""Size in bytes from which a buffer of a function becomes a part of its own, see DumpedFunction."""

PART = "a part"
"""The name of all parts."""

KEY_BYTES = 16
PROTOCOL = 5
BY_REFERENCE = ord("r")
BY_VALUE = ord("v")
WITH_SCRIPT = ord("s")
"""The kind of a function by value whose pickle is an Outline of the script."""
FRESH_BY_REFERENCE = ord("R")
FRESH_BY_VALUE = ord("V")
"""The kind of an object that is unpickled anew for each call."""
AROUND = ord("a")
"""The kind of a Wrapper of an initializer, which has the parts of that initializer."""
HEADER_BYTES = 3
"""The size of a blob's head, in bytes: one of these kinds, and Python's major and minor version."""


class RemoteTraceback(Exception):
    """The cause of an exception that a task raised: the text of the traceback from the place where it was raised."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'

    @property
    def tb(self) -> str:
        """The text, under the name of the attribute in the standard library."""
        return str(self)


# --- functions ------------------------------------------------------------------------------------------


class DumpedFunction(NamedTuple):
    """A function as it is at this moment.

    `key` is a hash of `blob` and of the parts' keys, so equal keys mean equal behaviour.
    """

    key: bytes
    name: str
    blob: Payload
    python: str
    """The Python version that a function by value requires, like "3.11"; empty for other functions."""
    modules: tuple[str, ...] = ()
    """The top-level modules that unpickling imports, except those that every worker has."""
    ships: tuple[str, ...] = ()
    """The top-level modules that travel with the function, see `shipping`."""
    parts: tuple[DumpedFunction, ...] = ()
    """Large objects of the function, which travel apart, once for all functions that have them, and are given to
    `load_function`. A part has no parts, and requires nothing beyond the function's own `python` and `modules`."""
    epoch: int = 0
    """The number of changed module versions, see `module_versions`."""
    held: Held | None = None
    """The pickled object that is an argument of each call, if there is one. It does not travel."""

    def definition(self) -> tuple[Any, ...]:
        """Return the fields of a `FunctionDef`."""
        return (*self[:6], tuple([part.key for part in self.parts]), self.epoch) if self.parts else self[:8]


def payloads_of(dumped: DumpedFunction) -> dict[bytes, Payload]:
    """Return the parts of a function that has not travelled, in the form for `load_function`."""
    return {part.key: part.blob for part in dumped.parts}


LRU_CACHE = type(functools.lru_cache(lambda: None))

_references: dict[Any, tuple[str, str, DumpedFunction]] = {}
"""Importable functions that were dumped before, with the module and name that they had then."""

MAX_REFERENCES = 1000
"""Maximum number of entries there; when it is reached, functions that were defined anew are released."""

_modules_needed: dict[bytes, tuple[str, ...]] = {}
"""The modules that functions require, by the functions' keys."""

_values_sent: dict[int, tuple[Fingerprint, DumpedFunction]] = {}
"""Functions that were sent by value, by the id of their code, which stays alive because the fingerprint has it."""

MAX_HELD = 1024
"""Maximum size in bytes or characters of a partial's arguments that are part of a function; larger ones are sent with
each call."""

MAX_VALUES = 256
MAX_VALUE_BYTES = 32 * 1024 * 1024


def dump_function(
    fn: Callable[..., Any], store: Store | None = None, *, once: bool = False
) -> DumpedFunction:
    """Return `fn` in its pickled form, with its present closure and globals. Raises SerializationError.

    `store` takes large parts. `once` says that each process calls it once, so that it need not be unpickled anew.
    """
    if isinstance(fn, (FunctionType, BuiltinFunctionType)):
        by_value = _registered_by_value()
        if is_importable(fn, by_value):
            return _dump_importable(fn)
        if isinstance(fn, FunctionType):
            source = origin.of_this_process()
            if source is not None and fn.__globals__ is source.variables:
                return _dump_with_script(fn, lambda: _catalogue().define(fn, (), by_value, store=store))
            return _dump_by_value(fn, by_value, store)
    return _dump_object(fn, store, fresh=not once and not _is_atomic(fn))


def is_as_dumped(fn: Callable[..., Any], dumped: DumpedFunction) -> bool:
    """Return whether `dump_function` would certainly return `dumped` again.

    This is the fastest check. It returns True only for functions that are found under a plain name in their module.
    """
    known = _references.get(fn)
    return (
        known is not None
        and known[2] is dumped
        and getattr(sys.modules.get(known[0]), known[1], None) is fn
        and fn.__qualname__ == known[1]
        and fn.__module__ == known[0]
        and not _registered_by_value()
    )


def with_names(
    fn: Callable[..., Any], names: Iterable[str], store: Store | None = None, held: Held | None = None
) -> DumpedFunction:
    """Return `fn` like `dump_function`, with these globals of the script, to which its arguments refer.

    `held` is its earlier pickle. Raises SerializationError.
    """
    by_value = _registered_by_value()
    source = origin.of_this_process()
    if isinstance(fn, FunctionType) and source is not None and fn.__globals__ is source.variables:
        return _dump_with_script(fn, lambda: _catalogue().define(fn, names, by_value, store=store))

    def target() -> tuple[bytes, list[Any], Iterable[str]]:
        from jobrunner.script.pickler import pickled

        if held is not None and not held.has_parts:
            return held.stream, held.referenced, held.names
        made = pickled(fn)
        return made.stream, made.referenced, made.names

    fresh = not isinstance(fn, FunctionType) and not _is_atomic(fn)
    by_name = isinstance(fn, (FunctionType, BuiltinFunctionType, type)) and is_importable(fn, by_value)
    key = fn if by_name else None
    return _dump_with_script(
        fn,
        lambda: _catalogue().define(fn, names, by_value, target, store=store, key=key, fresh=fresh),
        kept=key is not None,
    )


def goes_alone(fn: Callable[..., Any]) -> bool:
    """Return whether the function holds no arguments; this is the fastest check, which misses some functions."""
    kind = type(fn)
    return kind is FunctionType or (
        kind is BuiltinFunctionType and isinstance(getattr(fn, "__self__", None), ModuleType)
    )


def split_call(fn: Callable[..., Any]) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Return the function that is called for `fn`, and the arguments that precede those of the call.

    The arguments of a partial, the object of a method and a called instance are such arguments: the call may change
    them, and no other call sees that.
    """
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    while not isinstance(fn, FunctionType) and not _is_atomic(fn):
        if type(fn) is functools.partial:
            args, kwargs, fn = (*fn.args, *args), {**fn.keywords, **kwargs}, fn.func
        elif isinstance(fn, (MethodType, BuiltinFunctionType)):
            args = (fn.__self__, *args)
            fn = functools.partial(makers.invoke_method, fn.__name__, fn.__qualname__)
        else:
            args = (fn, *args)
            fn = functools.partial(makers.invoke, type(fn).__qualname__)
    return fn, args, kwargs


def _dump_importable(fn: Callable[..., Any]) -> DumpedFunction:
    place = fn.__module__, fn.__qualname__
    known = _references.get(fn)
    if known is not None and known[:2] == place:
        return known[2]
    dumped = _dumped(fn, pickle.dumps(fn, PROTOCOL), BY_REFERENCE, [fn])
    if len(_references) >= MAX_REFERENCES:
        _references.clear()
    _references[fn] = (*place, dumped)
    return dumped


def _dump_by_value(fn: FunctionType, by_value: frozenset[str], store: Store | None) -> DumpedFunction:
    """Return the pickled form of a function that belongs neither to a module nor to the script."""
    fingerprint = function_fingerprint(fn, by_value)
    before = _values_sent.get(id(fn.__code__))
    if fingerprint is not None and before is not None and same(fingerprint, before[0]):
        return before[1]
    dumped = _dump_object(fn, store, fresh=False, plainly=False)
    if fingerprint is not None and payload_size(dumped.blob) < OUT_OF_BAND and not dumped.parts:
        if len(_values_sent) >= MAX_VALUES:
            _values_sent.clear()
        _values_sent[id(fn.__code__)] = fingerprint, dumped
    return dumped


def _dump_object(
    fn: Callable[..., Any], store: Store | None, *, fresh: bool, plainly: bool = True
) -> DumpedFunction:
    """Return the pickled form of a closure, or of an object that is called (a class, a partial, an instance)."""
    referenced: list[Any] = []
    large: list[memoryview] = []
    objects: list[Any] = []
    in_band = apart_from(PART_FROM, large)
    plain = pickle_plainly(fn, referenced, in_band, objects if fresh else None) if plainly else None
    if plain is not None:
        parts = tuple([_part(raw, store) for raw in large])
        dumped = _dumped(fn, plain, FRESH_BY_REFERENCE if fresh else BY_REFERENCE, referenced, parts)
        if not fresh:
            return dumped
        return dumped._replace(held=Held(plain, referenced, (), objects, bool(parts), fn, dumped.key))
    from jobrunner.script.pickler import pickled_with_objects

    large.clear()
    # The objects of a closure, which is pickled anew for each submit, are not needed.
    wanted = objects if fresh else None
    try:
        made = pickled_with_objects(fn, wanted, (PART_FROM, large))
        if made.names:
            made = pickled_with_objects(fn, wanted)
    except Exception as exc:
        raise _function_error(fn, exc) from exc
    if made.names:
        target = made.stream, made.referenced, made.names
        by_value = _registered_by_value()
        dumped = _dump_with_script(
            fn,
            lambda: _catalogue().define(fn, (), by_value, lambda: target, store=store, fresh=fresh),
            kept=False,
        )
    else:
        parts = tuple([_part(raw, store) for raw in large])
        kinds = (FRESH_BY_VALUE, FRESH_BY_REFERENCE) if fresh else (BY_VALUE, BY_REFERENCE)
        dumped = _dumped(fn, made.stream, kinds[0 if made.by_value else 1], made.referenced, parts)
    if not fresh:
        return dumped
    has_parts = bool(large) and not made.names
    return dumped._replace(
        held=Held(made.stream, made.referenced, tuple(made.names), objects, has_parts, fn, dumped.key)
    )


def _dump_with_script(
    fn: Callable[..., Any], define: Callable[[], Defined], *, kept: bool = True
) -> DumpedFunction:
    """Return the pickled form of a function with its definition.

    `kept` says that the catalogue returns the same definition again; other definitions only keep their objects alive.
    """
    from jobrunner.script.catalogue import Unpicklable

    try:
        defined = define()
    except Unpicklable as exc:
        what = f"the global {exc.name!r} of the script, of type {type_name(exc.value)}"
        why = describe(exc.reason)
        raise error(
            f"cannot pickle {what}, which {function_name(fn)} needs: {why}",
            exc.reason,
            otherwise="; create it in an initializer or in the function itself, where the call runs",
        ) from exc.reason
    except Exception as exc:
        raise _function_error(fn, exc) from exc
    known = _defined.get(id(defined))
    if known is not None and known[0] is defined:
        return known[1]
    parts = tuple([DumpedFunction(part.version, PART, part.payload, "") for part in defined.parts])
    dumped = _dumped(fn, defined.outline, WITH_SCRIPT, defined.referenced, parts)
    if kept:
        _defined.put(id(defined), (defined, dumped), payload_size(dumped.blob))
    return dumped


_defined: Kept[int, tuple[Defined, DumpedFunction]] = Kept(MAX_VALUES, MAX_VALUE_BYTES)
"""By the id of a definition that the catalogue keeps, its pickled form."""


def _catalogue() -> Catalogue:
    from jobrunner.script import catalogue

    source = origin.of_this_process()
    assert source is not None
    return catalogue.of(source)


def _is_atomic(fn: Callable[..., Any]) -> bool:
    """Return whether calls cannot see changes by other calls: for functions by name, and partials with plain values."""
    if isinstance(fn, (FunctionType, type)) or type(fn) is LRU_CACHE:
        return True
    if type(fn) is functools.partial:
        held = (*fn.args, *fn.keywords.values())
        return (
            _is_atomic(fn.func)
            and all(type(value) in ATOMS for value in held)
            and sum(len(value) for value in held if isinstance(value, (str, bytes))) <= MAX_HELD
        )
    if type(fn) is MethodType:
        return isinstance(fn.__self__, type)
    if isinstance(fn, BuiltinFunctionType):
        return isinstance(fn.__self__, (ModuleType, type, type(None)))
    if isinstance(fn, (MethodDescriptorType, WrapperDescriptorType, ClassMethodDescriptorType)):
        return True
    return place_of(fn) is not None


def _function_error(fn: Callable[..., Any], exc: Exception) -> SerializationError:
    name, held = function_name(fn), []
    if type(fn) is functools.partial:
        arguments = (*enumerate(fn.args), *((repr(keyword), value) for keyword, value in fn.keywords.items()))
        held = [(f"argument {place} of {name}", value) for place, value in arguments]
    what = _culprit(held, f"the function {name}")
    return error(f"cannot pickle {what}: {describe(exc)}", *_reasons(fn, exc))


def dump_initializer(
    initializer: Callable[..., object], initargs: tuple[Any, ...], store: Store | None = None
) -> DumpedFunction:
    """Return an executor's initializer with its arguments as a function without any. Raises SerializationError."""
    return dump_function(functools.partial(initializer, *initargs), store, once=True)


def load_function(blob: Payload, parts: Mapping[bytes, Payload] = NO_PARTS) -> Callable[..., Any]:
    """Return the function of a DumpedFunction's blob. Raises SerializationError.

    `parts` are the blobs of its parts, in their order. Their keys may differ from those at the client, because a
    coordinator gives the functions of each owner keys of their own. The returned function must be made `ready` before
    each task, see `script.calls`.
    """
    whole = memoryview(blob if isinstance(blob, bytes) else buffers_of(blob)[0])
    kind, theirs, ours = whole[0], tuple(whole[1:HEADER_BYTES]), sys.version_info[:2]
    if kind not in (BY_REFERENCE, FRESH_BY_REFERENCE, AROUND) and theirs != ours:
        raise error(
            f"a function that was sent by value comes from Python {theirs[0]}.{theirs[1]} and cannot run"
            f" here, on Python {ours[0]}.{ours[1]}; use the same version on both sides, or put the function"
            " in a module that is installed on the workers"
        )
    body = whole[HEADER_BYTES:]
    if kind == WITH_SCRIPT:
        return ScriptCall(unpacked_outline(pickle.loads(body)), parts)
    if kind == AROUND:
        wrapper: Callable[..., Any] = load_target(body, False)
        wrapper.parts = parts  # type: ignore[attr-defined]
        return wrapper
    if kind == BY_VALUE:
        return closure(lambda: load_target(body, False, parts))
    return load_target(body, kind in (FRESH_BY_REFERENCE, FRESH_BY_VALUE), parts)


def function_name(fn: Callable[..., Any]) -> str:
    """Return the qualified name of `fn`; for a partial, of the function inside; for an object, of its class."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return str(getattr(fn, "__qualname__", None) or type(fn).__qualname__)


def _part(raw: memoryview, store: Store | None) -> DumpedFunction:
    """Return a buffer of a function as a part.

    The buffer is copied, because its owner may continue to write there.
    """
    key = blake2b(raw, digest_size=KEY_BYTES).digest()
    blob: Payload | None = None if store is None else _stored.get(key)
    if blob is None and store is not None:
        blob = store((raw,))
        if isinstance(blob, MappedPayload):
            _stored[key] = blob
    return DumpedFunction(key, PART, (bytes(raw),) if blob is None else blob, "")


_stored: WeakValueDictionary[bytes, MappedPayload] = WeakValueDictionary()
"""Parts in shared memory that somebody keeps, by key."""


def _dumped(
    fn: Callable[..., Any],
    stream: bytes,
    kind: int,
    referenced: Sequence[Any],
    parts: tuple[DumpedFunction, ...] = (),
) -> DumpedFunction:
    """Return the pickled form; `referenced` are the objects to which the pickle refers by name."""
    blob = bytes((kind, *sys.version_info[:2])) + stream
    python = "" if kind in (BY_REFERENCE, FRESH_BY_REFERENCE) else _python()
    digest = blake2b(blob, digest_size=KEY_BYTES)
    for part in parts:
        digest.update(part.key)
    key = digest.digest()
    modules = _modules_needed.get(key)
    if modules is None:
        if len(_modules_needed) >= MAX_REFERENCES:
            _modules_needed.clear()
        modules = _modules_needed[key] = required_modules(referenced, _registered_by_value())
    return DumpedFunction(key, function_name(fn), blob, python, modules, (), parts)


def _python() -> str:
    return ".".join(map(str, sys.version_info[:2]))


def _registered_by_value() -> frozenset[str]:
    """Return the modules that the program has registered with cloudpickle, because workers do not have them."""
    # While another thread imports cloudpickle, the module is incomplete, and nothing is registered yet.
    listed = getattr(sys.modules.get("cloudpickle"), "list_registry_pickle_by_value", None)
    return _NONE if listed is None else frozenset(listed())


_NONE: frozenset[str] = frozenset()


# --- calls ----------------------------------------------------------------------------------------------


class ResultPlaceholder:
    """A placeholder, among the arguments of a call, for the result of another task; it unpickles to that result."""

    def __init__(self, index: int) -> None:
        self.index = index
        """The index in the results that are given to `load_call`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _take_value, (self.index,)


class _Values(threading.local):
    """The results that replace `ResultPlaceholder`s in the thread that unpickles a call."""

    def __init__(self) -> None:
        self.payloads: Sequence[Payload] = ()
        self.loaded: dict[int, Any] = {}


_values = _Values()


def _take_value(index: int) -> Any:
    if index not in _values.loaded:
        _values.loaded[index] = load_result(_values.payloads[index])
    return _values.loaded[index]


Names: TypeAlias = "dict[str, None]"


def dump_call(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    snapshot: bool,
    store: Store | None = None,
    names: Names | None = None,
    held: int = 0,
    function: str = "",
) -> Payload:
    """Return the payload of a call of `function`, whose first `held` arguments come from the called object.

    `snapshot` copies large buffers, because the caller may change them afterwards.

    `names` takes the globals of the script to which the arguments refer, and which the call needs (`with_names`).

    Raises SerializationError, which names the argument.
    """
    try:
        return _dump((args, kwargs), snapshot, store, names)
    except Exception as exc:
        of = f" of {function}" if function else ""
        named: list[tuple[str, Any]] = [
            (f"argument {i - held}{of}" if i >= held else f"an object in the called object{of}", value)
            for i, value in enumerate(args)
        ]
        named += [(f"argument {name!r}{of}", value) for name, value in kwargs.items()]
        raise not_pickled(named, f"the arguments{of}", exc) from exc


def load_call(payload: Payload, values: Sequence[Payload] = ()) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return (args, kwargs), with the results `values` for the `ResultPlaceholder`s. Raises SerializationError."""
    try:
        if not values:
            return pickle.loads(payload) if type(payload) is bytes else load(payload)  # type: ignore[no-any-return]
        before = _values.payloads, _values.loaded
        _values.payloads, _values.loaded = values, {}
        try:
            return load(payload)  # type: ignore[no-any-return]
        finally:
            _values.payloads, _values.loaded = before
    except (Exception, SystemExit) as exc:
        raise load_error("the arguments", exc) from exc


def not_pickled(named: list[tuple[str, Any]], otherwise: str, exc: Exception) -> SerializationError:
    """Return the error for arguments that could not be pickled because of `exc`; it names the guilty one of `named`."""
    values = [value for _, value in named]
    failure = error(f"cannot pickle {_culprit(named, otherwise)}: {describe(exc)}", *_reasons(values, exc))
    failure.__cause__ = exc
    return failure


# --- results --------------------------------------------------------------------------------------------


def dump_result(value: Any, store: Store | None = None, fn: Callable[..., Any] | None = None) -> Payload:
    """Return the payload of a result of `fn`. Raises SerializationError.

    It refers to large buffers, unless `store` copies them.
    """
    try:
        return _dump(value, False, store)
    except Exception as exc:
        raise result_not_pickled(value, exc, fn) from exc


def dump_small_result(value: Any, fn: Callable[..., Any] | None = None) -> bytes:
    """Return a result of `fn` as one piece of any size. Raises SerializationError."""
    try:
        return _pickle(value, None)[0]
    except Exception as exc:
        raise result_not_pickled(value, exc, fn) from exc


def result_not_pickled(
    value: Any, exc: Exception, fn: Callable[..., Any] | None = None
) -> SerializationError:
    """Return the error for a result of `fn` that could not be pickled because of `exc`."""
    of = f" of {function_name(fn)}" if fn is not None else ""
    what = f"cannot pickle the result{of}, of type {type_name(value)}: {describe(exc)}"
    return error(what, *_reasons(value, exc))


def load_result(payload: Payload) -> Any:
    """Return the result. Raises SerializationError."""
    try:
        return load(payload)
    except (Exception, SystemExit) as exc:
        raise load_error("the result", exc) from exc


# --- exceptions -----------------------------------------------------------------------------------------


def without_frames_of(files: tuple[str, ...], exc: BaseException) -> BaseException:
    """Return `exc` with a traceback that omits the first frames of `files`, if it has frames of the task's code."""
    trace = _TRACEBACK.__get__(exc)  # an attribute of the class may hide it, see `set_cause`
    while trace is not None and trace.tb_frame.f_code.co_filename in files:
        trace = trace.tb_next
    if trace is not None:
        _TRACEBACK.__set__(exc, trace)
    return exc


def dump_exception(exc: BaseException) -> Payload:
    """Return the payload of an exception.

    It never fails: an exception that cannot be pickled arrives as a SerializationError with its type and text.
    """
    stream = dump_small_exception(exc)
    return stream if len(stream) < OUT_OF_BAND else (stream,)


def dump_small_exception(exc: BaseException) -> bytes:
    """Return an exception as one piece of any size. It never fails."""
    return pickle.dumps(encode_exception(exc), PROTOCOL)


def load_exception(payload: Payload) -> BaseException:
    """Return the exception, with a RemoteTraceback as its `__cause__`. It never fails."""
    try:
        return decode_exception(*load(payload))
    except MemoryError as exc:
        return exc
    except Exception as exc:
        return load_error("the exception", exc)


def dump_classes(classes: tuple[type[BaseException], ...]) -> bytes:
    """Return the pickle of exception classes, for `is_one_of`. Raises SerializationError."""
    try:
        return _pickle(classes, None)[0]
    except Exception as exc:
        raise error(f"cannot pickle these classes of exceptions: {describe(exc)}", exc) from exc


@functools.lru_cache(maxsize=64)
def load_classes(stream: bytes) -> tuple[type[BaseException], ...]:
    """Return the classes that `dump_classes` was given. Raises whatever unpickling raises."""
    classes: tuple[type[BaseException], ...] = pickle.loads(stream)
    return classes


def is_one_of(exc: BaseException, stream: bytes) -> bool:
    """Return whether the exception is an instance of these classes; True if they cannot be loaded here."""
    try:
        return isinstance(exc, load_classes(stream))
    except Exception:
        return True


EncodedException: TypeAlias = "tuple[bytes | None, str, str]"


def encode_exception(exc: BaseException) -> EncodedException:
    """Return the pickle (None if it would not unpickle), the description, and the traceback's text. Never fails."""
    import traceback  # imported here because slots whose tasks succeed never need it

    try:
        remote = "".join(traceback.format_exception(type(exc), exc, exc.__traceback__))
    except Exception as failure:
        remote = f"{describe(exc)} (no traceback: {describe(failure)})\n"
    try:
        try:
            stream = _exception_pickle(exc)
        except Exception:
            if not _keeps_to_base(type(exc)):
                raise
            stream = _exception_pickle(_Rebuilding(exc))
        return stream, describe(exc), remote
    except BaseException as failure:
        causes: tuple[BaseException, ...] = (failure,)
        if isinstance(failure, _DoesNotUnpickle):
            from concurrent.futures.process import BrokenProcessPool

            failure = failure.args[0]
            causes = (BrokenProcessPool(), failure)  # the same classes as in `load_error`
        description = f"{describe(exc)} (this exception itself could not be sent: {describe(failure)})"
        try:
            return _pickle(error(description, *causes), None)[0], description, remote
        except Exception:  # the class of the failure cannot be pickled either
            return None, description, remote


class _DoesNotUnpickle(Exception):
    """The error that a pickle cannot be unpickled again; its only argument is the reason."""


def _exception_pickle(value: Any) -> bytes:
    """Return a pickle that can be unpickled again. Raises whatever pickling raises, and _DoesNotUnpickle."""
    stream = _pickle(value, None)[0]
    # An exception may be picklable and yet fail to unpickle, for example if its __init__ takes two arguments.
    try:
        loaded = pickle.loads(stream)
    except BaseException as exc:
        raise _DoesNotUnpickle(exc) from exc
    if not isinstance(loaded, BaseException):
        raise TypeError("it unpickles to something that is not an exception")
    return stream


def _keeps_to_base(kind: type[BaseException]) -> bool:
    """Return whether it is pickled like a plain exception: the class is called, then the attributes are set."""
    own = (getattr(kind, name, None) is getattr(BaseException, name, None) for name in _PICKLING)
    return all(own) and kind.__setattr__ is not BaseException.__setattr__


_PICKLING = ("__reduce__", "__reduce_ex__", "__setstate__", "__getstate__")


class _Rebuilding:
    """A stand-in, in a pickle, for an exception whose attributes cannot be set, such as a frozen dataclass."""

    def __init__(self, exc: BaseException) -> None:
        self._parts = type(exc), exc.args, dict(vars(exc))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, self._parts


def _rebuilt(kind: type[BaseException], args: tuple[Any, ...], attributes: dict[str, Any]) -> BaseException:
    exc = kind(*args)
    vars(exc).update(attributes)
    return exc


def decode_exception(stream: bytes | None, description: str, remote: str) -> BaseException:
    """Return the exception of `encode_exception`, with a RemoteTraceback as its cause. It never fails."""
    exc: BaseException
    if stream is None:
        exc = error(description)
    else:
        try:
            exc = pickle.loads(stream)
            if not isinstance(exc, BaseException):
                raise TypeError("it unpickles to something that is not an exception")
        except BaseException as failure:
            exc = error(
                f"{description} (this exception itself could not be unpickled here: {describe(failure)})",
                failure,
            )
    set_cause(exc, RemoteTraceback(remote))
    return exc


def set_cause(exc: BaseException, cause: BaseException | None) -> None:
    """Set `exc.__cause__`, even if the exception refuses it, as a frozen dataclass does."""
    _CAUSE.__set__(exc, cause)


_CAUSE: Any = BaseException.__dict__["__cause__"]
_TRACEBACK: Any = BaseException.__dict__["__traceback__"]


# --- pickle ---------------------------------------------------------------------------------------------


def _pickle(value: Any, buffers: list[memoryview] | None, names: Names | None = None) -> tuple[bytes, bool]:
    """Return the pickle, and whether it contains code. Raises whatever pickling raises.

    `buffers` takes the large buffers; None keeps all in the pickle. `names` takes globals of the script, as in
    `dump_call`; it is None for a result.
    """
    in_band = None if buffers is None else apart_from(OUT_OF_BAND, buffers)
    try:
        stream = pickle.dumps(value, PROTOCOL, buffer_callback=in_band)
        if HINT not in stream or (SCRIPT not in stream and CONNECTION not in stream):
            return stream, False
        if CONNECTION not in stream:
            # The pickle refers to the script's objects by name, so its reader must have them. A false alarm only costs
            # time.
            if names is not None:
                names.update(dict.fromkeys(names_in_pickle(stream)))
                return stream, False
            if all_is_known():
                return stream, False
    except Exception:  # the other pickler may succeed, or else it gives the reason
        pass
    if buffers is not None:
        buffers.clear()  # remove buffers of the first attempt
    from jobrunner.script.pickler import pickled

    large = None if buffers is None else (OUT_OF_BAND, buffers)
    made = pickled(value, RESULT if names is None else PLAIN, large)
    if names is not None:
        names.update(made.names)
    return made.stream, made.by_value


CONNECTION = b"multiprocessing.connection"
"""Bytes in each pickle of a connection of multiprocessing, whose descriptor differs in another process."""

SCRIPT = b"_main__"
"""Bytes in each pickle that refers to the script by name, as `__main__` or `__mp_main__`."""

HINT = ord("_")
"""A byte in each pickle with one of these (`rebuild_connection` creates a connection), because looking for one byte
takes a tenth of the time."""


_GLOBAL = re.compile(rb"\x8c(?=(.)([\w.]*(?:[\xc2-\xf4][\x80-\xbf]{1,3}[\w.]*)*)\x94?\x93)", re.DOTALL)
"""The pattern of a short text in a pickle, perhaps with an opcode that memoizes it, before the opcode that looks up its
name. Its length, which precedes it, may look like a part of an earlier text, so both are tried."""

_GLOBAL_NOTED = re.compile(rb"\x93(?:(?<=h.\x93)|(?<=j....\x93))", re.DOTALL)
"""The pattern of a lookup whose text was memoized earlier, because it is also a value, for example a key."""

_TEXT = re.compile(rb"\x8c(?=.)", re.DOTALL)
"""The pattern of a possible beginning of a short text, whose length follows."""


def names_in_pickle(stream: bytes) -> list[str]:
    """Return the globals of the script to which a pickle may refer: all names in it that the script has, too."""
    source = origin.of_this_process()
    if source is None:
        return []
    variables = source.variables
    # The memoizing opcode looks like a part of the text if that ends in a character outside of ASCII.
    texts = [name[: size[0]] for size, name in _GLOBAL.findall(stream) if len(name) - size[0] in (0, 1)]
    found = {name: None for name in _first_parts(texts) if name in variables}
    if _GLOBAL_NOTED.search(stream):
        starts = [match.end() + 1 for match in _TEXT.finditer(stream)]
        texts = [stream[start : start + stream[start - 1]] for start in starts]
        for name in _first_parts(texts):
            value = variables.get(name)
            # Most of these texts are not names, so values to which no pickle refers by name are ignored.
            if attribute_of(value, "__name__") is not None or source.has(type(value)):
                found[name] = None
    return list(found)


def _first_parts(texts: Iterable[bytes]) -> list[str]:
    return [text.partition(b".")[0].decode("utf-8", "replace") for text in dict.fromkeys(texts)]


def script_has_classes() -> bool:
    """Return whether results of other calls may be instances of classes of the script."""
    source = origin.of_this_process()
    return source is not None and any(
        is_of(value, type) and source.has(value) for value in list(source.variables.values())
    )


def all_is_known() -> bool:
    """Return whether the program has all functions and classes of the script that this process has."""
    script = standin.current()
    return script is None or not script.has_own()


def dump_class_by_value(kind: type) -> bytes | None:
    """Return the pickle of a class, or None if it is pickled by reference. Raises whatever pickling raises."""
    from jobrunner.script.pickler import pickled

    made = pickled(kind)
    return made.stream if made.by_value else None


def dump_plain(value: Any, snapshot: bool, store: Store | None, names: Names | None = None) -> Payload:
    """Return the payload of a value that consists of built-in types, atoms and plain arrays; see `dump_call`."""
    buffers: list[memoryview] = []
    stream = pickle.dumps(value, PROTOCOL, buffer_callback=apart_from(OUT_OF_BAND, buffers))
    if names is not None and HINT in stream and SCRIPT in stream:
        names.update(dict.fromkeys(names_in_pickle(stream)))
    if not buffers and len(stream) < OUT_OF_BAND:
        return stream
    return _large_payload(stream, buffers, snapshot, store)


def load_plain(payload: Payload, what: str) -> Any:
    """Return the value of `dump_plain`. Raises SerializationError, which names the value as `what`."""
    try:
        return load(payload)
    except Exception as exc:
        raise load_error(what, exc) from exc


def _dump(value: Any, snapshot: bool, store: Store | None, names: Names | None = None) -> Payload:
    buffers: list[memoryview] = []
    stream, _ = _pickle(value, buffers, names)
    if not buffers and len(stream) < OUT_OF_BAND:
        return stream
    return _large_payload(stream, buffers, snapshot, store)


def _large_payload(stream: bytes, buffers: list[memoryview], snapshot: bool, store: Store | None) -> Payload:
    if store is not None:
        stored = store((stream, *buffers))
        if stored is not None:
            return stored
    return (stream, *(bytes(raw) for raw in buffers)) if snapshot else (stream, *buffers)


# --- error messages -------------------------------------------------------------------------------------


def _reasons(value: Any, exc: Exception) -> list[Exception]:
    """Return the errors for a value that could not be pickled because of `exc`.

    The error of plain pickle comes first, because programs know it.
    """
    try:
        pickle.dumps(value, PROTOCOL)
    except Exception as plain:
        return [plain, exc]
    return [exc]


def _culprit(named: list[tuple[str, Any]], otherwise: str) -> str:
    """Return the name and type of the first of these values that cannot be pickled by itself, else `otherwise`."""
    for name, value in named:
        try:
            _pickle(value, None)
        except Exception:
            return f"{name}, of type {type_name(value)}"
    return otherwise
