"""The accounts of owners, and the quota of each at the coordinator. Pure.

The owner of a call is the key under which its client connects. A client inside of a task acts for the owner of that
task. If keys are not used, each client has an account of its own, without an owner.

An account counts unfinished calls with their arguments and dependency results, functions, and the kept results of
detached calls. An honest client waits at its window long before the quota, which limits all clients of one owner
together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from jobrunner.protocol.coordinator.resources import Resources
from jobrunner.protocol.wire.ids import ClientId
from jobrunner.protocol.wire.payloads import Payload, kept_size
from jobrunner.protocol.wire.principals import Principal


class Quota(NamedTuple):
    """The limits of each account; 0 means no limit."""

    tasks: int = 0
    bytes: int = 0


NO_QUOTA = Quota()


MAX_KINDS = 1000
"""Maximum number of different resource requirements of one owner's calls, because each is checked whenever a slot is
idle."""


class Account:
    """The usage of one owner."""

    __slots__ = ("bytes", "clients", "kinds", "label", "name", "owner", "tasks", "values")

    def __init__(self, label: str, owner: str, name: str) -> None:
        self.label = label
        self.owner = owner
        """The owner's public key, or empty if nobody has proved an identity."""
        self.name = name
        """The owner's name for people."""
        self.clients = 0
        self.tasks = 0
        self.bytes = 0
        self.kinds: dict[Resources, int] = {}
        """The resource requirements of the owner's unfinished calls, and the number of calls of each."""
        self.values: dict[int, int] = {}
        """The number of unfinished calls that have got each result, by the result's `id`, because many calls may share
        one object."""

    def add(self, size: int) -> None:
        self.tasks += 1
        self.bytes += size

    def remove(self, size: int) -> None:
        self.tasks -= 1
        self.bytes -= size

    def add_call(self, size: int, resources: Resources) -> None:
        self.add(size)
        if resources:
            self.kinds[resources] = self.kinds.get(resources, 0) + 1

    def remove_call(self, size: int, resources: Resources) -> None:
        self.remove(size)
        if resources:
            self.kinds[resources] -= 1
            if not self.kinds[resources]:
                del self.kinds[resources]

    def add_value(self, value: Payload) -> None:
        """Note that one more call has got this result."""
        users = self.values.get(id(value), 0)
        self.values[id(value)] = users + 1
        if not users:
            self.bytes += kept_size(value)

    def remove_value(self, value: Payload) -> None:
        """Note that a call with this result, which still exists, has ended."""
        users = self.values[id(value)] - 1
        if users:
            self.values[id(value)] = users
        else:
            del self.values[id(value)]
            self.bytes -= kept_size(value)

    def value_excess(self, value: Payload, quota: Quota) -> str:
        """Return why this result is too much for one more call, or an empty string."""
        return "" if id(value) in self.values else self.bytes_excess(kept_size(value), quota)

    def kinds_excess(self, resources: Resources) -> str:
        """Return why calls with these requirements are too much, or an empty string."""
        if self.owner and resources and resources not in self.kinds and len(self.kinds) >= MAX_KINDS:
            return (
                f"{self.name} has calls here with {MAX_KINDS:,} different requirements for resources, and may have no"
                " more kinds of them: wait for some of its calls, or ask for the same amounts more often"
            )
        return ""

    def excess(self, size: int, quota: Quota) -> str:
        """Return why one more call with this number of bytes is too much, or an empty string."""
        if quota.tasks and self.tasks >= quota.tasks:
            return (
                f"{self.name} has {self.tasks:,} calls at the coordinator, unfinished or with results kept, and may"
                f" have {quota.tasks:,} (quota_tasks): wait for some of them, or forget detached ones"
            )
        return self.bytes_excess(size, quota)

    def bytes_excess(self, size: int, quota: Quota) -> str:
        """Return why this number of additional bytes is too much, or an empty string."""
        if quota.bytes and self.bytes + size > quota.bytes:
            return (
                f"{self.name} has {self.bytes:,} bytes of arguments, functions and results at the coordinator, and may"
                f" have {quota.bytes:,} (quota_bytes): wait for some of its calls, or forget detached ones"
            )
        return ""


class Accounts:
    """The accounts of all owners that are connected or have something here."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}

    def __iter__(self) -> Iterator[Account]:
        return iter(self._accounts.values())

    def __len__(self) -> int:
        return len(self._accounts)

    def open(self, client: ClientId, who: Principal, owner: str = "") -> Account:
        """Return the account of `owner`, or else of `who`, for one more client; call `close` when that is gone."""
        account = self.of(client, owner or who.key, who.name)
        account.clients += 1
        return account

    def of(self, client: ClientId, owner: str, name: str = "") -> Account:
        label = owner or f"client {client}"
        account = self._accounts.get(label)
        if account is None:
            account = self._accounts[label] = Account(label, owner, name or label)
        return account

    def close(self, account: Account) -> None:
        account.clients -= 1
        self.drop_idle(account)

    def drop_idle(self, account: Account) -> None:
        if not account.clients and not account.tasks:
            self._accounts.pop(account.label, None)
