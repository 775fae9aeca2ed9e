"""The functions of a worker, which are kept while the coordinator relies on them or a task needs them.

The coordinator says which functions may be dropped; one that a task still needs lingers until the task has ended. A
part stays as long as a function that has it. Slots are told with their next task which functions they may drop, or at
once if one is large. For each function the store also knows which of its modules are missing, and how long its calls
take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from jobrunner.protocol.effects import RunTasks, SlotTask
from jobrunner.protocol.estimates import updated_estimate
from jobrunner.protocol.tuning import UNKNOWN
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import SlotId
from jobrunner.protocol.wire.payloads import payload_size
from jobrunner.protocol.worker.slots import READY, Owner, Slot, WorkerTask

LARGE_DEFINITION = 512 * 1024
"""Size in bytes from which slots are told at once that they may drop a function or part."""


class FunctionStore:
    """The definitions by key. `missing` returns the modules that slots cannot import, see WorkerSettings."""

    def __init__(self, slots: Mapping[SlotId, Slot], missing: Callable[[Iterable[str]], list[str]]) -> None:
        self._slots = slots
        self._missing = missing
        self.definitions: dict[m.FunctionKey, m.FunctionDef] = {}
        self.lingering: dict[m.FunctionKey, None] = {}
        """Functions that the coordinator no longer relies on, but that may still be needed."""
        self.missing_modules: dict[m.FunctionKey, list[str]] = {}
        """By function, the modules that were missing when the function arrived."""
        self.estimates: dict[m.FunctionKey, float] = {}
        """By function, the expected duration of a call in seconds."""

    # --- what comes and goes ---

    def learn(self, definition: m.FunctionDef) -> None:
        """Keep this function, because the coordinator relies on it from now on."""
        # A definition with the same key is equal. The old one stays, because slots have it, perhaps in shared memory.
        self.definitions.setdefault(definition.key, definition)
        self.lingering.pop(definition.key, None)
        missing_modules = self._missing(definition.modules) if definition.modules else []
        if missing_modules:
            self.missing_modules[definition.key] = missing_modules
        else:
            self.missing_modules.pop(definition.key, None)

    def may_drop(self, keys: Iterable[m.FunctionKey]) -> None:
        """Note that the coordinator no longer relies on these functions."""
        self.lingering.update(dict.fromkeys(keys))

    def session_opened(self) -> None:
        """Note that the coordinator relies on no function of an earlier session."""
        self.lingering = dict.fromkeys(self.definitions)

    def drop(self, tasks: Iterable[WorkerTask]) -> list[RunTasks]:
        """Drop lingering functions that are needed neither by a task nor by a function that stays.

        Returns effects for slots that must be told at once.
        """
        needed = {key for t in tasks for key in (t.assignment.body.function, t.assignment.body.initializer)}
        for key, definition in self.definitions.items():
            if definition.parts and (key in needed or key not in self.lingering):
                needed.update(definition.parts)
        large = False
        for key in [key for key in self.lingering if key not in needed]:
            del self.lingering[key]
            dropped = self.definitions.pop(key, None)
            large = large or (dropped is not None and payload_size(dropped.blob) >= LARGE_DEFINITION)
            self.missing_modules.pop(key, None)
            self.estimates.pop(key, None)
            for slot in self._slots.values():
                slot.drop_function(key)
        if not large:
            return []
        return [
            self.run_tasks(slot, []) for slot in self._slots.values() if slot.to_drop and slot.state == READY
        ]

    # --- what a task needs ---

    def knows_parts_of(self, definition: m.FunctionDef) -> bool:
        """Return whether all parts of a function are here and have no parts themselves."""
        parts = [self.definitions.get(part) for part in definition.parts]
        return all(part is not None and not part.parts for part in parts)

    def knows_functions_of(self, assignment: m.Assignment) -> bool:
        """Return whether the function and the initializer of a task are here."""
        return assignment.body.function in self.definitions and (
            assignment.body.initializer is None or assignment.body.initializer in self.definitions
        )

    def missing_for(self, assignment: m.Assignment) -> list[str]:
        """Return the modules that the call requires and does not ship, and that cannot be imported now."""
        suspects = list(self.missing_modules.get(assignment.body.function, ()))
        if assignment.body.initializer is not None:
            suspects += self.missing_modules.get(assignment.body.initializer, ())
            ships = self.definitions[assignment.body.initializer].ships
            suspects = [name for name in suspects if name not in ships]
        return self._missing(suspects) if suspects else []

    def owner_of(self, assignment: m.Assignment, key: str) -> Owner:
        """Return the task's owner.

        Calls with shipped modules have an owner of their own, so that they do not share slots with other calls.
        """
        if assignment.body.initializer is None:
            return Owner(key)
        initializer = self.definitions[assignment.body.initializer]
        if initializer.ships or initializer.epoch:
            return Owner(key, initializer.key, initializer.epoch)
        return Owner(key)

    def name_of(self, task: WorkerTask) -> str:
        """Return the task's name as users see it."""
        return task.assignment.body.options.name or self.definitions[task.assignment.body.function].name

    def run_tasks(self, slot: Slot, tasks: list[SlotTask]) -> RunTasks:
        """Return the effect that gives a slot these tasks, with functions that it lacks and keys that it may drop."""
        functions: list[m.FunctionDef] = []
        for task in tasks:
            for key in (task.function, task.initializer):
                if key is not None and key not in slot.known:
                    functions += slot.lacks(self.definitions[key], self.definitions)
        return RunTasks(slot.id, tasks, functions, slot.take_to_drop())

    # --- how long calls take ---

    def took(self, task: WorkerTask, duration: float) -> None:
        """Note that the task has taken this number of seconds."""
        key = task.assignment.body.function
        each = duration / task.elements
        self.estimates[key] = updated_estimate(self.estimates.get(key, UNKNOWN), each)

    def estimate(self, task: WorkerTask) -> float:
        """Return the expected duration of a task in seconds, or UNKNOWN."""
        each = self.estimates.get(task.assignment.body.function, UNKNOWN)
        return each if each == UNKNOWN else each * task.elements

    def check_invariants(self) -> None:
        for definition in self.definitions.values():
            for part in definition.parts:
                assert part in self.definitions, f"{part!r} has gone, a part of {definition.key!r}"
        for slot in self._slots.values():
            for key in slot.known:
                missing = set(self.definitions[key].parts) - slot.known
                assert not missing, f"slot {slot.id} has {key!r} without {missing}"
