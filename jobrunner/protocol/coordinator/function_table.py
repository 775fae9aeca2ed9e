"""The coordinator's functions: who needs each, which workers have it, and how long its calls take.

The key of a function is the hash of its bytes. The coordinator does not rely on a hash that it is told: somebody who
sends other bytes under the key of another owner's function would have them run among that owner's calls. So each
owner's functions have keys of their own here (`key_of`).
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from jobrunner.protocol.coordinator.accounts import Account
from jobrunner.protocol.coordinator.resources import Requirements, python_requirement
from jobrunner.protocol.tuning import UNKNOWN
from jobrunner.protocol.wire.ids import WorkerId
from jobrunner.protocol.wire.messages import FunctionDef, FunctionKey
from jobrunner.protocol.wire.payloads import kept_size

KEY_BYTES = 32

FUNCTION_BYTES = 1000
"""Approximate size in bytes of a function at the coordinator, without its own bytes."""

PART_BYTES = 100
"""Approximate size in bytes of a reference to a part, which is counted as a function, too."""


def key_of(owner: str, key: FunctionKey) -> FunctionKey:
    """Return the key, from the coordinator on, of the function that `owner` names by `key`."""
    return blake2b(owner.encode() + key, digest_size=KEY_BYTES).digest() if owner else key


class FunctionEntry:
    """A function at the coordinator, with its users, the workers that have it, and the duration of its calls."""

    __slots__ = ("account", "definition", "estimate", "known_by", "parts", "refs", "requirements", "users")

    def __init__(
        self, definition: FunctionDef, account: Account | None = None, parts: tuple[FunctionEntry, ...] = ()
    ) -> None:
        self.definition = definition
        self.parts = parts
        self.account = account
        """The account that is charged for it."""
        self.requirements: Requirements = (
            (python_requirement(definition.python),) if definition.python else ()
        )
        self.users = 0
        """Number of unfinished tasks that call it, and of functions of which it is a part."""
        self.refs = 0
        """Number of clients that may name it without sending it again."""
        self.known_by: set[WorkerId] = set()
        self.estimate = UNKNOWN

    @property
    def size(self) -> int:
        """The approximate size in bytes."""
        definition = self.definition
        names = sum(map(len, definition.modules)) + sum(map(len, definition.ships))
        return kept_size(definition.blob) + FUNCTION_BYTES + names + PART_BYTES * len(self.parts)

    def untold(self, worker: WorkerId) -> list[FunctionDef]:
        """Return the functions that the worker must get before a call of this one; they count as sent from now on."""
        if worker in self.known_by:
            return []
        fresh = [entry for entry in (*self.parts, self) if worker not in entry.known_by]
        for entry in fresh:
            entry.known_by.add(worker)
        return [entry.definition for entry in fresh]


class FunctionTable:
    """The coordinator's functions. An entry goes when no task, no client and no other entry needs it any more."""

    def __init__(self) -> None:
        self._entries: dict[FunctionKey, FunctionEntry] = {}
        self._forgotten: dict[WorkerId, list[FunctionKey]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def define(self, definition: FunctionDef, account: Account | None = None) -> FunctionEntry:
        """Return the function's entry, and create it if there is none; the entries of its parts exist already."""
        entry = self._entries.get(definition.key)
        if entry is None:
            parts = tuple([self._entries[key] for key in definition.parts])
            for part in parts:
                part.users += 1
            entry = self._entries[definition.key] = FunctionEntry(definition, account, parts)
            if account is not None:
                account.bytes += entry.size
        return entry

    def get(self, key: FunctionKey) -> FunctionEntry | None:
        return self._entries.get(key)

    def drop_ref(self, key: FunctionKey) -> None:
        entry = self._entries.get(key)
        if entry is not None:
            entry.refs -= 1
            self.drop_if_idle(entry)

    def release(self, entry: FunctionEntry) -> None:
        """Note that a task that calls it is done, or that a function of which it is a part has gone."""
        entry.users -= 1
        if entry.users == 0:
            self.drop_if_idle(entry)

    def take_forgotten(self) -> dict[WorkerId, list[FunctionKey]]:
        """Return, by worker, the functions that it may drop since the last call."""
        forgotten, self._forgotten = self._forgotten, {}
        return forgotten

    def worker_gone(self, worker: WorkerId) -> None:
        self._forgotten.pop(worker, None)
        for entry in self._entries.values():
            entry.known_by.discard(worker)

    def entries(self) -> Iterable[FunctionEntry]:
        return self._entries.values()

    def check_invariants(self) -> None:
        """Assert the conditions that hold after every step; for the simulation."""
        holders: dict[FunctionKey, int] = {}
        for entry in self._entries.values():
            for part in entry.parts:
                key = part.definition.key
                holders[key] = holders.get(key, 0) + 1
                assert self._entries.get(key) is part, f"{key!r} has gone, a part of {entry.definition.key!r}"
                assert entry.known_by <= part.known_by, (
                    f"{key!r} was not sent where {entry.definition.key!r} is"
                )
        for key, count in holders.items():
            assert self._entries[key].users >= count, f"{key!r} has fewer users than functions need it"

    def drop_if_idle(self, entry: FunctionEntry) -> None:
        """Remove the entry if nobody needs it any more."""
        if entry.users > 0 or entry.refs > 0:
            return
        del self._entries[entry.definition.key]
        if entry.account is not None:
            entry.account.bytes -= entry.size
        for worker in sorted(entry.known_by):  # in the same order in every process
            self._forgotten.setdefault(worker, []).append(entry.definition.key)
        for part in entry.parts:
            self.release(part)
        # Tasks that have ended are remembered for a while, with its name.
        definition = entry.definition
        entry.definition, entry.parts = FunctionDef(definition.key, definition.name, b""), ()
