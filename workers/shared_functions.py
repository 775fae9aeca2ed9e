"""Shared memory for large functions and parts that reach a worker over the network: one copy for all of its slots."""

from __future__ import annotations

from jobrunner.protocol.effects import Event, Received, Send
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.payloads import buffers_of
from jobrunner.shared_memory.segment_pool import SegmentPool
from jobrunner.transport.driver import Wire


class SharingWire:
    """A worker's wire that puts the large frames of functions into shared memory.

    A function stays there as long as the worker's core or a slot has it.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._pool = SegmentPool(0)

    def receive(self, now: float) -> list[Event]:
        events = self._wire.receive(now)
        for event in events:
            if type(event) is Received and type(event.envelope.message) is m.Assign:
                assign = event.envelope.message
                assign.functions = [self._shared(definition) for definition in assign.functions]
        return events

    def _shared(self, definition: m.FunctionDef) -> m.FunctionDef:
        blob = definition.blob
        if isinstance(blob, bytes):
            return definition
        stored = self._pool.store(buffers_of(blob))
        return definition if stored is None else definition._replace(blob=stored)

    def register(self, fd: int) -> None:
        self._wire.register(fd)

    def next_deadline(self) -> float | None:
        return self._wire.next_deadline()

    def wait(self, timeout: float | None) -> set[int]:
        return self._wire.wait(timeout)

    def send(self, effect: Send) -> Event | None:
        return self._wire.send(effect)

    def close(self, *, orderly: bool = False) -> None:
        self._wire.close(orderly=orderly)
        self._pool.close()
