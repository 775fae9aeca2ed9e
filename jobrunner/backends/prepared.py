"""A function as it was when `prepare` was called, and what is sent of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any

from jobrunner.calls import serialization
from jobrunner.calls.serialization import DumpedFunction, Names
from jobrunner.errors import SerializationError
from jobrunner.fixed import dump_elements
from jobrunner.pickling.loading import Held
from jobrunner.protocol.wire.messages import FunctionDef, FunctionKey
from jobrunner.protocol.wire.payloads import Payload, Store, payload_size


class Prepared:
    """For backends that pickle calls. Raises SerializationError."""

    __slots__ = (
        "_mapped",
        "_store",
        "args",
        "definition",
        "dumped",
        "fn",
        "initializer",
        "keys",
        "kwargs",
        "whole",
    )

    def __init__(
        self, fn: Callable[..., Any], store: Store | None = None, initializer: tuple[FunctionDef, ...] = ()
    ) -> None:
        self.whole = fn
        """What was given."""
        self.fn, self.args, self.kwargs = serialization.split_call(fn)
        """What is called, with which arguments before those of the call: a partial's are arguments like others."""
        self.initializer = initializer
        """What its slots are to be prepared with: the parts of an initializer, then itself."""
        self._store = store
        self._mapped: Prepared | None = None
        self._take(serialization.dump_function(self.fn, store))

    @classmethod
    def of(
        cls,
        fn: Callable[..., Any],
        store: Store | None,
        last: Prepared | None,
        initializer: tuple[FunctionDef, ...] = (),
    ) -> Prepared:
        """`fn` as it is now; `last`, where nothing has changed since."""
        if (
            last is not None
            and last.whole is fn
            and last.initializer is initializer
            and serialization.is_as_dumped(fn, last.dumped)
        ):
            return last
        if not serialization.goes_alone(fn):
            return cls(fn, store, initializer)
        dumped = serialization.dump_function(fn, store)
        if (
            last is not None
            and last.dumped is dumped
            and last.whole is fn
            and last.initializer is initializer
        ):
            return last
        made = object.__new__(cls)
        made.whole = made.fn = fn
        made.initializer = initializer
        made.args, made.kwargs = (), {}
        made._store, made._mapped = store, None
        made._take(dumped)
        return made

    @property
    def may_be_kept(self) -> bool:
        """Whether it holds no object of the program's, which would live as long as this is kept."""
        fn = self.whole
        if type(fn) is FunctionType:
            return fn.__closure__ is None and fn.__defaults__ is None and fn.__kwdefaults__ is None
        return serialization.goes_alone(fn)

    @property
    def definitions(self) -> tuple[FunctionDef, ...]:
        """All that whoever has not seen it must be sent, in that order."""
        parts = self.dumped.parts
        if not parts:
            return (self.definition,)
        return (*[FunctionDef(*part.definition()) for part in parts], self.definition)

    def arguments(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Those of a call, with those that the function holds."""
        if self.fn is self.whole:
            return args, kwargs
        return (*self.args, *args), {**self.kwargs, **kwargs}

    def with_names(self, names: Iterable[str]) -> Prepared:
        """The same, with these globals of the script, as they are now."""
        made = self._copy()
        made._take(serialization.with_names(self.fn, names, self._store, self.dumped.held))
        return made

    def for_map(self) -> Prepared:
        """The same, with everything in the function that it holds: `map` sends it once, not with each element."""
        if self.fn is self.whole:
            return self
        if self._mapped is None:
            made = self._copy()
            made.fn, made.args, made.kwargs = self.whole, (), {}
            made._take(serialization.dump_function(self.whole, self._store))
            self._mapped = made
        return self._mapped

    def held(self) -> Held | None:
        """What `map` sends once, where elements may share objects with it."""
        try:
            return self.for_map().dumped.held
        except SerializationError:  # which the elements fail with
            return None

    def _take(self, dumped: DumpedFunction) -> None:
        if self.fn is not self.whole:
            dumped = dumped._replace(name=serialization.function_name(self.whole))
        self.dumped = dumped
        self.definition = FunctionDef(*dumped.definition())
        self.keys: tuple[FunctionKey, FunctionKey | None] = (
            self.definition.key,
            self.initializer[-1].key if self.initializer else None,
        )
        """Of the function, and of what its slots are to be prepared with."""

    def _copy(self) -> Prepared:
        made = object.__new__(Prepared)
        made.whole, made.fn, made.args, made.kwargs = self.whole, self.fn, self.args, self.kwargs
        made.initializer, made._store, made._mapped = self.initializer, self._store, None
        return made


def definitions_of(dumped: DumpedFunction) -> tuple[FunctionDef, ...]:
    """What is sent of a function that is pickled already: its parts, then itself."""
    return tuple([FunctionDef(*each.definition()) for each in (*dumped.parts, dumped)])


class PackedElements:
    """Elements of a `map` that refer to the script: the function that they are for has to bring these globals."""

    __slots__ = ("_prepared", "carried", "names", "payload")

    def __init__(self, payload: Payload, names: Names) -> None:
        self.payload = payload
        self.names = names
        self.carried = payload_size(payload) if isinstance(payload, (bytes, tuple)) else 0
        """Bytes that chunks of them carry; 0 where these are in shared memory."""
        self._prepared: Prepared | None = None

    def prepared(self, fn: Prepared) -> Prepared:
        """`fn` with these globals. Raises SerializationError."""
        if self._prepared is None:
            self._prepared = fn.with_names(self.names)
        return self._prepared


def pack(elements: Any, store: Store | None = None) -> Payload | PackedElements:
    """What `Backend.pack` gives, for backends that pickle calls."""
    names: Names = {}
    payload = dump_elements(elements, snapshot=True, store=store, names=names)
    return PackedElements(payload, names) if names else payload


def chunk(prepared: Prepared, packed: Payload | PackedElements) -> tuple[Prepared, Payload]:
    """What is called with packed elements, and these."""
    prepared = prepared.for_map()
    if isinstance(packed, PackedElements):
        return packed.prepared(prepared), packed.payload
    return prepared, packed
