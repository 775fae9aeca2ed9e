"""A function in its state at the time when `prepare` was called, with the definitions that are sent to slots."""

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
    """The result of `prepare` for backends that pickle calls.

    Raises SerializationError if the function cannot be pickled.
    """

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
        """The given function."""
        self.fn, self.args, self.kwargs = serialization.split_call(fn)
        """The function that is called, and the arguments that precede those of the call, such as those of a partial."""
        self.initializer = initializer
        """The definitions of the initializer that prepares its slots, in the order parts, initializer; may be empty."""
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
        """Return `fn` in its present state, which is `last` if nothing has changed since."""
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
        """Whether the function holds no object of the program, which would live as long as the function is kept."""
        fn = self.whole
        if type(fn) is FunctionType:
            return fn.__closure__ is None and fn.__defaults__ is None and fn.__kwdefaults__ is None
        return serialization.goes_alone(fn)

    @property
    def definitions(self) -> tuple[FunctionDef, ...]:
        """The definitions, in this order, that must be sent to a receiver that does not know the function."""
        parts = self.dumped.parts
        if not parts:
            return (self.definition,)
        return (*[FunctionDef(*part.definition()) for part in parts], self.definition)

    def arguments(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of a call, together with those that the function holds."""
        if self.fn is self.whole:
            return args, kwargs
        return (*self.args, *args), {**self.kwargs, **kwargs}

    def with_names(self, names: Iterable[str]) -> Prepared:
        """Return the same function with the present values of these globals of the script."""
        made = self._copy()
        made._take(serialization.with_names(self.fn, names, self._store, self.dumped.held))
        return made

    def for_map(self) -> Prepared:
        """Return the same function with the objects that it holds inside, because `map` sends them only once."""
        if self.fn is self.whole:
            return self
        if self._mapped is None:
            made = self._copy()
            made.fn, made.args, made.kwargs = self.whole, (), {}
            made._take(serialization.dump_function(self.whole, self._store))
            self._mapped = made
        return self._mapped

    def held(self) -> Held | None:
        """Return the object that `map` sends once and with which elements may share objects, or None."""
        try:
            return self.for_map().dumped.held
        except SerializationError:  # the elements fail with the same error
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
        """The keys of the function, and of the initializer that prepares its slots."""

    def _copy(self) -> Prepared:
        made = object.__new__(Prepared)
        made.whole, made.fn, made.args, made.kwargs = self.whole, self.fn, self.args, self.kwargs
        made.initializer, made._store, made._mapped = self.initializer, self._store, None
        return made


def definitions_of(dumped: DumpedFunction) -> tuple[FunctionDef, ...]:
    """Return the definitions of a pickled function in the order in which they are sent: its parts, then itself."""
    return tuple([FunctionDef(*each.definition()) for each in (*dumped.parts, dumped)])


class PackedElements:
    """Elements of a `map` that refer to the script, whose globals their function must carry."""

    __slots__ = ("_prepared", "carried", "names", "payload")

    def __init__(self, payload: Payload, names: Names) -> None:
        self.payload = payload
        self.names = names
        self.carried = payload_size(payload) if isinstance(payload, (bytes, tuple)) else 0
        """The size in bytes of the elements in each chunk's message; 0 if they are in shared memory."""
        self._prepared: Prepared | None = None

    def prepared(self, fn: Prepared) -> Prepared:
        """Return `fn` with the globals that the elements refer to.

        Raises SerializationError if they cannot be pickled.
        """
        if self._prepared is None:
            self._prepared = fn.with_names(self.names)
        return self._prepared


def pack(elements: Any, store: Store | None = None) -> Payload | PackedElements:
    """Return the result of `Backend.pack`, for backends that pickle calls."""
    names: Names = {}
    payload = dump_elements(elements, snapshot=True, store=store, names=names)
    return PackedElements(payload, names) if names else payload


def chunk(prepared: Prepared, packed: Payload | PackedElements) -> tuple[Prepared, Payload]:
    """Return the function that is called with packed elements, and their payload."""
    prepared = prepared.for_map()
    if isinstance(packed, PackedElements):
        return packed.prepared(prepared), packed.payload
    return prepared, packed
