"""An owner for real slots that is as simple as can be; for tests, and for scripts that tests start."""

from __future__ import annotations

import itertools
import select

from jobrunner.backends.prepared import Prepared, definitions_of
from jobrunner.calls import serialization
from jobrunner.fixed import FixingInput, dump_elements, load_element_results
from jobrunner.fixed.elements import Input
from jobrunner.protocol.effects import (
    SlotExited,
    SlotFinished,
    SlotPrinted,
    SlotReady,
    SlotTask,
)
from jobrunner.protocol.wire.kinds import SINGLE_CALL, Chunk
from jobrunner.protocol.wire.messages import OK
from jobrunner.testing.waiting import until
from jobrunner.workers.slot_pool import SlotPool


class Owner:
    """Runs calls in the slots of a SlotPool; keeps every event in `events`."""

    def __init__(self, **options):
        self.pool = SlotPool(**options)
        self.events = []
        self.outcomes = {}
        self.kinds = {}
        self.numbers = itertools.count(1)

    def task(self, fn, *args, payload=None, kind=SINGLE_CALL, initializer=None):
        """A SlotTask, and the functions that it needs."""
        prepared = Prepared(fn)
        if payload is None:
            names = {}
            args, kwargs = prepared.arguments(args, {})
            payload = serialization.dump_call(args, kwargs, snapshot=True, names=names)
            prepared = prepared.with_names(names) if names else prepared
        functions = [*prepared.definitions]
        if initializer is not None:
            functions += definitions_of(initializer)
        number = next(self.numbers)
        self.kinds[number] = kind
        key = initializer and initializer[0]
        task = SlotTask(number, f"client-{number}", "name", 1, prepared.definition.key, payload, kind, key)
        return task, functions

    def run(self, slot, fn, *args, **options):
        """Gives the slot one call; its number."""
        task, functions = self.task(fn, *args, **options)
        self.pool.run(slot, [task], functions, [])
        return task.number

    def batch(self, slot, *calls):
        """Gives the slot several calls (tuples of function and arguments) at once; their numbers."""
        pairs = [self.task(*call) for call in calls]
        functions = [function for _, needed in pairs for function in needed]
        self.pool.run(slot, [task for task, _ in pairs], functions, [])
        return [task.number for task, _ in pairs]

    def chunk(self, slot, fn, elements, start=0, stop=None, **options):
        columns = [list(column) for column in zip(*elements, strict=True)]
        fixed, _ = FixingInput(Input(columns)).take(len(elements))
        payload = dump_elements(fixed, snapshot=True)
        kind = Chunk(start, len(elements) if stop is None else stop)
        return self.run(slot, fn, payload=payload, kind=kind, **options)

    def poll(self, timeout=0.0):
        select.select([self.pool], [], [], timeout)
        for event in self.pool.poll():
            self.events.append(event)
            if isinstance(event, SlotFinished):
                for outcome in event.outcomes:
                    assert outcome.number not in self.outcomes, "an outcome came twice"
                    self.outcomes[outcome.number] = outcome

    def until(self, condition):
        """Polls until `condition()` is true, and returns that."""
        return until(
            condition,
            lambda: f"what comes after these events, {self.events[-10:]},",
            meanwhile=lambda: self.poll(0.02),
        )

    def value(self, number):
        """The result of a task; raises what the task raised."""
        outcome = self.until(lambda: self.outcomes.get(number))
        if outcome.status != OK:
            raise serialization.load_exception(outcome.payload)
        if self.kinds[number] == SINGLE_CALL:
            return serialization.load_result(outcome.payload)
        return load_element_results(outcome.payload)

    def call(self, slot, fn, *args, **options):
        return self.value(self.run(slot, fn, *args, **options))

    def of(self, kind, slot=None):
        return [e for e in self.events if isinstance(e, kind) and slot in (None, e.slot)]

    def ready(self, slot):
        """Spawns the slot and waits for it; its pid."""
        self.pool.spawn(slot)
        return self.until(lambda: self.of(SlotReady, slot))[0].pid

    def exited(self, slot):
        return self.until(lambda: self.of(SlotExited, slot))[0]

    def text(self, number, stream=1):
        return "".join(
            text
            for event in self.of(SlotPrinted)
            for n, s, text in event.printed
            if (n, s) == (number, stream)
        )
