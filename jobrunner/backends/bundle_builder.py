"""The gathering of short calls, which are submitted one after the other, into a bundle (see `protocol.bundles`)."""

from __future__ import annotations

from typing import Any

from jobrunner.backends.home import Home
from jobrunner.futures import Future
from jobrunner.protocol.bundles import index_of_call, pack_calls
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId, call_id
from jobrunner.protocol.wire.kinds import Bundle


class BundleBuilder:
    """The common properties of the calls of one bundle, and a Future and a payload for each call."""

    __slots__ = (
        "__weakref__",
        "definition",
        "depth",
        "futures",
        "home",
        "id",
        "initializer",
        "limit",
        "name",
        "options",
        "payloads",
    )

    def __init__(
        self,
        home: Home,
        task: TaskId,
        definition: m.FunctionDef,
        options: m.TaskOptions,
        depth: int,
        limit: int,
        initializer: tuple[m.FunctionDef, ...] = (),
    ) -> None:
        self.home = home
        self.id = task
        self.definition = definition
        self.options = options
        self.depth = depth
        self.limit = limit
        self.initializer = initializer
        self.name = options.name or definition.name
        self.futures: list[Future[Any]] = []
        """The Futures of the calls; released once the bundle has ended, because each of them refers to this builder."""
        self.payloads: list[bytes] = []

    def takes(
        self,
        definition: m.FunctionDef,
        options: m.TaskOptions,
        depth: int,
        initializer: tuple[m.FunctionDef, ...] = (),
    ) -> bool:
        """Return whether a call with these properties can be added."""
        return (
            definition.key == self.definition.key
            and (options is self.options or options == self.options)
            and depth == self.depth
            and initializer is self.initializer
            and len(self.futures) < self.limit
        )

    def add(self, payload: bytes) -> Future[Any]:
        future: Future[Any] = Future(self, len(self.futures))
        try:
            self.payloads.append(payload)
            self.futures.append(future)
        except BaseException:  # after Ctrl-C, too, each payload must have its Future
            del self.payloads[len(self.futures) :]
            raise
        return future

    def spec(self) -> m.TaskSpec:
        """Return the task of the bundle; no call may be added from then on."""
        initializer = self.initializer[-1].key if self.initializer else None
        payload, self.payloads = pack_calls(self.payloads), []
        kind = Bundle(len(self.futures))
        body = m.CallBody(self.definition.key, payload, kind, self.options, initializer, self.depth)
        return m.TaskSpec(self.id, body)

    def id_of(self, index: int) -> TaskId:
        return call_id(self.id, index)

    def future_of(self, task: TaskId) -> Future[Any] | None:
        """Return the Future of the call with this id, or None if the bundle has ended or does not contain the call."""
        index = index_of_call(self.id, task)
        return self.futures[index] if index is not None and index < len(self.futures) else None
