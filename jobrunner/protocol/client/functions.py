"""The functions of a client's unfinished tasks, and the functions that the coordinator knows.

A definition is kept as long as an unfinished task or its function uses it, because a new session may need it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from jobrunner.protocol.known_functions import KnownFunctions
from jobrunner.protocol.wire import messages as m
from jobrunner.protocol.wire.ids import TaskId
from jobrunner.protocol.wire.payloads import payload_size


class SubmittedFunctions:
    """The definitions that a client keeps, with the number of their users."""

    def __init__(self) -> None:
        self.definitions: dict[m.FunctionKey, m.FunctionDef] = {}
        self.known = KnownFunctions()
        """The functions that the coordinator has in this session."""
        self.largest = 0
        """The size in bytes of the largest function so far."""
        self._users: dict[m.FunctionKey, int] = {}
        """The number of unfinished tasks that use each function, and of other functions of which it is a part."""

    def add(self, definitions: Iterable[m.FunctionDef]) -> None:
        """Keep the definitions that are new.

        Call `retain` for their tasks next, and then `drop_unused`.
        """
        for definition in definitions:
            if definition.key not in self.definitions:
                self.definitions[definition.key] = definition
                self.largest = max(self.largest, payload_size(definition.blob))
                for part in definition.parts:
                    self._users[part] = self._users.get(part, 0) + 1

    def drop_unused(self, definitions: Iterable[m.FunctionDef]) -> None:
        """Drop the given definitions that no task uses."""
        for definition in definitions:
            if definition.key not in self._users:
                self._drop(definition.key)

    def retain(self, spec: m.TaskSpec) -> None:
        """Count an unfinished task among the users of its functions."""
        users = self._users
        for key in (spec.body.function, spec.body.initializer):
            if key is not None:
                users[key] = users.get(key, 0) + 1

    def release(self, spec: m.TaskSpec) -> None:
        """Remove a task from the users of its functions, and drop the functions that have no other user."""
        users = self._users
        for key in (spec.body.function, spec.body.initializer):
            if key is None:
                continue
            if users[key] > 1:
                users[key] -= 1
            else:
                del users[key]
                self._drop(key)

    def _drop(self, key: m.FunctionKey) -> None:
        definition = self.definitions.pop(key, None)
        if definition is None:
            return
        users = self._users
        for part in definition.parts:
            users[part] -= 1
            if not users[part]:
                del users[part]
                self._drop(part)

    def session_opened(self) -> None:
        """Note that the coordinator knows no function in the new session."""
        self.known.clear()

    def to_send(self, tasks: list[m.TaskSpec]) -> tuple[list[m.FunctionDef], list[m.FunctionKey]]:
        """Return the functions that a message with these tasks must define, and those that the coordinator drops."""
        named = dict.fromkeys([spec.body.function for spec in tasks])
        named.update(
            dict.fromkeys([spec.body.initializer for spec in tasks if spec.body.initializer is not None])
        )
        functions: list[m.FunctionDef] = []
        for key in named:
            definition = self.definitions[key]
            functions += self.known.use(definition, [self.definitions[part] for part in definition.parts])
        return functions, self.known.overflow(len(named))

    def excess(self, spec: m.TaskSpec, most: int) -> m.Outcome | None:
        """Return the outcome of a task if one of its functions has more than `most` bytes, or None."""
        for key in (spec.body.function, spec.body.initializer):
            definition = None if key is None else self.definitions[key]
            if definition is None:
                continue
            size = max(
                payload_size(self.definitions[each].blob) for each in (definition.key, *definition.parts)
            )
            if size > most:
                if definition.ships:
                    return m.shipment_exceeded(spec.id, definition, most)
                return m.quota_exceeded(spec.id, 0, "function has", size, most)
        return None

    def leftovers(self) -> list[object]:
        """Return the functions that are kept; for tests."""
        return [*self.definitions, *self._users]

    def check_invariants(self, pending: Mapping[TaskId, m.TaskSpec]) -> None:
        needed: dict[m.FunctionKey, int] = {}
        for spec in pending.values():
            for key in (spec.body.function, spec.body.initializer):
                if key is not None:
                    needed[key] = needed.get(key, 0) + 1
        for definition in self.definitions.values():
            for part in definition.parts:
                needed[part] = needed.get(part, 0) + 1
        assert needed == self._users
        assert needed.keys() == self.definitions.keys()
