"""Functions, by the hash of their bytes: each travels once per connection and is kept while somebody needs it.

The one who sends decides what the other end knows, and says so (`forget`), so both ends agree without asking.

The coordinator does not believe a hash that it is told: who sends other bytes under the key of somebody's function
would have them run among that one's calls. So each owner's functions have keys of their own there (`key_of`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from hashlib import blake2b

from jobrunner.ids import WorkerId
from jobrunner.protocol.accounts import Account
from jobrunner.protocol.messages import FunctionDef, FunctionKey
from jobrunner.protocol.placement import UNKNOWN, Resources, python_demand

ESTIMATE_DECAY = 0.9
"""How fast a long call is forgotten: an estimate is the largest recent duration, shrunk by this per shorter call."""

REMEMBERED = 256
"""Functions that a sender takes the other end to know although no task needs them at the moment."""


KEY_BYTES = 32

FUNCTION_BYTES = 1000
"""What a function takes at the coordinator beside its own bytes, about."""


def key_of(owner: str, key: FunctionKey) -> FunctionKey:
    """Under which key a function that `owner` names so is known from the coordinator on."""
    return blake2b(owner.encode() + key, digest_size=KEY_BYTES).digest() if owner else key


def updated_estimate(estimate: float, duration: float) -> float:
    """The next estimate of a call's seconds. Deliberately high: one long call stops the batching of short ones."""
    return max(duration, estimate * ESTIMATE_DECAY)


class FunctionEntry:
    """A function at the coordinator: its bytes, who needs it, which workers have it, how long its calls take."""

    __slots__ = ("account", "definition", "demands", "estimate", "known_by", "pins", "users")

    def __init__(self, definition: FunctionDef, account: Account | None = None) -> None:
        self.definition = definition
        self.account = account
        """At whose expense it is kept."""
        self.demands: Resources = (python_demand(definition.python),) if definition.python else ()
        self.users = 0
        """Unfinished tasks that call it."""
        self.pins = 0
        """Clients that may name it without sending it again."""
        self.known_by: set[WorkerId] = set()
        self.estimate = UNKNOWN

    @property
    def size(self) -> int:
        """Bytes, about."""
        definition = self.definition
        names = sum(map(len, definition.modules)) + sum(map(len, definition.ships))
        return len(definition.blob) + FUNCTION_BYTES + names


class FunctionTable:
    """The coordinator's functions. An entry goes when no task and no client needs it any more."""

    def __init__(self) -> None:
        self._entries: dict[FunctionKey, FunctionEntry] = {}
        self._forgotten: dict[WorkerId, list[FunctionKey]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def define(self, definition: FunctionDef, account: Account | None = None) -> FunctionEntry:
        entry = self._entries.get(definition.key)
        if entry is None:
            entry = self._entries[definition.key] = FunctionEntry(definition, account)
            if account is not None:
                account.bytes += entry.size
        return entry

    def get(self, key: FunctionKey) -> FunctionEntry | None:
        return self._entries.get(key)

    def unpin(self, key: FunctionKey) -> None:
        entry = self._entries.get(key)
        if entry is not None:
            entry.pins -= 1
            self._drop_if_idle(entry)

    def release(self, entry: FunctionEntry) -> None:
        """A task that calls it is done."""
        entry.users -= 1
        if entry.users == 0:
            self._drop_if_idle(entry)

    def take_forgotten(self) -> dict[WorkerId, list[FunctionKey]]:
        """Per worker, what it may drop since the last call."""
        forgotten, self._forgotten = self._forgotten, {}
        return forgotten

    def worker_gone(self, worker: WorkerId) -> None:
        self._forgotten.pop(worker, None)
        for entry in self._entries.values():
            entry.known_by.discard(worker)

    def entries(self) -> Iterable[FunctionEntry]:
        return self._entries.values()

    def _drop_if_idle(self, entry: FunctionEntry) -> None:
        if entry.users > 0 or entry.pins > 0:
            return
        del self._entries[entry.definition.key]
        if entry.account is not None:
            entry.account.bytes -= entry.size
        for worker in sorted(entry.known_by):  # in the same order in every process
            self._forgotten.setdefault(worker, []).append(entry.definition.key)


class KnownFunctions:
    """A sender's account of what the other end knows: the most recently used ones, up to a limit."""

    __slots__ = ("_known", "_limit")

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._known: OrderedDict[FunctionKey, None] = OrderedDict()
        self._limit = limit

    def __contains__(self, key: FunctionKey) -> bool:
        return key in self._known

    def use(self, key: FunctionKey) -> bool:
        """Note that `key` is named now; True if the other end must be sent it first."""
        if key in self._known:
            self._known.move_to_end(key)
            return False
        self._known[key] = None
        return True

    def overflow(self) -> list[FunctionKey]:
        """What the other end is to forget, the longest unused first."""
        surplus = []
        while len(self._known) > self._limit:
            surplus.append(self._known.popitem(last=False)[0])
        return surplus

    def discard(self, keys: Iterable[FunctionKey]) -> list[FunctionKey]:
        """Those of `keys` that the other end knew."""
        return [key for key in keys if self._known.pop(key, 0) is None]

    def clear(self) -> None:
        self._known.clear()
