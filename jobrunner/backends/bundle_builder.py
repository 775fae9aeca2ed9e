"""Short calls that are submitted one after the other, on their way into one bundle (see `protocol.bundles`)."""

from __future__ import annotations

from typing import Any

from jobrunner.backends.home import Home
from jobrunner.futures import Future
from jobrunner.protocol.bundles import index_of_call, pack_calls
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId, call_id
from jobrunner.protocol.wire.kinds import Bundle


class BundleBuilder:
    """What these calls have in common, and what tells them apart: a Future and a payload each."""

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
        """Released once the bundle has ended: each of them holds this builder."""
        self.payloads: list[bytes] = []

    def takes(
        self,
        definition: m.FunctionDef,
        options: m.TaskOptions,
        depth: int,
        initializer: tuple[m.FunctionDef, ...] = (),
    ) -> bool:
        """Whether one more call can go with these."""
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
        except BaseException:  # Ctrl-C between the two, where each payload is to have its Future
            del self.payloads[len(self.futures) :]
            raise
        return future

    def spec(self) -> m.TaskSpec:
        """The bundle. From now on no call is added."""
        initializer = self.initializer[-1].key if self.initializer else None
        payload, self.payloads = pack_calls(self.payloads), []
        kind = Bundle(len(self.futures))
        body = m.CallBody(self.definition.key, payload, kind, self.options, initializer, self.depth)
        return m.TaskSpec(self.id, body)

    def id_of(self, index: int) -> TaskId:
        return call_id(self.id, index)

    def future_of(self, task: TaskId) -> Future[Any] | None:
        """That of the call with this id, if it is one of these and they have not ended."""
        index = index_of_call(self.id, task)
        return self.futures[index] if index is not None and index < len(self.futures) else None
