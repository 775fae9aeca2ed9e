"""The part of `submit` that runs in the caller's thread, for backends that pickle calls.

The arguments are taken in their present state: partial arguments are joined with those of the call, Futures among them
are replaced, and the result is pickled. Each backend sends the pickled call in its own way, see `outgoing_calls` and
`engine.new_calls`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from jobrunner.backends.dependency_results import with_placeholders
from jobrunner.backends.futures_in_arguments import AnyFuture, may_hold_futures
from jobrunner.backends.prepared import PackedElements, Prepared, chunk, pack
from jobrunner.calls import serialization
from jobrunner.errors import SerializationError
from jobrunner.futures import Future
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.kinds import SINGLE_CALL, Chunk, Kind
from jobrunner.protocol.wire.payloads import Payload, Store


class Send(Protocol):
    """A function that gives a pickled call to its backend, and returns its Future.

    `kind` is SINGLE_CALL or a Chunk. `futures` are the dependencies of the call.
    """

    def __call__(
        self,
        prepared: Prepared,
        payload: Payload,
        kind: Kind,
        options: m.TaskOptions,
        futures: Sequence[AnyFuture] = (),
    ) -> Future[Any]: ...


class Submission:
    """Pickles calls, packs chunks, and gives them to `send`.

    `check_open` raises if no call is accepted any more. `store` keeps large arguments in shared memory.
    """

    def __init__(self, check_open: Callable[[], None], send: Send, store: Store | None = None) -> None:
        self._check_open = check_open
        self._send = send
        self._store = store

    def submit(
        self, prepared: Prepared, args: tuple[Any, ...], kwargs: dict[str, Any], options: m.TaskOptions
    ) -> Future[Any]:
        """Pickle and send a call, as `Backend.submit` describes."""
        futures: list[AnyFuture] = []
        try:
            if prepared.fn is not prepared.whole:  # checked here, because calling a function is slower
                args, kwargs = prepared.arguments(args, kwargs)
            if may_hold_futures(args, kwargs):
                args, kwargs, futures = with_placeholders(args, kwargs)
            names: dict[str, None] = {}
            payload = serialization.dump_call(
                args,
                kwargs,
                snapshot=True,
                store=self._store,
                names=names,
                held=len(prepared.args),
                function=prepared.dumped.name,
            )
            if names or (futures and serialization.script_has_classes()):
                prepared = prepared.with_names(names)
        except SerializationError as exc:
            self._check_open()
            failed: Future[Any] = Future()
            failed.name = options.name or prepared.dumped.name
            failed.set_exception(exc)
            return failed
        return self._send(prepared, payload, SINGLE_CALL, options, futures)

    def pack(self, elements: Any) -> Payload | PackedElements:
        """Pickle elements, as `Backend.pack` describes."""
        return pack(elements, self._store)

    def submit_chunk(
        self,
        prepared: Prepared,
        packed: Payload | PackedElements,
        start: int,
        stop: int,
        options: m.TaskOptions,
    ) -> Future[Any]:
        """Send a chunk, as `Backend.submit_chunk` describes."""
        prepared, payload = chunk(prepared, packed)
        return self._send(prepared, payload, Chunk(start, stop), options)
