"""Whose calls they are: an account per owner, and how much an owner may have at the coordinator; pure.

The owner of a call is the key under which its client connects. A client inside of a task acts for the owner of that
task. Where nothing proves who somebody is, each client is an account of its own, without an owner to keep apart.

Counted are unfinished calls with their arguments and the results of others that they wait with, functions, and the
kept results of detached ones. An honest client waits at its window long before; the quota is what all clients of one
owner may have together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from jobrunner.protocol.coordinator.resources import Resources
from jobrunner.protocol.wire.ids import ClientId
from jobrunner.protocol.wire.payloads import Payload, kept_size
from jobrunner.protocol.wire.principals import Principal


class Quota(NamedTuple):
    """Of each account; 0 sets no limit."""

    tasks: int = 0
    bytes: int = 0


NO_QUOTA = Quota()


MAX_KINDS = 1000
"""Different requirements for resources that one owner's calls may have: each is looked at whenever a slot is idle."""


class Account:
    """What one owner has here."""

    __slots__ = ("bytes", "clients", "kinds", "label", "name", "owner", "tasks", "values")

    def __init__(self, label: str, owner: str, name: str) -> None:
        self.label = label
        self.owner = owner
        """A public key; empty: whoever it is, nobody has proved it."""
        self.name = name
        """For people."""
        self.clients = 0
        self.tasks = 0
        self.bytes = 0
        self.kinds: dict[Resources, int] = {}
        """What its unfinished calls ask of workers, and how many of them."""
        self.values: dict[int, int] = {}
        """Results that its unfinished calls have got, by `id`, for it is one object that many of them share, and how
        many of them have it."""

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
        """One more of its calls has got that result."""
        users = self.values.get(id(value), 0)
        self.values[id(value)] = users + 1
        if not users:
            self.bytes += kept_size(value)

    def remove_value(self, value: Payload) -> None:
        """A call that had that result, which is still there, has ended."""
        users = self.values[id(value)] - 1
        if users:
            self.values[id(value)] = users
        else:
            del self.values[id(value)]
            self.bytes -= kept_size(value)

    def value_excess(self, value: Payload, quota: Quota) -> str:
        """Why that result is too much for one more of its calls; empty: it is not."""
        return "" if id(value) in self.values else self.bytes_excess(kept_size(value), quota)

    def kinds_excess(self, resources: Resources) -> str:
        """Why calls with these requirements are too much; empty: they are not."""
        if self.owner and resources and resources not in self.kinds and len(self.kinds) >= MAX_KINDS:
            return (
                f"{self.name} has calls here with {MAX_KINDS:,} different requirements for resources, and may have no"
                " more kinds of them: wait for some of its calls, or ask for the same amounts more often"
            )
        return ""

    def excess(self, size: int, quota: Quota) -> str:
        """Why one more call with so many bytes is too much; empty: it is not."""
        if quota.tasks and self.tasks >= quota.tasks:
            return (
                f"{self.name} has {self.tasks:,} calls at the coordinator, unfinished or with results kept, and may"
                f" have {quota.tasks:,} (quota_tasks): wait for some of them, or forget detached ones"
            )
        return self.bytes_excess(size, quota)

    def bytes_excess(self, size: int, quota: Quota) -> str:
        """Why so many bytes more are too much; empty: they are not."""
        if quota.bytes and self.bytes + size > quota.bytes:
            return (
                f"{self.name} has {self.bytes:,} bytes of arguments, functions and results at the coordinator, and may"
                f" have {quota.bytes:,} (quota_bytes): wait for some of its calls, or forget detached ones"
            )
        return ""


class Accounts:
    """Those of all owners that are here or have something here."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}

    def __iter__(self) -> Iterator[Account]:
        return iter(self._accounts.values())

    def __len__(self) -> int:
        return len(self._accounts)

    def open(self, client: ClientId, who: Principal, owner: str = "") -> Account:
        """For one more client of `owner`, or else of `who`; `close` when it is gone."""
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
